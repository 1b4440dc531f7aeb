"""`python -m engines --fd N --model ...`: one engine process. The gateway starts it; people need not."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from engines.loop import Loop
from engines.recorder import Recorder, page


def main() -> None:
    options = _options()
    if options.warm is not None:
        _die_with(options.parent)
        sys.exit(_warm(options))
    if options.fd is None:
        sys.exit("engines: the gateway starts this; people run `realtime serve`")
    # Ctrl-C and a service manager's SIGTERM reach the whole group. When to end is the gateway's to say:
    # it drains, then closes the link.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _die_with(options.parent)
    recorder = Recorder(page() if options.recorder is None else options.recorder)
    Loop(lambda: _pipeline(options), socket.socket(fileno=options.fd), recorder, pool=options.pool).run()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="engines", description=__doc__)
    parser.add_argument("--fd", type=int, help="our end of the link, a stream socket")
    parser.add_argument("--warm", nargs="*", help="build ahead for these sizes, WIDTHxHEIGHT, and end")
    parser.add_argument("--recorder", type=int, help="a page of engines.recorder that outlives us")
    parser.add_argument("--parent", type=int, default=0, help="process id to die with (Linux)")
    parser.add_argument("--model", default="embedded", help="folder, hub id, embedded, fake[:key=value,...]")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--threads", type=int, default=1, help="of one operator")
    parser.add_argument("--max-batch", type=int, default=0, help="places of one UNet call, 0: by device")
    parser.add_argument("--deterministic", action="store_true", help="always one size of call")
    parser.add_argument("--backend", default="auto", help="auto, eager, inductor or tensorrt")
    parser.add_argument("--compile-mode", default="default", help="default or max-autotune-no-cudagraphs")
    parser.add_argument("--graphs", default="auto", choices=("auto", "on", "off"), help="record CUDA graphs")
    parser.add_argument("--quick-start", action="store_true", help="compile blocks before the first picture")
    parser.add_argument("--search", action="store_true", help="cuDNN times its algorithms at the start")
    parser.add_argument("--builds", type=Path, help="folder that keeps what back ends build")
    parser.add_argument("--vae", default="auto")
    parser.add_argument("--lora", default="", help="LCM-LoRA of a base model")
    parser.add_argument("--cache-bytes", type=int, default=256 * 1024 * 1024)
    parser.add_argument("--pool", type=int, default=2, help="threads for pictures' files")
    return parser.parse_args()


def _pipeline(options: argparse.Namespace) -> Any:
    """A `Pipeline`; each takes only the rows it made, which that protocol cannot say."""
    name, _, rest = options.model.partition(":")
    if name == "fake":
        from engines.fake import Fake

        given = dict(item.split("=", 1) for item in rest.split(",") if item)
        return Fake(
            max_batch=options.max_batch,
            deterministic=options.deterministic,
            **{key: float(value) for key, value in given.items()},
        )
    from engines.backends.store import Store
    from engines.lcm import Lcm

    if options.builds is not None:  # else Inductor's own cache has a name in /tmp that anybody may have taken
        with contextlib.suppress(OSError):  # then nothing is kept, which the store says
            options.builds.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Store(options.builds).cache))
    return Lcm(
        model=options.model,
        device=options.device,
        dtype=options.dtype,
        threads=options.threads,
        max_batch=options.max_batch,
        deterministic=options.deterministic,
        backend=options.backend,
        mode=options.compile_mode,
        graphs={"auto": None, "on": True, "off": False}[options.graphs],
        builds=options.builds,
        quick=options.quick_start,
        search=options.search,
        vae=options.vae,
        lora=options.lora,
        cache_bytes=options.cache_bytes,
    )


def _warm(options: argparse.Namespace) -> int:
    from engines.pipeline import Unloadable
    from engines.warming import run

    try:
        sizes = [(int(width), int(height)) for width, height in (size.split("x") for size in options.warm)]
        return run(_pipeline(options), sizes)
    except (Unloadable, ValueError) as error:
        print(f"engine: {error}", file=sys.stderr, flush=True)
        return os.EX_CONFIG


def _die_with(parent: int) -> None:
    """SIGKILL to us when the parent ends, even if an import keeps the link's reader from running."""
    if not parent or sys.platform != "linux":
        return
    PR_SET_PDEATHSIG = 1  # linux/prctl.h
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before we asked
        os._exit(0)


if __name__ == "__main__":
    main()
