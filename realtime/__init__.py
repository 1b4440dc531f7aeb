"""The gateway: sockets and HTTP in, frames out. Never imports torch (tests/test_layering.py)."""

__version__ = "0.1.0"
