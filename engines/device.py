"""Where tensors live and in which precision, and what a device says when it is full."""

from __future__ import annotations

import time

import torch

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

PAYS = 1.25  # times as quick: less is not worth its rounding


def choose(device: str, dtype: str) -> tuple[torch.device, torch.dtype]:
    """For "auto" the best there is: cuda, mps, cpu; half precision on a GPU, float32 on a CPU.

    fp16 before bf16 on a GPU: same speed, and three more bits where the sampler's errors add up.
    "fast" is "auto", but bfloat16 on a CPU that is quicker with it, at the cost of float32's promises.
    Raises ValueError for a device or dtype nobody knows, and for a device that is not there.
    """
    if device == "auto":
        there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
        device = next(name for name, present in there.items() if present)
    try:
        kind = torch.device(device).type
    except RuntimeError:  # torch's text lists thirty that this project has never run on
        raise ValueError(f"device is {device!r}, known are auto, cpu, cuda, mps") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is cuda, but this torch sees no CUDA device")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device is mps, but this torch sees no Metal device")
    if dtype == "fast" and kind == "cpu" and bfloat16_pays():
        dtype = "bfloat16"
    if dtype in ("auto", "fast"):
        dtype = "float32" if kind == "cpu" else "float16"
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype}, known are auto, fast, {', '.join(DTYPES)}")
    return torch.device(device), DTYPES[dtype]


def bfloat16_pays() -> bool:
    """Whether this CPU convolves clearly quicker in bfloat16; without instructions for it, it is slower."""
    taken = {}
    with torch.inference_mode():
        for dtype in (torch.float32, torch.bfloat16):
            given = torch.ones(1, 64, 32, 32, dtype=dtype).to(memory_format=torch.channels_last)
            weight = torch.ones(64, 64, 3, 3, dtype=dtype).to(memory_format=torch.channels_last)
            runs = []
            for _ in range(8):  # the first ones choose and compile a kernel
                began = time.thread_time()
                torch.nn.functional.conv2d(given, weight, padding=1)
                runs.append(time.thread_time() - began)
            taken[dtype] = min(runs)
    return taken[torch.float32] > PAYS * taken[torch.bfloat16]


def slots(device: torch.device) -> int:
    """Slots of the largest UNet call: a CPU gains nothing beyond four (engine figures in bench/results)."""
    return 4 if device.type == "cpu" else 16


def synchronize(device: torch.device) -> None:
    """Wait for everything queued on the device; seconds measured around a call are true only with it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def is_out_of_memory(error: Exception) -> bool:
    """torch has a class for CUDA only; the CPU allocator and Metal say it in words."""
    said = str(error)
    return (
        isinstance(error, torch.OutOfMemoryError)
        or "can't allocate memory" in said
        or "out of memory" in said.lower()
    )


def room(device: torch.device) -> float:
    """Share of a GPU's memory that is free, blocks that torch keeps for later included; 1.0 elsewhere."""
    if device.type != "cuda":
        return 1.0
    release(device)
    free, total = torch.cuda.mem_get_info(device)
    return free / total


def release(device: torch.device) -> None:
    """Give cached blocks back after an out-of-memory, so that a smaller call finds a whole piece."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
