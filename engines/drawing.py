"""A request on its way through the step loop, and the honest account of where its time went."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from engines.messages import Done, Picture, Submit
from engines.pipeline import Row


@dataclass(slots=True, eq=False)
class Drawing:
    """Seconds, and stamps of `time.monotonic()`. The pool's threads add pictures; the rest is the loop's."""

    submit: Submit
    inputs: Any = None
    prepared_s: float = 0.0  # on the pool, before its turn: decoding its image and mask, and what else
    prepared: tuple[str, ...] = ()  # stages of its rows that were worked on there
    ahead: bool = False  # its rows were made there
    begun: float = 0.0  # stamp: it was admitted
    rows: list[Row] = field(default_factory=list)
    calls: list[dict[str, float]] = field(default_factory=list)  # UNet calls it had a row in
    vae_s: float = 0.0
    decoded: float = 0.0  # stamp: the last of its pictures left the VAE
    encode_s: float = 0.0
    pictures: dict[int, Picture] = field(default_factory=dict)
    previewing: set[int] = field(default_factory=set)  # images of which a preview is being made
    _over: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def close(self) -> bool:
        """Whoever gets True, once, owes the answer, or has been told that nobody wants one."""
        with self._lock:
            over, self._over = self._over, True
            return not over

    @property
    def over(self) -> bool:
        return self._over

    def stepped(self, call: dict[str, float]) -> None:
        """`seconds` of a call and its `batch`; every drawing in it may have the same map."""
        self.calls.append(call)

    def left_vae(self, rows: Sequence[Row], group_s: float, now: float) -> None:
        """These of its rows were decoded in a group that took `group_s`, with whomever else."""
        own = sum(row.timings.get("vae", group_s) for row in rows)
        self.vae_s += min(own, group_s)
        self.decoded = now

    def add(self, image: int, picture: Picture, seconds: float) -> bool:
        """A picture is written; whether it was the last."""
        with self._lock:
            self.encode_s += seconds
            self.pictures[image] = picture
            return len(self.pictures) == self.submit.job.count

    @property
    def size(self) -> int:
        """Bytes of the pictures written so far."""
        with self._lock:
            return sum(len(picture.data) for picture in self.pictures.values())

    def done(self, drawn: tuple[int, int], now: float) -> Done:
        """The answer. `drawn`: (width, height) of the UNet's picture."""
        return Done(
            ticket=self.submit.ticket,
            pictures=[self.pictures[image] for image in sorted(self.pictures)],
            seed=self.submit.job.seed,
            drawn=list(drawn),
            timings=self.timings(),
            finished=now,
            warnings=list(dict.fromkeys(warning for row in self.rows for warning in row.warnings)),
            safety_checked=all("safety" in row.timings for row in self.rows),
        )

    def timings(self) -> dict[str, Any]:
        """`inference` is what the model took for it; calls and groups shared with others count in full."""
        once = {  # the pictures of one request share their text and input
            stage: max(row.timings.get(stage, 0.0) for row in self.rows) for stage in ("text", "vae_encode")
        }
        calls = sum(call["seconds"] for call in self.calls)
        inputs = self.prepared_s - sum(once[stage] for stage in self.prepared)
        return {
            "queue": max(0.0, self.begun - self.submit.received - self.prepared_s),
            "inputs": max(0.0, inputs),
            **once,
            "steps": self.calls,
            "vae": self.vae_s,
            "encode": self.encode_s,
            "inference": sum(once.values()) + calls + self.vae_s,
        }


def again(done: Done, submit: Submit, now: float) -> Done:
    """The answer to a frame like the one `done` has answered; no time went into it but that of its way."""
    nothing: dict[str, Any] = {stage: [] if stage == "steps" else 0.0 for stage in done.timings}
    timings = nothing | {"queue": max(0.0, now - submit.received), "cached": True}
    return replace(done, ticket=submit.ticket, timings=timings, finished=now)
