"""What a build is kept under is the same in every process, or nothing would ever be found again."""

import os
import subprocess
import sys

import pytest

TOLD = """
import torch
from bench.weights import random_unet
from engines.backends.program import Program
print(Program(random_unet("sd15", torch.device("meta"), torch.float16, tiny=True), "epsilon", None).layout())
"""


@pytest.mark.proc
@pytest.mark.timeout(120)
def test_another_process_finds_the_same_layout() -> None:
    layouts = set()
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", TOLD], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        layouts.add(done.stdout.split()[-1])
    assert len(layouts) == 1
