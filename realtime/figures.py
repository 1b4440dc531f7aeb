"""What the engine says of itself (Pong.stats, engines/loop.py), as metrics: a family each kind of figure.

Counters begin anew with an engine that is started again, as Prometheus expects of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

PREFIX = "realtime_engine_"
ENDS = "(done|again|settled|refused|superseded|cancelled)"
RECORDED = "(graphs|decodes|encodes|prompts)"


class Family(NamedTuple):
    name: str  # a counter's without _total
    counts: bool  # else it is a gauge
    said: str
    figures: str  # a regular expression of their names; its groups are the values of `labels`
    labels: tuple[str, ...] = ()


FAMILIES = (
    Family("steps", True, "UNet calls.", "steps"),
    Family("rows", True, "Rows in UNet calls.", "rows"),
    Family("slots", True, "Places that UNet calls had for rows.", "slots"),
    Family("occupancy_ratio", False, "Of those places, the taken ones, since the engine began.", "occupancy"),
    Family("busy_seconds", True, "In UNet calls and decodes, which may be at once.", "busy_s"),
    Family("step_seconds", False, "The dearest UNet call known.", "step_s"),
    Family("decodes", True, "Pictures decoded.", "(tiny|full)_vae", ("vae",)),
    Family("requests", False, "Requests in the engine by state.", "(waiting|running|ahead)", ("state",)),
    Family("ended", True, "Requests by how they ended.", ENDS, ("outcome",)),
    Family("cache_hits", True, "Found in a cache.", "cache_(.+)_hits", ("cache",)),
    Family("cache_misses", True, "Not found in a cache.", "cache_(.+)_misses", ("cache",)),
    Family("cache_evictions", True, "Put out of a full cache.", "cache_(.+)_evictions", ("cache",)),
    Family("cache_bytes", False, "Held by a cache.", "cache_(.+)_bytes", ("cache",)),
    Family("graphs", False, "CUDA graphs of UNet calls that are kept.", "graphs"),
    Family("graph_events", True, "What became of CUDA graphs.", f"{RECORDED}_(.+)", ("of", "event")),
    Family("builds", True, "Programs of the back end.", "(built|loaded|refitted)", ("how",)),
    Family("build_seconds", True, "Spent on building programs.", "built_s"),
    Family("programs", False, "Programs by state.", "(compiled|failed|building)", ("state",)),
    Family("attentions", False, "Attentions pinned to a kernel.", "attention_(.+)", ("kernel",)),
    Family("other", False, "Figures that have no family yet.", "(.+)", ("figure",)),
)


class Figures(Collector):
    def __init__(self) -> None:
        self.restarts = 0
        self.stats: Mapping[str, float] = {}

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily(f"{PREFIX}restarts", "Times an engine was started again.", self.restarts)
        left = dict(self.stats)
        for family in FAMILIES:
            kind = CounterMetricFamily if family.counts else GaugeMetricFamily
            metric = kind(PREFIX + family.name, family.said, labels=family.labels)
            for name in self.stats:
                found = re.fullmatch(family.figures, name)
                if found and name in left:
                    metric.add_metric(found.groups(), left.pop(name))
            yield metric
