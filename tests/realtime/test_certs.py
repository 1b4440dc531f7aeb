"""`realtime certs`: what is issued, that it can vouch for nothing else, and that real clients take it."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from realtime import certs
from realtime.certs import CannotIssue, Certificates, issue
from tests.servers import serve

TRUSTING_S = 5.0
HANDSHAKES = [
    *("fal.run", "queue.fal.run", "ws.fal.run", "rest.fal.ai", "rest.alpha.fal.ai", "v3.fal.media"),
    *("queue.falrun.com", "110602490-lcm-sd15-i2i.gateway.alpha.fal.ai", "localhost", "127.0.0.1", "::1"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return issue(tmp_path_factory.mktemp("certs") / "new")


def handshake(made: Certificates, name: str, server: Path | None = None, key: Path | None = None) -> None:
    """TLS between two ends of this process: a client that trusts only the authority, asking for `name`."""
    trust = ssl.create_default_context(cafile=made.authority)
    trust.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13
    here = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    here.load_cert_chain(server or made.server, key or made.server_key)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trust.wrap_bio(to_client, to_server, server_hostname=name)
    answering = here.wrap_bio(to_server, to_client, server_side=True)
    for end in (client, answering, client):  # TLS 1.3: hello, hello and certificate, finished
        with contextlib.suppress(ssl.SSLWantReadError):
            end.do_handshake()
    assert client.getpeercert()


@pytest.mark.parametrize("name", HANDSHAKES)
def test_every_name_of_fal_is_vouched_for(made: Certificates, name: str):
    handshake(made, name)


@pytest.mark.parametrize("name", ["fal.dev", "evil-fal.run", "a.b.fal.run", "127.0.0.2", "example.com"])
def test_other_names_are_not(made: Certificates, name: str):
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(made, name)


@pytest.mark.parametrize("name", ["example.com", "notfal.run", "10.0.0.1"])
def test_even_the_authority_s_key_can_vouch_for_no_other_site(tmp_path: Path, name: str):
    """Somebody stole ca-key.pem and signs what the command would not."""
    made = issue(tmp_path)
    authority = x509.load_pem_x509_certificate(made.authority.read_bytes())
    stolen = load_pem_private_key(made.authority_key.read_bytes(), None)
    key = load_pem_private_key(made.server_key.read_bytes(), None)
    try:
        wanted: x509.GeneralName = x509.IPAddress(ip_address(name))
    except ValueError:
        wanted = x509.DNSName(name)
    forged = certs._server([wanted], key, authority, stolen, datetime.now(UTC))  # type: ignore[arg-type]
    file = tmp_path / "forged.pem"
    file.write_bytes(forged.public_bytes(Encoding.PEM))
    with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree violation"):
        handshake(made, name, file, made.server_key)


def test_keys_can_be_read_by_their_owner_only(made: Certificates):
    assert made.folder.stat().st_mode & 0o777 == 0o700
    for file in (made.authority_key, made.server_key):
        assert file.stat().st_mode & 0o777 == 0o600
    for file in (made.authority, made.server):
        assert b"PRIVATE" not in file.read_bytes()


def test_nothing_is_overwritten(tmp_path: Path):
    made = issue(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(CannotIssue, match="already"):
        issue(tmp_path)
    made.server_key.unlink()
    with pytest.raises(CannotIssue, match="already"):
        issue(tmp_path)
    before.pop(made.server_key.name)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_renewing_needs_no_new_trust(tmp_path: Path):
    made = issue(tmp_path)
    trusted = made.authority.read_bytes()
    made.server.unlink()
    made.server_key.unlink()
    handshake(issue(tmp_path), "fal.run")
    assert made.authority.read_bytes() == trusted


def test_a_name_of_one_s_own_is_vouched_for_too(tmp_path: Path):
    made = issue(tmp_path, ["images.example.com", "*.team.example.com", "192.168.1.5"])
    for name in ("images.example.com", "a.team.example.com", "192.168.1.5", "fal.run"):
        handshake(made, name)


def test_an_old_authority_is_not_asked_for_a_name_it_may_not_vouch_for(tmp_path: Path):
    made = issue(tmp_path)
    made.server.unlink()
    made.server_key.unlink()
    for name in ("images.example.com", "10.0.0.1"):
        with pytest.raises(CannotIssue, match=name):
            issue(tmp_path, [name])
    assert not made.server.exists()


def test_an_authority_that_ends_too_soon_is_said_so(tmp_path: Path):
    made = issue(tmp_path, now=datetime.now(UTC) - timedelta(days=3000))
    made.server.unlink()
    made.server_key.unlink()
    with pytest.raises(CannotIssue, match="ends before"):
        issue(tmp_path)


@pytest.mark.parametrize("name", ["", "a b", "http://x", "x/y", "*.*.x", "é.com", "a..b", "x" * 64])
def test_what_is_no_name_is_refused_before_anything_is_written(tmp_path: Path, name: str):
    with pytest.raises(CannotIssue, match="no host name"):
        issue(tmp_path / "new", [name])
    assert not (tmp_path / "new").exists()


def test_a_damaged_authority_is_said_so(tmp_path: Path):
    issue(tmp_path / "other")
    (tmp_path / "ca.pem").write_bytes((tmp_path / "other" / "ca.pem").read_bytes())
    with pytest.raises(CannotIssue, match="cannot be used"):
        issue(tmp_path)
    issue(tmp_path / "third")
    (tmp_path / "ca-key.pem").write_bytes((tmp_path / "third" / "ca-key.pem").read_bytes())
    with pytest.raises(CannotIssue, match="not the key"):
        issue(tmp_path)


def test_the_line_for_the_hosts_file_holds_names_the_certificate_covers(made: Certificates):
    address, *names = certs.hosts_line("10.1.2.3").split()
    assert ip_address(address) in ip_network("10.0.0.0/8")
    for name in names:
        handshake(made, name)


def command(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("RT_")} | environment
    return subprocess.run(
        [sys.executable, "-m", "realtime.cli", "certs", *words],
        env=env,
        capture_output=True,
        text=True,
        timeout=15,
    )


@pytest.mark.proc
def test_the_command_says_what_to_do_next_and_refuses_a_second_time(tmp_path: Path):
    answer = command(RT_STATE_DIR=str(tmp_path))
    assert answer.returncode == 0, answer.stderr
    folder = tmp_path / "certs"
    for told in (
        f"RT_TLS_CERT={folder / 'cert.pem'} RT_TLS_KEY={folder / 'key.pem'} realtime serve",
        f"NODE_EXTRA_CA_CERTS={folder / 'ca.pem'}",
        f"SSL_CERT_FILE={folder / 'ca.pem'}",
        certs.hosts_line(),
        "certutil",
    ):
        assert told in answer.stdout
    again = command(RT_STATE_DIR=str(tmp_path))
    assert (again.returncode, again.stdout) == (2, "")
    assert "already" in again.stderr
    assert "Traceback" not in again.stderr


@pytest.mark.net
@pytest.mark.proc
def test_httpx_takes_a_server_that_serves_with_it(made: Certificates):
    """Every other client does in tests/contract, whose servers have their certificates from here."""
    trust = ssl.create_default_context(cafile=made.authority)
    with serve(tls_cert=str(made.server), tls_key=str(made.server_key)) as server:
        for host in ("localhost", "127.0.0.1"):
            answer = httpx.get(f"https://{host}:{server.port}/livez", verify=trust, timeout=TRUSTING_S)
            assert answer.json() == {"status": "alive"}
        with (
            socket.create_connection(("127.0.0.1", server.port), TRUSTING_S) as plain,
            trust.wrap_socket(plain, server_hostname="queue.fal.run") as tls,
        ):
            tls.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert tls.recv(100).startswith(b"HTTP/1.1 200")
            assert tls.version() == "TLSv1.3"
            assert tls.session is not None
            assert not tls.session.has_ticket, "what fal-client's two threads would trip over"
