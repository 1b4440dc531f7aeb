"""The plan of a GPU, rehearsed: on a CPU at small size, in the very processes it would have."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from bench.gpu.findings import GOALS, brief, result
from bench.gpu.lab import Machine
from bench.gpu.plan import Book

pytestmark = [pytest.mark.proc, pytest.mark.slow]
ROWS = [{"model": "sd15", "side": 512, "way": "eager", "what": "step, eager", "places": 1, "ms": 2.0,
         "share": 0.5, "times_floor": 2.0, "built_s": 0.1}]  # fmt: skip

COMPILE = """
import torch
from bench.gpu.prebuild import hits
torch.set_num_threads(1)
module = torch.nn.Linear(8, 8)
with torch.no_grad():
    torch.compile(module, fullgraph=True, dynamic=False)(torch.randn(2, 8))
import json
print(json.dumps(hits()))
"""


def command(*arguments: object, **given: str) -> subprocess.CompletedProcess[str]:
    whole = [sys.executable, *map(str, arguments)]
    return subprocess.run(whole, env=os.environ | given, capture_output=True, text=True, timeout=170)


@pytest.mark.timeout(400)
def test_a_rehearsal_measures_most_valuable_first_and_a_second_run_goes_on(tmp_path: Path):
    out = tmp_path / "gpu.json"
    said = []
    for budget in (12, 22):
        done = command(
            *("-m", "bench", "gpu", "--tiny", "--device", "cpu", "--budget", budget),
            *("--out", out, "--folder", tmp_path / "built"),
        )
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    parts = json.loads(out.read_text())["parts"]
    assert parts["ceilings"]["ok"]
    assert parts["sd15 eager"]["ok"]
    assert "ceilings: done" in said[0]
    assert "ceilings" not in said[1].splitlines()[0]  # not measured again
    # No time, and compiled code that `--prebuild` makes: the only reasons for a part to be missing.
    reasons = ("not begun", "not done in", "was not built ahead")
    missing = {name: told["error"] for name, told in parts.items() if not told["ok"]}
    assert {name: e for name, e in missing.items() if not any(reason in e for reason in reasons)} == {}
    assert GOALS[0].what in done.stdout
    assert json.loads((tmp_path / "result.json").read_text())["bars"] == []  # a rehearsal meets no bar


@pytest.mark.timeout(400)
def test_what_one_process_compiled_another_finds_in_the_cache(tmp_path: Path):
    given = Machine("cpu", True, tmp_path).environment()
    first, second = (command("-c", COMPILE, **given) for _ in range(2))
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert json.loads(first.stdout.splitlines()[-1])["fxgraph_cache_hit"] == 0
    found = json.loads(second.stdout.splitlines()[-1])
    assert found["fxgraph_cache_hit"] + found.get("autograd_cache_hit", 0) >= 1


@pytest.mark.timeout(120)
def test_what_ends_a_prebuild_from_outside_ends_its_builds(tmp_path: Path):
    arguments = ("gpu", "--prebuild", "--tiny", "--device", "cpu", "--jobs", "1", "--folder", str(tmp_path))
    with subprocess.Popen([sys.executable, "-m", "bench", *arguments], stdout=subprocess.DEVNULL) as process:
        builds: list[psutil.Process] = []
        while not builds and process.poll() is None:
            time.sleep(0.1)
            builds = psutil.Process(process.pid).children()
        process.terminate()
        process.wait(30)
    assert builds
    assert psutil.wait_procs(builds, 5)[1] == [], "they go on beside what is measured next"
    assert "not done within the budget" in (tmp_path / "prebuild.json").read_text()


def test_goals_are_met_missed_or_not_measured(tmp_path: Path):
    book = Book(tmp_path / "book.json", {"tiny": False})
    assert {row[-1] for row in (goal.row(book) for goal in GOALS)} == {"not measured"}
    book.write("sd15 one image", {"ok": True, "result": {"p50_ms": 13.0, "floor_ms": 4.3}})
    book.write("sd15 best batch", {"ok": True, "result": {"images_s": 80.0, "floor_images_s": 235.0}})
    book.write("sd15 eager", {"ok": True, "result": ROWS})
    book.write("peers: ours", {"ok": False, "error": "RuntimeError: no"})
    verdicts = {goal.what: goal.row(book)[-1] for goal in GOALS}
    assert verdicts["SD1.5 512, 4 steps, one image, request to JPEG"] == "goal met"
    assert verdicts["SD1.5 512, 4 steps, best batch"] == "missed"
    lines = brief(book)
    assert any("50.0 % of ceiling" in line for line in lines)
    assert "peers: ours: RuntimeError: no" in lines
    assert len(result(book).bars) == 2
