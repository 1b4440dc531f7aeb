"""Stage 2: the conditional diffusion teacher, v-prediction, text encoder trained further.

Everything is built from stock diffusers and transformers classes: no code of ours is needed to load it.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from diffusers import LCMScheduler, UNet2DConditionModel
from torch import Generator, Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from engines.embedded.scene import ATTRIBUTES

TIMESTEPS = 1000
GUIDANCE_DIM = 256


def lcm_scheduler() -> LCMScheduler:
    """Scaled-linear betas as in Stable Diffusion, v-prediction, 50 original steps, no signal left at 999.

    With the 7 % that Stable Diffusion leaves there, a model learns to read the brightness of plain grounds
    off the noise, finds none in real noise, and draws white and black as grey. Source: Lin et al. 2023
    (arXiv 2305.08891).
    """
    return LCMScheduler(
        num_train_timesteps=TIMESTEPS,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        original_inference_steps=50,
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=0,
        rescale_betas_zero_snr=True,
    )


def text_encoder_for(tokenizer: CLIPTokenizer, width: int, layers: int) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=max(2, width // 32),
            max_position_embeddings=tokenizer.model_max_length,
            projection_dim=width,
            hidden_act="quick_gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def unet_for(channels: tuple[int, ...], text_width: int, latent_size: int) -> UNet2DConditionModel:
    """A small text-conditional UNet with an LCM guidance input (time_cond_proj_dim 256).

    Two stock options help a short training: the text is also pooled into the time embedding
    (addition_embed_type "text"), and that embedding scales as well as shifts ("scale_shift").
    """
    deeper = len(channels) - 1
    return UNet2DConditionModel(
        sample_size=latent_size,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=channels,
        down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * deeper,
        up_block_types=("CrossAttnUpBlock2D",) * deeper + ("UpBlock2D",),
        cross_attention_dim=text_width,
        attention_head_dim=4,
        norm_num_groups=16,
        time_cond_proj_dim=GUIDANCE_DIM,
        resnet_time_scale_shift="scale_shift",
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    ).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


@functools.cache
def signal_and_noise(device: str | torch.device = "cpu") -> tuple[Tensor, Tensor]:
    """sqrt(alpha_cumprod) and sqrt(1 - alpha_cumprod): each [1000, 1, 1, 1] float32."""
    kept = lcm_scheduler().alphas_cumprod.view(-1, 1, 1, 1).to(device)
    return kept.sqrt(), (1 - kept).sqrt()


def random_timesteps(count: int, generator: Generator) -> Tensor:
    """[count] int64, where the generator is: 35 % uniform over 0..999, 50 % from 600..999, 15 % the last.

    High up the caption alone decides place, shape and colour, and from 999 every picture starts.
    """
    device = generator.device
    anywhere = torch.randint(0, TIMESTEPS, (count,), generator=generator, device=device)
    late = torch.randint(600, TIMESTEPS, (count,), generator=generator, device=device)
    kind = torch.rand(count, generator=generator, device=device)
    t = torch.where(kind < 0.5, late, anywhere)
    return torch.where(kind >= 0.85, TIMESTEPS - 1, t)


def drop_captions(ids: Tensor, blank: Tensor, generator: Generator, share: float = 0.1) -> Tensor:
    """Blank a share of the captions, so that the model also learns the unconditional picture.

    ids: [B, L] int64; blank: [L], the ids of "".
    """
    dropped = torch.rand(len(ids), 1, generator=generator, device=generator.device) < share
    return torch.where(dropped.to(ids.device), blank, ids)


def attention_to(labels: Tensor, side: int) -> Tensor:
    """How much each cell counts in a loss: 1, and up to 6 about the eyes and mouth of portraits.

    These are few cells: weighed like the rest, half a million pictures taught no colour of eyes. The weight
    follows from the kind of scene alone, which captions tell, so that the best answer stays the mean of what
    is possible. labels: as labels_of. Returns [B, 1, side, side] float32.
    """
    at = (torch.arange(side, device=labels.device) + 0.5) / side
    face = torch.exp(-0.5 * (((at - 0.5) / 0.15) ** 2 + ((at[:, None] - 0.52) / 0.14) ** 2))
    portrait = labels[:, 0] == ATTRIBUTES["kind"].index("portrait")
    return 1 + 5 * face * portrait.view(-1, 1, 1, 1)


def diffusion_loss(
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    latents: Tensor,
    ids: Tensor,
    labels: Tensor,
    generator: Generator,
) -> Tensor:
    """Mean squared error of v, weighed by `attention_to`.

    latents: [B, 4, h, w] float32 of unit scale; ids: [B, L] int64; labels: as labels_of.
    Source: Salimans & Ho 2022 (arXiv 2202.00512), v = alpha * noise - sigma * x.
    """
    signal, sigma = signal_and_noise(latents.device)
    t = random_timesteps(len(latents), generator)
    noise = torch.randn(latents.shape, generator=generator, device=latents.device)
    noisy = signal[t] * latents + sigma[t] * noise
    target = signal[t] * noise - sigma[t] * latents
    noisy = noisy.contiguous(memory_format=torch.channels_last)
    guess = unet(noisy, t, text_encoder(ids).last_hidden_state).sample
    return (
        F.mse_loss(guess.float(), target, reduction="none") * attention_to(labels, latents.shape[-1])
    ).mean()
