"""Sizes of published models, for figures at real size where the weights are not at hand.

Facts of the model cards' config.json: runwayml/stable-diffusion-v1-5, SimianLuo/LCM_Dreamshaper_v7 (its UNet
takes the guidance scale), stabilityai/stable-diffusion-xl-base-1.0, lllyasviel/control_v11p_sd15_canny,
diffusers/controlnet-canny-sdxl-1.0, madebyollin/taesd and taesdxl. What is not said is diffusers' default.
"""

from __future__ import annotations

from typing import Any

Config = dict[str, Any]
KINDS = ("sd15", "sdxl")
GUIDANCE = 256  # numbers in which an LCM UNet takes the guidance scale; time_cond_proj_dim

_XL_DOWN = ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D")
_XL_UP = ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D")

UNET: dict[str, Config] = {
    "sd15": {
        "sample_size": 64,
        "block_out_channels": (320, 640, 1280, 1280),
        "cross_attention_dim": 768,
        "attention_head_dim": 8,  # heads, whatever diffusers calls it
    },
    "sdxl": {
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": _XL_DOWN,
        "up_block_types": _XL_UP,
        "cross_attention_dim": 2048,
        "attention_head_dim": (5, 10, 20),
        "transformer_layers_per_block": (1, 2, 10),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,  # 6 sizes of 256 and the pooled 1280
    },
}

KL: dict[str, Config] = {
    kind: {
        "sample_size": side,
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
        "latent_channels": 4,
        "scaling_factor": factor,
        "force_upcast": True,  # the default; only SDXL's own weights overflow fp16
    }
    for kind, side, factor in (("sd15", 512, 0.18215), ("sdxl", 1024, 0.13025))
}

TINY_VAE: Config = {}  # AutoencoderTiny's defaults are taesd's

_WORDS = {"vocab_size": 49408, "bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 1}

CLIP_L: Config = _WORDS | {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
}
CLIP_BIGG: Config = _WORDS | {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}
TEXT: dict[str, tuple[Config, ...]] = {"sd15": (CLIP_L,), "sdxl": (CLIP_L, CLIP_BIGG)}

# The same structures, small enough for a CPU in seconds: 64 px, all block types, several layers deep.
SMALL_UNET: dict[str, Config] = {
    "sd15": UNET["sd15"]
    | {
        "sample_size": 8,
        "block_out_channels": (32, 64, 64, 64),
        "cross_attention_dim": 64,
        "norm_num_groups": 8,
        "layers_per_block": 1,
    },
    "sdxl": UNET["sdxl"]
    | {
        "sample_size": 8,
        "block_out_channels": (32, 64, 64),
        "cross_attention_dim": 64 + 96,
        "attention_head_dim": (2, 4, 4),
        "transformer_layers_per_block": (1, 1, 2),
        "norm_num_groups": 8,
        "layers_per_block": 1,
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 96,
    },
}
SMALL_KL: dict[str, Config] = {
    kind: config
    | {"sample_size": 64, "block_out_channels": (16, 16, 16, 16), "layers_per_block": 1, "norm_num_groups": 4}
    for kind, config in KL.items()
}
SMALL_TINY_VAE: Config = {
    "encoder_block_out_channels": (16, 16, 16, 16),
    "decoder_block_out_channels": (16, 16, 16, 16),
    "num_encoder_blocks": (1, 1, 1, 1),
    "num_decoder_blocks": (1, 1, 1, 1),
}
_SMALL_TEXT: Config = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
SMALL_TEXT: dict[str, tuple[Config, ...]] = {
    "sd15": (CLIP_L | _SMALL_TEXT | {"hidden_size": 64, "projection_dim": 64},),
    "sdxl": (
        CLIP_L | _SMALL_TEXT | {"hidden_size": 64, "projection_dim": 64},
        CLIP_BIGG | _SMALL_TEXT | {"hidden_size": 96, "projection_dim": 96},
    ),
}
