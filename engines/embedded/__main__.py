"""Command line: train, evaluate or export the embedded model."""

from __future__ import annotations

import argparse
import json
import logging
import warnings
from dataclasses import replace
from pathlib import Path

from engines.embedded import WEIGHTS
from engines.embedded.presets import PRESETS, Preset

WORK = Path(__file__).resolve().parent / ".embedded"


def train(preset: Preset, folder: Path, minutes: float | None, start: Path | None) -> None:
    """All stages, resuming from whatever `folder` holds, then the exported model in `folder`/weights."""
    from engines.embedded import export, training
    from engines.embedded.together import join, rank

    join()
    tune(preset)
    folder.mkdir(parents=True, exist_ok=True)
    seconds = None if minutes is None else 60 * minutes
    run = training.Training(preset, folder, seconds, start)

    def look(name: str, ae: training.AutoencoderTiny) -> training.Look:
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

    student, ae = run.run(look)
    if rank():
        return
    export.export(student, ae, folder / "weights", preset.size)
    measure(folder / "weights", preset.evaluate, preset.device)


def tune(preset: Preset) -> None:
    """Process-wide switches of torch for a run."""
    import torch

    torch.set_num_threads(preset.threads)
    if preset.device == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    if preset.compile:
        import torch._dynamo

        torch._dynamo.config.suppress_errors = True  # a model that does not compile still trains


def measure(folder: Path, count: int, device: str = "cpu") -> None:
    """Print the table of pixel tests, write it to metrics.json, draw sheet.png; via from_pretrained."""
    from engines.embedded import evaluate, export

    pipe = export.loaded(folder).to(device)
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
        command.add_argument("--device", help="instead of the preset's: cpu, cuda, mps")
        if name == "export":
            command.add_argument("--to", type=Path, default=WEIGHTS)
        if name == "train":
            command.add_argument(
                "--minutes", type=float, help="of the clock, for everything, instead of the preset's steps"
            )
            command.add_argument(
                "--start", type=Path, help="an earlier run, or exported weights, to train further"
            )
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
    preset = replace(preset, device=arguments.device or preset.device)
    folder = arguments.out or WORK / preset.name
    if arguments.command == "train":
        train(preset, folder, arguments.minutes, arguments.start)
    else:
        from engines.embedded import export

        export.install(folder / "weights", arguments.to)


if __name__ == "__main__":
    main()
