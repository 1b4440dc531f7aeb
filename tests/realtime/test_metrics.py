"""/metrics against its table in realtime/README.md, both ways."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

import realtime
from engines.loop import COUNTERS
from engines.tickets import ENDS
from realtime.metrics import Metrics
from tests.realtime.talk import ask, eventually, opened
from tests.servers import serve

README = Path(realtime.__file__).parent / "README.md"

Family = tuple[str, frozenset[str]]  # kind, labels


def documented() -> dict[str, Family]:
    rows = re.findall(r"^\| `(realtime_\w+)` \| (\w+) \| (.*?) \| \S.* \|$", README.read_text(), re.MULTILINE)
    return {name: (kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


def scraped(text: str) -> tuple[dict[str, str], dict[str, set[frozenset[str]]]]:
    """Kinds by name, and the sets of labels that samples have. `le` and `_created` are the library's."""
    kinds: dict[str, str] = {}
    labels: dict[str, set[frozenset[str]]] = {}
    for family in text_string_to_metric_families(text):
        if family.name.endswith("_created"):
            continue
        name = f"{family.name}_total" if family.type == "counter" else family.name
        kinds[name] = family.type
        labels[name] = {
            frozenset(sample.labels) - {"le"}
            for sample in family.samples
            if not sample.name.endswith("_created")
        }
    return kinds, labels


@pytest.mark.net
@pytest.mark.proc
async def test_every_family_is_documented_and_every_documented_one_is_there():
    with serve() as server:
        async with opened(server) as ws:
            await ask(ws, {"prompt": "a fox"})
            await ask(ws, {"prompt": "a fox", "num_inference_steps": 99})
        server.ask("POST", "/fal-ai/lcm", {"prompt": "a fox"})
        server.ask("POST", "/tokens/", {"allowed_apps": ["lcm"]})
        await eventually(lambda: server.metric("realtime_engine_rows_total") > 0)  # told every two seconds
        kinds, labels = scraped(server.get("/metrics")[1].decode())
    table = documented()
    assert kinds == {name: kind for name, (kind, _) in table.items()}
    with_samples = {name for name, found in labels.items() if found}
    assert {name: labels[name] for name in with_samples} == {name: {table[name][1]} for name in with_samples}
    assert {"realtime_sockets_opened_total", "realtime_runs_total", "realtime_frames_total"} <= with_samples


FIGURES = {
    **dict.fromkeys((*(name for name in COUNTERS if name != "taken"), *ENDS), 1.0),
    **dict.fromkeys(("occupancy", "busy_s", "step_s", "waiting", "running", "ahead"), 1.0),
    **dict.fromkeys((f"cache_text_{what}" for what in ("hits", "misses", "evictions", "bytes")), 1.0),
    **dict.fromkeys(("graphs", "graphs_replayed", "decodes_recorded", "attention_flash"), 1.0),
    **dict.fromkeys(("encodes_replayed", "prompts_unfit"), 1.0),
    **dict.fromkeys(("built", "loaded", "refitted", "built_s", "compiled", "failed", "building"), 1.0),
}


def test_every_figure_of_an_engine_has_a_family_and_its_labels():
    metrics = Metrics()
    metrics.engine.stats = FIGURES
    kinds, labels = scraped(metrics.render().decode())
    table = documented()
    engine = {name for name in kinds if name.startswith("realtime_engine_")}
    assert not labels["realtime_engine_other"]
    for name in engine - {"realtime_engine_other"}:
        assert labels[name] == {table[name][1]}, name


def test_a_figure_is_in_one_family_and_a_new_one_is_not_lost():
    metrics = Metrics()
    metrics.engine.stats = {"cancelled": 2.0, "running": 1.0, "built_s": 0.5, "news": 7.0}
    lines = [line for line in metrics.render().decode().splitlines() if not line.startswith("#")]
    assert [line for line in lines if line.startswith("realtime_engine_") and not line.endswith(" 0.0")] == [
        'realtime_engine_requests{state="running"} 1.0',
        'realtime_engine_ended_total{outcome="cancelled"} 2.0',
        "realtime_engine_build_seconds_total 0.5",
        'realtime_engine_other{figure="news"} 7.0',
    ]
