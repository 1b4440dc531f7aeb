"""Tiny random models in the very layout of real ones: every loading path and every parity oracle runs.

Each parameter is drawn anew and scaled so that it matters: freshly initialised networks hold zero
modules and ones, beside which a wrong gather or a missing term would not show.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    ControlNetModel,
    EulerDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    UNet2DConditionModel,
)
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from safetensors.torch import save_file
from torch import Generator, nn
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from engines.denoiser import LcmRow
from engines.lcm import Lcm
from engines.messages import Job

WORDS = ["a", "red", "green", "blue", "circle", "square", "on", "the", "sea", "night", "hill", "of"]
SIDE = 64  # native pixels; latents are 8x8
WIDTH = 64  # of the text embedding
SECOND = 128  # of SDXL's second one


def scramble(module: nn.Module, seed: int) -> None:
    """Draw every parameter, weights of a layer with the variance that keeps its output's."""
    generator = Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(module.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise / math.sqrt(parameter[0].numel()))
            elif name.endswith("weight"):  # of a norm
                parameter.copy_(1 + 0.1 * noise)
            else:
                parameter.copy_(0.1 * noise)


def tokenizer(**options: Any) -> CLIPTokenizer:
    """CLIP's byte-pair encoding with merges for WORDS only; other words fall into bytes."""
    vocabulary = [chr(code) for code in [*range(33, 127), *range(161, 173), *range(174, 256)]]
    vocabulary += [chr(256 + code) for code in range(256 - len(vocabulary))]
    vocabulary += [token + "</w>" for token in vocabulary]
    merges = []
    for word in WORDS:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            pair = parts[0] + parts[1]
            if pair not in vocabulary:
                merges.append((parts[0], parts[1]))
                vocabulary.append(pair)
            parts[:2] = [pair]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    ids = {token: index for index, token in enumerate(vocabulary)}
    return CLIPTokenizer(vocab=ids, merges=merges, model_max_length=77, **options)


def text_encoder(words: CLIPTokenizer, second: bool = False) -> CLIPTextModel | CLIPTextModelWithProjection:
    """`second`: that of SDXL, wider, deeper and with a projection of what it pools."""
    width = SECOND if second else WIDTH
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=3 if second else 2,
        num_attention_heads=4,
        projection_dim=width,
        hidden_act="gelu" if second else "quick_gelu",
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    model = (CLIPTextModelWithProjection if second else CLIPTextModel)(config)
    scramble(model, seed=7 if second else 1)
    return model


SD15: dict[str, Any] = {
    "block_out_channels": (32, 64, 64, 64),
    "layers_per_block": 1,
    "cross_attention_dim": WIDTH,
    "attention_head_dim": 8,
    "norm_num_groups": 8,
}
SDXL: dict[str, Any] = {
    "block_out_channels": (32, 64, 64),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "layers_per_block": 1,
    "transformer_layers_per_block": (1, 1, 2),
    "cross_attention_dim": WIDTH + SECOND,
    "attention_head_dim": (2, 4, 4),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + SECOND,
    "norm_num_groups": 8,
}


def unet(lcm: bool, xl: bool = False) -> UNet2DConditionModel:
    """The block types of SD1.5 or SDXL; `lcm`: takes the guidance scale as an input."""
    config = dict(SDXL if xl else SD15)
    if xl:
        config["up_block_types"] = ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D")
    cond = 256 if lcm else None
    model = UNet2DConditionModel(sample_size=SIDE // 8, time_cond_proj_dim=cond, **config)
    scramble(model, seed=2)
    return model


def controlnet(xl: bool = False, seed: int = 8) -> ControlNetModel:
    """As trained: its outputs are not zero."""
    embedding = {"conditioning_embedding_out_channels": (8, 8, 16, 16)}
    model = ControlNetModel(**(SDXL if xl else SD15), **embedding)
    scramble(model, seed)
    return model.eval().requires_grad_(False)


def image_keys(model: UNet2DConditionModel, seed: int = 9) -> dict[str, torch.Tensor]:
    """The "ip_adapter" part of a published IP-Adapter."""
    generator, state = Generator().manual_seed(seed), {}
    names = [name for name in model.attn_processors if name.endswith("attn2.processor")]
    for number, name in enumerate(names):
        rows, columns = model.get_submodule(name.removesuffix(".processor")).to_k.weight.shape
        for part in ("k", "v"):
            drawn = torch.randn(rows, columns, generator=generator) / math.sqrt(columns)
            state[f"{2 * number + 1}.to_{part}_ip.weight"] = drawn
    return state


def tiny_vae() -> AutoencoderTiny:
    model = AutoencoderTiny(
        encoder_block_out_channels=(16, 16, 16, 16),
        decoder_block_out_channels=(16, 16, 16, 16),
        num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=(1, 1, 1, 1),
        scaling_factor=0.7,
    )
    scramble(model, seed=3)
    return model


def kl_vae(xl: bool = False) -> AutoencoderKL:
    model = AutoencoderKL(
        block_out_channels=(16, 16, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=4,
        latent_channels=4,
        scaling_factor=0.13025 if xl else 0.18215,
        force_upcast=xl,
    )
    scramble(model, seed=4)
    return model


def safety_checker() -> StableDiffusionSafetyChecker:
    """Flags nothing as it is; see `concept_embeds_weights`, its thresholds."""
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision |= {"image_size": 32, "patch_size": 8}
    config = CLIPConfig(vision_config=vision, text_config={"vocab_size": 100}, projection_dim=16)
    model = StableDiffusionSafetyChecker(config)
    scramble(model, seed=5)
    with torch.no_grad():
        model.concept_embeds_weights.fill_(2.0)
        model.special_care_embeds_weights.fill_(2.0)
    return model


def lora_kohya(model: UNet2DConditionModel, rank: int = 4) -> dict[str, torch.Tensor]:
    """An LCM-LoRA as published: names of diffusers' paths joined by "_", linear and convolution layers."""
    generator = Generator().manual_seed(6)
    state = {}
    for name, layer in model.named_modules():
        wanted = ("to_q", "to_k", "to_v", "to_out", "proj_in", "proj_out", "conv1")
        if not any(part in name for part in wanted) or not isinstance(layer, nn.Linear | nn.Conv2d):
            continue
        out_size, in_size, *kernel = layer.weight.shape
        key = "lora_unet_" + name.replace(".", "_")
        down = torch.randn(rank, in_size, *kernel, generator=generator) / math.sqrt(in_size)
        state[key + ".lora_down.weight"] = down
        up = torch.randn(out_size, rank, *(1 for _ in kernel), generator=generator)
        state[key + ".lora_up.weight"] = 0.2 * up
        state[key + ".alpha"] = torch.tensor(float(rank) / 2)
    return state


def build(
    folder: Path,
    *,
    lcm: bool = True,
    xl: bool = False,
    vae: str = "tiny",
    prediction: str = "v_prediction",
    lora: bool = False,
    safety: bool = False,
    beside: bool = False,
) -> Path:
    """Write a model as `save_pretrained` would; `lora` puts an LCM-LoRA beside a base model, `beside` a tiny
    VAE beside a large one.

    v_prediction keeps latents of a random UNet near unit variance; epsilon takes them to twenty times that.
    """
    words = tokenizer()
    model = unet(lcm, xl)
    options: dict[str, Any] = {} if lcm else {"steps_offset": 1}
    if not lcm and not xl:
        options["skip_prk_steps"] = True
    base = EulerDiscreteScheduler if xl else PNDMScheduler
    scheduler = (LCMScheduler if lcm else base)(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction,
        **options,
    )
    parts: dict[str, Any] = {
        "text_encoder": text_encoder(words),
        "tokenizer": words,
        "unet": model,
        "vae": tiny_vae() if vae == "tiny" else kl_vae(xl),
        "scheduler": scheduler,
    }
    if xl:
        parts["tokenizer_2"] = tokenizer(pad_token="!")
        parts["text_encoder_2"] = text_encoder(words, second=True)
    if safety:
        size = {"shortest_edge": 32}
        parts["safety_checker"] = safety_checker()
        parts["feature_extractor"] = CLIPImageProcessor(size=size, crop_size={"height": 32, "width": 32})
    index: dict[str, Any] = {
        "_class_name": "LatentConsistencyModelPipeline" if lcm else "StableDiffusionPipeline",
        "_diffusers_version": diffusers.__version__,
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
    }
    for name, part in parts.items():
        part.save_pretrained(folder / name)
        library = "transformers" if "transformers" in type(part).__module__ else "diffusers"
        index[name] = [library, type(part).__name__]
    if safety:
        index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
        index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    if not lcm:
        del index["requires_safety_checker"]
    if xl:
        index = {name: index[name] for name in ("_diffusers_version", *parts)}
        index |= {"_class_name": "StableDiffusionXLPipeline", "force_zeros_for_empty_prompt": True}
    (folder / "model_index.json").write_text(json.dumps(index))
    if beside:
        tiny_vae().save_pretrained(folder / "vae_tiny")
    if lora:
        (folder / "lcm_lora").mkdir()
        save_file(lora_kohya(model), folder / "lcm_lora" / "pytorch_lora_weights.safetensors")
    return folder


def picture(seed: int, width: int = SIDE, height: int = SIDE) -> bytes:
    """A PNG of smooth random colours."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return _png(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def stencil(box: tuple[int, int, int, int], width: int = SIDE, height: int = SIDE) -> bytes:
    """A PNG mask, white inside the box (left, top, right, bottom)."""
    mask = Image.new("L", (width, height), 0)
    mask.paste(255, box)
    return _png(mask)


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def drawn(pipeline: Lcm, jobs: Sequence[Job], bucket: int = 0) -> list[LcmRow]:
    """The rows of all jobs, finished, each step in one call of `bucket` slots (0: as few as hold them)."""
    rows = [row for job in jobs for row in pipeline.rows(job, pipeline.decode_inputs(job))]
    while live := [row for row in rows if row.position < row.steps]:
        slots = sum(row.slots for row in live)
        pipeline.step(live, bucket or next(b for b in pipeline.buckets if b >= slots))
    return rows


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))
