"""The modules of the canvas that need no browser, in Node; its msgpack against Python's."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgpack
import pytest

HERE = Path(__file__).parent
NODE = shutil.which("node")

pytestmark = [
    pytest.mark.node,
    pytest.mark.proc,
    pytest.mark.skipif(NODE is None, reason="NO NODE: the modules of web/ are not tested"),
]


def some_value(chance: random.Random, depth: int = 3) -> Any:
    """A value of this wire. Floats have a fraction: JavaScript cannot tell 2.0 from 2."""
    kind = chance.randrange(9 if depth else 7)
    edges = [2**bits + near for bits in (5, 7, 8, 15, 16, 31, 32, 53) for near in (-1, 0, 1)]
    if kind == 0:
        return None
    if kind == 1:
        return chance.random() < 0.5
    if kind in (2, 3):
        return chance.choice(edges) * chance.choice((-1, 1)) if kind == 2 else chance.randrange(-40, 200)
    if kind == 4:
        return (chance.randrange(-1000, 1000) + 0.25) * 2.0 ** chance.randrange(-9, 9) + 1e-7
    length = chance.choice((0, 1, 15, 16, 31, 32, 255, 256, 65535, 65536) if depth == 3 else (0, 3, 40))
    if kind == 5:
        return "".join(chance.choices("aé漢🎨\n\0", k=length))
    if kind == 6:
        return chance.randbytes(length)
    count = chance.choice((0, 1, 5, 15, 16, 20))
    items = [some_value(chance, depth - 1) for _ in range(count)]
    return items if kind == 7 else {f"key {i} {chance.random()}": item for i, item in enumerate(items)}


def run(script: str, **env: str) -> None:
    assert NODE
    result = subprocess.run(
        [NODE, "--test", "--test-reporter=spec", str(HERE / script)],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.timeout(60)
def test_msgpack_agrees_with_python_byte_for_byte(tmp_path: Path) -> None:
    chance = random.Random(20261120)
    values = [some_value(chance) for _ in range(400)]
    values += [list(range(65536)), {str(i): i for i in range(65536)}]
    vectors = tmp_path / "vectors"
    vectors.write_text("\n".join(msgpack.packb(value).hex() for value in values))
    run("msgpack.test.js", VECTORS=str(vectors))


@pytest.mark.timeout(60)
def test_fill_history_status_and_override() -> None:
    run("page.test.js")


@pytest.mark.timeout(60)
def test_types_hold() -> None:
    compiler = HERE / "node_modules" / ".bin" / "tsc"
    if not compiler.exists():
        pytest.skip(
            "NO TYPESCRIPT: the types of web/ are not checked; `python -m tests.browser.install` gets it"
        )
    project = HERE.parent.parent / "web" / "jsconfig.json"
    result = subprocess.run([compiler, "-p", project], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout
