"""What is measured on SD1.5's size, and the order of all parts by their worth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from bench.gpu.canvas import canvas
from bench.gpu.cold import cold
from bench.gpu.control import control
from bench.gpu.lab import Lab, Machine, broken
from bench.gpu.pictures import new_size, one_image, throughput
from bench.gpu.plan import Part
from bench.gpu.second import Second
from bench.gpu.variants import variants

SESSIONS = 16


def parts(lab: Lab, sdxl: Second) -> list[Part]:
    """In the order of their worth."""
    steps = [Part("sd15 eager", 25, lambda: lab.steps("eager", (1, 8)))]
    if lab.cuda:
        steps.append(Part("sd15 eager+graph", 25, lambda: lab.steps("eager+graph", (1, 8, 4, 2, 16))))
    steps += [
        Part(f"sd15 compiled {rows}", 45, lambda rows=rows: lab.best(rows, lab.cuda)) for rows in (1, 8)
    ]
    others = [Part(f"peers: {name}", most, work) for name, most, work in peers(lab)]
    return [
        Part("ceilings", 30, lambda: lab.ceilings.told()),
        *steps,
        Part("sd15 one image", 20, lambda: one_image(lab)),
        Part("sd15 best batch", 20, lambda: throughput(lab, 8)),
        Part("sd15 compiled 4", 20, lambda: lab.best(4, False)),
        *others[:2],
        Part("canvas", 45, lambda: canvas(lab, 8)),
        Part("variants", 25, lambda: variants(lab)),
        Part("sdxl", 80, sdxl.measured),
        *others[2:],
        Part("cold start", 60, lambda: cold(lab.machine)),
        *[Part(f"sd15 compiled {n}", 30, lambda n=n: lab.best(n, False)) for n in (16, 2, 6, 3, 12)],
        Part("sd15 best batch of 16", 20, lambda: throughput(lab, 16)),
        Part("canvas of 16", 30, lambda: canvas(lab, 16)),
        Part("a new size", 60, lambda: new_size(lab)),
        Part("service", 90, lambda: service(lab.machine)),
        Part("pieces", 30, lambda: pieces(lab)),
        Part("attention", 25, lambda: attention(lab)),
        Part("control", 40, lambda: control(lab)),
    ]


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
    from bench import roofline

    subject, ceilings, most = lab.subject, lab.ceilings, 0.1 if lab.machine.tiny else 0.4
    work: list[Callable[[], dict[str, Any]]] = [
        *[lambda n=n: roofline.vae(subject, "tiny-decode", n, ceilings, most) for n in (1, 4, 8)],
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


def attention(lab: Lab) -> list[dict[str, Any]]:
    from bench.roofline import attention as sweep

    return sweep(
        lab.subject.device, lab.subject.dtype, (1,) if lab.machine.tiny else (1, 8), lab.machine.tiny
    )


def service(machine: Machine) -> dict[str, Any]:
    """`realtime serve` on a model folder, and sessions on real WebSockets at ten frames a second."""
    from bench import service as whole

    return whole.measured(machine.folder, machine.device, machine.tiny)
