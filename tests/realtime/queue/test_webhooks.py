"""Who asked is told: signed, at least once, for two hours, and never an address inside."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from realtime.fetch import Fetcher, Refusal, Resolve
from realtime.queue import outbox
from realtime.queue import webhooks as module
from realtime.queue.desk import Desk
from realtime.queue.ledger import Ledger
from realtime.queue.records import EXPIRED, Ending
from realtime.queue.webhooks import PAUSES_S, Signer, Webhooks, load_key
from realtime.settings import Settings
from tests.origin import Answer, Origin, always, origin, response
from tests.realtime.queue.orders import order
from tests.realtime.talk import eventually
from tests.security.test_ssrf import INTERNAL4, INTERNAL6, TARGETS, Decoy, names

pytestmark = pytest.mark.net

NOW = 1_700_000_000.0
FINE = always(response())
OK = Ending(200, {}, b'{"images":[],"seed":7}', 0.5)


@dataclass
class Clock:
    now: float = NOW

    def __call__(self) -> float:
        return self.now


@dataclass
class Sender:
    """Webhooks of a server with this clock, one turn at a time."""

    webhooks: Webhooks
    desk: Desk
    clock: Clock
    signer: Signer
    ended: int = 0

    async def end(self, url: str, ending: Ending = OK, tenant: str = "ann") -> str:
        """A request that wants this URL told how it ended."""
        self.ended += 1
        id = f"request-{self.ended}"

        def write(ledger: Ledger) -> None:
            ledger.submit(order(id, tenant=tenant, webhook=url), "me", self.clock.now)
            (claim,) = ledger.claim("me", 1, self.clock.now, 1.0)
            assert ledger.complete(claim, ending, self.clock.now)

        await self.desk.write(write)
        return id

    async def turn(self) -> int:
        """All calls that are due, to their end. How many."""
        due = await self.webhooks.take()
        await asyncio.gather(*map(self.webhooks.deliver, due))
        await self.owed()  # what is noted is written before the next thing is read
        return len(due)

    async def owed(self) -> int:
        await self.desk.write(lambda ledger: None)
        return (await self.desk.read(Ledger.depth)).deliveries


@asynccontextmanager
async def sender(desk: Desk, folder: Path, **given: Any) -> AsyncIterator[Sender]:
    clock, signer = Clock(), Signer(load_key(folder))
    settings = Settings(**{"webhook_private": True, "state_dir": folder} | given.pop("settings", {}))
    webhooks = Webhooks(settings, desk, signer, clock=clock, **given)
    yield Sender(webhooks, desk, clock, signer)
    await webhooks._fetcher.aclose()


@dataclass
class Receiver:
    """What a receiver got: (lower-case headers, body) of each call."""

    at: Origin
    calls: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    def url(self, path: str = "/hook") -> str:
        return self.at.url(path)


@asynccontextmanager
async def receiver(answer: Answer = FINE, delay_s: float = 0.0) -> AsyncIterator[Receiver]:
    """Reads heads and bodies whole, which `origin` does not: it is for GETs."""
    calls: list[tuple[dict[str, str], bytes]] = []
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:])}
            calls.append((headers, await reader.readexactly(int(headers["content-length"]))))
            there.connections += 1
            await asyncio.sleep(delay_s)
            await answer(head[0].split(" ")[1], writer)
            writer.close()
        except asyncio.CancelledError:
            writer.transport.abort()
        with suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    there = Origin(server.sockets[0].getsockname()[1])
    try:
        yield Receiver(there, calls)
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def verified(headers: dict[str, str], body: bytes, jwks: dict[str, Any]) -> bool:
    """As fal's documentation tells receivers to check."""
    (key,) = jwks["keys"]
    assert (key["kty"], key["crv"]) == ("OKP", "Ed25519")
    public = Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(key["x"] + "=="))
    message = "\n".join(
        (
            headers["x-fal-webhook-request-id"],
            headers["x-fal-webhook-user-id"],
            headers["x-fal-webhook-timestamp"],
            hashlib.sha256(body).hexdigest(),
        )
    )
    try:
        public.verify(bytes.fromhex(headers["x-fal-webhook-signature"]), message.encode())
    except InvalidSignature:
        return False
    return True


# ---- what is sent ----


async def test_a_call_says_how_it_ended_and_is_signed(desk: Desk, tmp_path: Path):
    async with sender(desk, tmp_path) as sent, receiver() as there:
        id = await sent.end(there.url("/hook?a=1&b=%2F"))
        assert await sent.turn() == 1
        ((headers, body),) = there.calls
        assert json.loads(body) == {
            "request_id": id,
            "gateway_request_id": id,
            "status": "OK",
            "payload": {"images": [], "seed": 7},
        }
        assert headers["content-type"] == "application/json"
        assert headers["x-fal-webhook-request-id"] == id
        assert headers["x-fal-webhook-user-id"] == "ann"
        assert headers["x-fal-webhook-timestamp"] == str(int(NOW))
        jwks = sent.signer.jwks()
        assert verified(headers, body, jwks)
        assert not verified(headers, body + b" ", jwks)
        assert not verified(headers | {"x-fal-webhook-timestamp": "1"}, body, jwks)
        assert await sent.owed() == 0
        assert await sent.turn() == 0


async def test_a_failure_is_told_with_its_status_and_body(desk: Desk, tmp_path: Path):
    async with sender(desk, tmp_path) as sent, receiver() as there:
        id = await sent.end(there.url(), EXPIRED, tenant="")
        await sent.turn()
        ((headers, body),) = there.calls
        assert json.loads(body) == {
            "request_id": id,
            "gateway_request_id": id,
            "status": "ERROR",
            "error": "Invalid status code: 504",
            "payload": json.loads(EXPIRED.body),
        }
        assert headers["x-fal-webhook-user-id"] == "anonymous"


def test_the_key_is_made_once_and_is_its_owners_alone(tmp_path: Path):
    first, again = Signer(load_key(tmp_path)), Signer(load_key(tmp_path))
    assert first.jwks() == again.jwks()
    assert stat.S_IMODE((tmp_path / "webhook-key.pem").stat().st_mode) == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["webhook-key.pem"]
    (tmp_path / "webhook-key.pem").write_text("not a key")
    with pytest.raises(OSError, match="damaged; remove it"):
        load_key(tmp_path)


# ---- tried again ----


async def test_a_receiver_that_fails_is_called_ten_times_in_two_hours(desk: Desk, tmp_path: Path):
    async with sender(desk, tmp_path) as sent, receiver(always(response(status="503 No"))) as there:
        await sent.end(there.url())
        times = []
        for _ in range(3 * 3600):
            if await sent.desk.read(lambda ledger: ledger.outbox.wait_s(sent.clock.now)) == 0:
                times.append(sent.clock.now)
                assert await sent.turn() == 1
                if not await sent.owed():
                    break
            wait_s = await sent.desk.read(lambda ledger: ledger.outbox.wait_s(sent.clock.now))
            sent.clock.now += max(wait_s or 0.0, 0.001)
        assert len(there.calls) == len(times) == 10
        pauses = [late - early for early, late in pairwise(times)]
        for pause, usual in zip(pauses, PAUSES_S, strict=True):
            assert 0.9 * usual <= pause <= 1.1 * usual + 0.1
        assert 1.5 * 3600 < times[-1] - times[0] < 2.2 * 3600
        assert len({body for _, body in there.calls}) == 1, "always the same message"
        assert {headers["x-fal-webhook-request-id"] for headers, _ in there.calls} == {"request-1"}
        stamps = [int(headers["x-fal-webhook-timestamp"]) for headers, _ in there.calls]
        assert stamps == [int(time) for time in times], "signed anew: receivers refuse old stamps"
        assert await sent.owed() == 0
        said = await sent.desk.read(lambda ledger: ledger.status("request-1", "ann", "fal-ai/lcm", 0))
        assert [note.message.partition(";")[0] for note in said.notes[:-1]] == [
            "webhook failed: status 503"
        ] * 9
        assert said.notes[-1].message == "webhook given up after 10 tries: status 503"


async def test_a_receiver_that_comes_back_is_told_once_more_and_no_more(desk: Desk, tmp_path: Path):
    answers = iter([response(status="500 No"), b"no http at all\r\n\r\n", response(status="204 Yes")])

    async def answer(target: str, writer: asyncio.StreamWriter) -> None:
        writer.write(next(answers))

    async with sender(desk, tmp_path) as sent, receiver(answer) as there:
        await sent.end(there.url())
        for _ in range(5):
            await sent.turn()
            sent.clock.now += 100
        assert len(there.calls) == 3
        assert await sent.owed() == 0


async def test_a_call_that_was_cut_off_is_made_again_with_the_same_id(desk: Desk, tmp_path: Path):
    """As when the server is killed between the receiver's answer and its own note of it."""
    async with sender(desk, tmp_path) as sent, receiver() as there:
        id = await sent.end(there.url())
        (taken,) = await sent.webhooks.take()
        await sent.webhooks._call(taken)
        async with sender(desk, tmp_path) as after:
            after.clock.now += outbox.HIDDEN_S - 1
            assert await after.turn() == 0, "the first one may still be at it"
            after.clock.now += 2
            assert await after.turn() == 1
        assert [headers["x-fal-webhook-request-id"] for headers, _ in there.calls] == [id, id]


async def test_a_slow_receiver_is_given_up_on_and_called_again(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "TIME_LIMIT_S", 0.5)
    async with sender(desk, tmp_path) as sent, receiver(delay_s=30) as there:
        await sent.end(there.url())
        assert await sent.turn() == 1
        assert await sent.owed() == 1


async def test_a_dead_receiver_does_not_hold_up_the_others(desk: Desk, tmp_path: Path):
    async with sender(desk, tmp_path) as sent, receiver(delay_s=30) as dead, receiver() as well:
        for _ in range(20):
            await sent.end(dead.url())
        for _ in range(3):
            await sent.end(well.url())
        calls = [asyncio.ensure_future(sent.webhooks.deliver(one)) for one in await sent.webhooks.take()]
        assert len(calls) == module.AT_ONCE_OF_HOST
        for _ in range(20):
            sent.clock.now += 0.2
            for one in await sent.webhooks.take():
                calls.append(asyncio.ensure_future(sent.webhooks.deliver(one)))
            await sent.owed()
            await asyncio.sleep(0.01)
        assert len(well.calls) == 3
        assert len(dead.calls) == module.AT_ONCE_OF_HOST
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


async def test_the_loop_tells_by_itself_as_soon_as_it_is_nudged(desk: Desk, tmp_path: Path):
    async with sender(desk, tmp_path) as sent, receiver() as there:
        running = asyncio.create_task(sent.webhooks.run())
        await asyncio.sleep(0.1)
        await sent.end(there.url())
        sent.webhooks.nudge()
        await eventually(lambda: bool(there.calls))
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


# ---- where it never goes ----


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_is_followed_and_it_is_for_good(desk: Desk, tmp_path: Path, status: int):
    async with receiver() as inside:
        answer = always(response(status=f"{status} Go", headers=(f"Location: {inside.url()}",)))
        async with sender(desk, tmp_path) as sent, receiver(answer) as there:
            await sent.end(there.url())
            assert await sent.turn() == 1
            assert await sent.owed() == 0
            assert len(there.calls) == 1
        assert inside.calls == []


@asynccontextmanager
async def canary(
    desk: Desk, tmp_path: Path, *, guarded: bool = True, resolve: Resolve | None = None
) -> AsyncIterator[tuple[Sender, Origin, Decoy]]:
    """Whatever address it is told to connect to, the network goes to a canary on loopback."""
    async with origin(always(response())) as there:
        decoy = Decoy(there.port)
        settings = Settings(fetch_private=not guarded, state_dir=tmp_path)
        fetcher = Fetcher(settings, ports=range(65536), resolve=resolve, network=decoy)
        async with sender(desk, tmp_path, fetcher=fetcher) as sent:
            yield sent, there, decoy


async def test_no_internal_target_is_told_anything(desk: Desk, tmp_path: Path):
    assert len(set(TARGETS)) >= 120
    async with canary(desk, tmp_path) as (sent, there, decoy):
        for target in TARGETS:
            await sent.end(f"http://{target}:{there.port}/")
        while await sent.turn():
            sent.clock.now += module.PUT_BACK_S
        assert there.connections == there.hits == 0
        assert decoy.asked == []
        assert await sent.owed() == 0, "for good: it is not tried again"


async def test_without_the_guard_the_canary_is_hit_by_every_address(desk: Desk, tmp_path: Path):
    async with canary(desk, tmp_path, guarded=False) as (sent, there, _):
        addresses = names([*INTERNAL4, *INTERNAL6])
        for target in addresses:
            await sent.end(f"http://{target}:{there.port}/")
        while await sent.turn():
            sent.clock.now += module.PUT_BACK_S
        assert there.hits == len(addresses)


@pytest.mark.parametrize(
    "answers", [["127.0.0.1"], ["93.184.216.34", "127.0.0.1"], ["::1", "2606:4700:4700::1111"]], ids=str
)
async def test_a_name_that_leads_inside_is_not_called(desk: Desk, tmp_path: Path, answers: list[str]):
    async def resolve(host: str, port: int) -> list[str]:
        return answers

    async with canary(desk, tmp_path, resolve=resolve) as (sent, there, decoy):
        await sent.end("https://hooks.example.com/")
        await sent.turn()
        assert (there.connections, decoy.asked, await sent.owed()) == (0, [], 0)


async def test_a_name_that_changes_its_mind_is_asked_once_per_call(desk: Desk, tmp_path: Path):
    turns = iter([["93.184.216.34"], ["127.0.0.1"]])

    async def resolve(host: str, port: int) -> list[str]:
        return next(turns)

    async with canary(desk, tmp_path, resolve=resolve) as (sent, _, decoy):
        await sent.end("http://rebind.example.com:8080/")
        await sent.turn()
        await sent.end("http://rebind.example.com:8080/")
        await sent.turn()
        assert decoy.asked == ["93.184.216.34"], "the second answer leads nowhere"


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://example.com/", "file:///etc/passwd", "gopher://example.com/", "javascript:alert(1)", "//x/"),
        *(
            "https://user:secret@example.com/",
            "https:///path",
            "https://example.com:22/",
            "hook",
            "https://[",
        ),
        "https://example.com/" + "a" * 5000,
    ],
)
async def test_a_url_that_can_be_no_webhook_is_refused_when_it_is_given(desk: Desk, tmp_path: Path, url: str):
    async with sender(desk, tmp_path, settings={"webhook_private": False}) as sent:
        with pytest.raises(Refusal):
            sent.webhooks.check(url)
        sent.webhooks.check("https://example.com/hook?a=1")


async def test_fetching_private_pictures_does_not_open_the_way_for_webhooks(desk: Desk, tmp_path: Path):
    settings = {"fetch_private": True, "webhook_private": False}
    async with receiver() as there, sender(desk, tmp_path, settings=settings) as sent:
        await sent.end("http://127.0.0.1:80/")
        await sent.end(there.url())
        await sent.turn()
        assert there.calls == []
        assert await sent.owed() == 0


@pytest.mark.parametrize("fails", [True, False], ids=["our own fault", "well"])
async def test_a_bug_of_ours_costs_a_try_and_not_the_loop(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
):
    async with sender(desk, tmp_path) as sent, receiver() as there:
        if fails:
            broken: Callable[..., Any] = lambda *given: 1 / 0  # noqa: E731
            monkeypatch.setattr(sent.signer, "headers", broken)
        await sent.end(there.url())
        await sent.turn()
        assert await sent.owed() == fails
