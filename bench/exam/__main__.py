"""`python -m bench.exam --weights FOLDER --device cuda`: the exam without a server, where a model is trained.

Needs torch, diffusers, transformers, numpy, pillow and safetensors, nothing else. Draws in diffusers' own
pipeline, judges in worker processes, prints a table and writes the tallies as JSON. The figures that are
published come from `python -m bench embedded`, through a running server.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")

from bench.exam.examination import SEED, examine
from bench.exam.judge import codec
from bench.exam.pipeline import drawing
from bench.exam.transcript import document, text


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.exam", description=__doc__)
    parser.add_argument("--weights", type=Path, required=True, help="folder in diffusers' LCM layout")
    parser.add_argument("--device", default="cpu", help="as torch names it")
    parser.add_argument("--captions", type=int, default=300, help="of each paper, about")
    parser.add_argument("--steps", default="1,4", help="numbers of steps, with commas")
    parser.add_argument("--size", type=int, default=0, help="pixels a side; 0 is the model's own")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--workers", type=int, default=0, help="processes that judge; 0 is one a core")
    parser.add_argument("--json", type=Path, help="file for the tallies")
    given = parser.parse_args(arguments)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=UserWarning)
    counts = [int(part) for part in given.steps.split(",")]
    began, made = time.monotonic(), 0

    def done(count: int) -> None:
        nonlocal made
        made += count
        print(f"{made} pictures drawn, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)

    draw = drawing(given.weights, given.device, given.size, done)
    through = codec(given.weights, given.device)
    taken, free = examine(draw, given.captions, counts, given.seed, given.workers, through)
    print(text(taken, free))
    if given.json is not None:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        took = {"weights": str(given.weights), "device": given.device, "seed": given.seed}
        took_s = round(time.monotonic() - began, 1)
        given.json.write_text(json.dumps(took | {"seconds": took_s} | document(taken, free), indent=1) + "\n")


if __name__ == "__main__":
    main()
