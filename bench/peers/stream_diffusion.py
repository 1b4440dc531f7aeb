"""The `StreamDiffusion` class of PyPI's streamdiffusion 0.1.1, on the engine's own weights.

It pins a diffusers of 2023 that it does not need, so it is installed without its dependencies into a folder
of its own: `python -m bench.peers.stream_diffusion`. Nothing of it is changed; on a machine without CUDA
the events it times itself with are replaced by ones that do nothing.

One object serves everybody, as in its demo: prompt, noise and the rows of the last calls are its state. A
call answers with the picture that entered `steps - 1` calls before.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from PIL import Image

from bench.conditions import ROOT
from bench.peers.pipelines import Diffusers, jpeg

FOLDER = ROOT / "build" / "streamdiffusion"
STEPS = (0, 12, 25, 37)  # of 50: the timesteps of a latent consistency model in four steps


class Missing(Exception):
    """It cannot be run here, and why."""


def found() -> Any:
    """The class. Raises Missing."""
    if FOLDER.is_dir() and str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    try:
        return importlib.import_module("streamdiffusion").StreamDiffusion
    except ImportError as error:
        raise Missing(f"not installed here: {error}; python -m bench.peers.stream_diffusion") from error


class Stream:
    def __init__(self, parts: Any, side: int) -> None:
        """parts: engines.model.Weights. Raises Missing."""
        kind = found()
        self.diffusers = Diffusers(parts)
        self.stream = kind(
            self.diffusers.pipe,
            list(STEPS),
            torch_dtype=parts.unet.dtype,
            width=side,
            height=side,
            cfg_type="none",
        )
        self.delay = len(STEPS) - 1  # calls
        with torch.inference_mode():
            self.stream.prepare("a red circle", generator=torch.Generator(), guidance_scale=1.0)

    @torch.inference_mode()
    def draw(self, prompt: str, picture: Image.Image | None = None) -> bytes:
        """What the object answers to this request, be it somebody else's picture."""
        text = self.diffusers.text(prompt)
        self.stream.prompt_embeds = text.repeat(self.stream.batch_size, 1, 1)  # as update_prompt does
        with timeless():
            drawn = self.stream.txt2img() if picture is None else self.stream(picture)
        return jpeg(self.diffusers.pipe.image_processor.postprocess(drawn)[0])


@contextmanager
def timeless() -> Iterator[None]:
    if torch.cuda.is_available():
        yield
        return
    event = mock.Mock(return_value=mock.Mock(elapsed_time=lambda other: 0.0))
    with mock.patch("torch.cuda.Event", event), mock.patch("torch.cuda.synchronize"):
        yield


def install(folder: Path = FOLDER) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "--no-deps",
        "--upgrade",
    ]
    subprocess.run([*command, "--target", str(folder), "streamdiffusion==0.1.1"], check=True, timeout=300)


if __name__ == "__main__":
    install()
