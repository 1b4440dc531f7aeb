"""Settings: what is accepted, and that what is not is named with where it was set, in one line."""

import os
from pathlib import Path

import pytest

from realtime.settings import load


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("RT_")]:
        monkeypatch.delenv(name)


def refusal(config: Path | None = None, **given: object) -> str:
    with pytest.raises(ValueError, match=r"\S") as caught:
        load(config, **given)
    said = str(caught.value)
    assert "\n" not in said
    return said


@pytest.mark.parametrize("device", ["auto", "cpu", "mps", "cuda", "cuda:1", "cuda:12"])
def test_devices_that_there_can_be_are_taken(device: str):
    assert load(device=device).device == device


@pytest.mark.parametrize("device", ["banana", "cuda:", "cuda:x", "cuda:1\n", "CPU", ""])
def test_a_device_that_there_cannot_be_is_refused(device: str):
    assert "--device" in refusal(device=device)


@pytest.mark.parametrize("dtype", ["auto", "fast", "float32", "float16", "bfloat16"])
def test_a_precision_that_is_known_is_taken(dtype: str):
    assert load(dtype=dtype).dtype == dtype


def test_a_precision_nobody_knows_is_refused_whatever_the_model():
    said = refusal(model="fake", dtype="banana")
    assert "--dtype" in said
    assert "fast" in said


def test_a_wrong_value_is_named_with_where_it_was_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    file = tmp_path / "realtime.toml"
    file.write_text('threads = "many"\nport = 99999\n')
    monkeypatch.setenv("RT_MAX_BATCH", "17")
    monkeypatch.setenv("RT_PORT", "1")
    said = refusal(file, engines=65)
    assert f"threads in {file}: " in said
    assert "RT_MAX_BATCH: " in said
    assert "--engines: " in said
    assert "port" not in said, "the environment wins"


def test_a_list_that_is_no_json_says_what_is_wanted_and_not_what_was_given(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RT_KEYS", "canary:secret")
    said = refusal()
    assert "RT_KEYS: " in said
    assert "JSON" in said
    assert '["' in said, "an example"
    assert "canary" not in said


@pytest.mark.parametrize("given", ['["a:b"]', "[]", '["a:b", "c:d"]'])
def test_a_list_of_the_environment_is_json(monkeypatch: pytest.MonkeyPatch, given: str):
    monkeypatch.setenv("RT_KEYS", given)
    assert load().keys == [key for key in ("a:b", "c:d") if key in given]


def test_networks_of_the_environment_are_json(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RT_TRUSTED_PROXIES", '["127.0.0.1/32", "::1/128"]')
    assert [str(network) for network in load().trusted_proxies] == ["127.0.0.1/32", "::1/128"]


def test_a_misspelt_variable_is_told_its_neighbour(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RT_PROT", "1")
    said = refusal()
    assert "RT_PROT" in said
    assert "did you mean RT_PORT?" in said
    assert len(said) < 200


def test_a_variable_like_none_that_is_known_says_where_they_are(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RT_XYZZY", "1")
    assert "settings.py" in refusal()


def test_a_misspelt_name_in_a_file_is_told_its_neighbour(tmp_path: Path):
    file = tmp_path / "realtime.toml"
    file.write_text("prot = 1\n")
    said = refusal(file)
    assert f"prot in {file}" in said
    assert "did you mean port?" in said


def test_a_file_that_is_no_toml_is_named(tmp_path: Path):
    file = tmp_path / "realtime.toml"
    for wrong in (b"[", b"\xff\xfe"):
        file.write_bytes(wrong)
        assert str(file) in refusal(file)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path):
    assert f"{tmp_path} cannot be read" in refusal(tmp_path)
    assert "cannot be read" in refusal(tmp_path / "nothing.toml")
