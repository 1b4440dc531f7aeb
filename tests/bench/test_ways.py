"""What a peer is compiled with is what the engine compiles with."""

from typing import Any

import pytest
import torch

from bench import ways
from engines.backends.code import patches

pytestmark = pytest.mark.timeout(60)  # imports of torch, on a busy machine


def test_a_compiled_peer_has_the_compilers_options_of_the_engine(monkeypatch: pytest.MonkeyPatch):
    asked: dict[str, Any] = {}
    monkeypatch.setattr(torch, "compile", lambda module, **given: asked.update(given))
    ways.compiled(torch.nn.Identity())
    assert asked["options"] == patches("default")
    if hasattr(torch._inductor.config, "loop_reindexing_after_fusion"):
        assert asked["options"]["loop_reindexing_after_fusion"] is False


@torch.inference_mode()
def test_the_options_are_such_as_torch_takes():
    identity = torch.nn.Identity()
    assert ways.compiled(identity)._orig_mod is identity
