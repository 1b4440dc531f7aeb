"""What Prometheus sees at /metrics. Seconds and bytes; labels only from small closed sets."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

OUTCOMES = ("answered", "refused", "superseded", "abandoned")


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
        self.messages = Counter(
            "realtime_messages", "Messages read from realtime sockets.", registry=registry
        )
        self.bad_messages = Counter(
            "realtime_bad_messages",
            "Messages that are no request: not decodable, or not valid.",
            registry=registry,
        )
        self.received_bytes = Counter(
            "realtime_received_bytes", "Payload read from realtime sockets.", registry=registry
        )
        self.sent_bytes = Counter(
            "realtime_sent_bytes", "Payload written to realtime sockets.", registry=registry
        )
        self.frames = Counter(
            "realtime_frames", "Valid frames by what became of them.", ["app", "outcome"], registry=registry
        )
        self._outcomes: dict[str, dict[str, Counter]] = {}
        self.latency = Histogram(
            "realtime_frame_seconds",
            "From a frame's last byte read to its answer handed to the socket.",
            ["app"],
            buckets=_SECONDS,
            registry=registry,
        )
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
        self.tokens = Counter("realtime_tokens", "Tokens asked for.", ["outcome"], registry=registry)
        self.ready = Gauge("realtime_engine_ready", "1 while the engine takes work.", registry=registry)
        self.restarts = Gauge(
            "realtime_engine_restarts", "Times the engine was started again.", registry=registry
        )
        self.engine = Gauge(
            "realtime_engine",
            "What the engine says of itself, by the names in engines/loop.py.",
            ["figure"],
            registry=registry,
        )

    def outcomes(self, app: str) -> dict[str, Counter]:
        """`frames` of one app by outcome: looking a label up takes longer than counting."""
        if app not in self._outcomes:
            self._outcomes[app] = {outcome: self.frames.labels(app, outcome) for outcome in OUTCOMES}
        return self._outcomes[app]

    def ran(self, app: str, lane: str, status: str, seconds: float) -> None:
        """A request to draw over HTTP has ended."""
        self.runs.labels(app, lane, status).inc()
        if status == "200":
            self.run_seconds.labels(app, lane).observe(seconds)

    def render(self) -> bytes:
        return generate_latest(self.registry)
