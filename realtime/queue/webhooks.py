"""Tells whoever asked how their request ended: signed, at least once, tried again for two hours.

    POST <fal_webhook>    {"request_id", "gateway_request_id", "status": "OK" | "ERROR", "payload", "error"?}
    X-Fal-Webhook-Request-Id, -User-Id, -Timestamp (unix seconds), and
    X-Fal-Webhook-Signature: hex(Ed25519(request id \\n user id \\n timestamp \\n hex(sha256(body))))

The receiver checks it with a key of /.well-known/jwks.json, and drops what it has seen by the request id.
Source: fal's webhook documentation; RFC 8032, RFC 8037.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import secrets
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from realtime import log
from realtime.errors import Busy, NoSpace, TooMuch
from realtime.fetch import Fetcher, Refusal, Unreachable
from realtime.folder import make_private
from realtime.queue.desk import Desk
from realtime.queue.news import either
from realtime.queue.records import Delivery, Note
from realtime.settings import Settings
from realtime.work import line

TIME_LIMIT_S = 15.0  # of one call
# Seconds before the second try, the third, ...: ten tries in two hours. Each is spread by a tenth, so that
# a receiver that comes back is not met by everybody at once.
PAUSES_S = (5, 15, 60, 180, 420, 900, 1500, 1800, 2100)
AT_ONCE = 8
AT_ONCE_OF_HOST = 2  # a dead receiver must not hold up the others
PUT_BACK_S = 1.0
IDLE_S = 5.0  # another process may have left something

logger = log.get("realtime.queue")


class Signer:
    """The signing key of this installation."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        public = key.public_key().public_bytes_raw()
        self._jwk = {
            "kty": "OKP",
            "crv": "Ed25519",
            "alg": "EdDSA",
            "use": "sig",
            "kid": hashlib.sha256(public).hexdigest()[:16],
            "x": base64.urlsafe_b64encode(public).rstrip(b"=").decode(),
        }

    def jwks(self) -> dict[str, Any]:
        """RFC 7517."""
        return {"keys": [self._jwk]}

    def headers(self, id: str, user: str, body: bytes, now: float) -> dict[str, str]:
        timestamp = str(int(now))
        message = "\n".join((id, user, timestamp, hashlib.sha256(body).hexdigest())).encode()
        return {
            "X-Fal-Webhook-Request-Id": id,
            "X-Fal-Webhook-User-Id": user,
            "X-Fal-Webhook-Timestamp": timestamp,
            "X-Fal-Webhook-Signature": self._key.sign(message).hex(),
        }


def load_key(state_dir: Path) -> Ed25519PrivateKey:
    """Made on first use, readable by its owner only. Raises OSError."""
    path = state_dir / "webhook-key.pem"
    make_private(state_dir)
    if not path.exists():
        pem = Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        fresh = state_dir / f".webhook-key-{secrets.token_hex(8)}"
        try:
            with os.fdopen(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
                file.write(pem)
            os.link(fresh, path)  # of two servers starting at once, both read the first's
        except FileExistsError:
            pass
        finally:
            fresh.unlink(missing_ok=True)
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise OSError(f"{path.name} in the state directory is damaged; remove it to make a new one")
    return key


def message(delivery: Delivery) -> bytes:
    """The body of a call."""
    ending = delivery.ending
    said: dict[str, Any] = {"request_id": delivery.id, "gateway_request_id": delivery.id}
    if ending.status < 400:
        said["status"] = "OK"
    else:
        said |= {"status": "ERROR", "error": f"Invalid status code: {ending.status}"}
    # The answer is JSON already; it may be long.
    return json.dumps(said).encode()[:-1] + b', "payload": ' + ending.body + b"}"


class Webhooks:
    """clock: wall time, seconds. fetcher: for tests."""

    def __init__(
        self,
        settings: Settings,
        desk: Desk,
        signer: Signer,
        *,
        clock: Callable[[], float] = time.time,
        fetcher: Fetcher | None = None,
    ) -> None:
        # Their own switch: who may be told is another question than what may be fetched.
        private = settings.model_copy(update={"fetch_private": settings.webhook_private})
        self._fetcher = fetcher or Fetcher(private)
        self._desk, self._signer, self._clock = desk, signer, clock
        self._random = Random()
        self._hosts: Counter[str] = Counter()  # calls under way
        self._due = asyncio.Event()

    def check(self, url: str) -> None:
        """Raises Refusal for a URL that no call can go to, whatever its host's addresses are."""
        self._fetcher.target(url)

    def nudge(self) -> None:
        """Something may be due."""
        self._due.set()

    async def run(self) -> None:
        """Until cancelled; a call under way then is made again by whoever comes next."""
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    self._due.clear()
                    for delivery in await self.take():
                        group.create_task(self.deliver(delivery), name=f"webhook {delivery.id}")
                    await self._wait()
        finally:
            await self._fetcher.aclose()

    async def take(self) -> list[Delivery]:
        """What is due now and may be called now; it is on its way with this."""
        room = AT_ONCE - self._hosts.total()
        if room <= 0:
            return []
        now = self._clock()
        try:
            found = await self._desk.write(lambda ledger: ledger.outbox.take(room, now))
        except (NoSpace, Busy, TooMuch):
            return []
        going = []
        for delivery in found:
            host = _host(delivery.url)
            if self._hosts[host] >= AT_ONCE_OF_HOST:
                self._put_back(delivery, now + PUT_BACK_S)
            else:
                self._hosts[host] += 1
                going.append(delivery)
        return going

    async def deliver(self, delivery: Delivery) -> None:
        """One call, and what follows from its answer."""
        try:
            why, final = await self._call(delivery)
        except Exception:
            logger.exception("webhook.call", request_id=delivery.id)
            why, final = "our own fault", False
        finally:
            self._hosts -= Counter([_host(delivery.url)])
            self.nudge()
        if not why:
            self._desk.note(lambda ledger: ledger.outbox.settle(delivery.seq))
        elif final or delivery.tries >= len(PAUSES_S):
            logger.info("webhook.given_up", request_id=delivery.id, tries=delivery.tries + 1, why=why)
            self._desk.note(lambda ledger: ledger.outbox.settle(delivery.seq))
            self._say(delivery, f"webhook given up after {delivery.tries + 1} tries: {why}")
        else:
            pause_s = PAUSES_S[delivery.tries] * self._random.uniform(0.9, 1.1)
            due = self._clock() + pause_s
            self._desk.note(lambda ledger: ledger.outbox.again(delivery.seq, due), then=self.nudge)
            self._say(delivery, f"webhook failed: {why}; tried again in {pause_s:.0f} s")

    def _say(self, delivery: Delivery, text: str) -> None:
        """In the log of its request, for its owner."""
        said = line("WARN", text)
        note = Note(said.level, said.message, said.timestamp)
        self._desk.note(lambda ledger: ledger.note(delivery.seq, [note]))

    async def _call(self, delivery: Delivery) -> tuple[str, bool]:
        """("", ...) if it arrived; else why not, and whether that is for good."""
        body = message(delivery)
        user = delivery.tenant or "anonymous"
        headers = self._signer.headers(delivery.id, user, body, self._clock())
        try:
            async with asyncio.timeout(TIME_LIMIT_S):
                status = await self._fetcher.post(delivery.url, body, headers)
        except Refusal as error:
            return f"the URL {error}", True
        except Unreachable as error:
            return str(error), False
        except TimeoutError:
            return f"no answer in {TIME_LIMIT_S:g} s", False
        if 300 <= status < 400:
            return f"status {status}: redirects are not followed", True
        return ("" if 200 <= status < 300 else f"status {status}"), False

    def _put_back(self, delivery: Delivery, due: float) -> None:
        self._desk.note(lambda ledger: ledger.outbox.again(delivery.seq, due, tried=False), then=self.nudge)

    async def _wait(self) -> None:
        """Until something may be due."""
        now = self._clock()
        try:
            due_s = await self._desk.read(lambda ledger: ledger.outbox.wait_s(now))
        except (NoSpace, Busy, TooMuch):
            due_s = None
        if self._hosts.total() >= AT_ONCE:
            due_s = None  # the end of a call nudges
        await either(self._due, IDLE_S if due_s is None else min(max(due_s, 0.01), IDLE_S))


def _host(url: str) -> str:
    return urlsplit(url).netloc.lower()
