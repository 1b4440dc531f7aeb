"""Command line: train, evaluate or export the embedded model."""

from __future__ import annotations

import argparse
import json
import logging
import warnings
from pathlib import Path

from engines.embedded import WEIGHTS
from engines.embedded.presets import PRESETS, Preset

WORK = Path(__file__).resolve().parent / ".embedded"


def train(preset: Preset, folder: Path) -> None:
    """All stages, resuming from whatever `folder` holds, then the exported model in `folder`/weights."""
    import torch

    from engines.embedded import export, training

    torch.set_num_threads(preset.threads)
    folder.mkdir(parents=True, exist_ok=True)
    ae = training.train_autoencoder(preset, folder)

    def look(name: str) -> training.Look:
        def draw(model: training.Teacher, step: int) -> None:
            pipe = export.pipeline_of(model, ae)
            pictures, titles = [], []
            for steps in preset.look_steps:
                pictures += export.draw_prompts(pipe, list(export.PROMPTS), preset.size, steps, preset.seed)
                titles += [f"{steps}: {prompt}" for prompt in export.PROMPTS]
            export.contact_sheet(pictures, titles, len(export.PROMPTS)).save(
                folder / f"{name}-{step:06d}.png"
            )

        return draw

    teacher, pool = training.train_teacher(preset, folder, ae, look("teacher"))
    student = training.train_student(preset, folder, teacher, pool, look("student"))
    ae = training.polish_decoder(preset, folder, ae)
    export.export(student, ae, folder / "weights", preset.size)
    measure(folder / "weights", preset.evaluate)


def measure(folder: Path, count: int) -> None:
    """Print the table of pixel tests, write it to metrics.json, draw sheet.png; via from_pretrained."""
    from engines.embedded import evaluate, export

    pipe = export.loaded(folder)
    size = json.loads((folder / "suggestions.json").read_text())["native_size"]
    table = evaluate.evaluate(pipe, size, count)
    (folder / "metrics.json").write_text(json.dumps(table, indent=2) + "\n")
    print(evaluate.as_text(table))
    sheet = export.prompt_sheet(pipe, size)
    sheet.save(folder / "sheet.png", optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m engines.embedded", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("train", "run every stage; a run started again continues"),
        ("export", "copy a finished run's exported model over the shipped weights"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("--preset", choices=sorted(PRESETS), default="cpu")
        command.add_argument(
            "--out", type=Path, help="working folder (default: .embedded/<preset> next to this file)"
        )
        if name == "export":
            command.add_argument("--to", type=Path, default=WEIGHTS)
    command = commands.add_parser("evaluate", help="pixel tests of exported weights")
    command.add_argument("--weights", type=Path, default=WEIGHTS)
    command.add_argument(
        "--count", type=int, default=96, help="captions of one thing; half as many landscapes"
    )
    arguments = parser.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=UserWarning)
    if arguments.command == "evaluate":
        measure(arguments.weights, arguments.count)
        return
    preset = PRESETS[arguments.preset]
    folder = arguments.out or WORK / preset.name
    if arguments.command == "train":
        train(preset, folder)
    else:
        from engines.embedded import export

        export.install(folder / "weights", arguments.to)


if __name__ == "__main__":
    main()
