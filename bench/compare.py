"""Ours beside its peers: the same weights, the same device, the same process, one after the other.

Sixteen sessions, each asking for its next picture when it has the last (closed loop), of 1 to 8 steps, four
on average. A request's latency runs until *its own* picture is there, decoded and written as JPEG.
"""

from __future__ import annotations

import io
import math
import random
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image

from bench.conditions import after, conditions
from bench.drawings import drawing
from bench.figures import Frame, percentile
from bench.peers.pipelines import Asked, Diffusers, Draw, Line, Lockstep, Take, equal, everything, one
from bench.report import Bar, Result, Table
from engines.messages import Job

OURS, DIFFUSERS = "ours", "diffusers, one by one"
COMPILED, THEIRS_COMPILED = "ours, compiled", "diffusers, compiled UNet, one by one"
STREAM = "StreamDiffusion 0.1.1, stream batch of 4 steps"
SESSIONS = 16
STEPS = (1, 2, 3, 4, 4, 4, 4, 5, 6, 8)  # four on average
COLOURS = {"red": (220, 30, 30), "blue": (30, 40, 220)}
COLUMNS = (
    "images/s",
    "to diffusers",
    "p50 ms",
    "p95 ms",
    "CPU ms",
    "alone, 4 steps: ms",
    "CPU ms",
    "a drawing: ms",
    "CPU ms",
)
Tick = Callable[[str, float], None]


@dataclass
class Peer:
    """What one way of serving came to; nan or None is what it cannot do or nobody asked."""

    name: str
    images_s: float = float("nan")
    p50_ms: float = float("nan")
    p95_ms: float = float("nan")
    cpu_ms: float = float("nan")  # of this process an image: on a GPU, what it costs to drive it
    alone_ms: float = float("nan")  # four steps on an idle machine, until one's own picture
    alone_cpu_ms: float = float("nan")  # the same in CPU time, which others on the machine do not stretch
    drawn_ms: float = float("nan")  # a drawing on an idle machine, until the picture made of it
    drawn_cpu_ms: float = float("nan")
    wrong: int | None = None
    checked: int = 0  # pictures compared with what their request gives alone
    note: str = ""


def job_of(subject: Any, session: int, number: int, steps: int = 0) -> Job:
    """The same for every peer: drawn from the session and the number."""
    rng = random.Random(f"{session}/{number}")
    return subject.job(session, steps or rng.choice(STEPS), seed=rng.randrange(2**31))


# ---- closed loops ----


def served(draw: Draw, take: Take, subject: Any, sessions: int, seconds: float) -> list[Frame]:
    """A server that draws what `take` takes out of the line, one group after another."""
    line: Line = deque()
    frames: list[Frame] = []
    opened: dict[tuple[int, int], Frame] = {}
    measured = time.monotonic()
    end = measured + seconds

    def ask(session: int, number: int) -> None:
        now = time.monotonic()
        frame = Frame(session, number, now, sent=now)
        frames.append(frame)
        opened[session, number] = frame
        line.append(Asked(session, number, now, job_of(subject, session, number)))

    for session in range(sessions):
        ask(session, 0)
    while time.monotonic() < end:
        group = take(line)
        files = draw([asked.job for asked in group])
        now = time.monotonic()
        for asked, file in zip(group, files, strict=True):
            frame = opened.pop((asked.session, asked.number))
            frame.arrived, frame.data = now, file
            ask(asked.session, asked.number + 1)
    return frames


def run(peer: Peer, draw: Draw, take: Take, subject: Any, sessions: int, seconds: float) -> Peer:
    spent = time.process_time()
    frames = served(draw, take, subject, sessions, seconds)
    return summed(peer, frames, seconds, time.process_time() - spent)


def summed(peer: Peer, frames: Sequence[Frame], seconds: float, cpu_s: float = float("nan")) -> Peer:
    """Images that came while the clock ran, and the latency of all that were answered. cpu_s: of the run."""
    measured = [frame for frame in frames if not frame.warm]
    start = min((frame.due for frame in measured), default=0.0)
    answered = [frame for frame in frames if frame.answered]
    inside = [frame for frame in answered if start <= frame.arrived <= start + seconds]
    took = [frame.latency for frame in answered if not frame.warm]
    peer.images_s = len(inside) / seconds
    peer.cpu_ms = 1e3 * cpu_s / len(answered) if answered else float("nan")
    peer.p50_ms, peer.p95_ms = percentile(took, 0.5) * 1e3, percentile(took, 0.95) * 1e3
    errors = sum(bool(frame.error) for frame in frames)
    if errors:
        peer.note = f"{errors} requests refused"
    return peer


def alone(draw: Callable[[int], Any], times: int) -> tuple[float, float]:
    """Milliseconds, and of CPU time, until a picture is there, nobody else about: medians. draw(number)
    returns then."""
    took = []
    for number in range(times + 1):
        began, spent = time.monotonic(), time.process_time()
        draw(number)
        took.append((time.monotonic() - began, time.process_time() - spent))
    walls, spents = zip(*took[1:], strict=True)
    return statistics.median(walls) * 1e3, statistics.median(spents) * 1e3


# ---- whose picture is it ----


def nearer_to_others(files: Sequence[tuple[str, bytes]], expected: dict[str, bytes]) -> int:
    """How many (owner, picture) look more like what somebody else asked for."""
    references = {owner: pixels(file) for owner, file in expected.items()}
    wrong = 0
    for owner, file in files:
        found = pixels(file)
        apart = {name: np.abs(found - reference).mean() for name, reference in references.items()}
        wrong += min(apart, key=apart.__getitem__) != owner
    return wrong


def pixels(file: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB").resize((32, 32)), dtype=np.float32)


def coloured(subject: Any, owner: str, seed: int = 5) -> Job:
    """A user's request: their own colour, as a picture to draw over."""
    side = subject.side
    file = io.BytesIO()
    Image.new("RGB", (side, side), COLOURS[owner]).save(file, "PNG")
    return subject.job(0, 4, seed=seed, prompt=f"a {owner} cloth", image=file.getvalue(), strength=0.6)


# ---- the peers ----


def diffusers_one(subject: Any, seconds: float, sessions: int, compiled: bool = False) -> Peer:
    peer = Peer(THEIRS_COMPILED if compiled else DIFFUSERS)
    drawn = Diffusers(subject.loaded(), compiled)
    drawn.draw([job_of(subject, 0, 0, 2)])  # builds, and first calls choose algorithms
    peer.alone_ms, peer.alone_cpu_ms = alone(
        lambda number: drawn.draw([job_of(subject, 0, 1000 + number, 4)]), 5
    )
    run(peer, drawn.draw, one, subject, sessions, seconds)
    if not compiled:
        jobs = {
            owner: subject.job(n, 4, seed=n, prompt=f"a {owner} cloth") for n, owner in enumerate(COLOURS)
        }
        expected = {owner: drawn.draw([job])[0] for owner, job in jobs.items()}
        files = [(owner, drawn.draw([jobs[owner]])[0]) for _ in range(4) for owner in COLOURS]
        peer.wrong, peer.checked = nearer_to_others(files, expected), len(files)
    return peer


def diffusers_groups(subject: Any, seconds: float, sessions: int) -> Peer:
    peer = Peer("diffusers, batches of equal steps")
    drawn = Diffusers(subject.loaded())
    drawn.draw([job_of(subject, n, 0, 2) for n in range(4)])
    return run(peer, drawn.draw, equal, subject, sessions, seconds)


def lockstep(subject: Any, engine: Any, seconds: float, sessions: int) -> Peer:
    peer = Peer("request batches to the longest, our calls")
    drawn = Lockstep(engine)
    drawn.draw([job_of(subject, n, 0, 2) for n in range(4)])
    return run(peer, drawn.draw, everything, subject, sessions, seconds)


def stream_diffusion(subject: Any, seconds: float, sessions: int) -> Peer:
    """One object for all, as its demo server has it; always four steps. A reply is somebody's picture:
    latency is until one's own."""
    from bench.peers.stream_diffusion import Missing, Stream

    peer = Peer(STREAM)
    try:
        stream = Stream(subject.loaded(), subject.side)
    except Missing as missing:
        peer.note = str(missing)
        return peer
    for _ in range(stream.delay + 2):
        stream.draw("a red circle")

    def own(file: bytes | None) -> None:
        for _ in range(stream.delay + 1):  # the picture asked for comes with the last of these calls
            stream.draw("a red circle", None if file is None else Image.open(io.BytesIO(file)))

    peer.alone_ms, peer.alone_cpu_ms = alone(lambda number: own(None), 4)
    peer.drawn_ms, peer.drawn_cpu_ms = alone(lambda number: own(drawing(subject.side, 0, number)), 4)
    line: deque[Frame] = deque()
    inside: deque[Frame] = deque()  # in the order they entered the object
    frames: list[Frame] = []

    def ask(session: int, number: int) -> None:
        now = time.monotonic()
        frame = Frame(session, number, now, sent=now)
        frames.append(frame)
        line.append(frame)

    for session in range(sessions):
        ask(session, 0)
    spent, end = time.process_time(), time.monotonic() + seconds
    while time.monotonic() < end:
        frame = line.popleft()
        inside.append(frame)
        stream.draw(f"a red circle {frame.session % 8}")
        if len(inside) > stream.delay:
            inside.popleft().arrived = time.monotonic()
        ask(frame.session, frame.number + 1)  # its caller has a reply and goes on
    summed(peer, frames, seconds, time.process_time() - spent)
    peer.note = "always four steps; a reply shows what was asked three calls before"
    pictures = {owner: Image.new("RGB", (subject.side,) * 2, colour) for owner, colour in COLOURS.items()}
    expected = {}
    for owner, picture in pictures.items():
        for _ in range(2 * stream.delay + 2):
            expected[owner] = stream.draw("a cloth", picture)
    files = [(owner, stream.draw("a cloth", pictures[owner])) for _ in range(12) for owner in COLOURS]
    peer.wrong, peer.checked = nearer_to_others(files, expected), len(files)
    return peer


def ours(subject: Any, engine: Any, seconds: float, sessions: int, name: str = OURS) -> Peer:
    """The engine's step loop over `engine`, a loaded pipeline with what it needs built."""
    from bench.inside import closed

    peer = Peer(name)

    def single(job: Callable[[int], Job]) -> tuple[float, float]:
        spent = time.process_time()
        taken = closed(engine, lambda session, number: job(number), 1, min(2.0, seconds), 0.3)
        spent = time.process_time() - spent
        answered = [frame for frame in taken if frame.answered]
        took = [frame.latency for frame in answered if not frame.warm]
        return percentile(took, 0.5) * 1e3, 1e3 * spent / max(1, len(answered))

    def sketch(number: int) -> Job:
        return subject.job(0, 4, seed=5, image=drawing(subject.side, 0, number), strength=0.6)

    peer.alone_ms, peer.alone_cpu_ms = single(lambda number: job_of(subject, 0, 1000 + number, 4))
    peer.drawn_ms, peer.drawn_cpu_ms = single(sketch)
    spent = time.process_time()
    frames = closed(engine, lambda session, number: job_of(subject, session, number), sessions, seconds)
    summed(peer, frames, seconds, time.process_time() - spent)
    jobs = {owner: coloured(subject, owner) for owner in COLOURS}
    expected = {}
    for owner, job in jobs.items():  # each alone, on the idle engine
        row = engine.rows(job, engine.decode_inputs(job))[0]
        for _ in range(job.steps):
            engine.step([row], engine.buckets[0])
        expected[owner] = engine.encode(row, engine.decode([row])[0], job)[0]
    owners = list(COLOURS)

    def both(session: int, number: int) -> Job:
        return jobs[owners[session]] if session < 2 else job_of(subject, session, number)

    crowd = closed(engine, both, 6, min(seconds, 2.0), 0.0)
    files = [(owners[f.session], f.data) for f in crowd if f.session < 2 and f.answered]
    peer.wrong, peer.checked = nearer_to_others(files, expected), len(files)
    return peer


PARTS: dict[str, Callable[..., Peer]] = {
    "one by one": lambda s, e, t, n: diffusers_one(s, t, n),
    "groups": lambda s, e, t, n: diffusers_groups(s, t, n),
    "compiled": lambda s, e, t, n: diffusers_one(s, t, n, compiled=True),
    "lockstep": lockstep,
    "streamdiffusion": lambda s, e, t, n: stream_diffusion(s, t, n),
    "ours": ours,
}


def table(peers: Sequence[Peer], title: str, note: str) -> Table:
    one_by_one = (peer.images_s for peer in peers if peer.name == DIFFUSERS)
    base = next(one_by_one, 0.0) or math.nan  # on a machine with other work it may have made none in its time
    return Table(
        title,
        ["", *COLUMNS, "wrong pictures", ""],
        [
            [
                peer.name,
                peer.images_s,
                peer.images_s / base,
                peer.p50_ms,
                peer.p95_ms,
                peer.cpu_ms,
                peer.alone_ms,
                peer.alone_cpu_ms,
                peer.drawn_ms,
                peer.drawn_cpu_ms,
                None if peer.wrong is None else f"{peer.wrong} of {peer.checked}",
                peer.note,
            ]
            for peer in peers
        ],
        note,
    )


def bars(by: dict[str, Peer], cuda: bool) -> list[Bar]:
    """Like with like: eager beside eager, compiled beside compiled. What was not measured has no bar."""
    made = []
    for name in (OURS, COMPILED):
        if name in by:
            made.append(Bar(f"{name}: wrong pictures", by[name].wrong or 0, 0, "pictures"))
    for name, theirs, limit in ((OURS, DIFFUSERS, 3.0), (COMPILED, THEIRS_COMPILED, 1.5)):
        if name in by and theirs in by:
            mine, base = by[name], by[theirs]
            what = f"{name}: images {{}} to {theirs}"
            if cuda:
                ratio = mine.images_s / base.images_s if base.images_s else math.nan
                made.append(Bar(what.format("a second"), ratio, limit, "x", True))
            else:
                ratio = base.cpu_ms / mine.cpu_ms
                made.append(Bar(what.format("per CPU-second"), ratio, 1.4, "x", True))
    stream = by.get(STREAM, Peer(STREAM))
    for name in (OURS, COMPILED):
        if name in by and not math.isnan(stream.images_s):
            mine = by[name]
            share = mine.drawn_ms / stream.drawn_ms if cuda else mine.drawn_cpu_ms / stream.drawn_cpu_ms
            what = f"{name}: a drawing's own picture at 4 steps, to StreamDiffusion's"
            made.append(Bar(what + ("" if cuda else ", CPU time"), share, 1 / 3, "x"))
    return made


def figures(quick: bool, tick: Tick) -> Result:
    """`python -m bench peers`: the embedded model on a CPU, SD1.5's size with random weights on CUDA."""
    import torch

    from bench import inside
    from bench.subject import Subject, embedded

    given = conditions()
    cuda = torch.cuda.is_available()
    torch.set_num_threads(1)
    if cuda:
        subject: Any = Subject("sd15", torch.device("cuda"), torch.float16)
    else:
        subject = embedded(torch.device("cpu"), torch.float32)
    parts = dict(PARTS)
    engine = inside.pipeline(subject)
    if quick:
        del parts["compiled"]  # a minute or more of building, and of ours as much for each size of a call
    else:
        fast = inside.compiled(subject, lambda what, share: tick(what, share / (len(parts) + 2)))
        parts[COMPILED] = lambda s, e, t, n: ours(s, fast, t, n, COMPILED)
    seconds = 3.0 if quick else 15.0
    peers = []
    for at, (name, part) in enumerate(parts.items(), 1):
        tick(name, at / (len(parts) + 1))
        peers.append(part(subject, engine, seconds, SESSIONS))
    title = (
        f"{SESSIONS} sessions, closed loop, mixed steps: {subject.kind} {subject.side} px, {subject.dtype}"
    )
    return Result(
        "peers",
        after(given),
        bars({peer.name: peer for peer in peers}, cuda),
        [table(peers, title, NOTE)],
        raw={"peers": [asdict(peer) for peer in peers]},
    )


NOTE = (
    "Steps 1 to 8, four on average; the same weights, device and process; every side keeps the embeddings "
    "of a prompt. A wrong picture looks more like what another user asked for than like its own. CPU time is "
    "that of the process, a picture; other work on the machine does not stretch it. Compiling is not in any "
    "figure. Batches of equal steps are not compiled: they come in sixteen sizes, each a build of its own."
)
