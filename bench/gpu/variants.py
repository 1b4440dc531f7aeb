"""What else could be faster: variants that no back end offers, measured beside those that do."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from bench import roofline
from bench.ceilings import Clock
from bench.gpu.lab import Lab, broken
from engines.backends.graphs import Graphs


def searched(lab: Lab, rows: int) -> dict[str, Any]:
    """A compiled call whose convolutions cuDNN has searched algorithms for, captured again.

    On a thread of its own: what a convolution ran with first is what its thread keeps, searched or not
    (`thread_local benchmark_cache`, torch's Conv_v8.cpp).
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_searched, lab, rows).result()


def _searched(lab: Lab, rows: int) -> dict[str, Any]:
    subject = lab.subject
    shape = subject.shape(rows)
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        subject.ways.run("inductor", shape, build=False)
        backend = Graphs(subject.ways.backend("inductor"), subject.program)
        backend.warm(shape, build=False)
        batch = subject.program.sample(shape)

        def call() -> None:
            slots = backend.slots(shape)
            backend.step(shape, batch if slots is None else slots)

        seconds = Clock(subject.device).median([call], most_s=1.0)
    finally:
        torch.backends.cudnn.benchmark = before
    what = "step, inductor+graph, cuDNN searched"
    return roofline.row(subject, what, "unet", rows, seconds, lab.ceilings)


@torch.inference_mode()
def decoded(lab: Lab, rows: int) -> dict[str, Any]:
    """The tiny decoder in a CUDA graph."""
    subject = lab.subject
    side = subject.side // 8
    latents = torch.randn(rows, 4, side, side, device=subject.device).to(subject.dtype)
    run = captured(lambda: subject.tiny_vae.decode(latents).sample)
    seconds = Clock(subject.device).median([run], most_s=0.5)
    return roofline.row(subject, "tiny-decode, captured", "tiny-decode", rows, seconds, lab.ceilings)


def captured(work: Callable[[], Any]) -> Callable[[], None]:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # first calls choose algorithms, which no capture may
        for _ in range(2):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        graph.kept = work()  # type: ignore[attr-defined]  # its memory is the graph's
    return graph.replay


def variants(lab: Lab) -> dict[str, Any]:
    """Rows as of bench.roofline; nothing on a device without graphs."""
    if not lab.cuda:
        return {"rows": []}
    rows, failed = [], {}
    for work, count in ((searched, 1), (decoded, 1), (decoded, 4), (searched, 8)):
        try:
            rows.append(work(lab, count))
        except Exception as error:
            if broken(error):
                raise
            failed[f"{work.__name__} {count}"] = f"{type(error).__name__}: {str(error)[:200]}"
    return {"rows": rows, "failed": failed}
