"""The one table of faults: what a test can make the bench do wrong, for the next requests.

A fault changes the handling of a request at one or more of five points, each a field of :class:`Fault`. A fault of
``instead`` or ``refusal`` keeps the request from being processed; with every other fault it is processed as usual, with
durable effects, and only what comes back is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import TYPE_CHECKING

from varmenne.service.interface import Operation
from varmenne.testbench.refusals import NOT_READY, TEMPORARY, Refusal

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import rsa

    from varmenne.testbench.family import Family, KeyPair

TEXT_XML = "text/xml; charset=utf-8"
SLOW_SECONDS = 5.0
"""How long a slow answer takes: longer than a short read timeout, shorter than a test's patience."""
HUGE_BYTES = 1024 * 1024


class Delivery(Enum):
    """How much of a reply reaches the client."""

    WHOLE = auto()
    HALF = auto()
    NOTHING = auto()


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP reply, and how it is delivered."""

    status: int
    body: bytes
    content_type: str = TEXT_XML
    headers: tuple[tuple[str, str], ...] = ()
    delivery: Delivery = Delivery.WHOLE
    wait_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Fault:
    """One line of the table.

    Attributes:
        meaning: what happens, one sentence for the documentation.
        only: the one operation that it fits, or None.
        instead: the reply given without processing the request.
        refusal: the signed ``FAIL`` given without processing the request.
        certificate: what getCertificate gives instead of the certificate that was issued.
        signer: who signs the answer instead of the service.
        document: a change to the answer's bytes after signing.
        reply: a change to the whole reply.
    """

    meaning: str
    only: Operation | None = None
    instead: Reply | None = None
    refusal: Refusal | None = None
    certificate: Callable[[Family, x509.Certificate, datetime], x509.Certificate] | None = None
    signer: Callable[[Family, datetime], KeyPair] | None = None
    document: Callable[[bytes], bytes] | None = None
    reply: Callable[[Reply], Reply] | None = None


NO_FAULT = Fault("Nothing is wrong.")


def _tampered(document: bytes) -> bytes:
    """Change the first character of the first value."""
    return re.sub(
        rb"(<(?:RetrievalId|Certificate|ErrorMessage)>)(.)",
        lambda match: match[1] + (b"B" if match[2] == b"A" else b"A"),
        document,
        count=1,
    )


def _unsigned(document: bytes) -> bytes:
    """Cut the signature out."""
    return re.sub(rb"<ds:Signature .*</ds:Signature>", b"", document, flags=re.DOTALL)


def _self_made_signer(_family: Family, now: datetime) -> KeyPair:
    """Make an authority of the same name with another key, and a signer under it."""
    import tempfile
    from pathlib import Path

    from varmenne.testbench.family import Family

    with tempfile.TemporaryDirectory(prefix="varmenne-bench-") as folder:
        return Family(Path(folder), "http://127.0.0.1:9", now).new_signer(now)


def _customer_signer(family: Family, now: datetime) -> KeyPair:
    """Make a signer whose certificate the customers' CA issued."""
    return family.new_signer(now, issuer="providers")


def _expired_signer(family: Family, now: datetime) -> KeyPair:
    """Make a signer of the right CA whose certificate ended yesterday."""
    return family.new_signer(now - timedelta(days=30), end=now - timedelta(days=1))


def _revoked_signer(family: Family, _now: datetime) -> KeyPair:
    """Return a signer of the right CA whose certificate is in its list."""
    return family.revoked_signer


def _with_another_key(family: Family, certificate: x509.Certificate, now: datetime) -> x509.Certificate:
    """Give the same subject a certificate for a key that nobody asked for, as the public test bench does."""
    stranger = family.new_signer(now).key.public_key()
    return family.issue(certificate.subject, stranger, now, issuer="providers")


def _of_another_customer(family: Family, certificate: x509.Certificate, now: datetime) -> x509.Certificate:
    """Give the right key a certificate in another customer's name."""
    from varmenne.testbench.family import customer_subject

    subject = customer_subject("7654321-0", "Another Customer of the BENCH", "0")
    return family.issue(subject, _rsa_key(certificate), now, issuer="providers")


def _of_wrong_issuer(family: Family, certificate: x509.Certificate, now: datetime) -> x509.Certificate:
    """Let the services CA issue the certificate."""
    return family.issue(certificate.subject, _rsa_key(certificate), now, issuer="services")


def _expired_certificate(family: Family, certificate: x509.Certificate, now: datetime) -> x509.Certificate:
    """Give a certificate that ended yesterday."""
    end = now.replace(microsecond=0) - timedelta(days=1)
    return family.issue(
        certificate.subject, _rsa_key(certificate), end - timedelta(days=1), issuer="providers", end=end
    )


def _rsa_key(certificate: x509.Certificate) -> rsa.RSAPublicKey:
    """Return a customer's public key; the bench certifies no others than RSA keys."""
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = certificate.public_key()
    if not isinstance(key, rsa.RSAPublicKey):
        raise TypeError("the bench certifies RSA keys only")
    return key


FAULTS: dict[str, Fault] = {
    # The request is not processed.
    "http-503": Fault(
        "HTTP 503 with Retry-After; the request is not processed.",
        instead=Reply(503, b"BENCH: out of service\n", "text/plain", headers=(("Retry-After", "1"),)),
    ),
    "html-page": Fault(
        "HTTP 200 with an HTML page, as from a proxy; the request is not processed.",
        instead=Reply(200, b"<!DOCTYPE html><title>BENCH</title><p>Please log in\n", "text/html; charset=utf-8"),
    ),
    "redirect": Fault(
        "HTTP 302 to another URL; the request is not processed.",
        instead=Reply(302, b"", "text/plain", headers=(("Location", "https://127.0.0.1:9/"),)),
    ),
    "drop-unread": Fault(
        "The connection is closed without an answer; the request is not processed.",
        instead=Reply(0, b"", delivery=Delivery.NOTHING),
    ),
    "temporary-error": Fault("A signed FAIL: temporary error; the request is not processed.", refusal=TEMPORARY),
    "never-ready": Fault("A signed FAIL: the certificate is not ready yet.", only=Operation.GET, refusal=NOT_READY),
    # It is processed, and the answer does not arrive as it should.
    "drop-after-receipt": Fault(
        "The request is processed, then the connection is closed without an answer.",
        reply=lambda reply: replace(reply, delivery=Delivery.NOTHING),
    ),
    "half-answer": Fault(
        "The request is processed; the connection is closed in the middle of the answer.",
        reply=lambda reply: replace(reply, delivery=Delivery.HALF),
    ),
    "http-502-after-receipt": Fault(
        "The request is processed; a gateway answers HTTP 502 in the bench's place.",
        reply=lambda _reply: Reply(502, b"BENCH: bad gateway\n", "text/plain"),
    ),
    "slow": Fault(
        f"The request is processed; the answer comes {SLOW_SECONDS:g} seconds late.",
        reply=lambda reply: replace(reply, wait_seconds=SLOW_SECONDS),
    ),
    "huge": Fault(
        "The request is processed; the answer is followed by a mebibyte of white space.",
        reply=lambda reply: replace(reply, body=reply.body + b" " * HUGE_BYTES),
    ),
    # It is processed, and the answer is not to be believed.
    "tampered": Fault("A value of the answer is changed after signing.", document=_tampered),
    "unsigned": Fault("The answer's signature is cut out.", document=_unsigned),
    "wrong-signer": Fault("Signed under an authority of the same name, made by a stranger.", signer=_self_made_signer),
    "customer-signs": Fault("Signed with a certificate of the customers' CA.", signer=_customer_signer),
    "expired-signer": Fault("Signed with a certificate that ended yesterday.", signer=_expired_signer),
    "revoked-signer": Fault("Signed with a certificate that the services CA has revoked.", signer=_revoked_signer),
    # The answer is genuine, and the certificate in it is not what was ordered.
    "another-key": Fault("The certificate is for another key.", only=Operation.GET, certificate=_with_another_key),
    "another-customer": Fault(
        "The certificate is in another customer's name.", only=Operation.GET, certificate=_of_another_customer
    ),
    "wrong-issuer": Fault(
        "The certificate was issued by the services CA.", only=Operation.GET, certificate=_of_wrong_issuer
    ),
    "expired-certificate": Fault(
        "The certificate ended yesterday.", only=Operation.GET, certificate=_expired_certificate
    ),
}
"""Name → fault, in the order of the documentation."""
