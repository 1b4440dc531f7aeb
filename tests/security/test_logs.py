"""No secret and no prompt in a log line, whatever happens."""

import json
import logging
import subprocess
import sys

import pytest

from realtime.log import Redact, redact
from tests.realtime.talk import ask, eventually, opened, raw, receive, send
from tests.servers import serve

KEY = "canary:canary-key-secret"
PROMPT = "canary-prompt"


@pytest.mark.net
@pytest.mark.proc
async def test_tokens_keys_and_prompts_are_in_no_log_line():
    with serve(keys=[KEY], log_level="debug") as server:
        headers = {"Authorization": f"Key {KEY}"}
        body = {"allowed_apps": ["lcm"], "token_expiration": 100}
        token = json.loads(server.ask("POST", "/tokens/", body, headers)[2])
        async with opened(server, fal_jwt_token=token) as ws:
            assert "images" in await ask(ws, {"prompt": PROMPT})
            await ask(ws, {"prompt": PROMPT, "num_inference_steps": 99})
            await ask(ws, {"prompt": f"!fault {PROMPT}"})
            await send(ws, {"prompt": f"!crash {PROMPT}"})
            assert (await receive(ws))["type"] == "x-fal-error"
        async with opened(server, fal_jwt_token=token + "canary-forged") as ws:
            await receive(ws)
        server.ask("POST", f"/tokens/?fal_jwt_token={token}", {"allowed_apps": [PROMPT]}, headers)
        server.ask("GET", f"/nothing?fal_jwt_token={token}")
        raw(server, f"/fal-ai/lcm/realtime?fal_jwt_token={token}").close()
        with pytest.raises(AssertionError):
            raw(server, "/\x00 canary-garbage").close()
        assert server.terminate() == 0
        lines = "".join(server.log)
    assert "engine.lost" in lines, "the log was read"
    assert "session.open" in lines
    assert "canary" not in lines
    assert token[:20] not in lines


@pytest.mark.net
@pytest.mark.proc
async def test_what_is_refused_leaves_a_line_of_why_and_nothing_of_what():
    with serve(keys=[KEY], proxy_key=KEY) as server:
        headers = {"Authorization": f"Key {KEY}"}
        wrong = {"prompt": PROMPT, "num_inference_steps": 99}
        statuses = {
            server.ask("POST", "/fal-ai/lcm", wrong, headers)[0],
            server.ask("POST", "/fal-ai/lcm", wrong)[0],
            server.ask("POST", "/fal-ai/lcm", wrong, {**headers, "Sec-Fetch-Site": "cross-site"})[0],
            server.ask("DELETE", "/fal-ai/lcm", None, headers)[0],
            server.ask("POST", "/canary/canary", wrong, headers)[0],
        }
        for _ in range(200):
            server.ask("GET", f"/canary?fal_jwt_token={KEY}", None, headers)
        server.ask("POST", "/__h/queue.fal.run/fal-ai/lcm", {"prompt": f"!fault {PROMPT}"}, headers)
        async with opened(server, headers=headers) as ws:
            await ask(ws, wrong | {"request_id": "id-1"})
            await ask(ws, {"prompt": f"!fault {PROMPT}", "request_id": f"a {PROMPT}"})
            await ask(ws, "{canary")
        async with opened(server, fal_jwt_token="canary-forged") as ws:
            await receive(ws)
        await eventually(lambda: server.metric("realtime_runs_total", lane="queue") == 1)
        assert server.terminate() == 0
        log = "".join(server.log)
    lines = [json.loads(line) for line in log.splitlines()]

    assert statuses == {422, 401, 403, 405, 404}
    assert "canary" not in log
    for status in statuses:
        assert [line for line in lines if (line["event"], line.get("status")) == ("http.refused", status)]
    (listening,) = [line for line in lines if line["event"] == "server.listening"]
    assert listening["model"] == "fake"
    assert listening["url"] == server.url
    assert {"keys", "proxy_key", "port", "model"} <= set(listening["settings"])
    assert "token_s" not in listening["settings"]
    drawn = next(line for line in lines if line.get("status") == 422)
    assert drawn["app"] == "fal-ai/lcm"
    assert drawn["kind"] == "validation_error"
    assert drawn["request_id"]
    assert drawn["seconds"] >= 0
    frames = [line for line in lines if line["event"].startswith("frame.")]
    assert [line["kind"] for line in frames] == ["validation_error", "validation_error", "bad_request"]
    assert [line.get("request_id") for line in frames] == ["id-1", None, None]
    assert [line["kind"] for line in lines if line["event"] == "socket.refused"] == ["unauthorized"]
    assert [line["kind"] for line in lines if line["event"] == "queue.refused"] == ["validation_error"]
    assert not any(line.get("status") == 503 for line in lines), "to start is no failure"
    assert sum(line.get("status") == 404 for line in lines) < 60, "a flood fills no disk"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (
            '"WebSocket /lcm/realtime?fal_jwt_token=abc.def&x=1" [accepted]',
            '"WebSocket /lcm/realtime[redacted]" [accepted]',
        ),
        ("Authorization: Key id:secret here", "Authorization: [redacted] here"),
        ("token eyJhbGciOi.eyJhdWQi.sig-_x end", "token [redacted] end"),
        ("nothing to hide", "nothing to hide"),
    ],
)
def test_secrets_are_cut_out_of_a_line(text: str, kept: str):
    assert redact(text) == kept


@pytest.mark.parametrize("terminal", [True, False])
def test_a_traceback_shows_no_variables(terminal: bool):
    code = f"""
import sys
sys.stderr.isatty = lambda: {terminal}
from realtime import log
log.configure("info")
def fail(prompt):
    raise RuntimeError("a bug")
try:
    fail("canary-prompt"[::-1][::-1])
except RuntimeError:
    log.get("x").exception("frame.prepare", token="eyJhbGciOi.eyJhdWQi.sig")
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "a bug" in answer.stderr
    assert "frame.prepare" in answer.stderr
    assert "eyJ" not in answer.stderr
    assert "canary-prompt\n" not in answer.stderr
    assert "prompt = " not in answer.stderr


def test_noise_that_any_client_can_cause_is_dropped():
    record = logging.LogRecord("uvicorn.error", 40, "", 0, "Invalid HTTP request received.", None, None)
    assert not Redact().filter(record)
    record = logging.LogRecord("uvicorn.error", 40, "", 0, "GET %s", ("/x?fal_jwt_token=secret",), None)
    assert Redact().filter(record)
    assert record.getMessage() == "GET /x[redacted]"
