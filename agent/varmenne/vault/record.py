"""The record that is published: its fields, their names and how each is made. ``docs/vault-layout.md`` tells of them.

Names are those of Vault's PKI API where it has one, so that templates written for it work. The certificate's own facts
(serial number, validity, fingerprints) are read from the certificate, never passed in: they cannot disagree with it.
This module formats; it does not verify signatures or trust, which is done before anything gets here.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from varmenne.domain.forms import colon_hex, iso
from varmenne.domain.identifiers import Channel, Environment
from varmenne.domain.keys import KeyId, TokenIdentity
from varmenne.domain.pkcs11_uri import attributes_of, refuse_pin
from varmenne.errors import InputError, VerificationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cryptography import x509

    from varmenne.domain.identifiers import CustomerId, EnrollmentId

LAYOUT = 1
"""Version of the layout. Fields may be added within a version; one that changes its meaning makes a new version."""

OPERATION = "_operation"
DIGEST = "_digest"
"""Two fields that the store adds: the ID of the act that wrote the version, and a SHA-256 over all else in it."""

OLDER_THAN = "_older_than"
"""A third one, where a person has put an older certificate back: the begin of the latest that it takes the place of."""

_END = "-----END CERTIFICATE-----"

INDEX_FIELDS = (
    "serial_number",
    "not_after",
    "fingerprint_sha256",
    "enrollment",
    "generation",
    "environment",
    "channel",
)
"""Fields that are repeated as custom metadata, where whoever lists certificates finds them without reading records."""


def build_record(
    *,
    certificate: str,
    chain: Sequence[str],
    key_ref: str,
    key_id: KeyId,
    token: TokenIdentity,
    custody: Mapping[str, object],
    enrollment: EnrollmentId,
    generation: int,
    environment: Environment,
    customer: CustomerId,
    channel: Channel,
) -> dict[str, object]:
    """Return the record of one verified certificate.

    Args:
        certificate: the certificate, PEM.
        chain: its CA certificates, PEM, its issuer first; a root at the end may be there or not.
        key_ref: PKCS#11 URI of the private key.
        key_id: the key's ``CKA_ID``, shared by the certificate in the token.
        token: the token that holds both.
        custody: what was read back about the key (``attributes``, ``deviations``), and what became of tries to take
            such a key out (``probe``, or ``None``); the schema tells its form.
        enrollment: the enrollment that the certificate came by.
        generation: 1 for the customer's first certificate on this channel, one more with each renewal.
        environment: test or production.
        customer: the customer ID, as the service knows it.
        channel: what the certificate is for.

    Raises:
        InputError: the URI has a PIN attribute or cannot be read.
        VerificationError: the certificates do not parse, are not in order, or the URI names another key.
    """
    refuse_pin(key_ref)
    if attributes_of(key_ref).get("id", key_id) != key_id:
        raise VerificationError("The PKCS#11 URI names another key than the certificate's", check="key reference")
    leaf = _parsed(certificate)
    issuers = _ordered(leaf, [_parsed(pem) for pem in chain])
    return {
        "layout": LAYOUT,
        "certificate": _pem(leaf),
        "issuing_ca": _pem(issuers[0]),
        "ca_chain": "\n".join(map(_pem, issuers)),
        "fullchain": "\n".join(map(_pem, [leaf, *(ca for ca in issuers if ca.subject != ca.issuer)])),
        "serial_number": colon_hex(leaf.serial_number),
        "not_before": iso(leaf.not_valid_before_utc),
        "not_after": iso(leaf.not_valid_after_utc),
        "fingerprint_sha256": hashlib.sha256(_der(leaf)).hexdigest(),
        "public_key_sha256": hashlib.sha256(_spki(leaf)).hexdigest(),
        "key_ref": key_ref,
        "key_id": key_id.hex(),
        "token": {
            "label": token.label,
            "serial": token.serial,
            "model": token.model,
            "manufacturer": token.manufacturer,
        },
        "custody": dict(custody),
        "enrollment": enrollment,
        "generation": generation,
        "environment": environment.value,
        "customer_id": customer,
        "channel": channel.value,
    }


def index_strings(record: Mapping[str, object]) -> dict[str, str]:
    """Return the custom metadata that belongs to a record: a few plain strings to find it by, nothing sensitive."""
    return {name: str(record[name]) for name in INDEX_FIELDS}


@cache
def record_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a record as it stands in Vault, shipped as ``record.schema.json``."""
    text = resources.files("varmenne.vault").joinpath("record.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def _parsed(pem: str) -> x509.Certificate:
    """Parse one PEM certificate."""
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificate(pem.encode())
    except ValueError as exc:
        raise VerificationError("A certificate of the record is not PEM", check="certificate form") from exc


def _ordered(leaf: x509.Certificate, chain: list[x509.Certificate]) -> list[x509.Certificate]:
    """Return the chain if each certificate names the next as its issuer. Signatures were verified long before."""
    below = leaf
    for issuer in chain:
        if below.issuer != issuer.subject:
            raise VerificationError(
                "The CA certificates of the record are not in order",
                check="chain order",
                why=f"{below.subject.rfc4514_string()!r} was not issued by {issuer.subject.rfc4514_string()!r}",
            )
        below = issuer
    if not chain:
        raise VerificationError("The record lacks the certificate's issuer", check="chain order")
    return chain


def _pem(certificate: x509.Certificate) -> str:
    """Return PEM in its canonical form, without the last line break, which templates add where they want one."""
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM).decode("ascii").strip()


def _der(certificate: x509.Certificate) -> bytes:
    """Return the certificate's DER bytes."""
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.DER)


def _spki(certificate: x509.Certificate) -> bytes:
    """Return the certificate's SubjectPublicKeyInfo, DER."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@dataclass(frozen=True, slots=True)
class Leaf:
    """What a record's certificate is, read from itself.

    Attributes:
        der: the certificate.
        public_key: its key, DER ``SubjectPublicKeyInfo``.
        key_id: the ``CKA_ID`` of its private key, as the record says.
    """

    der: bytes
    public_key: bytes
    key_id: KeyId


def refuse_contradictions(record: Mapping[str, Any]) -> Leaf:
    """Make a record anew from its certificates and compare: nothing in it may differ from what they say themselves.

    Establishes that the record is whole and agrees with itself, not that its certificate is to be trusted.

    Raises:
        VerificationError: a field is missing, of another type, or says something else than the certificates.
    """
    try:
        if record["layout"] != LAYOUT:
            raise VerificationError(
                f"The record is of layout {record['layout']!r}",
                check="record",
                next_step="Update varmenne on this host: it knows no other layout than 1",
            )
        made = build_record(
            certificate=record["certificate"],
            chain=[f"{part}{_END}" for part in record["ca_chain"].split(_END) if part.strip()],
            key_ref=record["key_ref"],
            key_id=KeyId(bytes.fromhex(record["key_id"])),
            token=TokenIdentity(**record["token"], firmware="", library=""),
            custody=record["custody"],
            enrollment=record["enrollment"],
            generation=record["generation"],
            environment=Environment(record["environment"]),
            customer=record["customer_id"],
            channel=Channel(record["channel"]),
        )
        datetime.fromisoformat(record.get(OLDER_THAN, record["not_before"]))
    except (KeyError, TypeError, ValueError, AttributeError, InputError) as exc:
        raise VerificationError("The record is not one of this layout", check="record", why=str(exc)) from exc
    if wrong := [name for name, value in made.items() if record.get(name) != value]:
        raise VerificationError("The record contradicts its certificates", check="record", why=f"in {', '.join(wrong)}")
    leaf = _parsed(record["certificate"])
    return Leaf(_der(leaf), _spki(leaf), KeyId(bytes.fromhex(record["key_id"])))
