"""The ways of `bench cpu` run at all, each in a process of its own."""

import pytest

from bench.cpu import _start

pytestmark = pytest.mark.proc


@pytest.mark.parametrize("kept", [True, False])
def test_a_way_starts_in_the_environment_that_serves_or_in_a_bare_one(kept):
    with _start(["os"], kept) as process:
        assert process.wait(15) == 0
