"""A private authority and a server certificate for fal's host names, so that unmodified clients come here.

Whoever trusts the authority trusts whoever holds its key. So it is bound by X.509 name constraints
(RFC 5280, 4.2.1.10) to the names below and can vouch for no other site, even if its key is stolen.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from realtime.folder import make_private

# Every host fal's clients were seen to use. A wildcard covers one label, so the deeper ones are named too;
# falrun.com is where fal-client for Python turns when fal.run does not answer.
NAMES = (
    *("fal.run", "*.fal.run", "*.fal.ai", "*.alpha.fal.ai", "*.gateway.alpha.fal.ai", "*.fal.media"),
    *("falrun.com", "*.falrun.com", "localhost", "127.0.0.1", "::1"),
)
DOMAINS = ("fal.run", "fal.ai", "fal.media", "falrun.com", "localhost")  # all the authority may speak for
LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
# A hosts file knows no wildcards: these serve the clients in use, and the two old apps in their host names.
HOSTS = (
    *("fal.run", "queue.fal.run", "ws.fal.run", "rest.fal.ai", "rest.alpha.fal.ai", "v3.fal.media"),
    *("falrun.com", "queue.falrun.com"),
    *("110602490-lcm.gateway.alpha.fal.ai", "110602490-lcm-sd15-i2i.gateway.alpha.fal.ai"),
)
AUTHORITY_DAYS = 3650
SERVER_DAYS = 825  # Apple's systems take no more from an authority the user added


class CannotIssue(Exception):
    """What stands in the way, in words for a person."""


@dataclass(frozen=True, slots=True)
class Certificates:
    """Four PEM files in one folder. Both keys are readable by their owner only."""

    folder: Path
    expires: datetime  # of the server's certificate

    @property
    def authority(self) -> Path:
        return self.folder / "ca.pem"

    @property
    def authority_key(self) -> Path:
        return self.folder / "ca-key.pem"

    @property
    def server(self) -> Path:
        return self.folder / "cert.pem"

    @property
    def server_key(self) -> Path:
        return self.folder / "key.pem"


def issue(folder: Path, more: Sequence[str] = (), now: datetime | None = None) -> Certificates:
    """A certificate for NAMES and `more` (host names, "*.name", addresses), of the folder's authority.

    An authority that is there already is used again, so that renewing asks nobody to trust anew; else one
    is made. Nothing is overwritten. Raises CannotIssue, OSError.
    """
    now = now or datetime.now(UTC)
    made = Certificates(folder, now + timedelta(days=SERVER_DAYS))
    for file in (made.server, made.server_key):
        if file.exists():
            raise CannotIssue(f"{file} is there already; to renew, move it and its partner away first")
    names = [_general(name) for name in dict.fromkeys((*NAMES, *more))]
    make_private(folder)
    if made.authority.exists() or made.authority_key.exists():
        authority, key = _load(made)
    else:
        authority, key = _found(more, now)
        _write(made.authority_key, _pem(key), 0o600)
        _write(made.authority, authority.public_bytes(Encoding.PEM), 0o644)
    _check_allowed(authority, names, now)
    server_key = ec.generate_private_key(ec.SECP256R1())
    server = _server(names, server_key, authority, key, now)
    _write(made.server_key, _pem(server_key), 0o600)
    _write(made.server, server.public_bytes(Encoding.PEM), 0o644)
    return made


def hosts_line(address: str = "127.0.0.1") -> str:
    """The line of a hosts file that leads fal's names to `address`."""
    return f"{address} {' '.join(HOSTS)}"


def next_steps(made: Certificates) -> str:
    """What a person does now, ready to be copied."""
    ca = made.authority
    return f"""\
Made in {made.folder}, good until {made.expires:%Y-%m-%d}:
  {ca.name:<11} the authority your clients are to trust; it can vouch for fal's names and your own only
  {made.authority_key.name:<11} its key, needed to renew; keep it to yourself
  {made.server.name:<11} the server's certificate, and {made.server_key.name} its key

1. Serve with it (a port below 1024 may need root, or a forwarding rule):
     RT_TLS_CERT={made.server} RT_TLS_KEY={made.server_key} realtime serve --port 443

2. Lead fal's names to the server: one line in /etc/hosts, with the server's address in place of 127.0.0.1
   where it is another machine (Windows: C:\\Windows\\System32\\drivers\\etc\\hosts):
     {hosts_line()}

3. Make your clients trust the authority:
     Node              NODE_EXTRA_CA_CERTS={ca} node app.js
     Python            SSL_CERT_FILE={ca} python app.py
     Chromium, Linux   mkdir -p $HOME/.pki/nssdb
                       certutil -d sql:$HOME/.pki/nssdb -A -t C,, -n realtime -i {ca}
     Debian, Ubuntu    sudo cp {ca} /usr/local/share/ca-certificates/realtime.crt
                       sudo update-ca-certificates
     Fedora            sudo trust anchor {ca}
     macOS             sudo security add-trusted-cert -d -r trustRoot \\
                         -k /Library/Keychains/System.keychain {ca}
     Windows           certutil -addstore -f ROOT {ca}
     Firefox           Settings, Certificates, Authorities, Import

To go back to fal.ai, remove the line of step 2."""


def _general(name: str) -> x509.DNSName | x509.IPAddress:
    try:
        return x509.IPAddress(ip_address(name.strip("[]")))
    except ValueError:
        pass
    host = name.removeprefix("*.").lower()
    labels = host.split(".")
    if not all(
        label and label.isascii() and label.replace("-", "a").isalnum() and len(label) < 64
        for label in labels
    ):
        raise CannotIssue(f'"{name}" is no host name and no address')
    return x509.DNSName(name.lower())


def _found(more: Sequence[str], now: datetime) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A new authority for DOMAINS, loopback and `more`."""
    key = ec.generate_private_key(ec.SECP256R1())
    allowed: list[x509.GeneralName] = [x509.DNSName(domain) for domain in DOMAINS]
    allowed += [x509.IPAddress(network) for network in LOOPBACK]
    for one in map(_general, more):
        if isinstance(one, x509.IPAddress):
            allowed.append(x509.IPAddress(ip_network(str(one.value))))
        else:
            allowed.append(x509.DNSName(one.value.removeprefix("*.")))
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"realtime authority {now:%Y-%m-%d %H:%M}")])
    certificate = (
        _builder(name, key.public_key(), now, AUTHORITY_DAYS)
        .issuer_name(name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(
            x509.NameConstraints(permitted_subtrees=allowed, excluded_subtrees=None), critical=True
        )
        .sign(key, hashes.SHA256())
    )
    return certificate, key


def _server(
    names: Sequence[x509.GeneralName],
    key: ec.EllipticCurvePrivateKey,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    now: datetime,
) -> x509.Certificate:
    identifier = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "realtime server")])
    return (
        _builder(subject, key.public_key(), now, SERVER_DAYS)
        .issuer_name(authority.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False
        )
        .sign(authority_key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))  # a client's clock may be a little behind
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _load(made: Certificates) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        certificate = x509.load_pem_x509_certificate(made.authority.read_bytes())
        key = load_pem_private_key(made.authority_key.read_bytes(), None)
    except (FileNotFoundError, ValueError, TypeError) as error:
        raise CannotIssue(f"the authority in {made.folder} cannot be used: {error}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise CannotIssue(f"{made.authority_key} is not the key of {made.authority}")
    return certificate, key


def _check_allowed(
    authority: x509.Certificate, names: Sequence[x509.DNSName | x509.IPAddress], now: datetime
) -> None:
    """Raises CannotIssue unless clients will take these names from this authority."""
    if now + timedelta(days=SERVER_DAYS) > authority.not_valid_after_utc:
        raise CannotIssue("the authority ends before the certificate would; make a new one in another folder")
    try:
        limits = authority.extensions.get_extension_for_class(x509.NameConstraints).value
    except x509.ExtensionNotFound:
        return
    permitted = limits.permitted_subtrees or []
    domains = [limit.value for limit in permitted if isinstance(limit, x509.DNSName)]
    networks = [limit.value for limit in permitted if isinstance(limit, x509.IPAddress)]
    for name in names:
        if isinstance(name, x509.DNSName):
            host = name.value.removeprefix("*.")
            fits = any(host == domain or host.endswith(f".{domain}") for domain in domains)
        else:
            fits = any(name.value in network for network in networks)  # type: ignore[operator]
        if not fits:
            raise CannotIssue(
                f"the authority in this folder may not speak for {name.value}; make a new one elsewhere"
            )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write(path: Path, data: bytes, mode: int) -> None:
    """A new file that never was readable to more than `mode`. Raises FileExistsError."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
