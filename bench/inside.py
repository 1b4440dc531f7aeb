"""The engine's own step loop in this process, without gateway, link or sockets: messages in, messages out.

What is measured is what serves: the same loop, schedule, denoiser, decode and JPEG pool as in an engine
process. Only its end is ours: an exception ends the measurement and not the process.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from bench.figures import Frame
from engines.backends import Backend
from engines.backends.program import Batch, Shape, Step
from engines.lcm import Lcm
from engines.loop import Loop
from engines.messages import Dropped, Job, Message, Ready, Refused, Submit
from engines.recorder import Recorder, page

Reply = Callable[[Message], None]


class Held(Lcm):
    """The pipeline on weights that are in memory already."""

    weights: Any = None

    def load(self, progress: Any) -> None:
        from engines import device as devices

        self.at, self.precision = devices.choose(self.device, self.dtype)
        self.take(self.weights)


def pipeline(subject: Any, **options: Any) -> Lcm:
    """The engine's pipeline over a `bench.subject.Subject`, loaded; `options` as of engines.lcm.Lcm. Its
    back end is eager until it is given another one."""
    given = {"backend": "eager"} | options
    dtype = str(subject.dtype).removeprefix("torch.")
    made = Held(model=subject.kind, device=subject.device.type, dtype=dtype, **given)
    made.weights = subject.loaded()
    made.load(lambda *_: None)
    return made


def compiled(subject: Any, tick: Callable[[str, float], None]) -> Lcm:
    """The same with the compiled back end, all its calls of the subject's size built or loaded. Minutes,
    where nothing was kept. Raises RuntimeError if nothing compiles here."""
    from bench.ways import store

    made = pipeline(subject, backend="inductor", builds=store().folder, background=0)
    for at, count in enumerate(made.buckets):
        tick(f"compile ours, a call of {count} rows", at / len(made.buckets))
        made.denoiser.warm(made.rows(subject.job(0, 1), None), count, build=True)
    if not made.stats()["compiled"]:
        raise RuntimeError(f"nothing is compiled: {made.denoiser.backend.reasons()}")
    return made


class Mixed:
    """A back end that gives every number of rows to one of its own; unknown numbers run eager."""

    name = "mixed"

    def __init__(self, backends: Mapping[int, Backend], other: Backend) -> None:
        self._backends, self._other = backends, other

    def of(self, shape: Shape) -> Backend:
        return self._backends.get(shape.places, self._other)

    def program(self, shape: Shape) -> Step:
        return self.of(shape).program(shape)

    def slots(self, shape: Shape) -> Batch | None:
        return self.of(shape).slots(shape)

    def step(self, shape: Shape, batch: Batch) -> Tensor:
        return self.of(shape).step(shape, batch)

    def want(self, shape: Shape) -> None:
        self.of(shape).want(shape)

    def warm(self, shape: Shape, build: bool = True) -> None:
        self.of(shape).warm(shape, build)

    def kept(self, buckets: Sequence[int]) -> list[Shape]:
        return []

    def relieve(self) -> None:
        for backend in self._backends.values():
            backend.relieve()

    def reasons(self) -> dict[str, str]:
        return {}

    def close(self) -> None: ...

    def stats(self) -> dict[str, float]:
        return {}


class Inside(Loop):
    """`with running(...) as loop: loop.submit(...)`; replies arrive on the loop's or the pool's threads."""

    def __init__(self, drawn: Any, pool: int = 4) -> None:
        ours, self._other = socket.socketpair()
        self.error: BaseException | None = None
        self.reply: Reply = lambda message: None
        self.ready = threading.Event()
        self.over = False
        super().__init__(lambda: drawn, ours, Recorder(page()), pool=pool)

    def start(self) -> None:
        self._thread = threading.Thread(target=self._fatal(self._serve), name="step loop", daemon=True)
        self._thread.start()
        if not self.ready.wait(60) or self.error is not None:
            raise RuntimeError(f"the step loop did not start: {self.error!r}")

    def stop(self) -> None:
        self.over = True
        self.inbox.put(None)  # no message: the loop ends at it
        self._thread.join(10)
        self.sock.close()
        self._other.close()

    def submit(self, submit: Submit) -> None:
        self.inbox.put(submit)

    def _load(self) -> dict[str, float]:
        """The pipeline comes loaded; everything else the loop makes at its start is made."""
        given = self.make()
        if isinstance(given, Lcm):
            given.streams.lead()  # this thread's line of work, not that of who loaded it
        load, given.load = given.load, lambda progress: None
        try:
            return super()._load()
        finally:
            given.load = load

    def _send(self, message: Message) -> None:
        if isinstance(message, Ready):
            self.ready.set()
        else:
            self.reply(message)

    def _fatal(self, work: Callable[..., None]) -> Callable[..., None]:  # type: ignore[override]
        def guarded(*given: Any) -> None:
            try:
                work(*given)
            except BaseException as error:
                if not self.over:
                    self.error = self.error or error
                self.ready.set()

        return guarded


@contextmanager
def running(drawn: Any, pool: int = 4) -> Iterator[Inside]:
    """The loop over a loaded pipeline. Raises what ended the loop, if something did."""
    loop = Inside(drawn, pool)
    loop.start()
    try:
        yield loop
    finally:
        loop.stop()
    if loop.error is not None:
        raise RuntimeError(f"the step loop ended: {loop.error!r}") from loop.error


def closed(
    drawn: Any, next_job: Callable[[int, int], Job], sessions: int, seconds: float, warm_s: float = 0.5
) -> list[Frame]:
    """Every session asks for its next picture when it has the last. next_job(session, number)."""
    taken: list[Frame] = []
    open_: dict[int, Frame] = {}
    lock, tickets = threading.Lock(), iter(range(1, 1 << 40))
    end = [0.0]
    done = threading.Event()

    def ask(session: int, number: int) -> None:
        now = time.monotonic()
        if now >= end[0]:
            return
        with lock:
            ticket = next(tickets)
            frame = Frame(session, number, now, warm=now < end[0] - seconds, sent=now)
            open_[ticket] = frame
            taken.append(frame)
        loop.submit(Submit(ticket, str(session), now, next_job(session, number)))

    def reply(message: Message) -> None:
        ticket = getattr(message, "ticket", None)
        with lock:
            frame = open_.pop(ticket, None) if ticket is not None else None
        if frame is None:
            return
        fill(frame, message)
        ask(frame.session, frame.number + 1)
        with lock:
            if not open_:
                done.set()

    with running(drawn) as loop:
        loop.reply = reply
        end[0] = time.monotonic() + warm_s + seconds
        for session in range(sessions):
            ask(session, 0)
        wait(loop, done, warm_s + seconds + 30)
    return taken


def opened(
    drawn: Any,
    job: Callable[[int, int], Job],
    frames: list[Frame],
    deadline_s: float,
    spare_s: float = 5.0,
) -> list[Frame]:
    """Frames leave when they are due, whether or not the engine keeps up; `due` counts from 0 here.

    As live sessions: newest wins among two waiting frames, and a frame has a deadline.
    """
    open_: dict[int, Frame] = {}
    lock, done = threading.Lock(), threading.Event()
    last = [False]

    def reply(message: Message) -> None:
        with lock:
            frame = open_.pop(getattr(message, "ticket", -1), None)
            if frame is not None:
                fill(frame, message)
            if last[0] and not open_:
                done.set()

    with running(drawn) as loop:
        loop.reply = reply
        start = time.monotonic() + 0.05
        for ticket, frame in enumerate(sorted(frames, key=lambda frame: frame.due), 1):
            frame.due += start
            time.sleep(max(0.0, frame.due - time.monotonic()))
            frame.sent = time.monotonic()
            with lock:
                open_[ticket] = frame
                last[0] = ticket == len(frames)
            made = job(frame.session, frame.number)
            loop.submit(Submit(ticket, str(frame.session), frame.due, made, 2, deadline_s))
            if loop.error is not None:
                break
        wait(loop, done, spare_s)
    return frames


def wait(loop: Inside, done: threading.Event, most_s: float) -> None:
    end = time.monotonic() + most_s
    while not done.wait(0.05) and loop.error is None:
        if time.monotonic() > end:
            return


def fill(frame: Frame, message: Message) -> None:
    """What a reply says about its frame."""
    if isinstance(message, Dropped):
        return
    frame.arrived = time.monotonic()
    if isinstance(message, Refused):
        frame.error = message.code
        return
    timings = getattr(message, "timings", {})
    steps = timings.get("steps") or []
    frame.batch = sum(step["batch"] for step in steps) / len(steps) if steps else float("nan")
    frame.engine = timings.get("inference", float("nan"))
    frame.timings = timings
    frame.data = message.pictures[0].data  # type: ignore[union-attr]
