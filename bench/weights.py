"""Models of published sizes with seeded random weights, made on the device that will run them.

The work of a step is what the published weights cost; the pictures mean nothing, but are grey and of so
little contrast that their files are as large as those of ordinary pictures (`exposed`): JPEG takes five
times as long over noise. No tensor is zero, not even where training starts from zero (a ControlNet's
outputs): matrices keep the variance of what goes through them, so that activations stay finite in half
precision and every term reaches the picture. `tiny=True` gives the same structures in a size for a CPU.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, ControlNetModel, LCMScheduler, UNet2DConditionModel
from PIL import Image
from torch import Generator, Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from bench import published
from engines.pixels import written
from engines.vae import Vae, levels

META = torch.device("meta")
ORDINARY = 0.15  # bytes a pixel of a JPEG as the engine writes it: 40 kB at 512 px
SPREAD = 20.0  # deviation of latents as a random UNet leaves them after four steps


def random_unet(
    kind: str,
    device: torch.device,
    dtype: torch.dtype,
    *,
    tiny: bool = False,
    time_cond: bool = True,
    seed: int = 0,
) -> UNet2DConditionModel:
    """kind: "sd15" or "sdxl". time_cond: an LCM UNet, which takes the guidance scale as an input."""
    config = (published.SMALL_UNET if tiny else published.UNET)[kind]
    width = published.GUIDANCE if time_cond else None
    return _made(lambda: UNet2DConditionModel(**config, time_cond_proj_dim=width), device, dtype, seed)


def random_controlnet(
    kind: str, device: torch.device, dtype: torch.dtype, *, tiny: bool = False, seed: int = 1
) -> ControlNetModel:
    """A ControlNet for `random_unet` of the same kind; it takes a picture [B, 3, H, W] in 0..1."""
    config = dict((published.SMALL_UNET if tiny else published.UNET)[kind])
    for name in ("sample_size", "up_block_types"):
        config.pop(name, None)
    return _made(lambda: ControlNetModel(**config), device, dtype, seed)


def random_vae(
    layout: str,
    device: torch.device,
    dtype: torch.dtype,
    *,
    kind: str = "sd15",
    tiny: bool = False,
    seed: int = 2,
) -> AutoencoderKL | AutoencoderTiny:
    """layout: "kl" or "tiny"."""
    if layout == "tiny":
        config = published.SMALL_TINY_VAE if tiny else published.TINY_VAE
        return exposed(_made(lambda: AutoencoderTiny(**config), device, dtype, seed))
    config = (published.SMALL_KL if tiny else published.KL)[kind]
    return exposed(_made(lambda: AutoencoderKL(**config), device, dtype, seed))


def random_text_encoders(
    kind: str, device: torch.device, dtype: torch.dtype, *, tiny: bool = False, seed: int = 3
) -> list[CLIPTextModel | CLIPTextModelWithProjection]:
    """One for "sd15"; for "sdxl" the second one, too, whose pooled output is projected."""
    configs = (published.SMALL_TEXT if tiny else published.TEXT)[kind]
    layouts = CLIPTextModel, CLIPTextModelWithProjection

    def make(number: int) -> Callable[[], nn.Module]:
        return lambda: layouts[number](CLIPTextConfig(**configs[number]))

    return [_made(make(number), device, dtype, seed + number) for number in range(len(configs))]


def random_checkpoint(
    folder: Path,
    kind: str,
    device: torch.device | None = None,
    *,
    tiny: bool = False,
    time_cond: bool = True,
    vae: str = "kl",
    dtype: torch.dtype = torch.float16,
    prediction: str = "epsilon",
    seed: int = 0,
) -> Path:
    """Write a whole model into `folder` unless it is there: what `Lcm`, the server and diffusers load.

    vae: "kl" with a tiny one beside it in vae_tiny/, or "tiny" alone. Without `time_cond` it is a base model
    saved as one whose LCM-LoRA is fused. device: where it is made, the CPU if not said. 2.1 GB for "sd15",
    7.1 GB for "sdxl". Returns `folder`.
    """
    index = folder / "model_index.json"
    if index.exists():
        return folder
    device = device or torch.device("cpu")
    common: dict[str, Any] = {"tiny": tiny, "seed": seed}
    told: dict[str, Any] = {
        "_class_name": {"sd15": "LatentConsistencyModelPipeline", "sdxl": "StableDiffusionXLPipeline"}[kind],
        "_diffusers_version": "0.42.1",
    }
    if kind == "sd15" and not time_cond:
        told["_class_name"] = "StableDiffusionPipeline"

    def keep(name: str, part: Any, library: str = "diffusers") -> None:
        part.save_pretrained(folder / name)
        told[name] = [library, type(part).__name__]

    # One part at a time on the device.
    keep("unet", random_unet(kind, device, dtype, time_cond=time_cond, **common))
    keep("vae", random_vae(vae, device, dtype, kind=kind, **common))
    if vae == "kl":
        random_vae("tiny", device, dtype, **common).save_pretrained(folder / "vae_tiny")
    for number, encoder in enumerate(random_text_encoders(kind, device, dtype, **common)):
        behind = "_2" if number else ""
        keep(f"text_encoder{behind}", encoder, "transformers")
        keep(f"tokenizer{behind}", random_tokenizer("!" if number else "<|endoftext|>"), "transformers")
    keep(
        "scheduler",
        LCMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction
        ),
    )
    if kind == "sdxl":
        told["force_zeros_for_empty_prompt"] = True
    else:
        told |= {"safety_checker": [None, None], "feature_extractor": [None, None]}
        if time_cond:
            told["requires_safety_checker"] = False
    index.write_text(json.dumps(told))  # last: it says that the model is whole
    return folder


def random_tokenizer(pad: str = "<|endoftext|>") -> CLIPTokenizer:
    """49,408 entries as CLIP has, of which bytes alone are used: words are letters. "!" is number 0."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(code) for code in printable] + [chr(256 + n) for n in range(256 - len(printable))]
    entries = [*letters, *(letter + "</w>" for letter in letters)]
    last = published.CLIP_L["bos_token_id"]
    entries += [f"<|unused-{number}|>" for number in range(last - len(entries))]
    entries += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {entry: number for number, entry in enumerate(entries)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77, pad_token=pad)


def _made(make: Callable[[], Any], device: torch.device, dtype: torch.dtype, seed: int) -> Any:
    with META:
        module = make()
    nn.Module.to(
        module, dtype
    )  # diffusers' own `to` warns of layers it would keep in float32, and names none
    module.eval().requires_grad_(False)
    if device.type == "meta":
        return module
    module.to_empty(device=device)
    scatter(module, seed)
    return module


@torch.no_grad()
def scatter(module: nn.Module, seed: int) -> None:
    """Draw every parameter in place, on its device; other numbers on another kind of device.

    Raises RuntimeError for a buffer that nothing here can fill.
    """
    device = next(module.parameters()).device
    generator = Generator(device).manual_seed(seed)
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(0.0, 1.0 / math.sqrt(parameter[0].numel()), generator=generator)
        elif name.endswith("weight"):  # of a norm
            parameter.normal_(1.0, 0.1, generator=generator)
        else:
            parameter.normal_(0.0, 0.02, generator=generator)
    for name, buffer in module.named_buffers():
        if not name.endswith("position_ids"):
            raise RuntimeError(f"{type(module).__name__} has a buffer {name}, which nobody fills")
        buffer.copy_(torch.arange(buffer.shape[-1], device=device).expand_as(buffer))


@torch.no_grad()
def exposed(vae: Any) -> Any:
    """Scale the decoder's last convolution, in place, until a picture is grey on average and its JPEG takes
    ORDINARY bytes a pixel. Operations stay what they are. On "meta" nothing is drawn."""
    tiny = isinstance(vae, AutoencoderTiny)
    last = vae.decoder.layers[-1] if tiny else vae.decoder.conv_out
    if last.weight.is_meta:
        return vae
    gain, offset = (2.0, -1.0) if tiny else (1.0, 0.0)  # from the convolution to -1..1: DecoderTiny.forward
    latents = SPREAD * torch.randn(
        1, vae.config.latent_channels, 16, 16, generator=Generator().manual_seed(0)
    )
    exact = nn.Module.to(copy.deepcopy(vae), torch.float32)  # a CPU is slow in half precision
    drawn = Vae(exact, 8).decode(latents.to(last.weight.device)).cpu()
    grey = drawn.mean((0, 2, 3))
    contrast = _contrast(drawn - grey[:, None, None])
    last.weight.mul_(contrast)
    last.bias.mul_(contrast).sub_(((contrast * (grey - offset) + offset) / gain).to(last.bias))
    return vae


def _contrast(picture: Tensor) -> float:
    """By what to multiply a picture [1, 3, H, W] of mean 0 in -1..1, so that its file is of ordinary size."""
    pixels = picture[0, 0].numel()

    def grain(contrast: float) -> float:
        return (_bytes(contrast * picture) - _bytes(0 * picture)) / pixels  # of a small file a header is much

    low, high = 1e-4, 1e2
    while high / low > 1.01:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if grain(middle) < ORDINARY else (low, middle)
    return low


def _bytes(picture: Tensor) -> int:
    return len(written(Image.fromarray(levels(picture)[0].numpy()), "jpeg"))
