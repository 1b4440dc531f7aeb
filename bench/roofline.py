"""What each piece of the work takes, beside the least it can take on the ceilings measured in the same run.

A row names what was timed, the floor, and how many times the floor it took; `share` is that of the measured
matrix rate, `read` that of the measured copy bandwidth which reading its weights once takes. Times are
medians of calls in turn over several inputs, after warm-up; see `bench.ceilings`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from PIL import Image

from bench.ceilings import Ceilings, Clock, measure
from bench.conditions import after, conditions
from bench.gpu.cold import cold
from bench.gpu.lab import Machine
from bench.peers.pipelines import jpeg
from bench.report import Plot, Result, Table
from bench.subject import Subject, embedded
from bench.ways import WAYS, possible

Row = dict[str, Any]
Tick = Callable[[str, float], None]
INPUTS = 3  # sets of random inputs, in turn


@torch.inference_mode()
def step(
    subject: Subject, way: str, places: int, ceilings: Ceilings, most_s: float = 1.5, build: bool = True
) -> Row:
    """One UNet call of `places` rows and the sampler's step. Builds if it must, and may; `built_s` says how
    long that or the loading took."""
    shape = subject.shape(places)
    began = time.perf_counter()
    run = subject.ways.run(way, shape, build)
    built = time.perf_counter() - began
    batches = [subject.program.sample(shape, seed) for seed in range(INPUTS)]
    clock = Clock(subject.device)
    seconds = clock.median([lambda batch=batch: run(batch) for batch in batches], most_s=most_s)
    return row(subject, f"step, {way}", "unet", places, seconds, ceilings) | {"way": way, "built_s": built}


@torch.inference_mode()
def vae(subject: Subject, part: str, places: int, ceilings: Ceilings, most_s: float = 0.7) -> Row:
    """part: tiny-decode, tiny-encode, kl-decode, kl-encode."""
    module = subject.tiny_vae if part.startswith("tiny") else subject.kl_vae
    shape = subject.shape(places)
    if part.endswith("decode"):
        size = places, shape.channels, shape.height, shape.width
    else:
        size = places, 3, subject.side, subject.side
    inputs = [torch.randn(size, device=subject.device).to(subject.dtype) for _ in range(INPUTS)]
    call = module.decode if part.endswith("decode") else module.encode
    seconds = Clock(subject.device).median(
        [lambda given=given: call(given) for given in inputs], most_s=most_s
    )
    return row(subject, part, part, places, seconds, ceilings)


@torch.inference_mode()
def text(subject: Subject, ceilings: Ceilings) -> Row:
    encoders, tokens = subject.text_encoders, subject.shape(1).tokens
    known = min(encoder.config.vocab_size for encoder in encoders)
    prompts = [torch.randint(0, known, (1, tokens), device=subject.device) for _ in range(INPUTS)]

    def encode(tokens: torch.Tensor) -> None:
        for encoder in encoders:
            encoder(tokens)

    calls = [lambda tokens=tokens: encode(tokens) for tokens in prompts]
    seconds = Clock(subject.device).median(calls, most_s=0.5)
    return row(subject, "text, one prompt", "text", 1, seconds, ceilings)


@torch.inference_mode()
def to_host(subject: Subject, places: int, ceilings: Ceilings) -> Row:
    """Decoded pixels to bytes on the device and into pinned memory."""
    side, clock = subject.side, Clock(subject.device)
    drawn = [torch.randn(places, 3, side, side, device=subject.device) for _ in range(INPUTS)]
    host = torch.empty(places, side, side, 3, dtype=torch.uint8, pin_memory=clock.cuda)

    def send(pixels: torch.Tensor) -> None:
        levels = ((pixels * 0.5 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
        host.copy_(levels.permute(0, 2, 3, 1), non_blocking=True)

    seconds = clock.median([lambda pixels=pixels: send(pixels) for pixels in drawn], most_s=0.5)
    floor = host.nbytes / ceilings.host_bytes_s
    return _told(subject, "uint8 and to the host", places, seconds, floor)


def jpegs(side: int, device: torch.device, most_s: float = 0.6) -> list[Row]:
    """Files per second: Pillow's libjpeg-turbo on threads, and nvJPEG where torchvision has it."""
    # Pictures compress as drawings do, not as noise: smooth, with some grain.
    noise = torch.rand(3, side // 16, side // 16)
    smooth = torch.nn.functional.interpolate(noise[None], size=(side, side), mode="bicubic")[0]
    levels = ((smooth + 0.02 * torch.randn(3, side, side)).clamp(0, 1) * 255).to(torch.uint8)
    picture = Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())
    rows: list[Row] = []
    for threads in (1, 4, 8):
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(jpeg, [picture] * threads))
            began, count = time.perf_counter(), 0
            while (spent := time.perf_counter() - began) < most_s:
                count += len(list(pool.map(jpeg, [picture] * 4 * threads)))
        rows.append({"what": f"JPEG {side}, CPU, {threads} threads", "images_s": count / spent})
    if device.type == "cuda":
        try:
            from torchvision.io import encode_jpeg
        except (ImportError, RuntimeError) as error:
            rows.append({"what": f"JPEG {side}, nvJPEG", "note": f"not measured: {error}"})
            return rows
        on_device = levels.to(device)
        for batch in (1, 8):
            given = [on_device] * batch
            seconds = Clock(device).median(
                [lambda given=given: encode_jpeg(given, quality=85)], most_s=most_s
            )
            rows.append({"what": f"JPEG {side}, nvJPEG, {batch} at once", "images_s": batch / seconds})
    return rows


@torch.inference_mode()
def attention(
    device: torch.device, dtype: torch.dtype, batches: Sequence[int], tiny: bool = False
) -> list[Row]:
    """Every kernel torch has for the shapes of attention in both UNets: milliseconds, if it takes them."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    shapes = [  # tokens, keys, heads, width of a head
        (4096, 4096, 8, 40),
        (1024, 1024, 8, 80),
        (256, 256, 8, 160),
        (4096, 77, 8, 40),
        (4096, 4096, 10, 64),
        (1024, 1024, 20, 64),
    ]
    if tiny:
        shapes = [(64, 64, 2, 40), (64, 77, 2, 40)]
    rows: list[Row] = []
    for tokens, keys, heads, width in shapes:
        for batch in batches:
            q = torch.randn(batch, heads, tokens, width, device=device).to(dtype)
            k, v = (torch.randn(batch, heads, keys, width, device=device).to(dtype) for _ in range(2))
            told: Row = {"what": f"{tokens} x {keys} tokens, {heads} heads of {width}", "places": batch}
            for name in ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION", "MATH"):
                try:
                    with sdpa_kernel(getattr(SDPBackend, name)):
                        call = torch.nn.functional.scaled_dot_product_attention
                        seconds = Clock(device).median([lambda: call(q, k, v)], repeats=10, most_s=0.15)  # noqa: B023
                    told[name.partition("_")[0].lower()] = seconds * 1e3
                except RuntimeError:
                    told[name.partition("_")[0].lower()] = None  # not for this shape, type or device
            measured = {key: value for key, value in told.items() if isinstance(value, float)}
            told["best"] = min(measured, key=measured.__getitem__, default="")
            if measured:
                flop = 4 * batch * heads * tokens * keys * width
                told["tflop_s"] = flop / min(measured.values()) / 1e9
            rows.append(told)
    return rows


def row(subject: Subject, what: str, part: str, places: int, seconds: float, ceilings: Ceilings) -> Row:
    work = subject.work(part)
    itemsize = subject.dtype.itemsize
    floor = work.seconds(places, ceilings.flop_s, ceilings.bytes_s, itemsize)
    rate = work.flop * places / seconds
    told = _told(subject, what, places, seconds, floor)
    read = work.parameters * itemsize / seconds / ceilings.bytes_s
    return told | {"tflop_s": rate / 1e12, "share": rate / ceilings.flop_s, "read": read}


def _told(subject: Subject, what: str, places: int, seconds: float, floor: float) -> Row:
    return {
        "model": subject.kind,
        "side": subject.side,
        "what": what,
        "places": places,
        "ms": seconds * 1e3,
        "images_s": places / seconds,
        "floor_ms": floor * 1e3,
        "times_floor": seconds / floor,
    }


def table(rows: Sequence[Row], title: str, note: str = "") -> Table:
    columns = {
        "what": "",
        "side": "px",
        "places": "rows",
        "ms": "ms",
        "images_s": "rows/s",
        "tflop_s": "TFLOP/s",
        "share": "of the matrix rate",
        "read": "of the bandwidth",
        "floor_ms": "floor, ms",
        "times_floor": "times the floor",
        "built_s": "built in, s",
    }
    return Table(title, list(columns.values()), [[row.get(name) for name in columns] for row in rows], note)


NOTE = (
    "The floor is the larger of operations over the measured matrix rate and weights over the measured copy "
    "bandwidth; of both the share is shown, of the bandwidth what reading the weights once takes and no "
    "activations. `built in` is compiling or loading what was compiled before, and capturing."
)


START = (
    "A process of its own; each stage begins where the one before ended, and `to` counts from the start. "
    "`ready` of what is compiled is loading it, or compiling where nothing was kept; of `+graph` it is "
    "capturing alone."
)


def figures(quick: bool, tick: Tick, sizes: Sequence[int] = ()) -> Result:
    """`python -m bench roofline`: SD1.5 and SDXL at their own size on CUDA, the embedded model on a CPU.

    sizes: pixels, others than a model's own.
    """
    given = conditions()
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    dtype = torch.float16 if cuda else torch.float32
    torch.set_num_threads(1)
    tick("ceilings", 0.0)
    ceilings = measure(device, dtype, tiny=quick and not cuda)
    kinds = ("sd15", "sdxl") if cuda else ("embedded",)
    tables: list[Table] = []
    raw: dict[str, Any] = {"ceilings": ceilings.told()}
    lines: dict[str, tuple[list[float], list[float]]] = {}
    for number, kind in enumerate(kinds):

        def say(what: str, share: float, kind: str = kind, number: int = number) -> None:
            tick(f"{kind}, {what}", (number + share) / (len(kinds) + 1))

        own: Any = Subject(kind, device, dtype) if cuda else embedded(device, dtype)
        rows: list[Row] = []
        for side in sizes or (own.side,):
            rows += _steps(own.at(side), quick, ceilings, say)
        for side in sizes or (own.side,):
            rows += _around(own.at(side), ceilings)
        for row_ in rows:
            if "way" in row_:
                xs, ys = lines.setdefault(f"{kind} {row_['side']}, {row_['way']}", ([], []))
                xs.append(float(row_["places"]))
                ys.append(100 * row_["share"])
        tables.append(table(rows, f"{own.kind}, {dtype}", NOTE))
        raw[kind] = rows
    tick("a start", len(kinds) / (len(kinds) + 1))
    raw["start"] = start = cold(Machine(device.type, False), kinds[0])
    stages = [[name.removesuffix("_s").replace("_", " "), took] for name, took in start.items()]
    stages = [stage for stage in stages if isinstance(stage[1], float) and stage[1] >= 0]
    tables.append(Table(f"A start, {kinds[0]}, calls of one row", ["", "s"], stages, START))
    told = ceilings.told()
    tables.insert(0, Table("Ceilings, measured", list(told), [list(told.values())]))
    raw["jpeg"] = jpegs(512, device)
    shown = [[r["what"], r.get("images_s"), r.get("note", "")] for r in raw["jpeg"]]
    tables.append(Table("JPEG", ["", "files/s", ""], shown))
    plot = Plot("roofline", "Share of the matrix ceiling", "rows in a call", "percent", lines)
    return Result("roofline", after(given), [], tables, [plot], raw)


def _steps(subject: Any, quick: bool, ceilings: Ceilings, say: Tick) -> list[Row]:
    """By back end and rows of a call. On a CPU, which is not asked to compile, compiled if it was before."""
    cuda = subject.device.type == "cuda"
    places: Sequence[int] = (1, 8) if quick else (1, 2, 3, 4, 6, 8, 12, 16)
    if not cuda or subject.kind == "sdxl":
        places = places[: 1 if quick else 4]
    ways = [way for way in WAYS if possible(way, subject.device) and (way.startswith("eager") or not quick)]
    rows: list[Row] = []
    for at, way in enumerate(ways):
        for count in places:
            say(f"{subject.side} px, {way}, {count} rows", at / len(ways))
            try:
                rows.append(step(subject, way, count, ceilings, build=cuda))
            except RuntimeError as error:
                if cuda:
                    raise
                rows.append({"what": f"step, {way}: {error}", "side": subject.side, "places": count})
    return rows


def _around(subject: Any, ceilings: Ceilings) -> list[Row]:
    """What surrounds the steps."""
    rows = [vae(subject, "tiny-decode", count, ceilings) for count in (1, 4)]
    rows.append(vae(subject, "tiny-encode", 1, ceilings))
    if hasattr(subject, "kl_vae"):
        rows += [vae(subject, part, 1, ceilings) for part in ("kl-decode", "kl-encode")]
    return [*rows, to_host(subject, 1, ceilings), text(subject, ceilings)]
