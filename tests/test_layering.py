"""Who may import whom. Arrows point down: cli, server, gateway, socket, apps, protocol, wire, errors."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "diffusers", "transformers", "peft", "accelerate", "safetensors", "torchvision", "numpy"}
# The part of engines/ that the gateway and the tests may use without torch.
LIGHT = [
    *("messages", "link", "recorder", "pipeline", "drawing", "loop", "fake"),
    *("inbox", "intake", "tickets", "shown", "previews", "outlet"),
    *("outbox", "pool", "cache", "mailbox", "schedule", "tiers", "cost", "outlook", "simulate"),
]

# Layers of realtime/, highest first; a module may import from its own layer and below.
LAYERS = [
    {"cli"},
    {"progress", "doctor", "warm", "server", "certs"},
    {"gateway"},
    {"pages", "mint", "run", "stream", "queue", "proxy", "openapi"},
    {"canvas"},
    {"work", "storage"},
    {"socket", "transport"},
    {"apps", "engine", "fleet"},
    {"images", "answer", "fetch", "formats", "child", "poison", "refusals"},
    {"service", "sse", "limits", "places"},
    {"protocol", "session", "keys", "tokens", "hosts", "health", "metrics", "figures", "log"},
    {"wire"},
    {"errors", "folder", "settings"},
]


def modules(package: str) -> list[Path]:
    return [file for file in sorted((ROOT / package).rglob("*.py")) if "embedded" not in file.parts]


def imports(file: Path) -> set[str]:
    """Every module named in an import statement, wherever it stands, but not under `if TYPE_CHECKING:`."""
    found: set[str] = set()
    tree = ast.parse(file.read_text())
    unused = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in unused:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def name_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("file", modules("realtime"), ids=name_of)
def test_the_gateway_never_names_torch_or_its_family(file: Path):
    assert not {name.split(".")[0] for name in imports(file)} & HEAVY


@pytest.mark.parametrize("file", modules("realtime"), ids=name_of)
def test_the_gateway_knows_only_the_light_part_of_the_engine(file: Path):
    used = {name.split(".")[1] for name in imports(file) if name.startswith("engines.")}
    assert used <= {"messages", "link", "recorder", "embedded"}  # of the last only where its weights are


@pytest.mark.parametrize("file", modules("engines"), ids=name_of)
def test_the_engine_knows_nothing_of_the_gateway(file: Path):
    roots = {name.split(".")[0] for name in imports(file)}
    assert "realtime" not in roots
    assert not roots & {"asyncio", "uvicorn", "starlette", "websockets"}


@pytest.mark.parametrize("name", LIGHT)
def test_the_light_part_of_the_engine_is_light(name: str):
    heavy = {found for found in imports(ROOT / "engines" / f"{name}.py")}
    assert not {found.split(".")[0] for found in heavy} & HEAVY


@pytest.mark.parametrize("file", modules("realtime"), ids=name_of)
def test_imports_point_down(file: Path):
    parts = name_of(file).split(".")
    if len(parts) == 1:  # the package itself imports nothing
        assert not {name for name in imports(file) if name.startswith("realtime")}
        return
    own = layer(parts[1])
    for name in imports(file):
        if name.startswith("realtime.") and (found := layer(name.split(".")[1])) is not None:
            assert own is not None
            assert found >= own, f"{name_of(file)} imports {name}, which is above it"


def layer(module: str) -> int | None:
    return next((number for number, names in enumerate(LAYERS) if module in names), None)


def test_every_module_has_a_layer():
    known = set().union(*LAYERS)
    there = {name_of(file).split(".")[1] for file in modules("realtime") if "." in name_of(file)}
    assert there <= known, there - known


def test_every_gateway_module_imports_without_torch():
    code = f"""
import importlib, sys
for name in {[name_of(file) for file in modules("realtime")] + [f"engines.{name}" for name in LIGHT]!r}:
    importlib.import_module(name)
loaded = sorted({{name.split(".")[0] for name in sys.modules}} & {HEAVY!r})
sys.exit(", ".join(loaded) or 0)
"""
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert answer.returncode == 0, answer.stderr


def test_the_scan_finds_what_it_looks_for(tmp_path: Path):
    planted = tmp_path / "planted.py"
    planted.write_text("def late():\n    from torch import nn\n")
    assert "torch" in imports(planted)
