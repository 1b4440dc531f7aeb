"""What Prometheus sees at /metrics. Seconds and bytes; labels only from small closed sets."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from realtime.figures import Figures

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@dataclass(slots=True)
class Flow:
    """What the sockets of one app count, eight times a frame: in plain numbers, summed up when asked for."""

    messages: int = 0
    bad_messages: int = 0
    received_bytes: int = 0
    sent_bytes: int = 0
    # Frames by what became of them.
    answered: int = 0
    refused: int = 0
    superseded: int = 0
    abandoned: int = 0
    # Of those answered, seconds from the last byte read to the answer handed to the socket.
    seconds: float = 0.0
    within: list[int] = field(default_factory=lambda: [0] * (len(_SECONDS) + 1))  # by bucket, not added up

    def answer(self, seconds: float) -> None:
        self.answered += 1
        self.seconds += seconds
        self.within[bisect_left(_SECONDS, seconds)] += 1


class _Flows(Collector):
    def __init__(self) -> None:
        self.by_app: dict[str, Flow] = {}

    def collect(self) -> Iterable[Metric]:
        flows = self.by_app.values()
        for name, said in (
            ("messages", "Messages read from realtime sockets."),
            ("bad_messages", "Messages that are no request: not decodable, or not valid."),
            ("received_bytes", "Payload read from realtime sockets."),
            ("sent_bytes", "Payload written to realtime sockets."),
        ):
            yield CounterMetricFamily(f"realtime_{name}", said, sum(getattr(flow, name) for flow in flows))
        frames = CounterMetricFamily(
            "realtime_frames", "Valid frames by what became of them.", labels=["app", "outcome"]
        )
        latency = HistogramMetricFamily(
            "realtime_frame_seconds",
            "From a frame's last byte read to its answer handed to the socket.",
            labels=["app"],
        )
        for app, flow in self.by_app.items():
            for outcome in ("answered", "refused", "superseded", "abandoned"):
                frames.add_metric([app, outcome], getattr(flow, outcome))
            latency.add_metric([app], list(_cumulative(flow.within)), flow.seconds)
        yield frames
        yield latency


def _cumulative(within: list[int]) -> Iterator[tuple[str, float]]:
    total = 0
    for bound, count in zip((*map(str, _SECONDS), "+Inf"), within, strict=True):
        total += count
        yield bound, total


class Metrics:
    """One per gateway: nothing is global, so that two gateways in one test do not share counters."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.sockets = Gauge("realtime_sockets", "Open realtime sockets.", registry=registry)
        self.opened = Counter(
            "realtime_sockets_opened", "Realtime sockets by how they began.", ["outcome"], registry=registry
        )  # accepted, unauthorized, forbidden, unknown_app, draining, full
        self.closed = Counter(
            "realtime_sockets_closed", "Realtime sockets by who ended them.", ["by"], registry=registry
        )  # client, idle, timeout, drain, error
        self._flows = _Flows()
        registry.register(self._flows)
        self.requests = Counter(
            "realtime_http_requests",
            "HTTP requests by role of the host and status.",
            ["role", "status"],
            registry=registry,
        )
        self.runs = Counter(
            "realtime_runs",
            "Requests to draw over HTTP by how they were asked and the status they ended with.",
            ["app", "lane", "status"],
            registry=registry,
        )  # run, stream, queue; a status of HTTP or "cancelled"
        self.run_seconds = Histogram(
            "realtime_run_seconds",
            "From a request's whole body to its answer, for those that got a picture.",
            ["app", "lane"],
            buckets=(*_SECONDS, 30.0, 60.0, 300.0),
            registry=registry,
        )
        self.queued = Gauge(
            "realtime_queue_requests", "Queued requests by state.", ["state"], registry=registry
        )  # waiting, running
        self.webhooks_owed = Gauge("realtime_webhooks_owed", "Webhook calls to be made.", registry=registry)
        self.tried_again = Counter(
            "realtime_queue_retries", "Queued requests that wait again after a failed run.", registry=registry
        )
        self.tokens = Counter("realtime_tokens", "Tokens asked for.", ["outcome"], registry=registry)
        self.ready = Gauge("realtime_engine_ready", "1 while the engine takes work.", registry=registry)
        self.engine = Figures()
        registry.register(self.engine)

    def flow(self, app: str) -> Flow:
        """What the sockets of this app count together."""
        return self._flows.by_app.setdefault(app, Flow())

    def ran(self, app: str, lane: str, status: str, seconds: float) -> None:
        """A request to draw over HTTP has ended."""
        self.runs.labels(app, lane, status).inc()
        if status == "200":
            self.run_seconds.labels(app, lane).observe(seconds)

    def render(self) -> bytes:
        return generate_latest(self.registry)
