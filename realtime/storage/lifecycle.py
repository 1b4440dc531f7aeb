"""How long a file is kept and who may read it, as fal's clients say it in a header.

    X-Fal-Object-Lifecycle: {"expiration_duration_seconds": 3600, "initial_acl": {"default": "forbid",
                             "rules": [{"user": "<key id>", "decision": "allow"}]}}

Source: @fal-ai/client `storage.ts`, fal-client `StorageSettings`. The same JSON comes as
`X-Fal-Object-Lifecycle-Preference` for the pictures of a run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from realtime.errors import BadFrame

HEADERS = ("x-fal-object-lifecycle", "x-fal-object-lifecycle-preference")
MAX_HEADER = 8192  # characters
MAX_RULES = 64
MAX_LIFETIME_S = 100 * 365 * 86400.0

Decision = Literal["allow", "forbid", "hide"]


class Rule(BaseModel):
    model_config = ConfigDict(frozen=True)

    user: Annotated[str, Field(max_length=200)]  # the id of an API key: a user here
    decision: Decision


class Acl(BaseModel):
    """Who may read a file. Its owner always may; without an ACL everybody who has the URL may."""

    model_config = ConfigDict(frozen=True)

    default: Decision | None = None
    rules: Annotated[tuple[Rule, ...], Field(max_length=MAX_RULES)] = ()

    def allows(self, key_id: str | None) -> bool:
        """The first rule that names the key decides. "forbid" and "hide" are one: a 403 would tell."""
        for rule in self.rules:
            if rule.user == key_id:
                return rule.decision == "allow"
        return self.default in (None, "allow")


class Lifecycle(BaseModel):
    model_config = ConfigDict(frozen=True, populate_by_name=True)

    # fal's back ends take 0 and null for "no wish"; its clients send neither.
    lifetime_s: Annotated[
        float | None, Field(alias="expiration_duration_seconds", strict=True, ge=0, le=MAX_LIFETIME_S)
    ] = None
    acl: Annotated[Acl | None, Field(alias="initial_acl")] = None


def of(headers: Mapping[str, str]) -> Lifecycle:
    """What the request wishes; of several headers the first counts. Raises BadFrame."""
    for name in HEADERS:
        text = headers.get(name)
        if text is None:
            continue
        if len(text) > MAX_HEADER:
            raise BadFrame(f"{name} has {len(text)} characters, the limit is {MAX_HEADER}")
        try:
            return Lifecycle.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise BadFrame(f"{name}{' at ' + where if where else ''}: {first['msg']}") from None
    return Lifecycle()
