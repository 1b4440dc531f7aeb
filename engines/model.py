"""Finding and loading a model in the diffusers layout: where it is, what it is, what can be done with it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from engines.embedded import WEIGHTS

Report = Callable[[str, float, float, str], None]  # stage, done, total, text; as messages.Progress

LCM_LORA = "latent-consistency/lcm-lora-sdv1-5"
TINY_VAE = "madebyollin/taesd"
CARD = "realtime.json"  # beside model_index.json: what weights cannot tell, {"native", "smallest", "largest"}
PARTS = ("text_encoder", "tokenizer", "unet", "vae", "scheduler", "safety_checker", "feature_extractor")


class Unloadable(Exception):
    """This engine cannot run the model that was asked for. The message says why and what would help."""


@dataclass(frozen=True)
class Weights:
    """A loaded model. Modules are in eval mode on their device; `scheduler` is an LCMScheduler's config."""

    name: str
    tokenizer: Any
    text_encoder: Any
    unet: Any
    vae: Any
    scheduler: Any  # diffusers.LCMScheduler; only its config and its alphas_cumprod are used
    safety_checker: Any | None
    feature_extractor: Any | None
    native: int  # side in pixels
    smallest: int
    largest: int
    scale: int  # pixels per latent

    @property
    def guidance(self) -> str:
        """ "embedded" if the UNet takes the guidance scale as an input, else "cfg"."""
        return "cfg" if self.unet.config.time_cond_proj_dim is None else "embedded"


def load(name: str, device: torch.device, dtype: torch.dtype, vae: str, lora: str, report: Report) -> Weights:
    """Find, download if need be, read. `vae`: "auto" the model's own, "tiny", "full". `lora`: an LCM-LoRA
    for a base model, folder, file or hub id; "" = `lcm_lora/` in the model's folder, else the published one.

    Raises Unloadable.
    """
    folder = find(name, report)
    index = _json(folder / "model_index.json")
    _refuse_other_layouts(name, index, folder)

    import diffusers  # here and not above: seconds of import, which `report` has announced
    import transformers

    for library in (
        diffusers,
        transformers,
    ):  # `report` tells the progress; their bars and hints would mix in
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()

    report("load", 0, 4, "text encoder")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer")
    text_encoder = transformers.CLIPTextModel.from_pretrained(
        folder / "text_encoder", dtype=dtype, **_variant(folder / "text_encoder")
    )
    scheduler = diffusers.LCMScheduler.from_pretrained(folder / "scheduler")
    if scheduler.config.thresholding:
        raise Unloadable(f"{name} asks for dynamic thresholding, which latent consistency models do not use")

    report("load", 1, 4, "UNet")
    unet = diffusers.UNet2DConditionModel.from_pretrained(
        folder / "unet", torch_dtype=dtype, **_variant(folder / "unet")
    )
    if unet.config.time_cond_proj_dim is None:
        _fuse_lora(name, unet, index, folder, lora, report)

    report("load", 2, 4, "VAE")
    vae_folder = _vae_folder(name, folder, vae, report)
    kind = _json(vae_folder / "config.json")["_class_name"]
    if kind not in ("AutoencoderTiny", "AutoencoderKL"):
        raise Unloadable(f"{name} has a VAE of class {kind}; AutoencoderTiny and AutoencoderKL can be used")
    autoencoder = getattr(diffusers, kind).from_pretrained(
        vae_folder, torch_dtype=dtype, **_variant(vae_folder)
    )
    widths = autoencoder.config.block_out_channels
    scale = 2 ** (len(widths) - 1)

    report("load", 3, 4, "safety checker")
    checker, processor = _safety(index, folder, dtype)
    card = _json(folder / CARD) if (folder / CARD).is_file() else {}
    native = int(card.get("native", unet.config.sample_size * scale))
    for module in (unet, autoencoder):
        module.to(device=device, memory_format=torch.channels_last).eval().requires_grad_(False)
    for module in (text_encoder, checker):
        if module is not None:
            module.to(device=device).eval().requires_grad_(False)
    report("load", 4, 4, "")
    return Weights(
        name=Path(name).name if Path(name).expanduser().is_dir() else name,  # users see it; no paths
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        unet=unet,
        vae=autoencoder,
        scheduler=scheduler,
        safety_checker=checker,
        feature_extractor=processor,
        native=native,
        # Half to one and a half times the trained side: beyond, a UNet of this kind doubles its subjects.
        smallest=int(card.get("smallest", native // 2)),
        largest=int(card.get("largest", native * 3 // 2)),
        scale=scale,
    )


def find(name: str, report: Report) -> Path:
    """The folder of a model: "embedded", a folder, or a hub id, downloaded if it is not here yet."""
    if name == "embedded":
        if not (WEIGHTS / "model_index.json").is_file():
            raise Unloadable("the embedded model is not in this copy of the repository; name another --model")
        return WEIGHTS
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "model_index.json").is_file():
            raise Unloadable(f"{name} has no model_index.json, so it is no diffusers model folder")
        return folder
    if folder.is_file():
        raise Unloadable(f"{name} is a single file; convert it to the diffusers layout first")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise Unloadable(f"{name} is neither a folder nor a hub id (owner/name)")
    return _download(name, [f"{part}/*" for part in PARTS] + ["model_index.json", CARD, "lcm_lora/*"], report)


def _download(repository: str, patterns: list[str], report: Report) -> Path:
    """A snapshot of a hub repository, without the same weights twice. Raises Unloadable."""
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
    from tqdm.auto import tqdm

    class Bar(tqdm):  # type: ignore[type-arg]  # the hub's way to tell how far it is
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)
            self.in_bytes = kwargs.get("unit") == "B"
            super().__init__(*args, **(kwargs | {"disable": False, "file": _Nowhere()}))

        def update(self, n: float | None = 1) -> bool | None:
            told = super().update(n)
            if self.in_bytes:
                report("download", self.n, self.total or 0, repository)
            return told

    try:
        files = huggingface_hub.HfApi().list_repo_files(repository)
        skip = ["*.msgpack", "*.onnx*", "*.h5", "*.ot"]
        if any(file.startswith("unet/") and file.endswith(".safetensors") for file in files):
            skip += ["*.bin", "*.ckpt"]
        if any(file.startswith("unet/") and _plain(file) for file in files):
            skip += ["*.fp16.*", "*.non_ema.*"]
        return Path(
            huggingface_hub.snapshot_download(
                repository, allow_patterns=patterns, ignore_patterns=skip, tqdm_class=Bar
            )
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        try:  # offline, perhaps, but fetched before
            return Path(huggingface_hub.snapshot_download(repository, local_files_only=True))
        except (LocalEntryNotFoundError, OSError):
            raise Unloadable(
                f"{repository} could not be fetched from the hub ({type(error).__name__}); "
                "check its name and the network, or give a folder"
            ) from error


class _Nowhere:
    """Where a progress bar writes that somebody else shows."""

    def write(self, text: str) -> None: ...
    def flush(self) -> None: ...


def _plain(file: str) -> bool:
    return file.endswith(("model.safetensors", "model.bin"))


def _refuse_other_layouts(name: str, index: dict[str, Any], folder: Path) -> None:
    unet = _json(folder / "unet" / "config.json")
    if "text_encoder_2" in index or unet.get("addition_embed_type") == "text_time":
        raise Unloadable(f"{name} is an SDXL model; this engine draws models of the SD1.5 layout")
    if unet.get("in_channels", 4) != 4:
        raise Unloadable(
            f"{name} has a UNet of {unet['in_channels']} input channels; inpainting here blends with a mask "
            "and takes an ordinary model of 4"
        )
    missing = [part for part in PARTS[:5] if not (folder / part).is_dir()]
    if missing:
        raise Unloadable(f"{name} lacks the folders {', '.join(missing)}")


def _fuse_lora(name: str, unet: Any, index: dict[str, Any], folder: Path, lora: str, report: Report) -> None:
    """Make a base model a consistency model. A folder saved with an LCMScheduler has it fused already."""
    from diffusers.loaders import StableDiffusionLoraLoaderMixin as Loras

    inside = folder / "lcm_lora"
    if lora:
        source = (
            Path(lora).expanduser() if Path(lora).expanduser().exists() else _download(lora, ["*"], report)
        )
    elif inside.is_dir():
        source = inside
    elif index.get("scheduler", ["", ""])[1] == "LCMScheduler":
        return
    else:
        source = _download(LCM_LORA, ["*.safetensors"], report)
    state, alphas = Loras.lora_state_dict(source)
    Loras.load_lora_into_unet(state, network_alphas=alphas, unet=unet)
    if not getattr(unet, "peft_config", None):
        raise Unloadable(
            f"the LCM-LoRA for {name} changes no layer of its UNet; it is for another kind of model"
        )
    unet.fuse_lora()
    unet.unload_lora()


def _vae_folder(name: str, folder: Path, wanted: str, report: Report) -> Path:
    own = folder / "vae"
    tiny = _json(own / "config.json")["_class_name"] == "AutoencoderTiny"
    if wanted == "auto" or (wanted == "tiny") == tiny:
        return own
    if wanted == "full":
        raise Unloadable(f"{name} has a tiny VAE only; start with vae=auto")
    beside = folder / "vae_tiny"
    return beside if beside.is_dir() else _download(TINY_VAE, ["*.safetensors", "*.json"], report)


def _safety(index: dict[str, Any], folder: Path, dtype: torch.dtype) -> tuple[Any | None, Any | None]:
    parts = folder / "safety_checker", folder / "feature_extractor"
    if not index.get("safety_checker", [None])[0] or not all(part.is_dir() for part in parts):
        return None, None
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPImageProcessor

    checker = StableDiffusionSafetyChecker.from_pretrained(parts[0], dtype=dtype, **_variant(parts[0]))
    return checker, CLIPImageProcessor.from_pretrained(parts[1])


def _variant(folder: Path) -> dict[str, str]:
    """Repositories often hold half-precision files only, under a name of their own."""
    names = [file.name for file in folder.iterdir()]
    weights = [name for name in names if name.endswith((".safetensors", ".bin"))]
    return {"variant": "fp16"} if weights and all(".fp16." in name for name in weights) else {}


def _json(file: Path) -> dict[str, Any]:
    try:
        read: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise Unloadable(f"{file.parent.name}/{file.name} is missing or no JSON") from error
    return read
