"""The `realtime` command: serve, warm, key, token, certs, doctor."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from realtime import __version__, log, settings
from realtime.settings import Settings

if TYPE_CHECKING:
    from realtime.keys import KeyFile

app = typer.Typer(
    help="A self-hosted real-time image service that fal's clients talk to unmodified.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

key = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True)
app.add_typer(key, name="key")

T = TypeVar("T")
Config = Annotated[
    Path | None, typer.Option(help="TOML file of settings; RT_* variables win over it.", exists=True)
]
Host = Annotated[str | None, typer.Option(help="Address to listen on; others than loopback need an API key.")]
Port = Annotated[int | None, typer.Option(min=0, max=65535, help="0 takes any free port.")]
Model = Annotated[
    str | None, typer.Option(help='Folder, hub id, "embedded", or "fake" (draws patterns, needs no torch).')
]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Backend = Annotated[str | None, typer.Option(help="What runs the UNet: auto, eager, inductor or tensorrt.")]


@app.command()
def serve(
    host: Host = None,
    port: Port = None,
    model: Model = None,
    config: Config = None,
    lora: Annotated[
        str | None, typer.Option(help="LCM-LoRA to fuse into a base model: folder, file or hub id.")
    ] = None,
    vae: Annotated[str | None, typer.Option(help="auto, tiny, full or both.")] = None,
    device: Device = None,
    dtype: Annotated[str | None, typer.Option(help="auto, fast, float32, float16 or bfloat16.")] = None,
    backend: Backend = None,
    engines: Annotated[
        int | None, typer.Option(min=1, max=64, help="Engine processes: one for each GPU or free core.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of one UNet call on a CPU.")] = None,
    max_batch: Annotated[
        int | None, typer.Option(min=0, max=16, help="Rows of one UNet call; 0 by device.")
    ] = None,
    deterministic: Annotated[
        bool | None,
        typer.Option("--deterministic/--no-deterministic", help="One batch size: same bytes always."),
    ] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
) -> None:
    """Serve the canvas and the API; ends on Ctrl-C or SIGTERM after finishing what it has taken."""
    given = {name: value for name, value in locals().items() if name != "config"}
    wanted = _settings(config, **given)
    from realtime import server
    from realtime.progress import Screen

    try:
        log.configure(wanted.log_level)
        server.check_tls(wanted)
        server.check_storage(wanted)
        server.check_queue(wanted)
        listener = server.listen(wanted)
    except (ValueError, server.CannotServe) as error:
        _stop(str(error))
    screen = Screen(Console(stderr=False), url=server.url(wanted, listener), model=wanted.model)
    running = server.Server(wanted, on_start=screen.start, on_change=screen.update)
    server.spare_collections()
    with screen:
        try:
            running.run(sockets=[listener])
        except OSError as error:
            _stop(f"cannot start: {error.strerror or error}")
        except sqlite3.Error as error:
            _stop(f"cannot start: a database in {wanted.state_dir} cannot be used: {error}")
    if running.failed:
        raise typer.Exit(1)


@app.command()
def warm(
    sizes: Annotated[
        str, typer.Option(help="WIDTHxHEIGHT in pixels, separated by commas; the model's own if not said.")
    ] = "",
    model: Annotated[str | None, typer.Option(help='Folder, hub id or "embedded".')] = None,
    backend: Annotated[
        str | None, typer.Option(help="What runs the UNet: auto, eager, inductor or tensorrt.")
    ] = None,
    config: Config = None,
    lora: Annotated[str | None, typer.Option(help="LCM-LoRA to fuse into a base model.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, fast, float32, float16 or bfloat16.")] = None,
    max_batch: Annotated[
        int | None, typer.Option(min=0, max=16, help="Rows of one UNet call; 0 by device.")
    ] = None,
) -> None:
    """Build ahead what the back end takes minutes for; a server with the same settings finds it done."""
    given = {name: value for name, value in locals().items() if name not in ("config", "sizes")}
    from realtime import warm as warming

    wanted = [size.strip() for size in sizes.split(",") if size.strip()]
    try:
        raise typer.Exit(warming.run(_settings(config, **given), wanted, Console()))
    except ValueError as error:
        _stop(str(error))


@key.command("create")
def create_key(
    name: Annotated[str, typer.Option(help="Whose it is, for `realtime key list`.")] = "",
    sockets: Annotated[int | None, typer.Option(min=0, help="Sockets open at once.")] = None,
    frames: Annotated[float | None, typer.Option(min=0, help="Frames and runs per second.")] = None,
    queued: Annotated[int | None, typer.Option(min=0, help="Requests waiting in the queue.")] = None,
    stored: Annotated[int | None, typer.Option(min=0, help="Bytes of stored files.")] = None,
    uploads: Annotated[int | None, typer.Option(min=0, help="Uploaded bytes per minute.")] = None,
    config: Config = None,
) -> None:
    """Make an API key and print it, this once; a running server knows it within a second.

    Limits that are not given are those of the settings (RT_KEY_*); 0 is no limit.
    """
    own = {
        "sockets": sockets,
        "frames_s": frames,
        "queued": queued,
        "stored_bytes": stored,
        "upload_bytes_min": uploads,
    }
    print(
        _with_keys(config, lambda made: made.create(name, **{k: v for k, v in own.items() if v is not None}))
    )


@key.command("list")
def list_keys(config: Config = None) -> None:
    """The keys made here, without their secrets. Those of RT_KEYS are not among them."""
    table = Table("id", "name", "created (UTC)", "limits of its own", "revoked (UTC)", box=None)
    for made in _with_keys(config, lambda made: made.all()):
        own = ", ".join(f"{field} {limit:g}" for field, limit in made.limits.items())
        table.add_row(made.id, made.name, _day(made.created), own, _day(made.revoked))
    Console().print(table)


@key.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(help="The part of the key before the colon.")],
    config: Config = None,
) -> None:
    """Take a key back; a running server turns it away within a second, and closes its sockets."""
    if not _with_keys(config, lambda made: made.revoke(key_id)):
        _stop(f"there is no key {key_id} in use here; `realtime key list` shows them, RT_KEYS has its own")


def _with_keys(config: Path | None, work: Callable[[KeyFile], T]) -> T:
    from realtime.folder import make_private
    from realtime.keys import KeyFile

    made = KeyFile(_settings(config).state_dir)
    try:
        make_private(made.path.parent)
        return work(made)
    except OSError as error:
        _stop(f"the state directory {made.path.parent} cannot be used: {error.strerror}")
    except sqlite3.Error as error:
        _stop(f"{made.path}: {error}")


def _day(at: float | None) -> str:
    return "" if at is None else f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M}"


@app.command()
def token(
    app_: Annotated[
        list[str], typer.Option("--app", help="App the token opens; may be given several times.")
    ],
    seconds: Annotated[int, typer.Option(min=1, max=86_400, help="How long it opens new sockets.")] = 120,
    key: Annotated[
        str, typer.Option(help="Id of the API key it is charged to, if keys are configured.")
    ] = "",
    config: Config = None,
) -> None:
    """Print a token for browsers, as POST /tokens/ would give."""
    from realtime.apps import all_apps
    from realtime.keys import KeyFile, Keys
    from realtime.tokens import Tokens, alias_of, load_secret

    wanted = _settings(config)
    served = [served.id for served in all_apps()]
    for name in app_:
        if alias_of(name) not in map(alias_of, served):  # a server of another version may have it
            print(f"realtime: {name} is not served here, {', '.join(served)} are", file=sys.stderr)
    try:
        keys = Keys(wanted.keys, KeyFile(wanted.state_dir))
        if keys.required and key not in keys:
            _stop("API keys are configured: name the one this token belongs to with --key <id>")
        print(Tokens(load_secret(wanted.state_dir), keys).mint(app_, seconds, key))
    except (OSError, ValueError, sqlite3.Error) as error:
        _stop(f"no token: {error}")


@app.command()
def certs(
    folder: Annotated[
        Path | None, typer.Argument(help="Where to put them; RT_STATE_DIR/certs if not said.")
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(help="Further host name or address of this server; may be given several times."),
    ] = None,
    config: Config = None,
) -> None:
    """Make a private authority and a certificate for fal's host names, and say how to use them."""
    from realtime.certs import CannotIssue, issue, next_steps

    try:
        made = issue((folder or _settings(config).state_dir / "certs").absolute(), name or ())
    except (CannotIssue, OSError) as error:
        _stop(f"no certificate: {error}")
    print(next_steps(made))


@app.command()
def doctor(
    host: Host = None,
    port: Port = None,
    model: Model = None,
    config: Config = None,
    device: Device = None,
    backend: Backend = None,
) -> None:
    """Say what this machine can run, what is missing, and why; the options are those of `serve`."""
    given = {name: value for name, value in locals().items() if name != "config"}
    from realtime import doctor as examination

    raise typer.Exit(examination.run(_settings(config, **given), Console()))


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)


def _settings(config: Path | None, **given: Any) -> Settings:
    try:
        return settings.load(config, **given)
    except ValueError as error:
        _stop(str(error))


def _stop(reason: str) -> NoReturn:
    print(f"realtime: {reason}", file=sys.stderr)
    raise typer.Exit(2)


if __name__ == "__main__":
    app()
