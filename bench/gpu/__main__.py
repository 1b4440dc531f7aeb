"""`python -m bench.gpu measure|second|first|build`: processes of a plan. People: `python -m bench gpu`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from bench.gpu.lab import FOLDER, Lab, Machine, broken
from bench.gpu.plan import Book, run

HEARD = "ceilings", "sd15 searched 1"  # by the second process, of the first: parts that its own need


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.gpu")
    parser.add_argument("what", choices=("measure", "second", "first", "build"))
    parser.add_argument("rest", nargs="*")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--out", type=Path, default=FOLDER / "gpu.json")
    parser.add_argument("--budget", type=float, default=270.0)
    given = parser.parse_intermixed_args()
    machine = Machine(given.device, given.tiny, given.folder)
    os.environ.update(machine.environment())
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if given.what == "measure":
        from bench.gpu.measure import measure, show

        show(measure(machine, given.out, given.budget, lambda text: print(text, flush=True)))
    elif given.what == "second":
        from bench.gpu.second import second_parts

        book = Book.open(given.out, machine.conditions())
        book.parts.pop("sdxl prepared", None)  # of another process
        main_book = given.out.with_name(given.out.name.removesuffix("-sdxl.json") + ".json")

        def go() -> None:
            if not sys.stdin.readline():
                os._exit(0)  # nobody is there any more who could want figures
            if main_book.is_file():  # by now
                told = json.loads(main_book.read_text())["parts"]
                book.parts |= {name: told[name] for name in HEARD if name in told}

        lab = Lab(machine, "sdxl", book)
        run(second_parts(lab, go), book, 3600, lambda text: print(text, flush=True), broken)
    elif given.what == "first":
        from bench.gpu.cold import first

        print(json.dumps(first(machine, *given.rest[:1])))
    else:
        from bench.gpu.prebuild import build

        print(json.dumps(build(machine, given.rest[0], int(given.rest[1]))))


if __name__ == "__main__":
    main()
