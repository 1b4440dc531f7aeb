"""Fetching from the hub, against a stand-in on loopback that serves the hub's few addresses."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from engines import hub, model
from engines.embedded import WEIGHTS

COMMIT = "0123456789abcdef0123456789abcdef01234567"
pytestmark = pytest.mark.net


class Stand(BaseHTTPRequestHandler):
    """https://huggingface.co/docs/hub/api: repository info, file tree and file contents."""

    folder: Path
    asked: list[str]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        files = {str(f.relative_to(self.folder)): f for f in self.folder.rglob("*") if f.is_file()}
        if path.startswith("/api/models/tiny/model/revision/") or path == "/api/models/tiny/model":
            siblings = [{"rfilename": name} for name in files]
            return self.say(json.dumps({"id": "tiny/model", "sha": COMMIT, "siblings": siblings}).encode())
        if path.startswith("/api/models/tiny/model/tree/"):
            tree = [
                {"type": "file", "path": name, "size": file.stat().st_size, "oid": "0"}
                for name, file in files.items()
            ]
            return self.say(json.dumps(tree).encode())
        name = path.removeprefix(f"/tiny/model/resolve/{COMMIT}/")
        if name not in files:
            return self.send_error(404)
        if self.command == "GET":
            self.asked.append(name)
        return self.say(files[name].read_bytes())

    def say(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args: Any) -> None: ...


@pytest.fixture
def stand(
    folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[type[Stand]]:
    """The hub, serving a copy of a tiny model as "tiny/model"."""
    import huggingface_hub

    class Here(Stand): ...

    Here.folder, Here.asked = Path(shutil.copytree(folder(), tmp_path / "served")), []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Here)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    for name, value in {
        "ENDPOINT": address,
        "HUGGINGFACE_CO_URL_TEMPLATE": address + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    yield Here
    server.shutdown()
    thread.join()
    server.server_close()


def fetched(told: list[Any] | None = None) -> Path:
    patterns = [*(f"{part}/*" for part in model.PARTS), "model_index.json", model.CARD]
    return hub.find("tiny/model", patterns, lambda *report: told.append(report) if told is not None else None)


def test_a_model_is_fetched_with_progress_in_bytes_and_only_once(stand: type[Stand]) -> None:
    (stand.folder / "README.md").write_text("not needed")
    (stand.folder / "unet" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"the same again")
    (stand.folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"and again")
    told: list[tuple[str, float, float, str]] = []
    folder = fetched(told)
    assert (folder / "unet" / "diffusion_pytorch_model.safetensors").is_file()
    assert not {"README.md"} & set(stand.asked)
    assert not [name for name in stand.asked if "fp16" in name or name.endswith(".bin")]
    assert {(stage, text) for stage, _, _, text in told} == {("download", "tiny/model")}
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    assert told[-1][1] <= told[-1][2] <= size
    assert max(done for _, done, _, _ in told) > 0.9 * size

    stand.asked.clear()
    assert fetched() == folder
    assert stand.asked == []


def test_half_precision_files_do_where_there_are_no_others(stand: type[Stand]) -> None:
    plain = stand.folder / "unet" / "diffusion_pytorch_model.safetensors"
    plain.rename(plain.with_name("diffusion_pytorch_model.fp16.safetensors"))
    assert (fetched() / "unet" / "diffusion_pytorch_model.fp16.safetensors").is_file()


def test_a_model_fetched_before_needs_no_network(stand: type[Stand], monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    folder = fetched()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert fetched() == folder


@pytest.mark.parametrize("offline", [False, True])
def test_a_model_that_cannot_be_had_is_refused_in_words(
    stand: type[Stand], monkeypatch: pytest.MonkeyPatch, offline: bool
) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
    with pytest.raises(hub.Unloadable, match="nobody/nothing could not be fetched"):
        hub.find("nobody/nothing", ["*"], lambda *_: None)


def test_a_repository_without_weights_is_refused(stand: type[Stand]) -> None:
    for file in (stand.folder / "unet").glob("*.safetensors"):
        file.unlink()
    with pytest.raises(hub.Unloadable, match="holds no weights"):
        fetched()


def test_the_embedded_model_is_the_one_in_the_repository() -> None:
    if (WEIGHTS / "model_index.json").is_file():
        assert hub.find("embedded", [], lambda *_: None) == WEIGHTS
    else:
        with pytest.raises(hub.Unloadable, match="embedded model is not in this copy"):
            hub.find("embedded", [], lambda *_: None)
