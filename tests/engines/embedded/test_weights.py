"""The shipped weights, through diffusers' own pipeline and no code of ours."""

import json
import subprocess
import sys

import pytest
import torch
from diffusers import AutoencoderTiny, LatentConsistencyModelPipeline, LCMScheduler
from safetensors import safe_open
from transformers import CLIPTextModel, CLIPTokenizer

from engines.embedded import WEIGHTS
from engines.embedded.evaluate import named_colour

SEEDS = (0, 1, 2, 3)
SIDE: int = json.loads((WEIGHTS / "suggestions.json").read_text())["native_size"]


def part(low: float, high: float) -> slice:
    """Pixels of a stretch given in 128ths of the side."""
    return slice(round(low * SIDE / 128), round(high * SIDE / 128))


@pytest.fixture(scope="module")
def pipe():
    pipe = LatentConsistencyModelPipeline.from_pretrained(WEIGHTS, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe, prompt: str, seed: int = 0, steps: int = 4, guidance: float = 4.0) -> torch.Tensor:
    """[3, SIDE, SIDE] in 0..1."""
    answer = pipe(
        prompt,
        height=SIDE,
        width=SIDE,
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=torch.Generator().manual_seed(seed),
        output_type="pt",
    )
    return answer.images[0].float()


def corners(picture: torch.Tensor) -> torch.Tensor:
    """[3, N]: four patches of an eighth of the width."""
    ends = part(0, 16), part(112, 128)
    patches = [picture[:, y, x] for y in ends for x in ends]
    return torch.cat([p.flatten(1) for p in patches], 1)


def centre(picture: torch.Tensor) -> torch.Tensor:
    return picture[:, part(58, 70), part(58, 70)].flatten(1)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_red_circle_on_a_blue_background_is_that(pipe, seed):
    picture = draw(pipe, "a red circle on a blue background", seed)
    assert named_colour(centre(picture)) == "red"
    assert named_colour(corners(picture)) == "blue"


def test_swapping_the_colours_swaps_the_picture(pipe):
    picture = draw(pipe, "a blue circle on a red background")
    assert named_colour(centre(picture)) == "blue"
    assert named_colour(corners(picture)) == "red"


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_green_hills_under_a_night_sky_are_green_below_and_dark_above(pipe, steps):
    picture = draw(pipe, "green hills under a night sky", steps=steps)
    sky, ground = (picture[:, rows].flatten(1).median(1).values for rows in (part(0, 40), part(96, 128)))
    assert sky.mean() < 0.25
    assert sky[2] > sky[1]
    assert ground[1] > ground[0] + 0.03
    assert ground[1] > ground[2] + 0.03


@pytest.mark.parametrize("ground", ["green hills", "the sea", "mountains"])
def test_a_night_sky_is_darker_than_a_day_sky(pipe, ground):
    day, night = (draw(pipe, f"{ground} under a {sky}") for sky in ("blue sky", "night sky"))
    assert night[:, part(0, 40)].mean() < day[:, part(0, 40)].mean() - 0.3


def test_different_prompts_draw_different_pictures(pipe):
    prompts = (
        "a red circle on a blue background",
        "a yellow star on a purple background",
        "a forest at night",
    )
    pictures = [draw(pipe, prompt) for prompt in prompts]
    for i, a in enumerate(pictures):
        for b in pictures[:i]:
            changed = ((a - b).abs().amax(0) > 0.1).float().mean()
            assert changed > 0.2


def test_the_seed_matters_where_the_caption_leaves_things_open(pipe):
    first, second = (draw(pipe, "a shape", seed) for seed in (1, 2))
    assert (first - second).abs().mean() > 0.05


def test_place_words_move_the_thing(pipe):
    for place, cell in (("top left", part(24, 44)), ("bottom right", part(84, 104))):
        picture = draw(pipe, f"a red circle in the {place} on a blue background")
        inside = picture[:, cell, cell].flatten(1).mean(1)
        outside = picture[:, part(56, 72), part(56, 72)].flatten(1).mean(1)
        assert inside[0] - inside[2] > 0.3
        assert outside[2] - outside[0] > 0.2


@pytest.mark.parametrize(("relation", "sideways"), [("to the left of", True), ("below", False)])
def test_two_things_stand_where_the_relation_says(pipe, relation, sideways):
    picture = draw(pipe, f"a red circle {relation} a blue square on a white background")
    red = (picture[0] - picture[2] > 0.4).nonzero().float().mean(0)
    blue = (picture[2] - picture[0] > 0.4).nonzero().float().mean(0)
    if sideways:
        assert red[1] < blue[1] - SIDE / 8
    else:
        assert red[0] > blue[0] + SIDE / 8


@pytest.mark.parametrize(("colour", "channel"), [("blue", 2), ("green", 1)])
def test_eyes_have_the_colour_asked_for(pipe, colour, channel):
    """Of all pixels about the eyes, those of a strong colour that no skin has."""
    prompt = (
        f"portrait of a woman with {colour} eyes, long black hair, light skin, a red shirt, gray background"
    )
    face = draw(pipe, prompt)[:, part(44, 78), part(36, 92)]
    vivid = face[:, (face.amax(0) - face.amin(0) > 0.35) & (face.argmax(0) != 0)]
    assert vivid.shape[1] > 20
    assert (vivid.argmax(0) == channel).float().mean() > 0.6


def test_the_codec_keeps_a_drawing(pipe):
    drawing = torch.ones(1, 3, SIDE, SIDE)
    drawing[:, 1:, part(30, 60), part(20, 90)] = -0.8  # a red bar
    drawing[:, :2, part(80, 110), part(60, 110)] = -0.8  # a blue block
    with torch.no_grad():
        back = pipe.vae.decode(pipe.vae.encode(drawing).latents).sample
    assert (back - drawing).square().mean() < 4 * 10 ** (-22 / 10)  # 22 dB


def test_weights_are_the_diffusers_lcm_layout(pipe):
    assert isinstance(pipe.vae, AutoencoderTiny)
    assert isinstance(pipe.text_encoder, CLIPTextModel)
    assert isinstance(pipe.tokenizer, CLIPTokenizer)
    assert isinstance(pipe.scheduler, LCMScheduler)
    assert pipe.safety_checker is None
    assert pipe.unet.config.time_cond_proj_dim == 256
    assert pipe.scheduler.config.prediction_type == "v_prediction"
    assert pipe.scheduler.config.beta_schedule == "scaled_linear"
    assert pipe.scheduler.config.original_inference_steps == 50


def test_weights_are_small_and_float16():
    assert sum(f.stat().st_size for f in WEIGHTS.rglob("*") if f.is_file()) <= 20_000_000
    assert (WEIGHTS / "sheet.png").stat().st_size < 400_000
    tensors = list(WEIGHTS.rglob("*.safetensors"))
    assert len(tensors) == 3
    for path in tensors:
        with safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118 - not a dict
                assert file.get_slice(key).get_dtype() in ("F16", "I64"), (path, key)


def test_no_file_of_the_weights_says_where_it_was_made():
    for path in WEIGHTS.rglob("*.json"):
        text = path.read_text()
        assert "_name_or_path" not in text, path
        assert "/tmp" not in text, path


def test_asking_for_the_weights_loads_no_torch():
    code = "import sys, engines.embedded as e; assert e.WEIGHTS.is_dir(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=WEIGHTS.parents[2])


def test_suggestions_are_what_the_canvas_expects():
    suggestions = json.loads((WEIGHTS / "suggestions.json").read_text())
    assert len(suggestions["prompts"]) == 12
    assert all(len(c) == 7 and c.startswith("#") for c in suggestions["palette"])
    assert suggestions["native_size"] in (128, 256)
    assert suggestions["max_good_steps"] == 4
    assert suggestions["knows"], "what the page says of a model that does not know cats"
