"""What only fal-client for Python does: its own variable for the host, keys on the handshake."""

from __future__ import annotations

import pytest

from tests.contract.clients import PYTHON, Client, Start, Version, every
from tests.contract.frames import draw

pytestmark = [pytest.mark.net, pytest.mark.proc]


@every(PYTHON, ways=["run host"])
def test_fal_run_host_and_a_key_on_the_handshake_need_no_token_and_no_patch(client: Client) -> None:
    live = client.connect(use_jwt=False)
    assert draw(live, seed=4)["seed"] == 4


@pytest.mark.parametrize("way", ["names", "override", "run host"])
@pytest.mark.parametrize("version", PYTHON, ids=str)
def test_a_wrong_key_on_the_handshake_is_told_so_in_a_message(
    version: Version, way: str, start: Start
) -> None:
    """Not by an HTTP status: that would be `InvalidStatus`, and wedge JavaScript clients."""
    client = start(version, way, key="kid:wrong")
    live = client.connect(use_jwt=False)
    assert live.result() == {"status": "error", "error": "Unauthorized"}
    client.wait("closed", live=live.name)


@every(PYTHON)
def test_a_connection_of_python_takes_every_kind_of_id(client: Client) -> None:
    for app in ("fal-ai/lcm", "110602490/lcm", "fal-ai/fast-lcm-diffusion"):
        live = client.connect(app)
        assert draw(live, seed=2)["seed"] == 2
        live.close()
