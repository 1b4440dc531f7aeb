"""The lab as a person runs it: one line, and figures with their conditions come out."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.proc, pytest.mark.net, pytest.mark.timeout(60)]


def test_a_quick_load_run_accounts_for_every_frame(tmp_path: Path):
    file = tmp_path / "load.json"
    command = [sys.executable, "-m", "bench", "load", "--quick", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=55)
    assert done.returncode == 0, done.stderr
    assert "intended send time" in done.stdout
    document = json.loads(file.read_text())
    assert document["conditions"]["cores"] >= 1
    raw = document["raw"]
    frames = raw["frames"]
    assert frames["answered"] + frames["superseded"] == frames["sent"] == frames["offered"] > 50
    assert frames["errors"] == {}
    assert frames["out_of_order"] == 0
    assert raw["wrong_pictures"] == 0
