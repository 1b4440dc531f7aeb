"""What can be loaded, what is refused and why, and what comes from the hub."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft  # noqa: F401  # seconds, which the first test of a LoRA should not pay
import pytest
import torch
from diffusers import UNet2DConditionModel

from engines import device, model
from engines.lcm import Lcm
from engines.messages import Job
from tests.engines import tiny

CPU = torch.device("cpu")


def load(folder: Path | str, vae: str = "auto", lora: str = "") -> model.Weights:
    return model.load(str(folder), CPU, torch.float32, vae, lora, lambda *_: None)


def changed(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.fixture
def copy(folder: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """A model of its own, to break."""
    return lambda **options: Path(shutil.copytree(folder(**options), tmp_path / "copy"))


def test_an_sdxl_model_is_known_by_its_unet(folder: Callable[..., Path]) -> None:
    found = load(folder(xl=True))
    assert (found.kind, len(found.encoders), found.blank) == ("sdxl", 2, True)
    plain = load(folder())
    assert (plain.kind, len(plain.encoders), plain.blank) == ("sdv1-5", 1, False)


def test_an_sdxl_model_without_its_second_encoder_is_refused_by_name(copy: Callable[..., Path]) -> None:
    folder = copy()
    changed(folder / "unet" / "config.json", addition_embed_type="text_time")
    with pytest.raises(model.Unloadable, match="lacks the folders text_encoder_2, tokenizer_2"):
        load(folder)


def test_what_only_looks_like_sdxl_is_refused(copy: Callable[..., Path]) -> None:
    folder = copy(xl=True)
    changed(folder / "model_index.json", requires_aesthetics_score=True)
    with pytest.raises(model.Unloadable, match="is an SDXL refiner"):
        load(folder)
    changed(folder / "unet" / "config.json", addition_embed_type="text_image")
    with pytest.raises(model.Unloadable, match="asks for text_image"):
        load(folder)


def test_sdxls_own_autoencoder_is_kept_out_of_half_precision(
    folder: Callable[..., Path], copy: Callable[..., Path]
) -> None:
    def dtype(path: Path, asked: torch.dtype) -> torch.dtype:
        return model.load(str(path), CPU, asked, "auto", "", lambda *_: None).vae.dtype

    own = folder(xl=True, vae="kl")
    assert dtype(own, torch.float16) == torch.float32
    assert dtype(own, torch.bfloat16) == torch.bfloat16
    assert dtype(folder(xl=True), torch.float16) == torch.float16, "a tiny one does not overflow"
    assert dtype(folder(vae="kl"), torch.float16) == torch.float16, "nor does that of SD1.5"
    fixed = copy(xl=True, vae="kl")
    changed(fixed / "vae" / "config.json", force_upcast=False)
    assert dtype(fixed, torch.float16) == torch.float16


def test_an_inpainting_unet_of_nine_channels_is_refused(copy: Callable[..., Path]) -> None:
    folder = copy()
    changed(folder / "unet" / "config.json", in_channels=9)
    with pytest.raises(model.Unloadable, match="9 input channels"):
        load(folder)


def test_a_vae_of_another_class_is_refused(copy: Callable[..., Path]) -> None:
    folder = copy()
    changed(folder / "vae" / "config.json", _class_name="AutoencoderOobleck")
    with pytest.raises(model.Unloadable, match="AutoencoderOobleck"):
        load(folder)


def test_missing_parts_are_named(copy: Callable[..., Path]) -> None:
    folder = copy()
    shutil.rmtree(folder / "vae")
    shutil.rmtree(folder / "tokenizer")
    with pytest.raises(model.Unloadable, match="lacks the folders tokenizer, vae"):
        load(folder)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no such thing", "neither a folder nor a hub id"),
        ("/nowhere/at/all", "neither a folder nor a hub id"),
        ("./nowhere", "neither a folder nor a hub id"),
        ("~/nowhere", "neither a folder nor a hub id"),
        ("~nobody-here/nowhere", "neither a folder nor a hub id"),
    ],
)
def test_a_name_that_is_nothing_is_refused(name: str, said: str) -> None:
    with pytest.raises(model.Unloadable, match=said):
        load(name)


def test_a_folder_or_file_that_is_no_diffusers_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(model.Unloadable, match=r"no model_index\.json"):
        load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(model.Unloadable, match="is a single file"):
        load(tmp_path / "model.safetensors")


def test_half_precision_files_under_their_own_name_are_found(copy: Callable[..., Path]) -> None:
    folder = copy()
    for part, stem in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        (folder / part / f"{stem}.safetensors").rename(folder / part / f"{stem}.fp16.safetensors")
    assert load(folder).unet.dtype == torch.float32


def test_a_card_tells_what_weights_cannot(copy: Callable[..., Path]) -> None:
    folder = copy()
    assert (load(folder).smallest, load(folder).largest) == (32, 96)
    (folder / model.CARD).write_text(json.dumps({"native": 128, "smallest": 64, "largest": 256}))
    told = load(folder)
    assert (told.native, told.smallest, told.largest) == (128, 64, 256)


def test_a_tiny_vae_is_fetched_for_live_frames_where_both_are_asked_for(
    folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []

    def download(source: str, patterns: list[str], report: Any) -> Path:
        fetched.append(source)
        return folder() / "vae"

    monkeypatch.setattr(model, "download", download)
    loaded = load(folder(vae="kl"), vae="both")
    assert (type(loaded.vae).__name__, type(loaded.vae_tiny).__name__) == ("AutoencoderKL", "AutoencoderTiny")
    assert fetched == ["madebyollin/taesd"]
    assert load(folder(), vae="both").vae_tiny is None, "a tiny one needs no other beside it"
    assert fetched == ["madebyollin/taesd"]


def test_the_tiny_vae_beside_the_full_one_is_taken_on_request(
    copy: Callable[..., Path], folder: Callable[..., Path]
) -> None:
    full = copy(vae="kl")
    shutil.copytree(folder() / "vae", full / "vae_tiny")
    assert type(load(full).vae).__name__ == "AutoencoderKL"
    assert type(load(full, vae="full").vae).__name__ == "AutoencoderKL"
    assert type(load(full, vae="tiny").vae).__name__ == "AutoencoderTiny"
    assert type(load(full).vae_tiny).__name__ == "AutoencoderTiny", "previews take it without being asked"
    assert load(full, vae="tiny").vae_tiny is None
    assert type(load(full, vae="both").vae_tiny).__name__ == "AutoencoderTiny"
    assert load(folder(vae="kl")).vae_tiny is None
    with pytest.raises(model.Unloadable, match="has a tiny VAE only"):
        load(folder(), vae="full")


# ---- LCM-LoRA ----


@pytest.mark.parametrize("xl", [False, True])
def test_a_lora_is_fused_and_its_layers_are_gone(folder: Callable[..., Path], xl: bool) -> None:
    path = folder(lcm=False, lora=True, **({"xl": True} if xl else {}))
    fused = load(path).unet
    base = UNet2DConditionModel.from_pretrained(path / "unet")
    assert {type(layer) for layer in fused.modules()} == {type(layer) for layer in base.modules()}
    assert sorted(fused.state_dict()) == sorted(base.state_dict())
    state = tiny.lora_kohya(base)
    layer = "mid_block.attentions.0.proj_in"
    key = "lora_unet_" + layer.replace(".", "_")
    down, up = state[key + ".lora_down.weight"], state[key + ".lora_up.weight"]
    expected = base.get_submodule(layer).weight + 0.5 * (up.flatten(1) @ down.flatten(1)).view_as(
        base.get_submodule(layer).weight
    )
    torch.testing.assert_close(fused.get_submodule(layer).weight, expected)


def test_a_lora_given_by_path_wins_and_changes_the_model(folder: Callable[..., Path], copy: Any) -> None:
    own = folder(lcm=False, lora=True)
    other = copy(lcm=False, lora=True)
    state = tiny.lora_kohya(UNet2DConditionModel.from_pretrained(own / "unet"), rank=2)
    file = other / "other.safetensors"
    tiny.save_file(state, file)
    ours, theirs = load(own).unet.state_dict(), load(own, lora=str(file)).unet.state_dict()
    assert any(not torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        (["down_blocks_9_attentions_0_proj_in"], "another kind of UNet"),
        (["mid_block_attentions_0_proj_in"], "another kind of UNet"),  # there, of another size
        (["mid_block_attentions_0_proj_out", "mid_block_attentions_7_proj_in"], "1 of its 2 layers"),
    ],
)
def test_a_lora_for_another_model_is_refused(copy: Callable[..., Path], layers: list[str], said: str) -> None:
    folder = copy(lcm=False, lora=True)
    side = 8 if len(layers) == 1 else tiny.WIDTH
    shapes = {"lora_down.weight": (2, side, 1, 1), "lora_up.weight": (side, 2, 1, 1), "alpha": ()}
    state = {
        f"lora_unet_{layer}.{part}": torch.zeros(shape) for layer in layers for part, shape in shapes.items()
    }
    tiny.save_file(state, folder / "lcm_lora" / "pytorch_lora_weights.safetensors")
    with pytest.raises(model.Unloadable, match=said):
        load(folder)


def test_a_base_model_saved_with_an_lcm_scheduler_needs_no_lora(copy: Callable[..., Path]) -> None:
    folder = copy(lcm=False)
    changed(folder / "model_index.json", scheduler=["diffusers", "LCMScheduler"])
    assert load(folder).guidance == "cfg"


# ---- device ----


def test_a_device_or_dtype_that_is_not_there_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="dtype is float8"):
        device.choose("cpu", "float8")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="sees no CUDA device"):
            device.choose("cuda", "auto")
        assert device.choose("auto", "auto")[1] in (torch.float32, torch.float16)
    assert device.choose("cpu", "bfloat16") == (CPU, torch.bfloat16)


def test_bfloat16_draws_nearly_the_same_picture(folder: Callable[..., Path], pipeline: Any) -> None:
    half = Lcm(str(folder()), device="cpu", dtype="bfloat16", max_batch=1)
    half.load(lambda *_: None)
    job = Job("the sea", 1, 64, 64, steps=2, image=tiny.picture(1), strength=0.6)
    (ours,), (exact,) = tiny.drawn(half, [job]), tiny.drawn(pipeline(), [job])
    assert half.models[0].dtype == "bfloat16"
    assert ours.latents.dtype == torch.float32  # rows stay exact, only the UNet is rounded
    error = (ours.latents - exact.latents).norm() / exact.latents.norm()
    assert 0 < error <= 2e-2  # 3e-3 to 7e-3 of some pictures
    (rounded,), (picture,) = half.decode([ours]), pipeline().decode([exact])
    noise = np.square(rounded.astype(float) - picture).mean()
    assert 10 * np.log10(255**2 / noise) >= 35  # dB; 51 to 53 of the same
