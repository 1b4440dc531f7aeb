"""Pictures as prompts: an IP-Adapter's attention to image tokens, with a scale for every row of a batch.

Ye et al. 2023 (arXiv 2308.06721), decoupled cross-attention. diffusers' processor has one scale for a whole
call and asks it questions in Python; here the scale is a tensor, so that rows of different users, with and
without a picture, share a call that can be compiled and captured.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention


class Seen(NamedTuple):
    """What cross-attentions of an adapted UNet take for `encoder_hidden_states`, in its dtype.

    A row with scale 0, or whose tokens are all zero, comes out as without an adapter, bit for bit.
    """

    text: Tensor  # [B, tokens, D]
    tokens: Tensor  # [B, n, D], of the picture, after the adapter's projection
    scale: Tensor  # [B, 1, 1]


class Attention(nn.Module):
    """An attention processor of diffusers: text as ever and, given `Seen`, image tokens beside it."""

    def __init__(self, key: Tensor, value: Tensor, plain: Any) -> None:
        """key, value: [inner, D], weights of the adapter for this layer. plain: the layer's processor."""
        super().__init__()
        self.key, self.value = nn.Parameter(key, False), nn.Parameter(value, False)
        self.plain = plain

    def forward(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | Seen | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        if not isinstance(encoder_hidden_states, Seen):
            alone: Tensor = self.plain(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
            return alone
        seen = encoder_hidden_states
        query = _heads(attn.to_q(hidden_states), attn.heads)
        told = _attend(query, attn.to_k(seen.text), attn.to_v(seen.text))
        # Without a bias zero tokens are zero keys and values, which add exactly zero.
        shown = _attend(query, linear(seen.tokens, self.key), linear(seen.tokens, self.value))
        out: Tensor = attn.to_out[0](told + seen.scale * shown)
        return out / attn.rescale_output_factor


def _heads(hidden: Tensor, heads: int) -> Tensor:
    """[B, T, inner] to [B, heads, T, inner / heads]."""
    return hidden.unflatten(2, (heads, -1)).transpose(1, 2)


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    heads = query.shape[1]
    return (
        scaled_dot_product_attention(query, _heads(key, heads), _heads(value, heads))
        .transpose(1, 2)
        .flatten(2)
    )


def adapt(unet: Any, state: Mapping[str, Tensor]) -> None:
    """Give the UNet's cross-attentions an adapter, in place; calls with plain text go on as before.

    state: "ip_adapter" of a published file, "1.to_k_ip.weight", "1.to_v_ip.weight", "3.to_k_ip.weight", ...,
    numbered as diffusers lists attention layers, self-attentions included. Raises ValueError if it does not
    fit, or brings weights that are no such keys and values.
    """
    names = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    other = [key for key in state if not re.fullmatch(r"\d+\.to_[kv]_ip\.weight", key)]
    if other:
        raise ValueError(f"{len(other)} weights of the adapter are no image keys or values: {other[0]}, ...")
    if len(state) != 2 * len(names):
        raise ValueError(f"the adapter is for {len(state) // 2} cross-attentions, the UNet has {len(names)}")
    device, dtype, processors = unet.device, unet.dtype, dict(unet.attn_processors)
    for number, name in enumerate(names):
        layer = unet.get_submodule(name.removesuffix(".processor"))
        pair = [state[f"{2 * number + 1}.to_{part}_ip.weight"].to(device, dtype) for part in "kv"]
        if any(weight.shape != layer.to_k.weight.shape for weight in pair):
            sizes = f"{tuple(pair[0].shape)}, the layer's are {tuple(layer.to_k.weight.shape)}"
            raise ValueError(f"an image key of the adapter is {sizes}: it is for another kind of UNet")
        plain = processors[name]
        processors[name] = Attention(*pair, plain.plain if isinstance(plain, Attention) else plain)
    unet.set_attn_processor(processors)
