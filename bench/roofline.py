"""What each piece of the work takes, beside the least it can take on the ceilings measured in the same run.

A row names what was timed, the floor, and how many times the floor it took; `share` is that of the measured
matrix rate. Times are medians of calls in turn over several inputs, after warm-up; see `bench.ceilings`.
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
from bench.peers.pipelines import jpeg
from bench.report import Plot, Result, Table
from bench.subject import Subject
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
    latents = subject.side // 8
    size = (places, 4, latents, latents) if part.endswith("decode") else (places, 3, *(subject.side,) * 2)
    inputs = [torch.randn(size, device=subject.device).to(subject.dtype) for _ in range(INPUTS)]
    call = module.decode if part.endswith("decode") else module.encode
    seconds = Clock(subject.device).median(
        [lambda given=given: call(given) for given in inputs], most_s=most_s
    )
    return row(subject, part, part, places, seconds, ceilings)


@torch.inference_mode()
def text(subject: Subject, ceilings: Ceilings) -> Row:
    encoders = subject.text_encoders
    prompts = [torch.randint(0, 49000, (1, 77), device=subject.device) for _ in range(INPUTS)]

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
    return told | {"tflop_s": rate / 1e12, "share": rate / ceilings.flop_s}


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
        "places": "rows",
        "ms": "ms",
        "images_s": "rows/s",
        "tflop_s": "TFLOP/s",
        "share": "of the ceiling",
        "floor_ms": "floor, ms",
        "times_floor": "times the floor",
        "built_s": "built in, s",
    }
    return Table(title, list(columns.values()), [[row.get(name) for name in columns] for row in rows], note)


NOTE = (
    "The floor is the larger of operations over the measured matrix rate and weights over the measured copy "
    "bandwidth. `built in` is compiling or loading what was compiled before, and capturing."
)


def figures(quick: bool, tick: Tick) -> Result:
    """`python -m bench roofline`: SD1.5 and SDXL at their own size on CUDA, small structures on a CPU."""
    given = conditions()
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    dtype = torch.float16 if cuda else torch.float32
    torch.set_num_threads(1)
    ceilings = measure(device, dtype, tiny=not cuda)
    places = (1, 8) if quick else (1, 2, 3, 4, 6, 8, 12, 16)
    # On a CPU a shape takes a minute or two to compile, and the engine does not do it unasked.
    compiles = cuda and not quick
    ways = [way for way in WAYS if possible(way, device) and (compiles or way.startswith("eager"))]
    tables, raw = [], {"ceilings": ceilings.told()}
    lines: dict[str, tuple[list[float], list[float]]] = {}
    for kind in ("sd15", "sdxl"):
        subject = Subject(kind, device, dtype, tiny=not cuda)
        rows = []
        for way in ways:
            for count in places if kind == "sd15" else places[:4]:
                tick(f"{kind}, {way}, {count}", len(rows) / (len(ways) * len(places)))
                rows.append(step(subject, way, count, ceilings))
            mine = [r for r in rows if r.get("way") == way]
            lines[f"{kind}, {way}"] = [float(r["places"]) for r in mine], [100 * r["share"] for r in mine]
        rows += [vae(subject, "tiny-decode", count, ceilings) for count in (1, 4)]
        rows.append(vae(subject, "tiny-encode", 1, ceilings))
        rows += [vae(subject, part, 1, ceilings) for part in ("kl-decode", "kl-encode")]
        rows += [to_host(subject, 1, ceilings), text(subject, ceilings)]
        size = "small structure" if subject.tiny else "published size"
        tables.append(table(rows, f"{kind}, {subject.side} px, {size}, {dtype}", NOTE))
        raw[kind] = rows
    told = ceilings.told()
    tables.insert(0, Table("Ceilings, measured", list(told), [list(told.values())]))
    raw["jpeg"] = jpegs(512, device)
    shown = [[r["what"], r.get("images_s"), r.get("note", "")] for r in raw["jpeg"]]
    tables.append(Table("JPEG", ["", "files/s", ""], shown))
    plot = Plot("roofline", "Share of the matrix ceiling", "rows in a call", "percent", lines)
    return Result("roofline", after(given), [], tables, [plot], raw)
