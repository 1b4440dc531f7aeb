"""Chromium, told to trust the authority of `realtime certs` as users are, trusts it for fal's names alone."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from realtime import certs
from tests.contract.chromium import TRUSTED_BY_COMMAND, Browser, browse
from tests.servers import Server

pytestmark = [pytest.mark.net, pytest.mark.proc, pytest.mark.browser]

HANDSHAKE_S = 5.0


@contextmanager
def shown(certificate: Path, key: Path) -> Iterator[int]:
    """A port where this certificate is shown, and nothing after the handshake."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def show() -> None:
            with suppress(OSError):  # the end: nobody listens any more
                while True:
                    plain, _ = listening.accept()
                    plain.settimeout(HANDSHAKE_S)
                    with plain, suppress(OSError):  # who does not trust it hangs up
                        tls.wrap_socket(plain, server_side=True).close()

        thread = threading.Thread(target=show)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def forged(authority: Path, name: str, folder: Path) -> Path:
    """A certificate for a name `realtime certs` refuses, from somebody who stole ca-key.pem."""
    issuer = x509.load_pem_x509_certificate((authority / "ca.pem").read_bytes())
    stolen = load_pem_private_key((authority / "ca-key.pem").read_bytes(), None)
    key = load_pem_private_key((authority / "key.pem").read_bytes(), None)
    made = certs._server([x509.DNSName(name)], key, issuer, stolen, datetime.now(UTC))  # type: ignore[arg-type]
    file = folder / "forged.pem"
    file.write_bytes(made.public_bytes(Encoding.PEM))
    return file


def visit(browser: Browser, url: str) -> str:
    """What Chromium says stood in the way, "" if it went there."""
    target = browser.ask("Target.createTarget", url="about:blank")["targetId"]
    session = browser.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    error = browser.ask("Page.navigate", session, url=url).get("errorText", "")
    assert isinstance(error, str)
    return error


@pytest.mark.skipif(
    not TRUSTED_BY_COMMAND,
    reason="no certutil (Debian: libnss3-tools): Chromium was not tested to verify our certificates",
)
def test_chromium_goes_where_the_authority_vouches_and_not_where_its_key_was_stolen(
    tls_server: Server, authority: Path, tmp_path: Path
) -> None:
    stranger = certs.issue(tmp_path / "stranger")
    theft = forged(authority, "example.com", tmp_path)
    with (
        shown(stranger.server, stranger.server_key) as other_authority,
        shown(theft, authority / "key.pem") as other_site,
        browse(
            tls_server, authority, {"queue.fal.run": other_authority, "example.com": other_site}
        ) as browser,
    ):
        for url in ("https://fal.run/livez", "https://v3.fal.media/livez"):
            assert visit(browser, url) == ""
        assert visit(browser, "https://queue.fal.run/") == "net::ERR_CERT_AUTHORITY_INVALID"
        assert visit(browser, "https://example.com/") == "net::ERR_CERT_INVALID"
