"""What is measured: random weights of a published size on a device, and what the engine makes of them."""

from __future__ import annotations

import copy
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench import floor, weights
from bench.ways import Ways, store
from engines.backends.program import Program, Shape
from engines.denoiser import Denoiser
from engines.messages import Job
from engines.model import Weights

NATIVE = {"sd15": 512, "sdxl": 1024}
TINY = 64  # pixels, of the small structures for a CPU


class Subject:
    def __init__(
        self,
        kind: str,
        device: torch.device,
        dtype: torch.dtype,
        *,
        tiny: bool = False,
        side: int = 0,
        store: Path | None = None,
    ) -> None:
        """kind: "sd15" or "sdxl". side: pixels, 0 = the model's own. tiny: a small model of the same
        structure. store: as of bench.ways.Ways."""
        self.kind, self.device, self.dtype, self.tiny = kind, device, dtype, tiny
        self.side = side or (TINY if tiny else NATIVE[kind])
        unet = self._made(weights.random_unet, kind)
        self.unet = unet.to(memory_format=torch.channels_last)
        self.scheduler = _scheduler()
        self.program = Program(self.unet, self.scheduler.config.prediction_type, None)
        self.ways = Ways(self.program, store)

    def at(self, side: int) -> Subject:
        """The same model, measured at another size in pixels."""
        sized = copy.copy(self)
        sized.side = side
        return sized

    def shape(self, places: int, side: int = 0) -> Shape:
        latents = (side or self.side) // 8
        text = self.unet.config.cross_attention_dim
        return Shape(places, 4, latents, latents, 77, text, self.program.features)

    @cached_property
    def tiny_vae(self) -> Any:
        return self._made(weights.random_vae, "tiny").to(memory_format=torch.channels_last)

    @cached_property
    def kl_vae(self) -> Any:
        return self._made(weights.random_vae, "kl").to(memory_format=torch.channels_last)

    @cached_property
    def text_encoders(self) -> list[Any]:
        return weights.random_text_encoders(self.kind, self.device, self.dtype, tiny=self.tiny)

    def loaded(self) -> Weights:
        """What engines.model.load would give for this model with the tiny VAE."""
        tokenizers = weights.random_tokenizer(), weights.random_tokenizer("!")
        return Weights(
            name=self.kind,
            kind="sdxl" if self.kind == "sdxl" else "sdv1-5",
            encoders=tuple(zip(tokenizers, self.text_encoders, strict=False)),
            blank=self.kind == "sdxl",
            unet=self.unet,
            vae=self.tiny_vae,
            vae_tiny=None,
            scheduler=self.scheduler,
            safety_checker=None,
            feature_extractor=None,
            native=self.side,
            smallest=self.side // 2,
            largest=self.side * 3 // 2,
            scale=8,
        )

    def job(self, number: int = 0, steps: int = 4, **given: Any) -> Job:
        return job(self.side, number, steps, **given)

    def work(self, part: str, side: int = 0) -> floor.Work:
        """As bench.floor.work, also for a tiny model, which is counted here."""
        side = side or self.side
        return counted(self, part, side) if self.tiny else floor.work(_owner(self.kind, part), part, side)

    def _made(self, make: Any, *given: Any) -> Any:
        return make(*given, self.device, self.dtype, tiny=self.tiny)


class Loaded:
    """A model that is there, with an autoencoder of the tiny kind, as a subject of comparisons."""

    tiny = False

    def __init__(self, name: str, kind: str, device: torch.device, dtype: torch.dtype) -> None:
        """name: a folder. kind: what to call it. Raises engines.pipeline.Unloadable."""
        from engines import model

        self.kind, self.device, self.dtype = kind, device, dtype
        self._weights = model.load(name, device, dtype, "auto", "", lambda *_: None)
        self.side, self.unet = self._weights.native, self._weights.unet
        self.tiny_vae = self._weights.vae.to(memory_format=torch.channels_last)
        self.text_encoders = [encoder for _, encoder in self._weights.encoders]
        self.program = Denoiser(self.unet, self._weights.scheduler).program
        self.ways = Ways(self.program, store().folder)
        self._works: dict[tuple[str, int], floor.Work] = {}

    def at(self, side: int) -> Loaded:
        """As of Subject."""
        sized = copy.copy(self)
        sized.side = side
        return sized

    def shape(self, places: int, side: int = 0) -> Shape:
        config, latents = self.unet.config, (side or self.side) // self._weights.scale
        tokens = self.text_encoders[0].config.max_position_embeddings
        text = config.cross_attention_dim
        return Shape(places, config.in_channels, latents, latents, tokens, text, self.program.features)

    def loaded(self) -> Weights:
        return self._weights

    def job(self, number: int = 0, steps: int = 4, **given: Any) -> Job:
        return job(self.side, number, steps, **given)

    def work(self, part: str, side: int = 0) -> floor.Work:
        """As of Subject."""
        key = part, side or self.side
        if key not in self._works:
            self._works[key] = counted(self, *key)
        return self._works[key]


def embedded(device: torch.device, dtype: torch.dtype) -> Loaded:
    """The embedded model; where its weights are not there, random ones of about its size."""
    from bench.conditions import ROOT
    from bench.model import random_model
    from engines.embedded import WEIGHTS

    trained = (WEIGHTS / "model_index.json").is_file()
    name = str(WEIGHTS if trained else random_model(ROOT / "build" / "random-model"))
    kind = "the embedded model" if trained else "random weights (10.9 M UNet)"
    return Loaded(name, kind, device, dtype)


def job(side: int, number: int, steps: int, **given: Any) -> Job:
    """A request for a square picture; one of eight prompts."""
    common = {
        "prompt": f"a red circle {number % 8}",
        "seed": number,
        "width": side,
        "height": side,
        "steps": steps,
        "safety": False,
    }
    return Job(**common | given)


def _scheduler() -> Any:
    from diffusers import LCMScheduler

    return LCMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")


def _owner(kind: str, part: str) -> str:
    """The kind under which a part is counted: VAEs of both are the same module."""
    return "sd15" if part.endswith("code") else kind


def counted(subject: Any, part: str, side: int) -> floor.Work:
    """As of bench.floor, of the very modules."""
    shape = subject.shape(1, side)
    size = 1, shape.channels, shape.height, shape.width
    latent = torch.randn(size, device=subject.device, dtype=subject.dtype)
    picture = torch.randn(1, 3, side, side, device=subject.device, dtype=subject.dtype)
    if part == "unet":
        batch = subject.program.sample(shape)
        return floor.of(subject.program, lambda: subject.program(*batch))
    if part == "text":
        tokens = torch.zeros(1, shape.tokens, dtype=torch.long, device=subject.device)
        encoders = nn.ModuleList(subject.text_encoders)
        return floor.of(encoders, lambda: [encoder(tokens) for encoder in encoders])
    vae = subject.tiny_vae if part.startswith("tiny") else subject.kl_vae
    return floor.of(
        vae, (lambda: vae.decode(latent)) if part.endswith("decode") else lambda: vae.encode(picture)
    )
