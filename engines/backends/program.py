"""One UNet call and the sampler's step after it, as one function of tensors: what a back end makes fast.

Places are the batch of the UNet: first the rows, then the unconditional halves of guided rows, then padding.
Every operation treats places alike and none looks across them but `pairs`, so what sits in one place does
not change another.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from engines import control, image_prompt, sampler
from engines.control import Control, Residuals, spread
from engines.image_prompt import Seen

CONTROL = "control:"  # a feature of this prefix names a ControlNet
TOKENS = "ip"  # a feature "ip4" is an image prompt of four tokens
PIXELS = 8  # per latent, each way: of every VAE that goes with these UNets


@dataclass(frozen=True, slots=True)
class Shape:
    """All that a compiled or captured program is fixed to: sizes, and the set of features it takes in."""

    places: int
    channels: int
    height: int  # in latents
    width: int
    tokens: int
    text: int  # width of a token's embedding
    # Sorted: "embedded" or "cfg", how the guidance scale comes in; "xl", SDXL's conditions; "ip4", an image
    # prompt of four tokens; "control:canny", a ControlNet of that name.
    features: tuple[str, ...]
    controlled: int = 0  # places that go through the ControlNets

    @property
    def controls(self) -> tuple[str, ...]:
        """Names of the ControlNets, in the order of their conditions and scales."""
        return tuple(name.removeprefix(CONTROL) for name in self.features if name.startswith(CONTROL))

    @property
    def seen(self) -> int:
        """Tokens of the image prompt."""
        found = [name.removeprefix(TOKENS) for name in self.features if name.startswith(TOKENS)]
        return int(found[0]) if found else 0

    def __str__(self) -> str:
        held = f" of {self.controlled}" if self.controlled else ""
        return f"{self.places} x {self.width}x{self.height} latents, {' '.join(self.features)}{held}"


class Batch(NamedTuple):
    """The inputs of one call of B places. float32 on the device, but what comes from an encoder or is the
    scale of one (text, pooled, tokens, strength, pictures, scales, "embedded" guidance) in the UNet's dtype.

    What belongs to a feature is None without it. K: Shape.controlled; N: ControlNets.
    """

    latents: Tensor  # [B, C, h, w]
    coefficients: Tensor  # [B, 6], as sampler.Plan
    text: Tensor  # [B, tokens, D]
    guidance: Tensor  # [B, E] embeddings, or [B, 1, 1, 1] scales of classifier-free guidance
    noise: Tensor  # [B, C, h, w], as sampler.Plan; so are the next two
    still: Tensor  # [B, C, h, w]
    mask: Tensor  # [B, 1, h, w]
    pairs: Tensor | None = None  # "cfg": [B] int64, the place of the unconditional half; its own if none
    pooled: Tensor | None = None  # "xl": [B, P], of the second text encoder
    sizes: Tensor | None = None  # "xl": [B, 6], height and width, top and left, height and width; pixels
    tokens: Tensor | None = None  # "ip": [B, n, D]; zero in a place without a picture
    strength: Tensor | None = None  # "ip": [B, 1, 1], of the image prompt
    pictures: Tensor | None = None  # "control:": [K, N, 3, H, W] in 0..1
    scales: Tensor | None = None  # "control:": [B, N], zero in a place without control
    held: Tensor | None = None  # "control:": [K] int64, the places that have pictures
    holders: Tensor | None = None  # "control:": [B] int64, a place's number in `held`; 0 if it has none


Step = Callable[..., Tensor]  # (*Batch) -> latents after the step, [B, C, h, w] float32


class Program(nn.Module):
    def __init__(
        self,
        unet: Any,
        prediction: str,
        clip: float | None,
        nets: Mapping[str, Control] | None = None,
        controls: Sequence[str] = (),
    ) -> None:
        """unet: diffusers' UNet2DConditionModel on its device. prediction, clip: as sampler.step.

        nets: ControlNets there are; controls: names of those that this program runs.
        """
        super().__init__()
        self.unet = unet
        self.nets = dict(nets or {})  # a dictionary: what this program does not run is no part of it
        self.controls = nn.ModuleList(self.nets[name] for name in controls)
        self._others: dict[tuple[str, ...], Program] = {}
        # diffusers looks through all parameters for these, 0.7 ms each time
        self.device: torch.device = unet.device
        self.dtype: torch.dtype = unet.dtype
        self.prediction, self.clip = prediction, clip
        self.embedding: int | None = unet.config.time_cond_proj_dim
        self.xl: bool = unet.config.addition_embed_type == "text_time"

    def of(self, shape: Shape) -> Program:
        """The program for this shape's features: this one, or one over the same UNet with ControlNets."""
        if not shape.controls:
            return self
        if shape.controls not in self._others:
            self._others[shape.controls] = Program(
                self.unet, self.prediction, self.clip, self.nets, shape.controls
            )
        return self._others[shape.controls]

    def forward(
        self,
        latents: Tensor,
        coefficients: Tensor,
        text: Tensor,
        guidance: Tensor,
        noise: Tensor,
        still: Tensor,
        mask: Tensor,
        pairs: Tensor | None = None,
        pooled: Tensor | None = None,
        sizes: Tensor | None = None,
        tokens: Tensor | None = None,
        strength: Tensor | None = None,
        pictures: Tensor | None = None,
        scales: Tensor | None = None,
        held: Tensor | None = None,
        holders: Tensor | None = None,
    ) -> Tensor:
        noisy, timesteps = latents.to(self.dtype), coefficients[:, 0]
        added = None if pooled is None else {"text_embeds": pooled, "time_ids": sizes}
        residuals: dict[str, Any] = {}
        if held is not None:
            *down, middle = self._control(
                noisy, timesteps, text, added, tokens, pictures, scales, held, holders
            )
            residuals = {
                "down_block_additional_residuals": tuple(down),
                "mid_block_additional_residual": middle,
            }
        output = self.unet(
            noisy,
            timesteps,
            encoder_hidden_states=text if tokens is None else Seen(text, tokens, strength),
            timestep_cond=guidance if pairs is None else None,
            added_cond_kwargs=added,
            return_dict=False,
            **residuals,
        )[0].float()
        if pairs is not None:  # a place paired with itself comes out as it went in
            output = sampler.guided(output, output[pairs], guidance)
        return sampler.step(latents, output, coefficients, noise, still, mask, self.prediction, self.clip)

    def _control(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        text: Tensor,
        added: dict[str, Tensor] | None,
        tokens: Tensor | None,
        pictures: Tensor,
        scales: Tensor,
        held: Tensor,
        holders: Tensor,
    ) -> Residuals:
        """The sum over all ControlNets, each run for the places `held` alone."""
        if added is not None:
            added = {name: tensor[held] for name, tensor in added.items()}
        total: Residuals = []
        for number, net in enumerate(self.controls):
            seen = tokens if net.reads == "tokens" else text
            found = net(noisy[held], timesteps[held], seen[held], pictures[:, number], added)
            parts = spread(found, holders, scales[:, number])
            total = [one + other for one, other in zip(total, parts, strict=True)] if total else parts
        return total

    @property
    def features(self) -> tuple[str, ...]:
        """Of every call of this UNet."""
        return ("cfg" if self.embedding is None else "embedded", *(("xl",) if self.xl else ()))

    def empty(self, shape: Shape, device: torch.device | None = None) -> Batch:
        """Tensors to gather a batch of this shape into: the static slots of a captured program."""
        places, device = shape.places, device or self.device
        latents = places, shape.channels, shape.height, shape.width
        nets, seen = len(shape.controls), shape.seen

        def slots(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(size, dtype=dtype, device=device)

        def told(*size: int) -> Tensor:
            return slots(*size, dtype=self.dtype)

        batch = Batch(
            latents=slots(*latents),
            coefficients=slots(places, 6),
            text=told(places, shape.tokens, shape.text),
            guidance=slots(places, 1, 1, 1) if self.embedding is None else told(places, self.embedding),
            noise=slots(*latents),
            still=slots(*latents),
            mask=slots(places, 1, shape.height, shape.width),
        )
        if self.embedding is None:
            batch = batch._replace(pairs=torch.arange(places, device=device))
        if self.xl:
            batch = batch._replace(pooled=told(places, pooled_width(self.unet)), sizes=slots(places, 6))
        if seen:
            batch = batch._replace(tokens=told(places, seen, shape.text), strength=told(places, 1, 1))
        if nets:
            side = shape.height * PIXELS, shape.width * PIXELS
            batch = batch._replace(
                pictures=told(shape.controlled, nets, 3, *side),
                scales=told(places, nets),
                held=torch.arange(shape.controlled, device=device),
                holders=torch.arange(places, device=device) % shape.controlled,
            )
        return batch

    def sample(self, shape: Shape, seed: int = 0) -> Batch:
        """A batch such as traffic brings: unit noise, steps in the middle of the schedule."""
        generator = torch.Generator().manual_seed(seed)
        batch = self.empty(shape)
        drawn = batch.latents, batch.text, batch.guidance, batch.noise, batch.pooled, batch.tokens
        for tensor in drawn:
            if tensor is not None:
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
        # timestep, alpha, sigma, skip, out, next alpha
        middle = torch.tensor([499.0, 0.5, 0.8, 0.0, 1.0, 0.7])
        batch.coefficients.copy_(middle.expand(shape.places, 6))
        batch.mask.fill_(1.0)
        if batch.sizes is not None:
            height, width = shape.height * PIXELS, shape.width * PIXELS
            batch.sizes.copy_(torch.tensor([height, width, 0, 0, height, width]).expand(shape.places, 6))
        if batch.strength is not None:
            batch.strength.fill_(0.5)
        if batch.pictures is not None and batch.scales is not None:
            batch.pictures.copy_(torch.rand(batch.pictures.shape, generator=generator))
            batch.scales[: shape.controlled].fill_(0.5)
        return batch

    def layout(self) -> str:
        """Digest of what compiled code relies on, values excepted: every tensor's name, sizes, strides and
        type, every module's class and configuration, and the sources of the step.
        """
        told = hashlib.blake2b(f"{self.prediction} {self.clip}\n".encode(), digest_size=16)
        for name, tensor in self.state_dict().items():
            told.update(f"{name} {tuple(tensor.shape)} {tensor.stride()} {tensor.dtype}\n".encode())
        for name, module in self.named_modules():
            config = dict(module.config) if hasattr(module, "config") else {}
            # Where it was read from, and in an order that changes from process to process what was not said.
            config = {key: value for key, value in config.items() if not key.startswith("_")}
            told.update(f"{name} {type(module)} {json.dumps(config, sort_keys=True, default=str)}\n".encode())
        for source in (Program, sampler, control, image_prompt):
            told.update(inspect.getsource(source).encode())
        return told.hexdigest()

    def weights(self) -> str:
        """Digest of every weight's bytes, LoRAs that are fused included. Seconds for a real model."""
        told = hashlib.blake2b(digest_size=16)
        for name, tensor in self.state_dict().items():
            told.update(name.encode())
            told.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return told.hexdigest()


def difference(expected: Tensor, found: Tensor) -> float:
    """The greatest relative error of any place, L2 over the place; NaN and infinity come out as infinity."""
    error = (found - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1).clamp_min(1e-12)
    return float(error.nan_to_num(nan=float("inf")).max())


def gather(columns: Mapping[str, Sequence[Tensor] | Sequence[int]], into: Batch | None) -> Batch:
    """Columns of a Batch by name, each of one tensor or one number per place, stacked; `into` static slots if
    there are any."""
    device = next(column[0].device for column in columns.values() if isinstance(column[0], Tensor))
    made: dict[str, Tensor] = {}
    for name, column in columns.items():
        slots: Tensor | None = None if into is None else getattr(into, name)
        if isinstance(column[0], Tensor):
            made[name] = torch.stack(list(column), out=slots)  # type: ignore[arg-type]  # by its first one
        elif slots is not None:
            slots.copy_(_numbers(tuple(column), device))  # type: ignore[arg-type]
        else:
            made[name] = _numbers(tuple(column), device)  # type: ignore[arg-type]
    return Batch(**made) if into is None else into


@lru_cache(maxsize=4096)
def _numbers(column: tuple[int, ...], device: torch.device) -> Tensor:
    """Never write to it. Kept, because a copy to the device waits for the call that runs there."""
    return torch.tensor(column, device=device)


def pooled_width(unet: Any) -> int:
    """Of an SDXL UNet: the width of the pooled text it takes."""
    sizes = 6 * unet.config.addition_time_embed_dim
    return int(unet.config.projection_class_embeddings_input_dim) - sizes
