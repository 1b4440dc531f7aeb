"""Short-lived tokens: what browsers hold instead of an API key, and what fal-client uploads with.

A token is stateless (HS256 under a secret in `state_dir`), so it is multi-use and survives a restart:
serverless-client 0.6 retries with the same token for 108 s and a page of it is wedged if a token stops
working sooner. It names the apps it opens by *alias*, the second segment of an endpoint, because that
is all fal's clients ask for (`{"allowed_apps": ["lcm"]}`).
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jwt

from realtime.errors import Unauthorized
from realtime.folder import make_private
from realtime.keys import Keys

AUDIENCE = "realtime"
UPLOAD = "upload"  # audience of a token that puts files into storage
MAX_APPS = 32


def load_secret(state_dir: Path) -> bytes:
    """The signing secret of this installation, 32 bytes, made on first use, readable by its owner only.

    Raises OSError if the directory cannot be written.
    """
    path = state_dir / "token-secret"
    make_private(state_dir)
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
        claims = self._claims(token, AUDIENCE)
        apps = claims.get("apps")
        if not isinstance(apps, list):
            raise Unauthorized("the token is not one of this server")
        if alias_of(endpoint) not in apps:
            raise Unauthorized("the token is for other apps")
        return str(claims["sub"])

    def mint_upload(self, key_id: str, seconds: float) -> str:
        """A token that uploads files of this key for `seconds` from now (fal-client's "CDN token")."""
        now = self._now()
        claims = {"aud": UPLOAD, "sub": key_id, "iat": int(now), "exp": now + seconds}
        return jwt.encode(claims, self._secret, algorithm="HS256")

    def check_upload(self, token: str) -> str:
        """The id of the key behind an upload token. Raises Unauthorized."""
        return str(self._claims(token, UPLOAD)["sub"])

    def _claims(self, token: str, audience: str) -> dict[str, Any]:
        try:
            claims = jwt.decode(
                token,
                self._secret,
                algorithms=["HS256"],
                audience=audience,
                # Judged below by our own clock, so that tests own the time.
                options={"require": ["exp", "aud", "sub"], "verify_exp": False, "verify_iat": False},
            )
            expires = float(claims["exp"])
        except (jwt.InvalidTokenError, KeyError, TypeError, ValueError):
            raise Unauthorized("the token is not one of this server") from None
        if self._now() >= expires:
            raise Unauthorized("the token has expired")
        if not self._keys.lets(claims["sub"]):
            raise Unauthorized("the key behind this token is gone")
        return claims
