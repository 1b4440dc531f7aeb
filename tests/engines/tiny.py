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
from diffusers import AutoencoderKL, AutoencoderTiny, LCMScheduler, PNDMScheduler, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from safetensors.torch import save_file
from torch import Generator, nn
from transformers import CLIPConfig, CLIPImageProcessor, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from engines.denoiser import LcmRow
from engines.lcm import Lcm
from engines.messages import Job

WORDS = ["a", "red", "green", "blue", "circle", "square", "on", "the", "sea", "night", "hill", "of"]
SIDE = 64  # native pixels; latents are 8x8
WIDTH = 64  # of the text embedding


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


def tokenizer() -> CLIPTokenizer:
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
    return CLIPTokenizer(vocab=ids, merges=merges, model_max_length=77)


def text_encoder(words: CLIPTokenizer) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    model = CLIPTextModel(config)
    scramble(model, seed=1)
    return model


def unet(lcm: bool) -> UNet2DConditionModel:
    """The block types of SD1.5, 16 cross-attentions; `lcm`: takes the guidance scale as an input."""
    model = UNet2DConditionModel(
        sample_size=SIDE // 8,
        block_out_channels=(32, 64, 64, 64),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=8,
        norm_num_groups=8,
        time_cond_proj_dim=256 if lcm else None,
    )
    scramble(model, seed=2)
    return model


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


def kl_vae() -> AutoencoderKL:
    model = AutoencoderKL(
        block_out_channels=(16, 16, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=4,
        latent_channels=4,
        scaling_factor=0.18215,
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
    vae: str = "tiny",
    prediction: str = "v_prediction",
    lora: bool = False,
    safety: bool = False,
) -> Path:
    """Write a model as `save_pretrained` would; `lora` puts an LCM-LoRA beside a base model.

    v_prediction keeps latents of a random UNet near unit variance; epsilon takes them to twenty times that.
    """
    words = tokenizer()
    model = unet(lcm)
    scheduler = (LCMScheduler if lcm else PNDMScheduler)(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction,
        **({} if lcm else {"skip_prk_steps": True, "steps_offset": 1}),
    )
    parts: dict[str, Any] = {
        "text_encoder": text_encoder(words),
        "tokenizer": words,
        "unet": model,
        "vae": tiny_vae() if vae == "tiny" else kl_vae(),
        "scheduler": scheduler,
    }
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
    (folder / "model_index.json").write_text(json.dumps(index))
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
