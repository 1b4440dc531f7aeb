"""What the service's own figures say of its start."""

from bench.service import building
from realtime.metrics import Metrics


def told(**stats: float) -> str:
    metrics = Metrics()
    metrics.engine.stats = stats
    return metrics.render().decode()


def test_an_engine_loads_until_it_says_that_nothing_is_left():
    assert building(told()) == 1
    assert building(told(steps=3.0, building=2.0, compiled=4.0)) == 2
    assert building(told(steps=3.0, building=0.0, compiled=6.0)) == 0
    assert building(told(steps=3.0)) == 0, "nothing is compiled where the back end is eager"
