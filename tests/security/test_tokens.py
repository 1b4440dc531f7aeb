"""API keys and tokens: who is let in, for how long, to what. The clock is a variable."""

import base64
import json
import stat
from pathlib import Path

import jwt
import pytest

from realtime.errors import Unauthorized
from realtime.keys import Keys
from realtime.tokens import Tokens, alias_of, load_secret

SECRET = b"s" * 32


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def tokens(clock: Clock, keys: list[str] | None = None, secret: bytes = SECRET) -> Tokens:
    return Tokens(secret, Keys(keys or []), clock)


@pytest.mark.parametrize(
    "endpoint",
    ["fal-ai/lcm", "110602490/lcm", "110602490-lcm", "fal-ai/lcm/image-to-image", "fal-ai/lcm/realtime"],
)
@pytest.mark.parametrize("asked", ["lcm", "fal-ai/lcm", "fal-ai/lcm/realtime", "ai/lcm"])
def test_a_token_opens_every_form_of_its_alias(clock: Clock, asked: str, endpoint: str):
    assert tokens(clock).check(tokens(clock).mint([asked], 120), endpoint) == ""


@pytest.mark.parametrize(
    "endpoint", ["fal-ai/lcm-sd15-i2i", "lcm/other", "fal-ai/fast-lcm-diffusion", "", "lcm2"]
)
def test_a_token_opens_nothing_else(clock: Clock, endpoint: str):
    with pytest.raises(Unauthorized, match="other apps"):
        tokens(clock).check(tokens(clock).mint(["lcm"], 120), endpoint)


def test_namespaces_shift_the_alias():
    assert alias_of("workflows/me/mine") == "mine"
    assert alias_of("comfy/me/mine/realtime") == "mine"


def test_a_token_works_many_times_until_it_expires(clock: Clock):
    token = tokens(clock).mint(["lcm"], 120)
    for _ in range(100):
        clock.now += 1.19
        tokens(clock).check(token, "fal-ai/lcm")
    clock.now += 1.1
    with pytest.raises(Unauthorized, match="expired"):
        tokens(clock).check(token, "fal-ai/lcm")


def test_a_clock_set_back_does_not_refuse_a_live_token(clock: Clock):
    token = tokens(clock).mint(["lcm"], 120)
    clock.now -= 3600
    assert tokens(clock).check(token, "fal-ai/lcm") == ""


def test_a_token_is_url_safe(clock: Clock):
    token = tokens(clock).mint(["lcm", "fal-ai/ünïcode/realtime"], 120, "key")
    assert token.replace("-", "").replace("_", "").replace(".", "").isalnum()
    assert token.isascii()


def test_a_token_survives_a_restart_and_another_installation_refuses_it(tmp_path: Path, clock: Clock):
    here, there = tmp_path / "here", tmp_path / "there"
    token = tokens(clock, secret=load_secret(here)).mint(["lcm"], 120)
    tokens(clock, secret=load_secret(here)).check(token, "fal-ai/lcm")
    with pytest.raises(Unauthorized):
        tokens(clock, secret=load_secret(there)).check(token, "fal-ai/lcm")


def test_the_secret_is_its_owners_alone(tmp_path: Path):
    load_secret(tmp_path / "state")
    (file,) = (tmp_path / "state").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


def test_a_damaged_secret_is_said(tmp_path: Path):
    load_secret(tmp_path)
    (tmp_path / "token-secret").write_bytes(b"short")
    with pytest.raises(OSError, match="damaged"):
        load_secret(tmp_path)


def forged(**changes: object) -> dict[str, object]:
    return {"aud": "realtime", "sub": "", "apps": ["lcm"], "iat": 1_000_000, "exp": 1_000_120} | changes


def unsigned(claims: dict[str, object]) -> str:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return f"{part({'alg': 'none', 'typ': 'JWT'})}.{part(claims)}."


FORGERIES = {
    "nothing": "",
    "garbage": "garbage",
    "an object": "[object Object]",
    "no signature": unsigned(forged()),
    "another secret": jwt.encode(forged(), b"t" * 32, "HS256"),
    "another algorithm": jwt.encode(forged(), SECRET * 2, "HS512"),
    "another audience": jwt.encode(forged(aud="other"), SECRET, "HS256"),
    "no audience": jwt.encode({k: v for k, v in forged().items() if k != "aud"}, SECRET, "HS256"),
    "no expiry": jwt.encode({k: v for k, v in forged().items() if k != "exp"}, SECRET, "HS256"),
    "no apps": jwt.encode({k: v for k, v in forged().items() if k != "apps"}, SECRET, "HS256"),
    "expiry is text": jwt.encode(forged(), SECRET, "HS256")[:-2],
    "apps is a number": jwt.encode(forged(apps=5), SECRET, "HS256"),
    "no bytes": "\x00\ud800",
    "long": "e" * 100_000,
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_token_is_unauthorized(clock: Clock, name: str):
    with pytest.raises(Unauthorized):
        tokens(clock).check(FORGERIES[name], "fal-ai/lcm")


def test_apps_as_one_text_open_no_parts_of_it(clock: Clock):
    with pytest.raises(Unauthorized):
        tokens(clock).check(jwt.encode(forged(apps="xlcmx"), SECRET, "HS256"), "fal-ai/lcm")


def test_a_truncated_or_changed_token_is_unauthorized(clock: Clock):
    token = tokens(clock).mint(["lcm"], 120)
    for cut in range(0, len(token) - 1, 7):
        with pytest.raises(Unauthorized):
            tokens(clock).check(token[:cut], "fal-ai/lcm")
    head, body, signature = token.split(".")
    with pytest.raises(Unauthorized):
        tokens(clock).check(f"{head}.{body[:-2]}{'A' * 2}.{signature}", "fal-ai/lcm")


def test_an_open_server_takes_any_authorization():
    for header in (None, "", "Key anything:goes", "garbage"):
        assert Keys([]).check(header) == ""


@pytest.mark.parametrize("header", ["Key id:secret", "key id:secret", "Bearer id:secret", "Key  id:secret "])
def test_the_right_key_is_taken(header: str):
    assert Keys(["id:secret", "other:x"]).check(header) == "id"


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Key",
        "Key id",
        "Key id:",
        "Key id:wrong",
        "Key other:secret",
        "Key :secret",
        "Basic id:secret",
        "id:secret",
        "Key id:secret:",
        "Key ID:secret",
        "Key id:\udcff",
    ],
)
def test_a_wrong_key_is_unauthorized(header: str | None):
    with pytest.raises(Unauthorized):
        Keys(["id:secret", "other:x"]).check(header)


@pytest.mark.parametrize("key", ["", "id", "id:", ":secret"])
def test_a_misconfigured_key_stops_the_start_without_being_shown(key: str):
    with pytest.raises(ValueError, match="id:secret"):
        Keys([key])


def test_a_token_ends_with_its_key(clock: Clock):
    token = tokens(clock, ["id:secret"]).mint(["lcm"], 120, "id")
    assert tokens(clock, ["id:secret"]).check(token, "fal-ai/lcm") == "id"
    with pytest.raises(Unauthorized, match="gone"):
        tokens(clock, ["other:secret"]).check(token, "fal-ai/lcm")


def test_a_token_of_the_open_server_is_nothing_once_keys_are_configured(clock: Clock):
    token = tokens(clock).mint(["lcm"], 120)
    with pytest.raises(Unauthorized, match="gone"):
        tokens(clock, ["id:secret"]).check(token, "fal-ai/lcm")
