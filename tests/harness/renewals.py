"""What tests of renewal requests share: keys in a token, signed requests, and a verifier that is not ours."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree as ET

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key

from harness.signers import SoftwareSigner
from varmenne.domain.identifiers import CustomerId, CustomerName, Environment
from varmenne.domain.keys import Signer
from varmenne.service.client import CertificateService
from varmenne.service.interface import DSIG
from varmenne.settings import ServiceSettings

CUSTOMER = CustomerId("0123456-7")
NAME = CustomerName("Åkerlund & Öljy <Oy>")
NOWHERE = ServiceSettings(endpoint="https://127.0.0.1:9/")


@dataclass(frozen=True)
class Keys:
    """Keys in the token: of the certificate that is renewed, for the next one, and one of nobody here."""

    old: Signer
    new: Signer
    strange: Signer


@functools.cache
def _issuer() -> SoftwareSigner:
    """An authority that nobody believes; making its key takes a while."""
    return SoftwareSigner()


def self_made(signer: Signer) -> bytes:
    """Return a certificate for a key, for what no bench has to take; it ended long ago, which is not looked at."""
    key = load_der_public_key(signer.public_key)
    assert isinstance(key, RSAPublicKey)
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, NAME)])
    begin = datetime(2020, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder(name, name, key, x509.random_serial_number(), begin, begin + timedelta(days=730))
    return builder.sign(_issuer()._key, hashes.SHA256()).public_bytes(Encoding.DER)


def made(
    signer: Signer, certificate: bytes, csr: bytes, *, customer: CustomerId = CUSTOMER, name: CustomerName | None = NAME
) -> bytes:
    """Make a signed request, by a client that can reach nobody."""
    with CertificateService(Environment.TEST, NOWHERE) as client:
        return client.renewal_document(customer, name, csr, certificate=certificate, signer=signer)


def by_hand(document: bytes) -> None:
    """Verify with string functions, expat's canonical XML and cryptography: nothing that made the signature."""
    text = document.decode()
    found = re.search(r"<ds:Signature .*</ds:Signature>", text, re.DOTALL)
    assert found is not None
    signature = found[0]
    whole = ET.canonicalize(text.replace(signature, "")).encode()
    (info,) = re.findall(r"<ds:SignedInfo>.*</ds:SignedInfo>", signature)
    info = info.replace("<ds:SignedInfo>", f'<ds:SignedInfo xmlns:ds="{DSIG}">')
    key = x509.load_der_x509_certificate(_inside(signature, "X509Certificate")).public_key()
    assert isinstance(key, RSAPublicKey)
    assert hashlib.sha256(whole).digest() == _inside(signature, "DigestValue")
    signed = ET.canonicalize(info).encode()
    key.verify(_inside(signature, "SignatureValue"), signed, padding.PKCS1v15(), hashes.SHA256())


def _inside(text: str, name: str) -> bytes:
    """Decode what stands between an element's tags."""
    (found,) = re.findall(f"<ds:{name}>(.*)</ds:{name}>", text, re.DOTALL)
    return base64.b64decode(found)
