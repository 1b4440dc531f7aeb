"""The lines a person sees while the server starts."""

import io

from rich.console import Console

from engines.messages import Model, Progress
from realtime.engine import Engine
from realtime.progress import Screen
from realtime.settings import Settings

MODEL = Model("tiny", "sdv1-5", 128, 64, 256, 8, "cpu", "float32", "embedded", False)


def lines(*, terminal: bool = False) -> tuple[Screen, Engine, io.StringIO]:
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=100)
    return Screen(console, url="http://[::1]:8000", model="tiny"), Engine(Settings()), file


def test_on_a_pipe_each_fact_is_a_line():
    screen, engine, file = lines()
    with screen:
        screen.start()
        for done in (0.0, 0.5, 1.0):
            engine.progress = Progress("load", done, 1.0, "unet [fp32]")
            screen.update(engine)
        engine.state, engine.models, engine.progress = "ready", [MODEL], None
        screen.update(engine)
        screen.update(engine)
    said = file.getvalue().splitlines()
    assert said[:2] == ["realtime is at http://[::1]:8000/", "load: unet [fp32]"]
    assert said[2].startswith("ready: tiny (sdv1-5, cpu, float32) after ")
    assert len(said) == 3


def test_an_engine_that_dies_is_told_from_one_that_never_started():
    screen, engine, file = lines()
    with screen:
        engine.state = "restarting"
        screen.update(engine)
        engine.state, engine.models = "ready", [MODEL]
        screen.update(engine)
        engine.state = "restarting"
        screen.update(engine)
    said = file.getvalue().splitlines()
    assert said[0] == "the engine did not start; trying again"
    assert said[2] == "the engine died; restarting it"


def test_on_a_terminal_a_bar_shows_what_is_loading_and_goes():
    screen, engine, file = lines(terminal=True)
    with screen:
        screen.start()
        engine.progress = Progress("load", 1.0, 2.0, "unet")
        screen.update(engine)
        engine.state, engine.models, engine.progress = "ready", [MODEL], None
        screen.update(engine)
    assert "load: unet" in file.getvalue()
    assert "ready: tiny" in file.getvalue()
