"""The `realtime` command: what it says when something is wrong, and the two lines a person waits for."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from realtime.keys import Keys
from realtime.tokens import Tokens, load_secret
from tests.servers import Server, serve

pytestmark = pytest.mark.proc


def run(*words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RT_")}
    environment |= {f"RT_{name.upper()}": value for name, value in settings.items()} | {"COLUMNS": "200"}
    command = [sys.executable, "-m", "realtime.cli", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_an_open_server_on_a_public_address_is_refused_and_says_what_to_do(tmp_path: Path, host: str):
    answer = run("serve", "--host", host, "--model", "fake", state_dir=str(tmp_path))
    assert answer.returncode == 2
    assert "without API keys" in answer.stderr
    assert "RT_KEYS" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_busy_port_is_said(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        answer = run("serve", "--port", str(port), "--model", "fake", state_dir=str(tmp_path))
    assert answer.returncode == 2
    assert f"port {port}" in answer.stderr
    assert "--port" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_model_that_is_not_there_ends_the_server_and_is_named_once(tmp_path: Path):
    missing = tmp_path / "no-such-model"
    answer = run("serve", "--port", "0", "--model", str(missing), state_dir=str(tmp_path))
    assert answer.returncode == 1
    lines = [line for line in answer.stderr.splitlines() if "server.listening" not in line]
    assert "".join(lines).count(str(missing)) == 1
    assert "trying again" not in answer.stdout
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"potr": "1"}, "RT_POTR"),
        ({"threads": "x"}, "RT_THREADS"),
        ({"device": "banana"}, "RT_DEVICE"),
        ({"tls_cert": "/nothing.pem"}, "tls_key"),
        ({"keys": '["no-colon"]'}, "id:secret"),
        ({"log_level": "loud"}, "log_level"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, settings: dict[str, str], said: str):
    answer = run("serve", "--port", "0", "--model", "fake", **{"state_dir": str(tmp_path), **settings})
    assert answer.returncode != 0
    assert said in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_config_file_sets_and_the_command_line_wins(tmp_path: Path):
    config = tmp_path / "realtime.toml"
    config.write_text('host = "0.0.0.0"\nmodel = "fake"\n')
    answer = run("serve", "--config", str(config), state_dir=str(tmp_path))
    assert "0.0.0.0" in answer.stderr
    config.write_text("[")
    for wrong in (config, tmp_path):
        answer = run("serve", "--config", str(wrong))
        assert answer.returncode == 2
        assert str(wrong) in answer.stderr
        assert "Traceback" not in answer.stderr


def test_the_server_says_where_it_is_and_when_it_is_ready(server: Server):
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", server.url)


@pytest.mark.net
def test_a_server_on_the_ipv6_loopback_is_served():
    with serve(host="::1") as server:
        assert server.url.startswith("http://[::1]:")
        assert server.get("/livez")[0] == 200


def test_a_token_of_the_command_opens_its_apps(tmp_path: Path):
    answer = run("token", "--app", "fal-ai/lcm", "--seconds", "60", state_dir=str(tmp_path))
    assert answer.returncode == 0
    tokens = Tokens(load_secret(tmp_path), Keys([]))
    assert tokens.check(answer.stdout.strip(), "fal-ai/lcm") == ""


def test_a_token_on_a_keyed_server_names_its_key(tmp_path: Path):
    settings = {"state_dir": str(tmp_path), "keys": '["id:secret"]'}
    assert "--key" in run("token", "--app", "lcm", **settings).stderr
    answer = run("token", "--app", "lcm", "--key", "id", **settings)
    assert (
        Tokens(load_secret(tmp_path), Keys(["id:secret"])).check(answer.stdout.strip(), "fal-ai/lcm") == "id"
    )


def test_a_token_for_an_app_that_is_not_served_is_minted_with_a_warning(tmp_path: Path):
    answer = run("token", "--app", "nonsense", "--app", "lcm", state_dir=str(tmp_path))
    assert answer.returncode == 0
    assert Tokens(load_secret(tmp_path), Keys([])).check(answer.stdout.strip(), "me/nonsense") == ""
    (line,) = answer.stderr.splitlines()
    assert line.startswith("realtime: nonsense is not served here, fal-ai/lcm")


def test_the_doctor_is_asked_about_another_model_and_device(tmp_path: Path):
    words = ("doctor", "--model", str(tmp_path), "--port", "0")
    answer = run(*words, state_dir=str(tmp_path / "state"))
    assert answer.returncode == 1
    assert "model_index.json" in answer.stdout
    assert "--device" in run("doctor", "--device", "banana", state_dir=str(tmp_path / "state")).stderr


def test_keys_that_cannot_be_looked_up_are_no_empty_list(tmp_path: Path):
    (tmp_path / "file").write_text("")
    for words in (["list"], ["create"], ["revoke", "rk_1"]):
        answer = run("key", *words, state_dir=str(tmp_path / "file" / "state"))
        assert answer.returncode == 2
        assert not answer.stdout
        (line,) = answer.stderr.splitlines()
        assert f"{tmp_path}/file/state cannot be used" in line


def test_a_state_directory_that_cannot_be_written_is_said(tmp_path: Path):
    (tmp_path / "file").write_text("")
    answer = run("token", "--app", "lcm", state_dir=str(tmp_path / "file" / "state"))
    assert answer.returncode == 2
    assert "Traceback" not in answer.stderr
    answer = run("serve", "--model", "fake", "--port", "0", state_dir=str(tmp_path / "file" / "state"))
    assert answer.returncode == 2
    assert "Traceback" not in answer.stderr
