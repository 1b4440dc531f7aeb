"""The only reader of the environment. Every setting is `RT_<NAME>` or a key of the `--config` TOML file.

Unknown RT_* variables stop the start: a misspelt limit is no limit.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, IPvAnyNetwork, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

KiB, MiB = 1024, 1024 * 1024

T = TypeVar("T")


def _listed(given: Any) -> Any:
    """The environment has text only."""
    if not isinstance(given, str):
        return given
    try:
        return json.loads(given)
    except ValueError:
        raise ValueError("""a list in JSON is wanted, as '["one", "two"]'""") from None


Listed = Annotated[list[T], BeforeValidator(_listed)]


class Settings(BaseSettings):
    # Decoding is _listed's: the library's own says neither which variable it was nor what is wanted.
    model_config = SettingsConfigDict(env_prefix="RT_", frozen=True, extra="forbid", enable_decoding=False)

    # where
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)  # 0 = any free port, printed at start
    public_hosts: Listed[str] = []  # further Host names browsers may come from (Origin check)
    tls_cert: Path | None = None  # PEM; with tls_key, HTTPS and WSS are served
    tls_key: Path | None = None
    state_dir: Path = Path("~/.local/state/realtime").expanduser()  # token secret; survives restarts

    # who
    keys: Listed[str] = []  # API keys "id:secret"; without any, only loopback is served, openly
    token_s: int = Field(120, ge=10, le=3600)  # when a token request names none

    # what one key may use; 0 is no limit. `realtime key create` can give a key limits of its own
    key_sockets: int = Field(0, ge=0)  # open at once
    key_frames_s: float = Field(0, ge=0)  # frames and runs per second
    key_queued: int = Field(1000, ge=0)  # requests waiting in the queue
    key_stored_bytes: int = Field(10 * 1024 * MiB, ge=0)  # files and kept pictures together; then 507
    key_upload_bytes_min: int = Field(0, ge=0)  # per minute, judged where an upload begins

    # engine
    model: str = "embedded"  # folder, hub id, "embedded", or "fake" (a timing model, no torch)
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")  # cuda:1 is the second GPU
    # auto: float32 on a CPU, half precision on a GPU; fast: bfloat16 on a CPU that is clearly quicker with it
    dtype: Literal["auto", "fast", "float32", "float16", "bfloat16"] = "auto"
    engines: int = Field(1, ge=1, le=64)  # processes; with device=cuda one on each GPU, else all on `device`
    threads: int = Field(1, ge=1)  # intra-op; on 2 cores the other belongs to the gateway and JPEG
    max_batch: int = Field(0, ge=0, le=16)  # slots of one UNet call; 0 = by device (CPU 4, GPU 16)
    deterministic: bool = False  # one bucket always: byte-identical pictures whatever the load
    backend: Literal["auto", "eager", "inductor", "tensorrt"] = "auto"  # auto: inductor on CUDA, else eager
    quick_start: bool = False  # inductor compiles blocks before the first picture, the rest beside traffic
    search: bool = False  # cuDNN times its algorithms at the start; last bits differ from start to start
    graphs: Literal["auto", "on", "off"] = "auto"  # record CUDA graphs; auto: on CUDA, but not of tensorrt
    compile_mode: Literal["default", "max-autotune-no-cudagraphs"] = "default"  # the second takes far longer
    # auto: what the model's folder has; both: for live frames a tiny one too, downloaded if it is not there
    vae: Literal["auto", "tiny", "full", "both"] = "auto"
    lora: str = ""  # LCM-LoRA for a base model: folder, file or hub id; "" = its own, else the published one
    cache_bytes: int = 256 * MiB  # prompt embeddings, decoded pictures, init latents together
    target_s: float = Field(0.5, gt=0)  # deadline of a live frame; orders work and bounds batches
    heartbeat_s: float = 2.0  # an engine silent for 5 of these is killed and restarted

    # sockets
    max_frame_bytes: int = 16 * MiB  # a 1024² PNG with mask as base64 is < 8 MiB
    ping_s: float = 20.0  # proxies cut silent sockets after 30-120 s
    send_timeout_s: float = 10.0  # a vanished reader blocked send() for 928 s (reliability F3)
    handshake_s: float = 10.0  # slowloris: a socket that has not finished its request by then is cut
    idle_s: float = 300.0  # no message for so long: close 1000; fal's clients reconnect on next send
    max_sockets: int = 4096
    drain_s: float = 20.0  # SIGTERM: admitted frames get this long

    # runs over HTTP
    run_s: float = Field(600.0, gt=0)  # from the request to its answer, waiting included; then 504
    max_runs: int = Field(64, ge=1)  # of one key, drawn or waiting, runs and streams together; more are 429
    sse_ping_s: float = Field(15.0, gt=0)  # proxies cut streams that are silent for 30-60 s
    test_apps: bool = False  # serve what fal's own test suite needs and nobody else: fal-ai/any-llm/stream

    # the queue and its webhooks
    queue_at_once: int = Field(4, ge=1, le=64)  # queued requests with each engine at a time, live first
    queue_max: int = Field(10_000, ge=1)  # requests that wait; more are 429
    queue_bytes: int = Field(1024 * MiB, ge=MiB)  # of the file; from nine tenths on, submits are 507
    queue_keep_s: float = Field(3600.0, gt=0)  # status, log and result of an ended request (fal: 1 h)
    queue_lease_s: float = Field(15.0, ge=0.5)  # a server that is silent for so long loses what it draws
    webhook_private: bool = False  # allow webhooks to loopback, private ranges and any port

    # storage
    storage_url: str = ""  # s3://bucket/prefix (AWS_* variables), gs://, az://, a path; "" = in state_dir
    file_s: float = Field(7 * 86400.0, ge=0)  # a file that names no lifetime is kept so long; 0 = for ever
    max_upload_bytes: int = Field(1024 * MiB, ge=1)  # of one file, all its parts together
    upload_s: float = Field(3600.0, ge=10)  # from the start of an upload to its end; half-done it vanishes
    stall_s: float = Field(30.0, gt=0)  # an upload or a download that does not move for so long is ended
    disk_reserve: int = Field(64 * MiB, ge=0)  # free bytes that uploads leave to the queue and the keys

    # behind a proxy
    trusted_proxies: Listed[IPvAnyNetwork] = []  # whose X-Forwarded-Proto, -Host and -Prefix are believed

    # as the `proxyUrl` of pages: the key lent to requests that bring none, "id:secret"; "" lends nothing.
    # Whoever can reach the path of the proxy then acts as this key.
    proxy_key: str = ""

    # inputs
    max_pixels: int = 4096 * 4096  # of an input picture, checked in its header
    max_fetch_bytes: int = 20 * MiB
    fetch_s: float = 10.0
    fetch_private: bool = False  # allow image URLs on loopback and private ranges

    # log
    log_level: str = "info"
    log_prompts: bool = False


def load(config: Path | None = None, **given: Any) -> Settings:
    """Command line over environment over file over defaults; what is given as None is not given.

    Raises ValueError, in one line, for unknown names and wrong values, with where they were set.
    """
    known = Settings.model_fields
    given = {name: value for name, value in given.items() if value is not None}
    file = _read(config) if config else {}
    strange = [f"{name} in {config}{_meant(name, known)}" for name in file.keys() - known.keys()]
    variables = {f"RT_{name.upper()}" for name in known}
    strange += [
        f"{name}{_meant(name, variables)}"
        for name in os.environ
        if name.startswith("RT_") and name not in variables
    ]
    if strange:
        raise ValueError(f"unknown setting {'; '.join(sorted(strange))}")
    file = {name: value for name, value in file.items() if f"RT_{name.upper()}" not in os.environ}

    def place(name: str) -> str:
        if name in given:
            return f"--{name.replace('_', '-')}"
        return f"{name} in {config}" if name in file else f"RT_{name.upper()}"

    try:
        return Settings(**(file | given))
    except ValidationError as error:  # its own text shows the values, and with them keys
        wrong = [
            f"{place(str(each['loc'][0]))}: {each['msg'].removeprefix('Value error, ')}"
            for each in error.errors()
        ]
        raise ValueError("; ".join(wrong)) from None


def _read(config: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(config.read_text())
    except OSError as error:
        raise ValueError(f"the settings file {config} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"the settings file {config} is no TOML: {error}") from None


def _meant(name: str, known: Iterable[str]) -> str:
    for like in get_close_matches(name, known, n=1, cutoff=0.7):
        return f" (did you mean {like}?)"
    return " (realtime/settings.py lists them)"
