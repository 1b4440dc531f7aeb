"""Where tensors live and in which precision, and what a device says when it is full."""

from __future__ import annotations

import torch

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def choose(device: str, dtype: str) -> tuple[torch.device, torch.dtype]:
    """For "auto" the best there is: cuda, mps, cpu; half precision on a GPU, float32 on a CPU.

    fp16 before bf16 on a GPU: same speed, and three more bits where the sampler's errors add up.
    Raises ValueError for a device that is not there or a dtype nobody knows.
    """
    if device == "auto":
        there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
        device = next(name for name, present in there.items() if present)
    kind = torch.device(device).type
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is cuda, but this torch sees no CUDA device")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device is mps, but this torch sees no Metal device")
    if dtype == "auto":
        dtype = "float32" if kind == "cpu" else "float16"
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype}, known are auto, {', '.join(DTYPES)}")
    return torch.device(device), DTYPES[dtype]


def slots(device: torch.device) -> int:
    """Slots of the largest UNet call: a CPU gains nothing beyond four (engine figures in bench/results)."""
    return 4 if device.type == "cpu" else 16


def synchronize(device: torch.device) -> None:
    """Wait for everything queued on the device; seconds measured around a call are true only with it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def is_out_of_memory(error: RuntimeError) -> bool:
    """torch has a class for CUDA only; the CPU allocator and Metal say it in words."""
    said = str(error)
    return (
        isinstance(error, torch.OutOfMemoryError)
        or "can't allocate memory" in said
        or "out of memory" in said.lower()
    )


def release(device: torch.device) -> None:
    """Give cached blocks back after an out-of-memory, so that a smaller call finds a whole piece."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
