"""Who may do what: API keys, and the short-lived tokens browsers hold instead of a key.

A token is stateless (HS256 under a secret in `state_dir`), so it is multi-use and survives a restart:
serverless-client 0.6 retries with the same token for 108 s and a page of it is wedged if a token stops
working sooner. It names the apps it opens by *alias*, the second segment of an endpoint, because that
is all fal's clients ask for (`{"allowed_apps": ["lcm"]}`).
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import jwt

from realtime.errors import Unauthorized

AUDIENCE = "realtime"
MAX_APPS = 32


def load_secret(state_dir: Path) -> bytes:
    """The signing secret of this installation, 32 bytes, made on first use, readable by its owner only.

    Raises OSError if the directory cannot be written.
    """
    path = state_dir / "token-secret"
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = state_dir / f".token-secret-{secrets.token_hex(8)}"
    if not path.exists():
        descriptor = os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(32))
        try:
            os.link(fresh, path)  # not a rename: of two servers starting at once, both read the first's
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    secret = path.read_bytes()
    if len(secret) < 32:
        raise OSError(f"{path.name} in the state directory is damaged; remove it to make a new one")
    return secret


class Keys:
    """The API keys of this server, each "id:secret". None at all: the server is open."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._secrets: dict[str, bytes] = {}
        for key in keys:
            name, colon, secret = key.partition(":")
            if not (name and colon and secret):
                raise ValueError("an API key must look like id:secret")
            self._secrets[name] = _digest(secret)

    @property
    def required(self) -> bool:
        return bool(self._secrets)

    def __contains__(self, name: object) -> bool:
        return name in self._secrets

    def check(self, authorization: str | None) -> str:
        """The id of the key in an `Authorization: Key id:secret` header, "" on an open server.

        Raises Unauthorized. An open server takes any header: fal's clients always send one.
        """
        if not self.required:
            return ""
        scheme, _, credentials = (authorization or "").strip().partition(" ")
        name, _, secret = credentials.strip().partition(":")
        if scheme.lower() not in ("key", "bearer"):
            raise Unauthorized("no API key: send Authorization: Key <id>:<secret>")
        # An unknown id costs the same comparison as a wrong secret.
        expected = self._secrets.get(name, b"\0" * 32)
        if not hmac.compare_digest(expected, _digest(secret)):
            raise Unauthorized("invalid key credentials")
        return name


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def alias_of(app: str) -> str:
    """What a token's scope names: "lcm" for "lcm", "fal-ai/lcm", "fal-ai/lcm/realtime", "110602490-lcm"."""
    parts = [part for part in app.split("/") if part]
    if parts and parts[0] in ("workflows", "comfy"):  # fal's namespaces shift owner and alias by one
        parts = parts[1:]
    if len(parts) >= 2:
        return parts[1]
    name = parts[0] if parts else ""
    owner, dash, rest = name.partition("-")
    return rest if dash and owner.isdigit() else name


class Tokens:
    def __init__(self, secret: bytes, keys: Keys, now: Callable[[], float] = time.time) -> None:
        self._secret = secret
        self._keys = keys
        self._now = now

    def mint(self, apps: Sequence[str], seconds: float, key_id: str = "") -> str:
        """A URL-safe token for the aliases of `apps`, valid for `seconds` from now, any number of times."""
        now = self._now()
        claims = {
            "aud": AUDIENCE,
            "sub": key_id,
            "apps": sorted({alias_of(app) for app in apps}),
            "iat": int(now),
            "exp": now + seconds,
        }
        return jwt.encode(claims, self._secret, algorithm="HS256")

    def check(self, token: str, endpoint: str) -> str:
        """The id of the key that asked for this token. Raises Unauthorized unless it opens `endpoint`."""
        try:
            claims = jwt.decode(
                token,
                self._secret,
                algorithms=["HS256"],
                audience=AUDIENCE,
                # Judged below by our own clock, so that tests own the time.
                options={"require": ["exp", "aud", "sub"], "verify_exp": False, "verify_iat": False},
            )
            expires, apps, key_id = float(claims["exp"]), list(claims["apps"]), str(claims["sub"])
        except (jwt.InvalidTokenError, KeyError, TypeError, ValueError):
            raise Unauthorized("the token is not one of this server") from None
        if self._now() >= expires:
            raise Unauthorized("the token has expired")
        if self._keys.required and key_id not in self._keys:
            raise Unauthorized("the key behind this token is gone")
        if alias_of(endpoint) not in apps:
            raise Unauthorized("the token is for other apps")
        return key_id
