"""Verification of an issued certificate against what was ordered. Pure, without I/O."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from varmenne.domain.identifiers import CustomerId
from varmenne.errors import InputError, VerificationError
from varmenne.service.doubt import printable
from varmenne.service.trust import TrustAnchors, tolerant, validate_path

if TYPE_CHECKING:
    from cryptography import x509

USUAL_LIFETIME = timedelta(days=730)
LIFETIME_TOLERANCE = timedelta(days=45)


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """A certificate that was verified against its order.

    Attributes:
        certificate: DER.
        chain: DER certificates above it, the issuer first, without the root.
        serial_number: as an integer.
        not_before: start of its validity.
        not_after: end of its validity.
        subject: for people, in the form of RFC 4514.
        warnings: sentences on what is unusual but no reason to refuse.
    """

    certificate: bytes
    chain: tuple[bytes, ...]
    serial_number: int
    not_before: datetime
    not_after: datetime
    subject: str
    warnings: tuple[str, ...] = ()


class SubjectPolicy(StrEnum):
    """What follows if a certificate's subject does not hold the customer ID."""

    WARN = "warn"
    REFUSE = "refuse"


def verify_certificate(
    certificate: bytes,
    *,
    public_key: bytes,
    customer: CustomerId,
    trust: TrustAnchors,
    at: datetime,
    subject: SubjectPolicy = SubjectPolicy.WARN,
    older_serials: Collection[int] = (),
) -> IssuedCertificate:
    """Verify that a certificate is what was ordered: our key, the right issuer, valid now, fit for its purpose.

    Args:
        certificate: DER.
        public_key: DER ``SubjectPublicKeyInfo`` of the key in the token.
        customer: whom the certificate is for; a subject without it is a warning only, since the service does not
            promise where it puts the customer ID.
        trust: the environment's anchors.
        at: the one reference time of the verification.
        subject: whether such a subject is a warning or a refusal.
        older_serials: serial numbers of the customer's earlier certificates; a new one has another.

    Raises:
        VerificationError: check ``certificate``, ``key``, ``validity``, ``chain``, ``ca``, ``usage``, ``duplicate`` or
            ``subject`` failed, in this order. Revocation is not looked at: see :mod:`varmenne.service.revocation`.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    try:
        parsed = x509.load_der_x509_certificate(certificate)
        own_key = parsed.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        list(parsed.extensions)
    except Exception as exc:
        # cryptography has many errors for what cannot be read; whatever it is, there is no certificate.
        raise VerificationError("The certificate cannot be read", check="certificate", why=printable(str(exc))) from exc
    if own_key != public_key:
        raise VerificationError(
            "The certificate does not belong to our key",
            check="key",
            why="its public key is not the one in the token",
            next_step="Do not use it. If it came from the service's public test bench, that is what the bench does",
        )
    at = tolerant(at, parsed.not_valid_before_utc)
    if not parsed.not_valid_before_utc <= at <= parsed.not_valid_after_utc:
        raise VerificationError(
            "The certificate is not valid at present",
            check="validity",
            why=f"valid from {parsed.not_valid_before_utc:%Y-%m-%d %H:%M} "
            f"to {parsed.not_valid_after_utc:%Y-%m-%d %H:%M} UTC; this computer's clock says {at:%Y-%m-%d %H:%M}",
            next_step="Check the clock",
        )
    path = validate_path(certificate, trust.providers, at, what="The certificate", others=trust.chain)
    _check_purpose(parsed)
    if parsed.serial_number in older_serials:
        raise VerificationError(
            "The certificate has the serial number of an earlier one",
            check="duplicate",
            why="one authority never gives the same number twice (RFC 5280, section 4.1.2.2)",
            next_step="Do not use it, and tell the service's support",
        )
    warnings = tuple(_oddities(parsed))
    if not any(customer in str(attribute.value) for attribute in parsed.subject):
        missing = f"The certificate's subject does not hold the customer ID {customer}"
        if subject is SubjectPolicy.REFUSE:
            raise VerificationError(
                missing,
                check="subject",
                why=f"it is {printable(parsed.subject.rfc4514_string())}",
                next_step='If the service puts the ID elsewhere, set `trust.subject = "warn"` and resume',
            )
        warnings = (missing, *warnings)
    return IssuedCertificate(
        certificate=certificate,
        chain=(*path[1:], *issuers_above(path[-1], trust.chain)),
        serial_number=parsed.serial_number,
        not_before=parsed.not_valid_before_utc,
        not_after=parsed.not_valid_after_utc,
        subject=parsed.subject.rfc4514_string(),
        warnings=warnings,
    )


def _check_purpose(certificate: x509.Certificate) -> None:
    """Refuse a CA certificate, and one whose key usage does not allow signing a TLS or SSH handshake."""
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    for extension in certificate.extensions:
        value = extension.value
        if isinstance(value, x509.BasicConstraints) and value.ca:
            raise VerificationError("The certificate is a CA's", check="ca", why="its basic constraints say so")
        if isinstance(value, x509.KeyUsage) and not value.digital_signature:
            raise VerificationError(
                "The certificate's key may not sign", check="usage", why="key usage lacks digitalSignature (RFC 5280)"
            )
        if isinstance(value, x509.ExtendedKeyUsage) and not {
            ExtendedKeyUsageOID.CLIENT_AUTH,
            ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
        } & set(value):
            raise VerificationError(
                "The certificate is not for TLS clients", check="usage", why="extended key usage lacks clientAuth"
            )


def _oddities(certificate: x509.Certificate) -> list[str]:
    """List what is unusual: a length of validity far from two years."""
    lifetime = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    if abs(lifetime - USUAL_LIFETIME) <= LIFETIME_TOLERANCE:
        return []
    return [f"The certificate is valid for {lifetime.days} days; about {USUAL_LIFETIME.days} are usual"]


def with_root(certificates: Sequence[bytes], known: Sequence[bytes]) -> tuple[bytes, ...]:
    """Return a path with the root that its last certificate names as its issuer, if that root is known."""
    from cryptography import x509

    issuer = x509.load_der_x509_certificate(certificates[-1]).issuer
    parsed = ((der, x509.load_der_x509_certificate(der)) for der in known if der not in certificates)
    return (*certificates, *[der for der, root in parsed if issuer == root.subject == root.issuer][:1])


def issuers_above(anchor: bytes, chain: tuple[bytes, ...]) -> list[bytes]:
    """Return the intermediates above the anchor, by issuer and subject, without the self-signed root."""
    from cryptography import x509

    certificates = [x509.load_der_x509_certificate(der) for der in chain]
    above: list[bytes] = []
    current = x509.load_der_x509_certificate(anchor)
    while len(above) < len(chain):
        parents = [
            (der, parent)
            for der, parent in zip(chain, certificates, strict=True)
            if parent.subject == current.issuer and parent.subject != parent.issuer and der not in above
        ]
        if not parents:
            break
        above.append(parents[0][0])
        current = parents[0][1]
    return above


def read_certificate_file(data: bytes) -> tuple[bytes, ...]:
    """Read the certificates of a file in PEM, DER or PKCS#7 (``.pem``, ``.cer``, ``.p7b``), as DER.

    Raises:
        InputError: the file holds no certificate.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

    readers = (
        x509.load_pem_x509_certificates,
        lambda raw: [x509.load_der_x509_certificate(raw)],
        pkcs7.load_pem_pkcs7_certificates,
        pkcs7.load_der_pkcs7_certificates,
    )
    for read in readers:
        try:
            certificates = read(data)
        except Exception:  # noqa: BLE001, S112 - not of this form; whatever a reader raises, the next one is tried
            continue
        if certificates:
            return tuple(certificate.public_bytes(Encoding.DER) for certificate in certificates)
    raise InputError(
        "The file holds no certificate", why="it is neither PEM nor DER nor PKCS#7", next_step="Download it again"
    )
