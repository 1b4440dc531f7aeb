from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.storage import Desk


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A storage with two keys, `me:secret` and `you:secret`."""
    made = Desk(tmp_path)
    yield made
    made.close()
