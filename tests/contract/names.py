"""In this Python process fal's host names lead to one local port, as a hosts file and port 443 would.

Nothing outside loopback can be reached any more, so that a test that misses its mapping fails here instead of
reaching fal.ai. As a pytest plugin (`-p names`) the port is taken from FAL_NAMES_PORT. FAL_NAMES_LOST has
those of the names that cannot be resolved. names.cjs is the same for Node, which knows no lost names.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from typing import Any

FAL = re.compile(r"(^|\.)(fal\.(run|ai|media)|falrun\.com)$")
LOST = os.environ.get("FAL_NAMES_LOST", "").split()


def map_to(port: int) -> None:
    """0: the names lead nowhere."""
    lookup, connect = socket.getaddrinfo, socket.socket.connect

    def getaddrinfo(host: Any, *rest: Any, **options: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name in LOST:
            raise socket.gaierror(socket.EAI_NONAME, f"{name} is not found, as the test wishes")
        return lookup("127.0.0.1" if port and FAL.search(name or "") else host, *rest, **options)

    def connect_here(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            host, wanted = address[:2]
            if not ipaddress.ip_address(host).is_loopback:
                raise OSError(f"a contract test tried to reach {host}")
            # Not in getaddrinfo: anyio takes only the host from it and keeps the port of the URL.
            address = (host, port if port and wanted == 443 else wanted, *address[2:])
        connect(self, address)

    socket.getaddrinfo = getaddrinfo
    socket.socket.connect = connect_here  # type: ignore[method-assign, assignment]


def pytest_configure() -> None:
    map_to(int(os.environ["FAL_NAMES_PORT"]))
