"""Writes a trained model in exactly the layout of LatentConsistencyModelPipeline.save_pretrained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderTiny, LatentConsistencyModelPipeline
from PIL import Image, ImageDraw

from engines.embedded.diffusion import lcm_scheduler
from engines.embedded.scene import COLOURS
from engines.embedded.training import Teacher

PROMPTS = (
    "green hills under a night sky",
    "a portrait of a woman with long blonde hair and blue eyes, smiling",
    "a red circle on a blue background",
    "three yellow stars on a purple background",
    "the sea at sunset with a boat",
    "a smiling man with a beard and a red cap",
    "a big green heart in the top left on a white background",
    "a house on snowy hills under a starry sky",
    "a blue square to the left of an orange triangle on a white background",
    "an avatar of a girl with curly pink hair and glasses",
    "a forest under a blue sky, in watercolor style",
    "a white star on a black background, neon style",
)
KNOWS = "flat shapes in colours and places, landscapes, weather, faces"
GOOD_STEPS = 4
"""What the canvas starts with: two follow most words as well in half the time (bench/README.md), but outlines
are lumpy and faces melt."""

TILE = 176  # pixels; a sheet is in the repository with the weights


def pipeline_of(model: Teacher, ae: AutoencoderTiny) -> LatentConsistencyModelPipeline:
    """diffusers' own pipeline around the live modules; no safety checker, nothing but pictures of shapes."""
    pipe = LatentConsistencyModelPipeline(
        vae=ae,  # type: ignore[arg-type]  # diffusers annotates AutoencoderKL and accepts AutoencoderTiny
        text_encoder=model.text_encoder,
        tokenizer=model.tokenizer,
        unet=model.unet,
        scheduler=lcm_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        image_encoder=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def export(model: Teacher, ae: AutoencoderTiny, folder: Path, size: int) -> None:
    """Write it in float16 safetensors, the tokenizer's vocabulary in both formats, and suggestions."""
    folder.mkdir(parents=True, exist_ok=True)
    # A tokenizer remembers how its last caller wanted the ids padded.
    model.tokenizer.backend_tokenizer.no_padding()
    model.tokenizer.backend_tokenizer.no_truncation()
    copies = Teacher(model.tokenizer, model.text_encoder, model.unet)
    pipe = pipeline_of(copies, ae).to(torch.float16)
    pipe.save_pretrained(folder, safe_serialization=True)
    pipe.to(torch.float32)
    # transformers 5 loads a text encoder in its config's dtype, diffusers the rest in float32 unless told
    # otherwise: without this, from_pretrained(folder) would mix the two and fail.
    config = folder / "text_encoder" / "config.json"
    config.write_text(config.read_text().replace('"dtype": "float16"', '"dtype": "float32"'))
    # diffusers writes down where a part was read from.
    for path in folder.rglob("config.json"):
        settings = json.loads(path.read_text())
        settings.pop("_name_or_path", None)
        path.write_text(json.dumps(settings, indent=2) + "\n")
    # Readers before transformers 5 want the two plain files next to tokenizer.json.
    model.tokenizer.backend_tokenizer.model.save(str(folder / "tokenizer"))
    write_suggestions(folder, size)


def write_suggestions(folder: Path, size: int) -> None:
    """suggestions.json: what the web canvas offers for this model."""
    suggestions = {
        "prompts": list(PROMPTS),
        "palette": ["#{:02x}{:02x}{:02x}".format(*(round(255 * v) for v in rgb)) for rgb in COLOURS.values()],
        "native_size": size,
        "max_good_steps": GOOD_STEPS,
        "knows": KNOWS,
    }
    (folder / "suggestions.json").write_text(json.dumps(suggestions, indent=2) + "\n")


def contact_sheet(pictures: list[Image.Image], titles: list[str], columns: int) -> Image.Image:
    """Pictures in rows, each with its title (broken into lines) underneath, on white."""
    wide, high = pictures[0].size
    text_high, gap = 36, 6
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (wide + gap) + gap, rows * (high + text_high + gap) + gap), "white")
    pen = ImageDraw.Draw(sheet)
    for index, (picture, title) in enumerate(zip(pictures, titles, strict=True)):
        left = gap + index % columns * (wide + gap)
        top = gap + index // columns * (high + text_high + gap)
        sheet.paste(picture, (left, top))
        lines, line = [], ""
        for word in title.split():
            longer = f"{line} {word}".strip()
            if pen.textlength(longer) > wide:
                lines.append(line)
                longer = word
            line = longer
        for row, text in enumerate([*lines, line][:3]):
            pen.text((left, top + high + 1 + 11 * row), text, fill="black")
    return sheet


def draw_prompts(
    pipe: LatentConsistencyModelPipeline,
    prompts: list[str],
    size: int,
    steps: int,
    seed: int,
    guidance: float = 4.0,
) -> list[Image.Image]:
    """One picture per prompt, the seed counted up by one for each."""
    generators = [torch.Generator().manual_seed(seed + i) for i in range(len(prompts))]
    return pipe(
        prompts,
        height=size,
        width=size,
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=generators,
    ).images


def loaded(folder: Path) -> LatentConsistencyModelPipeline:
    """The exported pipeline in float32, as a server on a CPU would load it."""
    pipe = LatentConsistencyModelPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def prompt_sheet(pipe: LatentConsistencyModelPipeline, size: int, seed: int = 1) -> Image.Image:
    """The suggested prompts, four steps each, six to a row, no tile wider than TILE."""
    pictures = draw_prompts(pipe, list(PROMPTS), size, 4, seed)
    side = min(size, TILE)
    return contact_sheet([picture.resize((side, side)) for picture in pictures], list(PROMPTS), 6)


def install(source: Path, target: Path) -> None:
    """Copy an exported model (not the figures measured of it) to where the server looks for it."""
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(source.rglob("*")):
        if file.is_file() and file.name != "metrics.json":
            place = target / file.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)
