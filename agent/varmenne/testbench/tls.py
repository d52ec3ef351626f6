"""The bench's TLS certificate, under a CA of its own that has nothing to do with the family of authorities.

Clients check it by their own computer's clock, so its validity is counted by that, not by the bench's settable clock.
"""

from __future__ import annotations

import ipaddress
import ssl
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import ExtendedKeyUsageOID

from varmenne.testbench.family import (
    KeyPair,
    bench_name,
    build_certificate,
    key_pem,
    key_usage,
    pem,
    software_key,
    whole_second,
    years_later,
)
from varmenne.testbench.files import private_folder, write_file

if TYPE_CHECKING:
    from pathlib import Path

_NAMES = (
    x509.DNSName("localhost"),
    x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    x509.IPAddress(ipaddress.ip_address("::1")),
)
_CA_YEARS = 10
_SERVER_YEARS = 1
_RENEWED_BEFORE_END = timedelta(days=60)


def server_context(folder: Path, ca_file: Path, now: datetime) -> ssl.SSLContext:
    """Return the server's TLS context, TLS 1.2 or later; makes, or makes anew, what is missing or ends soon.

    Args:
        folder: where keys and the server's certificate lie.
        ca_file: where the CA's certificate is written for clients.
        now: the computer's time.
    """
    private_folder(folder)
    authority = _authority(folder, ca_file, now)
    chain = folder / "tls-server.pem"
    if _ends_soon(chain, now) or not _issued_by(chain, authority):
        key = software_key(folder / "tls-server.key.pem", 2048)
        begin = whole_second(now - timedelta(days=1))
        certificate = build_certificate(
            bench_name("BENCH localhost"),
            key.public_key(),
            authority,
            begin=begin,
            end=years_later(begin, _SERVER_YEARS),
            extensions=[
                (x509.BasicConstraints(ca=False, path_length=None), True),
                (key_usage("digital_signature", "key_encipherment"), True),
                (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
                (x509.SubjectAlternativeName(_NAMES), False),
            ],
        )
        write_file(chain, key_pem(key) + pem(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(chain)
    return context


def _authority(folder: Path, ca_file: Path, now: datetime) -> KeyPair:
    """Read the TLS CA, or make it."""
    key = software_key(folder / "tls-ca.key.pem", 2048)
    if not _ends_soon(ca_file, now):
        return KeyPair(_certificate(ca_file), key)
    begin = whole_second(now - timedelta(days=1))
    certificate = build_certificate(
        bench_name("BENCH TLS CA"),
        key.public_key(),
        None,
        own_key=key,
        begin=begin,
        end=years_later(begin, _CA_YEARS),
        extensions=[
            (x509.BasicConstraints(ca=True, path_length=0), True),
            (key_usage("key_cert_sign", "crl_sign"), True),
        ],
    )
    write_file(ca_file, pem(certificate))
    return KeyPair(certificate, key)


def _certificate(path: Path) -> x509.Certificate:
    """Read the first certificate of a PEM file."""
    return x509.load_pem_x509_certificate(path.read_bytes())


def _ends_soon(path: Path, now: datetime) -> bool:
    """Tell whether a certificate is missing or must be replaced."""
    return not path.exists() or _certificate(path).not_valid_after_utc < now + _RENEWED_BEFORE_END


def _issued_by(path: Path, authority: KeyPair) -> bool:
    """Tell whether a server certificate is of the present TLS CA; a CA made anew needs a new one below it."""
    certificate = _certificate(path)
    try:
        certificate.verify_directly_issued_by(authority.certificate)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
