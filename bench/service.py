"""The whole service on a model folder: `realtime serve` in its processes, sessions on real WebSockets."""

from __future__ import annotations

import importlib.util
import math
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

NEEDED = (
    *("starlette", "uvicorn", "websockets", "httptools", "msgpack", "msgspec", "pybase64", "pydantic", "jwt"),
    *("pydantic_settings", "cryptography", "httpcore2", "obstore", "structlog", "prometheus_client"),
)
MOST_ROWS = 8  # of a call, as the canvas without a gateway has them: all of them compiled ahead
LOADING_S = 40.0  # at most, until what was compiled ahead is taken


def measured(folder: Path, device: str, tiny: bool) -> dict[str, Any]:
    """Raises ModuleNotFoundError naming what the gateway lacks here."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(f"the gateway cannot start here: {', '.join(missing)} are not installed")
    import torch

    from bench.figures import summary
    from bench.gpu.canvas import FPS, SLO_S, most_sessions
    from bench.load import Load, offer, one_picture, run
    from bench.server import ours
    from bench.weights import random_checkpoint

    model = random_checkpoint(folder / "sd15", "sd15", torch.device(device), tiny=tiny, vae="tiny")
    side, seconds = (64, 1.0) if tiny else (512, 3.0)
    began = time.monotonic()
    tried: list[dict[str, Any]] = []
    # The state's folder is where the engine looks for what was compiled.
    given = {"device": device, "state_dir": folder / "state", "target_s": SLO_S, "max_batch": MOST_ROWS}
    with ours(str(model), **given) as server:
        ready = time.monotonic() - began
        run(one_picture(server))
        first = time.monotonic() - began
        while (left := loading(server.port)) and time.monotonic() < began + first + LOADING_S:
            time.sleep(0.5)
        loaded = time.monotonic() - began

        def good(sessions: int) -> bool:
            load = Load(
                sessions=sessions,
                rate_hz=FPS,
                seconds=seconds,
                warm_s=0.5,
                arrivals="regular",
                slo_s=SLO_S,
                size=side,
                pictures=1,
                drawn=True,
            )
            told = summary(run(offer(load, server.port)), sessions=sessions, seconds=seconds, slo_s=SLO_S)
            share = told["frames"]["answered"] / max(1, told["frames"]["offered"])
            p50, p95 = told["latency"]["p50_ms"], told["latency"]["p95_ms"]
            found = {"sessions": sessions, "images_s": told["images_per_s"], "answered_share": share}
            tried.append(found | {"p50_ms": p50, "p95_ms": p95, "added_p50_ms": told["added"]["p50_ms"]})
            return share >= 0.95 and not math.isnan(p95) and p95 <= SLO_S * 1e3

        most = most_sessions(good)
    told = {"ready_s": ready, "first_image_s": first, "loaded_s": loaded, "not_loaded": left}
    return {"sessions": most, **told, "max_batch": MOST_ROWS, "tried": tried}


def loading(port: int) -> int:
    """Programs that the engine is still to load or build, by what it says; 1 before it has said anything."""
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", "/metrics")
    return building(connection.getresponse().read().decode())


def building(metrics: str) -> int:
    """As `loading`, of Prometheus' text."""
    told = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if line.startswith("realtime_engine_"))
    if "realtime_engine_steps_total" not in told:
        return 1
    return int(float(told.get('realtime_engine_programs{state="building"}', 0)))
