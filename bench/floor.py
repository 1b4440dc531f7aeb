"""The least that a model's work can take: operations counted on meta tensors, and weights read once.

A step is bound by the larger of two times: its floating-point operations over the rate of the matrix units,
and the bytes of its weights over the bandwidth of memory (activations counted as free, so this is a floor
and no estimate). Both rates are measured on the machine, by `bench.ceilings`.

`python -m bench.floor` counts again what bench/floors.json holds: half a minute that no GPU should wait for.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("floors.json")
PARTS = ("unet", "controlnet", "tiny-decode", "tiny-encode", "kl-decode", "kl-encode", "text")
COUNTED = {  # what the plans of the lab need: (kind, part) -> sides in pixels
    ("sd15", "unet"): (256, 384, 512, 768),
    ("sd15", "controlnet"): (512,),
    ("sdxl", "unet"): (512, 768, 1024),
    ("sdxl", "controlnet"): (768, 1024),
    ("sd15", "tiny-decode"): (256, 512, 768, 1024),
    ("sd15", "tiny-encode"): (512, 1024),
    ("sd15", "kl-decode"): (512, 768, 1024),
    ("sd15", "kl-encode"): (512,),
    ("sd15", "text"): (0,),
    ("sdxl", "text"): (0,),
}


@dataclass(frozen=True)
class Work:
    """What one picture (or prompt) costs at least."""

    flop: float  # a multiply and an add are two
    parameters: int

    def seconds(self, pictures: int, flop_s: float, bytes_s: float, itemsize: int = 2) -> float:
        """For a call of `pictures` at measured rates; `itemsize`: bytes of a weight."""
        return max(self.flop * pictures / flop_s, self.parameters * itemsize / bytes_s)


@cache
def work(kind: str, part: str, side: int) -> Work:
    """kind: "sd15", "sdxl". part: of PARTS. side: pixels, square; a text encoder has none. From the file if
    it is there, else counted."""
    known = _file().get(_key(kind, part, side))
    return count(kind, part, side) if known is None else Work(**known)


def count(kind: str, part: str, side: int) -> Work:
    return of(*_call(kind, part, side))


def of(module: Any, call: Any) -> Work:
    """The operations of `call()`, by torch's own counter, and the parameters of `module`."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    # No inference mode: the counter would not see inside of composite operations (attention, linear).
    with counter:
        call()
    return Work(counter.get_total_flops(), sum(p.numel() for p in module.parameters()))


def _call(kind: str, part: str, side: int) -> tuple[Any, Any]:
    """A module on the meta device and the call of one picture."""
    import torch

    from bench import weights

    meta, half = torch.device("meta"), torch.float16

    def empty(*size: int) -> Any:
        return torch.empty(size, dtype=half, device=meta)

    latent, picture = empty(1, 4, side // 8, side // 8), empty(1, 3, side, side)
    if part == "text":
        encoders = weights.random_text_encoders(kind, meta, half)
        tokens = torch.zeros(1, 77, dtype=torch.long, device=meta)
        return torch.nn.ModuleList(encoders), lambda: [encoder(tokens) for encoder in encoders]
    if part in ("unet", "controlnet"):
        text = empty(1, 77, 768 if kind == "sd15" else 2048)
        added = {"text_embeds": empty(1, 1280), "time_ids": empty(1, 6)} if kind == "sdxl" else None
        given = {"encoder_hidden_states": text, "added_cond_kwargs": added}
        if part == "unet":
            unet = weights.random_unet(kind, meta, half)
            return unet, lambda: unet(latent, empty(1), timestep_cond=empty(1, 256), **given)
        net = weights.random_controlnet(kind, meta, half)
        return net, lambda: net(latent, empty(1), controlnet_cond=picture, **given)
    vae = weights.random_vae(part.partition("-")[0], meta, half)
    return vae, (lambda: vae.decode(latent)) if part.endswith("decode") else (lambda: vae.encode(picture))


@cache
def _file() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads(FILE.read_text()) if FILE.is_file() else {}
    return found


def _key(kind: str, part: str, side: int) -> str:
    return f"{kind} {part} {side}"


def main() -> None:
    counted = {}
    for (kind, part), sides in COUNTED.items():
        for side in sides:
            found = count(kind, part, side)
            name = _key(kind, part, side)
            counted[name] = {"flop": found.flop, "parameters": found.parameters}
            print(f"{name:28} {found.flop / 1e9:10,.1f} GFLOP {found.parameters / 1e6:9,.1f} M")
    FILE.write_text(json.dumps(counted, indent=1) + "\n")


if __name__ == "__main__":
    main()
