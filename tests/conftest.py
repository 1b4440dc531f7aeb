"""Servers that many tests share. A test that breaks or reconfigures one starts its own with `serve`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.servers import KEY, Server, serve

# A machine that stalls for a second is no fault of a test's: what is too slow is found in bench/.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """An open server on loopback with the fake engine."""
    with serve() as running:
        yield running


@pytest.fixture(scope="session")
def keyed_server() -> Iterator[Server]:
    """The same with an API key, `tests.servers.KEY`."""
    with serve(keys=[KEY]) as running:
        yield running


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What talks to processes gets a second try: a shared machine may stall for longer than any patience. The
    last line counts them, and they are named above it: one that is there often is a fault of ours."""
    for item in items:
        if any(item.iter_markers("proc")) or any(item.iter_markers("net")):
            item.add_marker(pytest.mark.flaky(reruns=1))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What a machine without Node.js or its packages does not test is not only a letter in a row of dots."""
    skipped = [str(report.longrepr).lower() for report in terminalreporter.stats.get("skipped", [])]
    count = sum("no node" in reason or "no typescript" in reason for reason in skipped)
    if count:
        line = f"NO NODE: {count} tests of JavaScript were skipped; install Node.js 20 and run `make test`"
        terminalreporter.write_line(line, red=True, bold=True)
