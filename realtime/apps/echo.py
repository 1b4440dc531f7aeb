"""fal-ai/any-llm as far as fal's own test suite goes: it says back what it was told, word by word.

There is no language model here; only the setting `test_apps` makes it exist.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from realtime.errors import InvalidInput

ID = "fal-ai/any-llm"
MAX_WORDS = 100


async def answers(prompt: str) -> AsyncIterator[dict[str, Any]]:
    """The growing output; only the last one is not `partial`."""
    words = prompt.split()[:MAX_WORDS]
    for end in range(1, len(words)):
        yield {"output": " ".join(words[:end]), "partial": True, "error": None}
    yield {"output": " ".join(words), "partial": False, "error": None}


def prompt_of(payload: Mapping[str, Any]) -> str:
    """Raises InvalidInput."""
    prompt = payload.get("prompt")
    if not isinstance(prompt, str):
        raise InvalidInput.at("prompt", "Field required", "missing")
    return prompt
