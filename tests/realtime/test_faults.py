"""Our own bugs: a planted fault in an app is one INTERNAL_ERROR for its frame that gives nothing away."""

from pathlib import Path

import pytest

from engines.messages import Done, Job
from realtime import gateway
from realtime.apps import find
from realtime.apps.app import App, Request
from realtime.apps.plan import Wish
from tests.realtime.inside import serving
from tests.realtime.talk import ask, opened

pytestmark = [pytest.mark.net, pytest.mark.proc]

SECRET = "a detail that is nobody's business"


class Faulty(Request):
    prompt: str = ""

    def check(self) -> None:
        if self.prompt == "parse":
            raise RuntimeError(SECRET)

    def wish(self) -> Wish:
        if self.prompt == "plan":
            raise RuntimeError(SECRET)
        lcm = find("fal-ai/lcm")
        assert lcm is not None
        return lcm.parse({"prompt": self.prompt}).wish()


def result(request: Request, job: Job, done: Done) -> dict[str, object]:
    if job.prompt == "answer":
        raise RuntimeError(SECRET)
    return {}


@pytest.mark.parametrize("place", ["parse", "plan", "answer"])
async def test_a_bug_in_an_app_costs_its_frame_and_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], place: str
):
    app = App("test/faulty", "faulty", Faulty, result)
    monkeypatch.setattr(gateway, "find", {"test/faulty": app}.get)
    async with serving(tmp_path) as server, opened(server, "/test/faulty/realtime") as ws:
        error = await ask(ws, {"prompt": place, "request_id": "r"})
        assert error["error"] == "INTERNAL_ERROR"
        assert error["request_id"] == "r"
        assert SECRET not in str(error)
        assert "images" in await ask(ws, {"prompt": "a"})
