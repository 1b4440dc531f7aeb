"""The `realtime` command: serve, token, certs, doctor."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console

from realtime import __version__, log, settings
from realtime.settings import Settings

app = typer.Typer(
    help="A self-hosted real-time image service that fal's clients talk to unmodified.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Config = Annotated[
    Path | None, typer.Option(help="TOML file of settings; RT_* variables win over it.", exists=True)
]


@app.command()
def serve(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; others than loopback need RT_KEYS.")
    ] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="0 takes any free port.")] = None,
    model: Annotated[
        str | None,
        typer.Option(help='Folder, hub id, "embedded", or "fake" (draws patterns, needs no torch).'),
    ] = None,
    config: Config = None,
    lora: Annotated[
        str | None, typer.Option(help="LCM-LoRA to fuse into a base model: folder, file or hub id.")
    ] = None,
    vae: Annotated[str | None, typer.Option(help="auto, tiny or full.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps.")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, float16 or bfloat16.")] = None,
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
    from realtime.keys import Keys
    from realtime.progress import Screen

    try:
        log.configure(wanted.log_level)
        Keys(wanted.keys)
        server.check_tls(wanted)
        listener = server.listen(wanted)
    except (ValueError, server.CannotServe) as error:
        _stop(str(error))
    screen = Screen(Console(stderr=False), url=server.url(wanted, listener), model=wanted.model)
    running = server.Server(wanted, on_start=screen.start, on_change=screen.update)
    with screen:
        try:
            running.run(sockets=[listener])
        except OSError as error:
            _stop(f"cannot start: {error.strerror or error}")
    if running.failed:
        raise typer.Exit(1)


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
    from realtime.keys import KeyFile, Keys
    from realtime.tokens import Tokens, load_secret

    wanted = _settings(config)
    try:
        keys = Keys(wanted.keys, KeyFile(wanted.state_dir))
        if keys.required and key not in keys:
            _stop("API keys are configured: name the one this token belongs to with --key <id>")
        print(Tokens(load_secret(wanted.state_dir), keys).mint(app_, seconds, key))
    except (OSError, ValueError) as error:
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
def doctor(config: Config = None) -> None:
    """Say what this machine can run, what is missing, and why."""
    from realtime import doctor as examination

    raise typer.Exit(examination.run(_settings(config), Console()))


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)


def _settings(config: Path | None, **given: Any) -> Settings:
    try:
        return settings.load(config, **given)
    except ValidationError as error:
        _stop("; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()))
    except ValueError as error:  # includes a TOML file that is none
        _stop(str(error))


def _stop(reason: str) -> NoReturn:
    print(f"realtime: {reason}", file=sys.stderr)
    raise typer.Exit(2)


if __name__ == "__main__":
    app()
