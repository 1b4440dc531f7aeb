"""`model` of fal-ai/lcm names a kind: a folder of that kind serves it, and the other one is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.engines import tiny
from tests.servers import serve

pytestmark = [pytest.mark.net, pytest.mark.proc, pytest.mark.timeout(150)]  # torch is imported twice


@pytest.mark.parametrize(("xl", "served", "other"), [(True, "sdxl", "sdv1-5"), (False, "sdv1-5", "sdxl")])
def test_a_folder_serves_its_own_kind_and_refuses_the_other(
    tmp_path: Path, xl: bool, served: str, other: str
) -> None:
    folder = tiny.build(tmp_path, xl=xl)
    wish = {"prompt": "the sea", "seed": 3, "image_size": {"width": 64, "height": 64}, "sync_mode": True}
    with serve(model=str(folder), device="cpu", max_batch=1, ready=False) as server:
        server.wait_ready(120)
        status, _, body = server.ask("POST", "/fal-ai/lcm", wish | {"model": served})
        assert status == 200, body
        answer = json.loads(body)
        assert answer["images"][0]["url"].startswith("data:image/jpeg;base64,")
        assert (answer["images"][0]["width"], answer["num_inference_steps"]) == (64, 4)
        status, _, body = server.ask("POST", "/fal-ai/lcm", wish | {"model": other})
        (problem,) = json.loads(body)["detail"]
        assert (status, problem["loc"], problem["type"]) == (422, ["body", "model"], "unsupported")
        assert f"no {other} model is loaded here" in problem["msg"]
        assert served in problem["msg"]
