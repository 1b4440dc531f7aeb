"""The doctor's findings. It changes nothing and imports nothing heavy."""

import importlib.metadata
import socket
from pathlib import Path

import pytest
from rich.console import Console

from realtime import doctor
from realtime.settings import Settings


def findings(checks: str, settings: Settings) -> dict[str, doctor.Finding]:
    return {finding.subject: finding for finding in getattr(doctor, checks)(settings)}


def test_the_machine_is_described():
    found = findings("_machine", Settings())
    assert "Python" in found["realtime"].text
    assert "core" in found["processor"].text


def test_missing_packages_are_bad_and_say_how_to_get_them(monkeypatch: pytest.MonkeyPatch):
    def nothing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", nothing)
    found = findings("_packages", Settings()) | findings("_torch", Settings())
    assert {finding.level for finding in found.values()} == {"bad"}
    assert "pip install" in found["torch"].text


def test_a_broken_torch_is_bad_and_says_why(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "PROBE", "raise ImportError('libcudnn.so.9: cannot open')")
    assert "libcudnn" in findings("_torch", Settings())["torch"].text


def test_an_absent_gpu_that_is_asked_for_is_bad(monkeypatch: pytest.MonkeyPatch):
    probe = 'print(\'{"version": "9", "cuda": [], "mps": false, "threads": 1}\')'
    monkeypatch.setattr(doctor, "PROBE", probe)
    assert findings("_torch", Settings(device="cuda"))["device"].level == "bad"
    assert findings("_torch", Settings(device="auto"))["device"].level == "note"


@pytest.mark.parametrize(("backend", "level"), [("auto", "note"), ("tensorrt", "bad")])
def test_what_tensorrt_lacks_is_said_and_bad_for_who_asks_for_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, backend: str, level: str
):
    there = {"torch-tensorrt": "2.13.0"}
    monkeypatch.setattr(doctor, "_version", there.get)
    settings = Settings(state_dir=tmp_path, backend=backend)
    found = findings("_backend", settings)["TensorRT"]
    assert found.level == level
    assert "not installed: tensorrt;" in found.text
    there["tensorrt"] = "11.0.0"
    monkeypatch.setattr(doctor, "TENSORRT_PROBE", "print('a banner\\n{\"cuda\": true}')")
    assert findings("_backend", settings)["TensorRT"] == doctor.Finding(
        "ok", "TensorRT", "torch-tensorrt 2.13.0, TensorRT 11.0.0"
    )


@pytest.mark.proc
@pytest.mark.parametrize(("backend", "level"), [("auto", "note"), ("tensorrt", "bad")])
@pytest.mark.parametrize(
    ("library", "said"),
    [("raise OSError('libnvinfer.so.10: cannot open')", "libnvinfer.so.10"), ("", "no CUDA device")],
)
def test_a_tensorrt_that_is_installed_and_of_no_use_is_not_fine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, backend: str, level: str, library: str, said: str
):
    (tmp_path / "torch.py").write_text("class cuda:\n    is_available = staticmethod(bool)\n")
    (tmp_path / "torch_tensorrt.py").write_text(library)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(doctor, "_version", lambda name: "2.13.0")
    found = findings("_backend", Settings(state_dir=tmp_path, backend=backend))["TensorRT"]
    assert found.level == level
    assert said in found.text


def test_brackets_of_an_extra_survive_the_table(monkeypatch: pytest.MonkeyPatch):
    text = "pip install 'realtime-lcm[tensorrt]'"
    monkeypatch.setattr(doctor, "examine", lambda _: [doctor.Finding("note", "TensorRT", text)])
    console = Console(record=True, width=120)
    doctor.run(Settings(), console)
    assert text in console.export_text()


def test_no_compiler_is_noted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    found = findings("_backend", Settings(state_dir=tmp_path))["compiler"]
    assert found.level == "note"
    assert "eager serves" in found.text


def test_kept_builds_are_counted_and_must_be_ours_alone(tmp_path: Path):
    settings = Settings(state_dir=tmp_path)
    assert findings("_backend", settings)["builds"].level == "note"
    (tmp_path / "builds").mkdir(mode=0o700)
    (tmp_path / "builds" / "a.built").write_bytes(bytes(2_000_000))
    assert findings("_backend", settings)["builds"].text == "1 kept, 2.0 MB"
    (tmp_path / "builds").chmod(0o777)
    assert findings("_backend", settings)["builds"].level == "bad"


def test_a_state_directory_that_cannot_be_written_is_bad(tmp_path: Path):
    (tmp_path / "file").write_text("")
    assert findings("_state", Settings(state_dir=tmp_path / "new" / "state"))["state"].level == "ok"
    assert findings("_state", Settings(state_dir=tmp_path / "file" / "state"))["state"].level == "bad"
    assert not (tmp_path / "new").exists()


@pytest.mark.net
def test_a_busy_port_and_an_open_public_address_are_bad():
    with socket.create_server(("127.0.0.1", 0)) as other:
        assert findings("_address", Settings(port=other.getsockname()[1]))["address"].level == "bad"
    assert findings("_address", Settings(port=0))["address"].level == "ok"
    assert findings("_address", Settings(host="0.0.0.0", port=0))["address"].level == "bad"


@pytest.mark.net
def test_a_key_that_is_none_is_bad_and_ends_nothing(tmp_path: Path):
    found = findings("_address", Settings(port=0, keys=["abc"], state_dir=tmp_path))
    assert found["keys"].level == "bad"
    assert "id:secret" in found["keys"].text


def model(name: str) -> doctor.Finding:
    return findings("_model", Settings(model=name))["model"]


def test_a_folder_that_serve_would_refuse_is_bad(tmp_path: Path):
    assert model(str(tmp_path)).level == "bad"
    assert "model_index.json" in model(str(tmp_path)).text
    (tmp_path / "model_index.json").write_text("{}")
    assert model(str(tmp_path)).level == "ok"
    assert model(str(tmp_path / "model_index.json")).level == "bad"


@pytest.mark.parametrize("name", ["/no/such/model", "./model", "../model", "~/no-such-model", ".", "nothing"])
def test_a_path_that_leads_nowhere_is_no_hub_id(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(tmp_path / "inside")
    assert model(name).level == "bad"
    assert "downloaded" not in model(name).text


def test_a_hub_id_is_noted():
    assert model("SimianLuo/LCM_Dreamshaper_v7").level == "note"
    assert model("fake:base_ms=1").text.startswith("fake")


def test_storage_that_is_not_there_yet_is_not_made(tmp_path: Path):
    assert findings("_storage", Settings(state_dir=tmp_path / "new"))["storage"].level == "ok"
    assert not (tmp_path / "new").exists()


def test_half_a_tls_configuration_is_bad(tmp_path: Path):
    assert findings("_tls", Settings(tls_cert=tmp_path / "cert.pem"))["TLS"].level == "bad"


def test_the_exit_status_says_whether_anything_is_bad(monkeypatch: pytest.MonkeyPatch):
    console = Console(width=100, record=True)
    for level, status in (("ok", 0), ("note", 0), ("bad", 1)):
        monkeypatch.setattr(
            doctor, "examine", lambda _, level=level: [doctor.Finding(level, "thing", "text")]
        )
        assert doctor.run(Settings(), console) == status
    assert "thing" in console.export_text()
