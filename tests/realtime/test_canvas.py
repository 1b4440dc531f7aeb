"""What the live canvas is told about the model it draws with."""

import json

from engines.embedded import WEIGHTS
from realtime.canvas import info
from realtime.engine import Engine
from realtime.settings import Settings


def test_the_canvas_offers_what_the_shipped_weights_were_found_good_at():
    told = info(Engine(Settings()), model="embedded", draining=False)["suggestions"]
    assert told == json.loads((WEIGHTS / "suggestions.json").read_text())
    assert len(told["prompts"]) >= 8
    assert told["max_good_steps"] in range(1, 5)


def test_another_model_gets_no_suggestions_of_the_embedded_one():
    assert info(Engine(Settings()), model="someone/elses", draining=False)["suggestions"] == {}
