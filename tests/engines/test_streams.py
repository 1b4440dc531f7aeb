"""What the lines of work ask of a device, with a stand-in for CUDA that keeps a diary."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from engines import device as devices
from engines import streams as module
from engines.streams import Streams

CPU = torch.device("cpu")


class Cuda:
    """torch.cuda as far as it is used, and who asked what in which order."""

    def __init__(self) -> None:
        self.diary: list[tuple[Any, ...]] = []
        self.current: Any = "default"
        self.streams = 0

    def Stream(self, device: Any) -> Any:
        self.streams += 1
        return Line(self, f"stream {self.streams}")

    def Event(self, blocking: bool = False, enable_timing: bool = False) -> Any:
        return Event(self, blocking, enable_timing)

    def set_stream(self, stream: Any) -> None:
        self.current = stream

    def synchronize(self, device: Any) -> None:
        self.diary.append(("synchronize",))

    def stream(self, stream: Any) -> Any:
        cuda = self

        class Context:
            def __enter__(self) -> None:
                self.before, cuda.current = cuda.current, stream

            def __exit__(self, *_: object) -> None:
                cuda.current = self.before

        return Context()


class Line:
    def __init__(self, cuda: Cuda, name: str) -> None:
        self.cuda, self.name = cuda, name

    def wait_event(self, event: Any) -> None:
        self.cuda.diary.append((self.name, "waits for", event.on))

    def __repr__(self) -> str:
        return self.name


class Event:
    def __init__(self, cuda: Cuda, blocking: bool, timing: bool) -> None:
        self.cuda, self.blocking, self.timing, self.on = cuda, blocking, timing, None

    def elapsed_time(self, end: Event) -> float:
        assert (self.timing, end.timing) == (True, True)
        assert self.on is end.on is not None, "both lie in one line"
        return 20.0  # ms

    def record(self) -> None:
        self.on = self.cuda.current

    def synchronize(self) -> None:
        self.cuda.diary.append(("asleep until" if self.blocking else "until", str(self.on)))


class Given:
    """A tensor somewhere else."""

    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda

    def record_stream(self, stream: Any) -> None:
        self.cuda.diary.append(("kept for", str(stream)))


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    made = Cuda()
    for name in ("Stream", "Event", "set_stream", "synchronize", "stream"):
        monkeypatch.setattr(torch.cuda, name, getattr(made, name))
    monkeypatch.setattr(module, "_pinned", lambda tensor: made.diary.append(("copy on", str(made.current))))
    return made


def test_where_there_is_one_line_nothing_is_asked_of_cuda(cuda: Cuda) -> None:
    streams = Streams(CPU)
    assert not streams.overlap
    streams.lead()
    streams.beat()
    given = torch.arange(6).reshape(2, 3)
    with streams.entering(), streams.leaving([given], streams.mark()):
        (home,) = streams.home(given)
    assert home.equal(given)
    assert (cuda.diary, cuda.streams, cuda.current) == ([], 0, "default")


def test_metal_is_one_line_and_a_step_ends_when_all_has(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[str] = []
    monkeypatch.setattr(devices, "synchronize", lambda device: waited.append(device.type))
    streams = Streams(torch.device("mps"))
    assert not streams.overlap
    streams.beat()
    assert waited == ["mps"]


def test_the_leading_thread_gets_a_line_of_its_own_once_all_is_done(cuda: Cuda) -> None:
    streams = Streams(torch.device("cuda"))
    assert streams.overlap
    assert cuda.streams == 2
    streams.lead()
    assert cuda.diary == [("synchronize",)]
    assert str(cuda.current) == "stream 3"
    streams.beat()
    assert cuda.diary[1:] == [("until", "stream 3")], "and never for the device"


def test_a_lap_is_waited_for_asleep_by_any_thread_and_tells_the_devices_seconds(cuda: Cuda) -> None:
    streams = Streams(torch.device("cuda"))
    streams.lead()
    lap = streams.lap()
    assert lap is not None
    assert lap.end().wait() == pytest.approx(0.020)
    assert cuda.diary[1:] == [("asleep until", "stream 3")]
    assert Streams(CPU).lap() is None


def test_what_leaves_comes_after_its_mark_and_is_kept_until_it_has_left(cuda: Cuda) -> None:
    streams = Streams(torch.device("cuda"))
    streams.lead()
    mark = streams.mark()
    with streams.leaving([Given(cuda), Given(cuda)], mark):  # type: ignore[list-item]
        assert str(cuda.current) == "stream 2"
        streams.home(torch.zeros(1), torch.zeros(1))
    assert str(cuda.current) == "stream 3"
    assert cuda.diary[1:] == [
        ("asleep until", "stream 3"),  # the thread: in the line others would wait, for a call that just began
        *[("kept for", "stream 2")] * 2,
        *[("copy on", "stream 2")] * 2,
        ("asleep until", "stream 2"),
    ]


def test_what_is_lent_to_steps_is_complete_and_kept_until_they_have_read_it(cuda: Cuda) -> None:
    streams = Streams(torch.device("cuda"))
    streams.lead()
    with streams.entering():
        streams.lent([Given(cuda), Given(cuda)])  # type: ignore[list-item]
    assert cuda.diary[1:] == [("asleep until", "stream 1"), *[("kept for", "stream 3")] * 2]


def test_what_enters_has_its_own_line(cuda: Cuda) -> None:
    streams = Streams(torch.device("cuda"))
    with streams.entering():
        assert str(cuda.current) == "stream 1"
        with streams.leaving(()):
            assert str(cuda.current) == "stream 2"
        assert str(cuda.current) == "stream 1"
    assert cuda.current == "default"
