"""Logs: JSON lines on a pipe, colours on a terminal; never a query string, a token or a prompt.

An event is a constant name plus fields: `log.info("session.open", app=app)`. The libraries below us log
through `logging`; their lines pass `Redact` and are quiet unless something is wrong.
"""

from __future__ import annotations

import logging
import re
import sys
from typing import Any

import structlog

# `fal_jwt_token=...` in a URL; a bare JWT; `Key id:secret` of an Authorization header.
_SECRETS = re.compile(
    r"(\?[^\s\"']*|fal_jwt_token=[^\s\"'&]*|eyJ[\w-]+\.[\w-]+\.[\w-]*|\b(?:Key|Bearer)\s+[^\s\"']+)",
    re.IGNORECASE,
)
# Lines of uvicorn that say nothing an operator can use and that any client can cause at will: a client
# that leaves during the handshake, garbage instead of HTTP.
_NOISE = (
    "ASGI callable returned without completing handshake",
    "Invalid HTTP request received",
    "Unsupported upgrade request",
    "connection closed",
    "opening handshake failed",
)


def redact(text: str) -> str:
    return _SECRETS.sub("[redacted]", text)


class Redact(logging.Filter):
    """Cuts secrets out of a record of another library, and drops its noise."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if text.startswith(_NOISE):
            return False
        record.msg, record.args = redact(text), None
        return True


def _redact_values(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = redact(value)
    return event


def configure(level: str = "info") -> None:
    """Call once, at the start of a command. Writes to standard error. Raises ValueError for an odd level."""
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"log_level {level} is none of debug, info, warning, error")
    terminal = sys.stderr.isatty()
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    tail: list[structlog.typing.Processor] = (
        # Rich tracebacks show local variables: prompts, pictures.
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if terminal
        else [structlog.processors.format_exc_info, _redact_values, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[*shared, *([_redact_values] if terminal else []), *tail],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    output = logging.StreamHandler(sys.stderr)
    output.addFilter(Redact())
    output.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *tail],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [output]
    root.setLevel(max(number, logging.WARNING))


def get(name: str) -> Any:
    """A bound logger. `Any`: structlog's loggers have no common static type."""
    return structlog.get_logger(name)
