"""The audit record: what was done, by whom, to which key, in bytes that are the same for everybody.

A record holds no secret, and of people only the login name of who acted. Customers and contacts are not named: the
hash of the journal's row binds them to it.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from varmenne.domain.enrollment import Enrollment, Event

VERSION = 1

DETAILS = (
    "answer",
    "approvals",
    "by",
    "errors",
    "fingerprint_sha256",
    "kind",
    "known_answer",
    "not_sent",
    "ok",
    "origin",
    "public_key_sha256",
    "renewal",
    "serial_number",
    "signer",
    "transfer_hash",
    "vault_version",
    "was_there",
)
"""What of an event's detail is taken into its record. The rest may name people, customers or places."""

UNRECORDED = frozenset({"version", "updated_at", "due_at", "owner", "tries", "claims", "problem", "rehearsal"})
"""Columns of a row that say when and by whom it is worked on, and not what it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """One act.

    Attributes:
        at: when it was done.
        actor: login name of the person, or of the service account.
        host: where.
        act: what was done: the name of a step, or of an act beside the steps.
        enrollment: whose key it was done to; ``None`` for acts that are not about one.
        environment: the environment of that enrollment.
        key_id: its ``CKA_ID``, in hexadecimal.
        public_key: SHA-256 of its DER ``SubjectPublicKeyInfo``, in hexadecimal.
        certificate: SHA-256 of its certificate's DER, in hexadecimal.
        serial: its certificate's serial number, in hexadecimal.
        source: the state before.
        target: the state after.
        outcome: ``done``, or ``failed``.
        reason: why it failed, or was done.
        detail: facts, flat or not, of texts, numbers without fraction, truth values and nothing.
        row: SHA-256 of :func:`row_document` as the act left it, in hexadecimal.
    """

    at: datetime
    actor: str
    host: str
    act: str
    enrollment: str | None = None
    environment: str | None = None
    key_id: str | None = None
    public_key: str | None = None
    certificate: str | None = None
    serial: str | None = None
    source: str | None = None
    target: str | None = None
    outcome: str = "done"
    reason: str | None = None
    detail: dict[str, Any] = field(default_factory=dict)
    row: str | None = None

    def encoded(self) -> bytes:
        """Return the bytes that are kept and hashed, and never made anew.

        Raises:
            ValueError: the detail holds something that is not written in one way only, such as a fraction.
        """
        values: dict[str, Any] = {"v": VERSION} | {name: getattr(self, name) for name in self.__slots__}
        return canonical(values | {"at": moment(self.at)})


def of_event(row: Enrollment, event: Event, *, actor: str, host: str) -> AuditRecord:
    """Return the record of an event, given the row as the event left it."""
    failed = event.step == "problem" or "what" in event.detail
    return about(
        row,
        at=event.at,
        actor=actor,
        host=host,
        act=event.step,
        source=event.source,
        target=event.target,
        outcome="failed" if failed else "done",
        # The words of a failure may name customers and places; the journal has them.
        reason=event.detail.get("kind") if failed else event.detail.get("why"),
        detail={name: event.detail[name] for name in DETAILS if name in event.detail},
        row=fingerprint(row_document(row)),
    )


def about(row: Enrollment, /, **facts: Any) -> AuditRecord:
    """Return a record about an enrollment's key."""
    return AuditRecord(
        enrollment=row.id,
        environment=row.environment,
        key_id=row.key_id.hex(),
        public_key=None if row.public_key is None else fingerprint(row.public_key),
        certificate=None if row.certificate is None else fingerprint(_der(row.certificate)),
        serial=row.serial_number,
        **facts,
    )


def row_document(row: Enrollment) -> bytes:
    """Return what a row of the journal is, in bytes that are the same whatever database it was read from.

    What has no value is left out, so that columns of later versions change nothing of older rows.
    """
    values = ((column.name, getattr(row, column.name)) for column in dataclasses.fields(row))
    return canonical({name: _plain(value) for name, value in values if value is not None and name not in UNRECORDED})


def fingerprint(data: bytes) -> str:
    """Return the SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def moment(at: datetime) -> str:
    """Write a moment in UTC, to the microsecond."""
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"


def canonical(value: dict[str, Any]) -> bytes:
    """Write a value as JSON in the one way that RFC 8785 has for it.

    Raises:
        ValueError: it holds something for which this encoder's way and that of RFC 8785 may differ.
    """
    _refuse_ambiguous(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _refuse_ambiguous(value: object) -> None:
    """Refuse fractions, huge numbers, and keys that are not plain."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if not (isinstance(key, str) and key.isascii()):
                raise ValueError(f"{key!r} cannot be a key of a record")
            _refuse_ambiguous(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _refuse_ambiguous(inner)
    elif isinstance(value, int):
        if abs(value) >= 2**53:
            raise ValueError("the number is too large for a record")
    elif not isinstance(value, str | None):
        raise ValueError(f"a {type(value).__name__} cannot be in a record")  # noqa: TRY004 - a value like any other


def _plain(value: object) -> object:
    """Write moments and bytes as texts."""
    if isinstance(value, datetime):
        return moment(value)
    return value.hex() if isinstance(value, bytes) else value


def _der(pem: str) -> bytes:
    """Return the bytes in a PEM text (RFC 7468), the first if there are several."""
    _before, _begin, rest = pem.partition("-----BEGIN CERTIFICATE-----")
    return base64.b64decode(rest.partition("-----END")[0])
