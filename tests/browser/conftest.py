"""One browser and one server for all tests of a module; a fresh tab, with its own storage, for each test."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.browser import chrome
from tests.browser.chrome import Chrome, Page
from tests.servers import Server, serve

NO_BROWSER = "NO BROWSER: tests/browser is skipped; `python -m tests.browser.install` tries to get one"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser() -> AsyncIterator[Chrome]:
    if chrome.find() is None:
        pytest.skip(NO_BROWSER)
    async with chrome.launch() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Chrome) -> AsyncIterator[Page]:
    """A tab. Console errors fail the test, but for what it says is `expected`."""
    tab = await browser.page()
    yield tab
    await tab.close()
    surprises = [problem for problem in tab.problems if not re.search(tab.expected or "$^", problem)]
    assert surprises == []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    if any(NO_BROWSER in str(report.longrepr) for report in skipped):
        terminalreporter.write_line(NO_BROWSER, red=True, bold=True)
