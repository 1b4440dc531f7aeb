"""Steps, intake and outlet at once on one device: nothing is read before it is there or after it is gone."""

from __future__ import annotations

import contextlib
import queue
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("msgspec", reason="the engine's messages need msgspec")

import torch
from msgspec.structs import replace

from engines.denoiser import LcmRow
from engines.lcm import Lcm
from engines.link import Decoder, pack
from engines.messages import Done, Job, Ready, Submit
from engines.pixels import Pixels
from engines.streams import Streams
from tests.engines import tiny

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(180)]

ROUNDS = 200
PAUSE = 1_000_000  # cycles of the device, about half a millisecond: what is called after it is late
ELEMENTS = 1 << 20


@pytest.fixture
def streams() -> Iterator[Streams]:
    made = Streams(torch.device("cuda"))
    before = torch.cuda.current_stream()
    made.lead()
    yield made
    torch.cuda.synchronize()
    torch.cuda.set_stream(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a large and a tiny VAE."""
    return tiny.build(tmp_path_factory.mktemp("model") / "lcm", vae="kl", beside=True)


@pytest.fixture
def ours(folder: Path) -> Iterator[Lcm]:
    before = torch.cuda.current_stream()
    made = Lcm(str(folder), device="cuda", max_batch=4, backend="eager")
    made.load(lambda *progress: None)
    yield made
    torch.cuda.synchronize()
    torch.cuda.set_stream(before)


# ---- the lines ----


def overwritten(streams: Streams, told: bool) -> int:
    """Rounds in which memory of the line of steps was given away before the outlet had read it."""
    wrong = 0
    for number in range(ROUNDS):
        given = torch.full((ELEMENTS,), float(number), device="cuda")
        with streams.leaving([given] if told else [], streams.mark()):
            torch.cuda._sleep(PAUSE)
            read = given + 0.0
        del given
        torch.full((ELEMENTS,), -1.0, device="cuda")  # takes that memory, if it is to be had
        with streams.leaving(()):
            (found,) = streams.home(read)
        wrong += int(not bool((found == number).all()))
    return wrong


def test_memory_is_not_given_away_before_the_outlet_has_read_it(streams: Streams) -> None:
    assert overwritten(streams, told=True) == 0


def test_the_test_above_sees_memory_that_is_given_away(streams: Streams) -> None:
    assert overwritten(streams, told=False) > 0


def test_the_outlet_waits_for_what_the_mark_says(streams: Streams) -> None:
    for number in range(ROUNDS):
        torch.cuda._sleep(PAUSE)
        given = torch.full((ELEMENTS,), float(number), device="cuda")
        with streams.leaving([given], streams.mark()):
            (found,) = streams.home(given + 0.0)
        assert (found == number).all()


def test_the_end_of_a_step_is_not_the_end_of_a_decode(streams: Streams) -> None:
    given = torch.zeros(8, device="cuda")
    torch.cuda._sleep(1)
    given += 1  # loading a kernel may wait for the device; these two are loaded now
    torch.cuda.synchronize()
    with streams.leaving(()):
        torch.cuda._sleep(2_000_000_000)  # about a second
        late = torch.cuda.Event()
        late.record()
    given += 1
    streams.beat()
    assert not late.query(), "the wait was for this line alone"
    assert given.sum().item() == 16


def test_the_end_of_a_step_is_its_end(streams: Streams) -> None:
    for _ in range(ROUNDS):
        torch.cuda._sleep(PAUSE)
        end = torch.cuda.Event()
        end.record()
        streams.beat()
        assert end.query()


def test_a_picture_at_home_is_never_overwritten_while_somebody_holds_it(streams: Streams) -> None:
    draw = random.Random(7)
    held: list[tuple[int, np.ndarray[Any, Any]]] = []
    for number in range(ROUNDS):
        with streams.leaving(()):
            made = torch.full((4, 64, 64, 3), number % 256, dtype=torch.uint8, device="cuda")
            (copy,) = streams.home(made)
        held += [(number % 256, picture) for picture in copy.numpy()]  # four views of one block
        del copy
        draw.shuffle(held)
        while len(held) > 60 or (held and draw.random() < 0.5):
            value, picture = held.pop()
            assert (picture == value).all()
    assert all((picture == value).all() for value, picture in held)


def test_pinned_memory_goes_round(streams: Streams) -> None:
    places = set()
    for _ in range(ROUNDS):
        with streams.leaving(()):
            (copy,) = streams.home(torch.zeros(1 << 16, dtype=torch.uint8, device="cuda"))
        assert copy.is_pinned()
        places.add(copy.data_ptr())
        del copy
    assert len(places) < 8


# ---- the pipeline ----


def jobs(vae: str) -> list[Job]:
    picture = tiny.picture(1)
    plain = [Job("the sea", seed, 64, 64, steps=1 + seed % 2, vae=vae) for seed in range(2)]
    over = [replace(job, image=picture, strength=0.7, seed=9 + job.seed) for job in plain]
    return [*plain, *over]


def churn(stop: threading.Event, draw: random.Random) -> None:
    """Memory taken, filled with nonsense and given back, in lines of this thread's own."""
    lines = [torch.cuda.Stream() for _ in range(2)]
    while not stop.is_set():
        with torch.cuda.stream(draw.choice(lines)):
            sizes = [draw.randrange(1, 1 << 18) for _ in range(8)]
            kept = [torch.full((size,), float("nan"), device="cuda") for size in sizes]
            del kept


class Beside(threading.Thread):
    """Decodes groups on its own thread while the test steps, as the loop's decoder does."""

    def __init__(self, ours: Lcm, groups: Sequence[list[LcmRow]]) -> None:
        super().__init__()
        self.ours, self.groups = ours, groups
        self.found: list[list[Any]] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            for rows in self.groups:
                self.found.append(self.ours.decode(rows))
        except BaseException as error:
            self.error = error


def finished(ours: Lcm, vae: str) -> list[LcmRow]:
    return tiny.drawn(ours, jobs(vae), bucket=4)


@pytest.mark.parametrize("vae", ["tiny", "full"])
def test_pictures_decoded_beside_steps_are_those_decoded_between_them(ours: Lcm, vae: str) -> None:
    for _ in range(4):  # whatever is made at first calls is made
        rows = finished(ours, vae)
    quiet = ours.decode(rows)
    assert all(isinstance(picture, np.ndarray) for picture in quiet)
    latents = [row.latents.clone() for row in rows]
    stop = threading.Event()
    noise = threading.Thread(target=churn, args=(stop, random.Random(3)))
    noise.start()
    try:
        beside = Beside(ours, [finished(ours, vae) for _ in range(ROUNDS // 10)] * 10)
        beside.start()
        steps = 0
        while beside.is_alive():
            for row, before in zip(finished(ours, vae), latents, strict=True):
                assert torch.equal(row.latents, before), "a step beside a decode is the step alone"
            steps += 1
        beside.join()
    finally:
        stop.set()
        noise.join()
    assert beside.error is None
    assert steps > 1
    assert len(beside.found) == ROUNDS
    for group in beside.found:
        for picture, alone in zip(group, quiet, strict=True):
            assert np.array_equal(picture, alone)


def test_previews_made_beside_steps_are_those_made_between_them(ours: Lcm) -> None:
    job = Job("the sea", 1, 64, 64, steps=4)
    for _ in range(4):
        finished(ours, "full")

    def run(beside: bool) -> list[Pixels]:
        (row,) = ours.rows(job, None)
        seen: list[Pixels] = []
        for _ in range(job.steps):
            ours.step([row], 4)
            peeked = ours.peek(row)
            if beside:
                thread = threading.Thread(target=lambda p=peeked: seen.append(ours.preview(row, p)))
                thread.start()
                finished(ours, "full")
                thread.join()
            else:
                torch.cuda.synchronize()
                seen.append(ours.preview(row, peeked))
            del peeked
        return seen

    quiet = run(False)
    for _ in range(20):
        assert all(np.array_equal(one, other) for one, other in zip(quiet, run(True), strict=True))


def test_pictures_that_come_in_beside_steps_are_those_that_come_between_them(ours: Lcm) -> None:
    job = Job("the sea", 1, 64, 64, image=tiny.picture(4), strength=0.5)
    ours.posteriors.budget = 0  # every one is encoded anew
    quiet = ours.decode_inputs(job).encoded[0]
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.extend(ours.decode_inputs(job) for _ in range(ROUNDS)))
    thread.start()
    while thread.is_alive():
        finished(ours, "tiny")
    thread.join()
    assert len(found) == ROUNDS
    assert all(torch.equal(inputs.encoded[0].mean, quiet.mean) for inputs in found)
    assert all(inputs.encoded[1] > 0 for inputs in found)


def test_rows_made_beside_steps_are_those_made_between_them(ours: Lcm) -> None:
    """On a pool's thread, as the loop has them made; nothing of them is kept by a cache."""
    budgets = ours.text.cache.budget, ours.posteriors.budget
    ours.text.cache.budget = ours.posteriors.budget = 0
    for _ in range(4):
        expected = [row.latents.clone() for row in finished(ours, "tiny")]
    made: queue.Queue[list[LcmRow]] = queue.Queue(2)
    wrong: list[BaseException] = []

    def make() -> None:
        try:
            for _ in range(ROUNDS // 4):
                made.put([row for job in jobs("tiny") for row in ours.rows(job, ours.decode_inputs(job))])
        except BaseException as error:
            wrong.append(error)
            made.put([])

    stop = threading.Event()
    threads = [threading.Thread(target=make), threading.Thread(target=churn, args=(stop, random.Random(5)))]
    for thread in threads:
        thread.start()
    try:
        for _ in range(ROUNDS // 4):
            rows = made.get()
            if not rows:
                break
            while live := [row for row in rows if row.position < row.steps]:
                ours.step(live, 4)
            for row, latents in zip(rows, expected, strict=True):
                assert torch.equal(row.latents, latents)
    finally:
        stop.set()
        while threads[0].is_alive():
            with contextlib.suppress(queue.Empty):
                made.get(timeout=0.1)
        threads[1].join()
        ours.text.cache.budget, ours.posteriors.budget = budgets
    assert not wrong


def test_a_row_of_nan_is_a_fault_and_its_neighbours_are_pictures(ours: Lcm) -> None:
    rows = finished(ours, "full")
    healthy = ours.decode(rows)
    rows[1].latents = torch.full_like(rows[1].latents, float("nan"))
    ours.streams.beat()
    found = ours.decode(rows)
    assert getattr(found[1], "code", None) == "internal"
    for at in (0, 2, 3):
        assert np.array_equal(found[at], healthy[at])


# ---- the process ----


class Process:
    """`python -m engines` on the device, at the other end of a socketpair."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(120)
        command = [sys.executable, "-m", "engines", "--fd", str(theirs.fileno()), "--model", str(folder)]
        self.process = subprocess.Popen(
            [*command, "--device", "cuda", *options],
            pass_fds=[theirs.fileno()],
            cwd=Path(__file__).parents[2],
        )
        theirs.close()
        self._messages = self._read()

    def _read(self) -> Iterator[Any]:
        decoder = Decoder()
        while data := self.socket.recv(1 << 16):
            yield from decoder.feed(data)

    def until(self, kind: type, count: int = 1) -> list[Any]:
        found: list[Any] = []
        while len(found) < count:
            message = next(self._messages)
            if isinstance(message, kind):
                found.append(message)
        return found

    def draw(self, wishes: Sequence[Submit]) -> dict[int, bytes]:
        self.socket.sendall(b"".join(pack(wish) for wish in wishes))
        return {done.ticket: done.pictures[0].data for done in self.until(Done, len(wishes))}

    def close(self) -> None:
        self.socket.close()
        self.process.wait(20)


def test_a_busy_engine_draws_byte_for_byte_what_an_idle_one_does(folder: Path) -> None:
    wishes = [
        Submit(ticket, f"s{ticket}", 0.0, replace(job, seed=ticket, format="png"))
        for ticket, job in enumerate((jobs("tiny") + jobs("full")) * 5)
    ]
    engine = Process(folder, "--deterministic", "--max-batch", "4", "--backend", "eager")
    try:
        engine.until(Ready)
        idle = {ticket: data for wish in wishes for ticket, data in engine.draw([wish]).items()}
        again = [replace(wish, ticket=100 + wish.ticket) for wish in wishes]
        busy = engine.draw(again)
    finally:
        engine.close()
    assert {ticket - 100: data for ticket, data in busy.items()} == idle
