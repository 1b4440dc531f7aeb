"""What is measured on SD1.5's size, and the order of all parts by their worth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch

from bench import roofline
from bench.ceilings import Clock
from bench.gpu.canvas import canvas
from bench.gpu.cold import cold
from bench.gpu.control import control
from bench.gpu.lab import Lab, Machine, broken
from bench.gpu.pictures import new_size, one_image, throughput
from bench.gpu.plan import Part
from bench.gpu.second import Second
from bench.ways import SEARCHED, TUNED
from engines.backends.graphs import WARM_UPS, Cuda
from engines.decoder import Decoder
from engines.vae import Vae

SESSIONS = 16


def parts(lab: Lab, sdxl: Second) -> list[Part]:
    """In the order of their worth: what a bar needs, then what else there is to know.

    What is searched for may take most of a minute, so it has a limit, and the second search is not begun
    where the first one came to nothing.
    """
    named = {name: Part(f"peers: {name}", most, work) for name, most, work in peers(lab)}
    bars = ("ours", "one by one", "compiled")
    # Eager ones first: the other process is still at its own start, and is heard in what runs now.
    eager = [Part("sd15 eager", 15, lambda: lab.steps("eager", (1,)))]
    if lab.cuda:
        rest = [rows for rows in (4, 2) if not lab.machine.prebuilt(f"sd15 {rows}")]
        eager.append(Part("sd15 eager+graph", 20, lambda: lab.steps("eager+graph", (1, 8, *rest))))
    return [
        Part("ceilings", 30, lambda: lab.ceilings.told()),
        *eager,
        compiled(lab, 1, 45, lab.cuda),
        compiled(lab, 8, 45, lab.cuda),
        *[tuned(lab, rows) for rows in (1, 8) if lab.machine.prebuilt(f"sd15 max {rows}")],
        *searched(lab, 1, 40),
        *searched(lab, 8, 45, "sd15 searched 1"),
        Part("sd15 one image", 20, lambda: one_image(lab)),
        Part("sd15 best batch", 20, lambda: throughput(lab, 8)),
        *[compiled(lab, rows) for rows in (4, 2, 6)],
        Part("canvas", 45, lambda: canvas(lab, 8)),
        *[named.pop(name) for name in bars],
        Part("sdxl", 110, sdxl.measured),
        Part("service", 110, lambda: service(lab.machine)),
        Part("cold start", 60, lambda: cold(lab.machine)),
        Part("a new size", 45, lambda: new_size(lab)),
        *searched(lab, 4, 30, "sd15 searched 8"),
        *searched(lab, 2, 30, "sd15 searched 8"),
        *[compiled(lab, rows) for rows in (16, 3, 12)],
        Part("sd15 best batch of 16", 20, lambda: throughput(lab, 16)),
        Part("canvas of 16", 30, lambda: canvas(lab, 16)),
        Part("pieces", 30, lambda: pieces(lab)),
        *named.values(),
        Part("attention", 25, lambda: attention(lab)),
        Part("control", 40, lambda: control(lab)),
        Part("sdxl control", 40, lambda: control(Lab(lab.machine, "sdxl", lab.book))),
    ]


def compiled(lab: Lab, rows: int, most_s: float = 20, build: bool = False) -> Part:
    return Part(f"{lab.kind} compiled {rows}", most_s, lambda: lab.best(rows, build))


def tuned(lab: Lab, rows: int) -> Part:
    way = TUNED + "+graph" * lab.cuda
    return Part(f"{lab.kind} max {rows}", 20, lambda: lab.steps(way, (rows,), False))


def searched(lab: Lab, rows: int, most_s: float, *needs: str) -> list[Part]:
    """None on a device without graphs."""
    part = Part(f"{lab.kind} searched {rows}", most_s, lambda: lab.steps(SEARCHED, (rows,), False), needs)
    return [part] if lab.cuda else []


def peers(lab: Lab) -> list[tuple[str, float, Callable[[], Any]]]:
    """(name, seconds, work), ours last: what the others need is known then."""
    from bench import compare

    most = {"compiled": 75.0, "ours": 25.0, "streamdiffusion": 25.0, "one by one": 30.0}
    if not lab.cuda:
        most["compiled"] = 4.0  # the rehearsal need not wait for a compiler
    order = ("ours", "one by one", "compiled", "groups", "lockstep", "streamdiffusion")

    def one(name: str) -> Callable[[], Any]:
        return lambda: asdict(compare.PARTS[name](lab.subject, lab.served(8), lab.seconds, SESSIONS))

    return [(name, most.get(name, 20.0), one(name)) for name in order]


def pieces(lab: Lab) -> dict[str, Any]:
    """What surrounds the steps, piece by piece, beside its floor."""
    subject, ceilings, most = lab.subject, lab.ceilings, 0.1 if lab.machine.tiny else 0.4
    work: list[Callable[[], dict[str, Any]]] = [
        *[lambda n=n: roofline.vae(subject, "tiny-decode", n, ceilings, most) for n in (1, 4, 8)],
        *[lambda n=n: decoded(lab, n, most) for n in (1, 4)],
        *[
            lambda part=part: roofline.vae(subject, part, 1, ceilings, most)
            for part in ("tiny-encode", "kl-decode", "kl-encode")
        ],
        lambda: roofline.vae(subject, "kl-decode", 4, ceilings, most),
        *[lambda n=n: roofline.to_host(subject, n, ceilings) for n in (1, 4)],
        lambda: roofline.text(subject, ceilings),
    ]
    rows = []
    for measure in work:
        try:
            rows.append(measure())
        except Exception as error:
            if broken(error):
                raise
            rows.append({"what": "not measured", "note": f"{type(error).__name__}: {str(error)[:200]}"})
    return {"rows": rows, "jpeg": roofline.jpegs(subject.side, subject.device, most)}


def decoded(lab: Lab, pictures: int, most_s: float) -> dict[str, Any]:
    """The tiny decoder as it serves: replayed where there are CUDA graphs, and up to levels of 0..255."""
    subject = lab.subject
    decoder = Decoder(Vae(subject.tiny_vae, 8), Cuda(subject.device) if lab.cuda else None)
    latents = list(torch.randn(pictures, 4, *[subject.side // 8] * 2, device=subject.device))
    seconds = Clock(subject.device).median([lambda: decoder(latents)], most_s=most_s, warm=WARM_UPS + 3)
    what = "tiny-decode, as it serves"
    return roofline.row(subject, what, "tiny-decode", pictures, seconds, lab.ceilings)


def attention(lab: Lab) -> list[dict[str, Any]]:
    subject, tiny = lab.subject, lab.machine.tiny
    return roofline.attention(subject.device, subject.dtype, (1,) if tiny else (1, 8), tiny)


def service(machine: Machine) -> dict[str, Any]:
    """`realtime serve` on a model folder, and sessions on real WebSockets at ten frames a second."""
    from bench import service as whole

    return whole.measured(machine.folder, machine.device, machine.tiny)
