"""Finding and loading a model in the diffusers layout: where it is, what it is, what can be done with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from engines.control import Control
from engines.hub import Report, Unloadable, download, find

KINDS = ("sdv1-5", "sdxl")
LCM_LORA = {
    "sdv1-5": "latent-consistency/lcm-lora-sdv1-5",
    "sdxl": "latent-consistency/lcm-lora-sdxl",
}
TINY_VAE = {"sdv1-5": "madebyollin/taesd", "sdxl": "madebyollin/taesdxl"}
CARD = "realtime.json"  # beside model_index.json: what weights cannot tell, {"native", "smallest", "largest"}
NEEDED = ("text_encoder", "tokenizer", "unet", "vae", "scheduler")
SECOND = ("text_encoder_2", "tokenizer_2")  # SDXL needs them, too
# Folders that are read.
PARTS = (*NEEDED, *SECOND, "safety_checker", "feature_extractor", "lcm_lora", "vae_tiny")


@dataclass(frozen=True)
class Weights:
    """A loaded model. Modules are in eval mode on their device; `scheduler` is an LCMScheduler's config."""

    name: str
    kind: str  # as messages.Model
    encoders: tuple[tuple[Any, Any], ...]  # tokenizer and text encoder; SDXL has two of each
    blank: bool  # no negative prompt is zeros, as engines.text.Text
    unet: Any
    vae: Any
    vae_tiny: Any | None  # for live frames and previews, if `vae` is a large one
    scheduler: Any  # diffusers.LCMScheduler; only its config and its alphas_cumprod are used
    safety_checker: Any | None
    feature_extractor: Any | None
    native: int  # side in pixels
    smallest: int
    largest: int
    scale: int  # pixels per latent
    controls: Mapping[str, Control] = field(default_factory=dict)  # ControlNets by name, on their device

    @property
    def guidance(self) -> str:
        """As messages.Model: "embedded" if the UNet takes the guidance scale as an input, else "cfg"."""
        return "cfg" if self.unet.config.time_cond_proj_dim is None else "embedded"


def load(name: str, device: torch.device, dtype: torch.dtype, vae: str, lora: str, report: Report) -> Weights:
    """Find, download if need be, read. `vae`: "auto" the model's own, "tiny", "full", "both".
    `lora`: an LCM-LoRA for a base model, folder, file or hub id; "" = `lcm_lora/` in the model's folder,
    else the published one.

    Raises Unloadable.
    """
    folder = find(name, [*(f"{part}/*" for part in PARTS), "model_index.json", CARD], report)
    index = _json(folder / "model_index.json")
    kind = _kind(name, index, folder)

    import diffusers  # here and not above: seconds of import, which `report` has announced
    import transformers

    # `report` tells the progress; their own bars and hints would mix in.
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()

    report("load", 0, 4, "text encoder")
    encoders = [_encoder(transformers.CLIPTextModel, folder, "", dtype)]
    if kind == "sdxl":
        encoders.append(_encoder(transformers.CLIPTextModelWithProjection, folder, "_2", dtype))
    scheduler = diffusers.LCMScheduler.from_pretrained(folder / "scheduler")
    if scheduler.config.thresholding:
        raise Unloadable(f"{name} asks for dynamic thresholding, which latent consistency models do not use")

    report("load", 1, 4, "UNet")
    unet = diffusers.UNet2DConditionModel.from_pretrained(
        folder / "unet", torch_dtype=dtype, variant=_variant(folder / "unet")
    )
    if unet.config.time_cond_proj_dim is None:
        _fuse_lora(name, kind, unet, index, folder, lora, report)

    report("load", 2, 4, "VAE")
    vae_folder = _vae_folder(name, kind, folder, vae, report)
    autoencoder = _autoencoder(name, vae_folder, _vae_dtype(kind, vae_folder, device, dtype))
    tiny = None
    if isinstance(autoencoder, diffusers.AutoencoderKL) and (vae == "both" or (folder / "vae_tiny").is_dir()):
        tiny = _autoencoder(name, _tiny_folder(kind, folder, report), dtype)
    widths = autoencoder.config.block_out_channels
    scale = 2 ** (len(widths) - 1)

    report("load", 3, 4, "safety checker")
    checker, processor = _safety(index, folder, dtype)
    card = _json(folder / CARD) if (folder / CARD).is_file() else {}
    native = int(card.get("native", unet.config.sample_size * scale))
    for module in filter(None, (unet, autoencoder, tiny)):
        module.to(device=device, memory_format=torch.channels_last).eval().requires_grad_(False)
    for module in (*(encoder for _, encoder in encoders), checker):
        if module is not None:
            module.to(device=device).eval().requires_grad_(False)
    report("load", 4, 4, "")
    return Weights(
        name=Path(name).name if Path(name).expanduser().is_dir() else name,  # users see it; no paths
        kind=kind,
        encoders=tuple(encoders),
        blank=kind == "sdxl" and bool(index.get("force_zeros_for_empty_prompt", True)),
        unet=unet,
        vae=autoencoder,
        vae_tiny=tiny,
        scheduler=scheduler,
        safety_checker=checker,
        feature_extractor=processor,
        native=native,
        # Half to one and a half times the trained side: beyond, a UNet of this kind doubles its subjects.
        smallest=int(card.get("smallest", native // 2)),
        largest=int(card.get("largest", native * 3 // 2)),
        scale=scale,
    )


def _kind(name: str, index: dict[str, Any], folder: Path) -> str:
    """Which of KINDS it is. Raises Unloadable for what looks like one of them and is not."""
    unet = _json(folder / "unet" / "config.json")
    if unet.get("in_channels", 4) != 4:
        raise Unloadable(
            f"{name} has a UNet of {unet['in_channels']} input channels; inpainting here blends with a mask "
            "and takes an ordinary model of 4"
        )
    added = unet.get("addition_embed_type")
    if added not in (None, "text", "text_time"):
        raise Unloadable(f"{name} has a UNet that asks for {added}; this engine has text, and sizes for SDXL")
    if index.get("requires_aesthetics_score"):
        raise Unloadable(f"{name} is an SDXL refiner, which draws nothing by itself")
    kind = "sdxl" if added == "text_time" else "sdv1-5"
    wanted = NEEDED if kind == "sdv1-5" else (*NEEDED, *SECOND)
    missing = [part for part in wanted if not (folder / part).is_dir()]
    if missing:
        raise Unloadable(f"{name} lacks the folders {', '.join(missing)}")
    return kind


def _encoder(layout: Any, folder: Path, number: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """(tokenizer, text encoder)"""
    from transformers import CLIPTokenizer

    weights = folder / f"text_encoder{number}"
    encoder = layout.from_pretrained(weights, dtype=dtype, variant=_variant(weights))
    return CLIPTokenizer.from_pretrained(folder / f"tokenizer{number}"), encoder


def _fuse_lora(
    name: str, kind: str, unet: Any, index: dict[str, Any], folder: Path, lora: str, report: Report
) -> None:
    """Make a base model a consistency model. A folder saved with an LCMScheduler has it fused already."""
    from diffusers import loaders
    from peft.tuners.tuners_utils import BaseTunerLayer

    inside = folder / "lcm_lora"
    if lora:
        given = Path(lora).expanduser()
        source = given if given.exists() else download(lora, ["*.safetensors"], report)
    elif inside.is_dir():
        source = inside
    elif index.get("scheduler", ["", ""])[1] == "LCMScheduler":
        return
    else:
        source = download(LCM_LORA[kind], ["*.safetensors"], report)
    if kind == "sdxl":
        Loras: Any = loaders.StableDiffusionXLLoraLoaderMixin
    else:
        Loras = loaders.StableDiffusionLoraLoaderMixin
    state, alphas = Loras.lora_state_dict(str(source), unet_config=unet.config)
    wanted = sum(key.startswith("unet.") and (".lora_A." in key or "lora.down." in key) for key in state)
    try:
        Loras.load_lora_into_unet(state, network_alphas=alphas, unet=unet)
    except (RuntimeError, ValueError) as error:  # tensors of other shapes; no layer found at all
        raise Unloadable(f"the LCM-LoRA does not fit {name}: it is for another kind of UNet") from error
    # peft leaves out what it does not find and says so in a log at most.
    found = sum(isinstance(layer, BaseTunerLayer) for layer in unet.modules())
    if not found == wanted > 0:
        raise Unloadable(f"the LCM-LoRA does not fit {name}: {found} of its {wanted} layers are there")
    unet.fuse_lora()
    unet.unload_lora()


def _vae_folder(name: str, kind: str, folder: Path, wanted: str, report: Report) -> Path:
    own = folder / "vae"
    tiny = _json(own / "config.json")["_class_name"] == "AutoencoderTiny"
    if wanted in ("auto", "both") or (wanted == "tiny") == tiny:
        return own
    if wanted == "full":
        raise Unloadable(f"{name} has a tiny VAE only; start with vae=auto")
    return _tiny_folder(kind, folder, report)


def _tiny_folder(kind: str, folder: Path, report: Report) -> Path:
    beside = folder / "vae_tiny"
    return beside if beside.is_dir() else download(TINY_VAE[kind], ["*.safetensors", "*.json"], report)


def _vae_dtype(kind: str, folder: Path, device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """SDXL's own autoencoder leaves the range of fp16 and paints black; its config says so.

    bfloat16 has the range, and costs half a level of 255 (mean, random weights of that size); a GPU without
    it takes float32.
    """
    config = _json(folder / "config.json")
    overflows = config["_class_name"] == "AutoencoderKL" and config.get("force_upcast", True)
    if not (kind == "sdxl" and overflows and dtype == torch.float16):
        return dtype
    half = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if half else torch.float32


def _autoencoder(name: str, folder: Path, dtype: torch.dtype) -> Any:
    import diffusers

    kind = _json(folder / "config.json")["_class_name"]
    if kind not in ("AutoencoderTiny", "AutoencoderKL"):
        raise Unloadable(f"{name} has a VAE of class {kind}; AutoencoderTiny and AutoencoderKL can be used")
    return getattr(diffusers, kind).from_pretrained(folder, torch_dtype=dtype, variant=_variant(folder))


def _safety(index: dict[str, Any], folder: Path, dtype: torch.dtype) -> tuple[Any | None, Any | None]:
    parts = folder / "safety_checker", folder / "feature_extractor"
    if not index.get("safety_checker", [None])[0] or not all(part.is_dir() for part in parts):
        return None, None
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPImageProcessor

    checker = StableDiffusionSafetyChecker.from_pretrained(parts[0], dtype=dtype, variant=_variant(parts[0]))
    return checker, CLIPImageProcessor.from_pretrained(parts[1])


def _variant(folder: Path) -> str | None:
    """Repositories often hold half-precision files only, under a name of their own."""
    names = [file.name for file in folder.iterdir() if file.suffix in (".safetensors", ".bin")]
    return "fp16" if names and all(".fp16." in name for name in names) else None


def _json(file: Path) -> dict[str, Any]:
    try:
        read: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise Unloadable(f"{file.parent.name}/{file.name} is missing or no JSON") from error
    return read
