"""A latent consistency model of a useful size with seeded random weights, in diffusers' own folder layout.

For figures of the engine where no trained weights are at hand: the work per step is what a trained model of
this shape costs, the pictures mean nothing. 10.9 M parameters in the UNet (64/128/192 channels, one layer a
level, attention on the two lower levels), CLIP text 4x128, a tiny autoencoder of 32 channels; 128 px.
"""

from __future__ import annotations

import json
from pathlib import Path

SIDE = 128  # pixels; 16x16 latents


def random_model(folder: Path, seed: int = 0) -> Path:
    """Write the model into `folder` unless it is there; loadable by LatentConsistencyModelPipeline."""
    if (folder / "model_index.json").exists():
        return folder
    import torch
    from diffusers import AutoencoderTiny, LatentConsistencyModelPipeline, LCMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(_vocabulary()),
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=4,
            projection_dim=128,
            bos_token_id=_vocabulary()["<|startoftext|>"],
            eos_token_id=_vocabulary()["<|endoftext|>"],
            pad_token_id=_vocabulary()["<|endoftext|>"],
        )
    )
    unet = UNet2DConditionModel(
        sample_size=SIDE // 8,
        block_out_channels=(64, 128, 192),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=128,
        attention_head_dim=8,
        time_cond_proj_dim=256,
    )
    with torch.no_grad():  # an untrained UNet answers ~0; at unit scale its arithmetic reaches the picture
        latents, embeds = torch.randn(1, 4, SIDE // 8, SIDE // 8), torch.randn(1, 77, 128)
        answer = unet(latents, 500, embeds, timestep_cond=torch.randn(1, 256)).sample
        unet.conv_out.weight.div_(answer.std())
    vae = AutoencoderTiny(
        encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(32, 32, 32, 32),
        num_encoder_blocks=(1, 1, 2, 2),
        num_decoder_blocks=(2, 2, 1, 1),
    )
    scheduler = LCMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    pipeline = LatentConsistencyModelPipeline(
        vae, text, _tokenizer(folder), unet, scheduler, None, None, requires_safety_checker=False
    )
    pipeline.save_pretrained(folder)
    return folder


def _vocabulary() -> dict[str, int]:
    """Bytes as CLIP writes them, with and without the end-of-word mark; no merges, so words are letters."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    entries = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return {entry: number for number, entry in enumerate(entries)}


def _tokenizer(folder: Path):  # type: ignore[no-untyped-def]  # transformers is imported late
    from transformers import CLIPTokenizer

    folder = folder / "tokenizer"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(_vocabulary()))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=77)
