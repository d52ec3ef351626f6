"""An enrollment as the journal keeps it: one frozen row. It holds no secret; the transfer ID is kept as its hash."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from varmenne.domain.identifiers import (
    Channel,
    CustomerId,
    CustomerName,
    EnrollmentId,
    Environment,
    RetrievalId,
)
from varmenne.domain.keys import KeyId
from varmenne.domain.steps import Method, State


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrollment:
    """One way of a certificate from order to use.

    Attributes:
        version: grows by one with every commit; whoever commits must have read the newest (compare-and-set).
        due_at: when something is to be done next; ``None`` while a person is awaited or nothing is left to do. While
            a process is at work this is the end of its lease.
        owner: the process at work, or ``None``.
        tries: how often the present state was tried without success.
        claims: how often the row was taken since a process last committed something of it or gave it back.
        transfer_hash: SHA-256 of the transfer ID, to recognise it; ``None`` if a person carries the CSR.
        key_id: the ``CKA_ID``, reserved before the key is made.
        token: hash of the identity of the token that holds the key, from ``keyed`` on; of a renewal, from its begin.
        public_key: DER ``SubjectPublicKeyInfo``, from ``keyed`` on.
        custody: what was read back about the key, and the probe of its token.
        csr: PEM, from ``submitting`` on.
        certificate: PEM, from ``issued`` on.
        chain: PEM of the certificates above it, the issuer first, without the root.
        usable_from: from when on the far end takes the certificate, where that is later than its retrieval (SFTP).
        sftp_user: the user ID of the SFTP channel, once a person has told it.
        contact: the technical contact person, as free text; the authority's own record is in the e-service.
        rehearsal: the last rehearsal of the renewal: ``at``, ``ok``, and what failed.
        problem: the last failure: ``what``, ``why``, ``next_step``.
    """

    id: EnrollmentId
    environment: Environment
    channel: Channel
    customer_id: CustomerId
    customer_name: CustomerName | None
    method: Method
    state: State
    version: int
    created_at: datetime
    updated_at: datetime
    due_at: datetime | None = None
    owner: str | None = None
    tries: int = 0
    claims: int = 0
    generation: int = 1
    replaces: EnrollmentId | None = None
    transfer_hash: str | None = None
    valid_until: datetime | None = None
    key_id: KeyId
    key_label: str
    token: str | None = None
    public_key: bytes | None = None
    custody: dict[str, Any] | None = None
    csr: str | None = None
    sent_at: datetime | None = None
    retrieval_id: RetrievalId | None = None
    certificate: str | None = None
    chain: str | None = None
    serial_number: str | None = None
    not_before: datetime | None = None
    not_after: datetime | None = None
    vault_path: str | None = None
    vault_version: int | None = None
    usable_from: datetime | None = None
    sftp_user: str | None = None
    contact: str | None = None
    rehearsal: dict[str, Any] | None = None
    problem: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """One line of an enrollment's history, written in the same transaction as the change that it records."""

    at: datetime
    actor: str
    step: str
    source: State | None
    target: State
    detail: dict[str, Any]


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """An answer of the service as it came, kept before it was interpreted."""

    id: int
    operation: str
    at: datetime
    http_status: int
    body: bytes
    verdict: str | None
    """``verified``, ``refused: CHECK`` or ``None`` while nobody has looked at it."""
