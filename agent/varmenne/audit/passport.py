"""The custody passport: all that is known of one key, as an in-toto statement about its public key. No I/O.

The statement is put into an envelope that the log's key signs (:mod:`varmenne.audit.dsse`), and the envelope's hash is
recorded in the log. It names the customer: whose key it is, is what it is for. It holds no secret.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from varmenne.audit.inventory import is_software
from varmenne.domain.audit import canonical, fingerprint, moment
from varmenne.domain.enrollment import Enrollment
from varmenne.domain.key_states import KEY_STATES
from varmenne.domain.keys import CustodyProbe, TokenIdentity
from varmenne.domain.steps import State

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "urn:varmenne:custody-passport:1"
"""What the statement's predicate is, and its version. Fields may be added within a version; readers pass over them."""

BOUNDARY = {
    True: "software token, no hardware boundary",
    False: "what the token says of itself; only a vendor's attestation would prove a hardware boundary",
}
"""Whether a token is known to be software → what is to be said of its boundary."""

MECHANISMS = {0x0: "CKM_RSA_PKCS_KEY_PAIR_GEN", 0xA: "CKM_RSA_X9_31_KEY_PAIR_GEN"}
"""``CKA_KEY_GEN_MECHANISM`` → its name (PKCS#11 3.0, 6.1.1)."""

EXACT = 2**53
"""Numbers from here on are written as text in hexadecimal, as not every reader of JSON has them exactly."""


@dataclass(frozen=True, slots=True)
class Attestation:
    """What a vendor's tool said of the key. It is carried along as it is; nothing of it is verified here.

    Attributes:
        kind: what it is, such as ``yubihsm-attestation`` or a file's suffix.
        data: its bytes.
    """

    kind: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of the service; ``body`` is ``None`` once it was pruned, ``record`` if the log has none of it."""

    operation: str
    at: datetime | None
    http_status: int | None
    verdict: str | None
    sha256: str
    body: bytes | None
    record: int | None


@dataclass(frozen=True, slots=True)
class Reading:
    """What the token said of the key when the passport was made; ``attributes`` is ``None`` if the key was unfit."""

    at: datetime
    attributes: Mapping[str, bool | int | None] | None
    deviations: tuple[str, ...]
    changed: tuple[str, ...]
    unfit: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Passport:
    """What a passport is made of.

    Attributes:
        row: the enrollment, as the journal and the log agree that it is.
        at: when the passport is made.
        origin: the log's name.
        records: index and content of the log's records about the key.
        hashes: SHA-256 of each of them, in the same order.
        token: the token that the key is in, as it was at the key's birth.
        reading: the key as it reads now; ``None`` if it is destroyed, or is not there and need not be.
        probes: the newest probe of the token with throw-away keys, and that of the live key, by those names.
        answers: the service's answers, oldest first.
        attestations: what the vendor's tools said.
    """

    row: Enrollment
    at: datetime
    origin: str
    records: tuple[tuple[int, Mapping[str, Any]], ...]
    hashes: tuple[str, ...]
    token: TokenIdentity
    reading: Reading | None
    probes: Mapping[str, CustodyProbe]
    answers: tuple[Answer, ...]
    attestations: tuple[Attestation, ...]


def statement(passport: Passport) -> bytes:
    """Write the statement. Its subject is the public key, by the SHA-256 of its DER ``SubjectPublicKeyInfo``."""
    row = passport.row
    return canonical(
        {
            "_type": STATEMENT,
            "subject": [{"name": f"public key of enrollment {row.id}", "digest": {"sha256": _sha256(row.public_key)}}],
            "predicateType": PREDICATE,
            "predicate": {
                "issued_at": moment(passport.at),
                "log": passport.origin,
                "enrollment": _enrollment(row),
                "key": _key(row),
                "birth": _birth(passport),
                "now": None if passport.reading is None else _plain(asdict(passport.reading)),
                "token": _token(passport.token),
                "probes": {name: _probe(probe) for name, probe in passport.probes.items()},
                "attestations": [_attestation(one) for one in passport.attestations],
                "csr": row.csr,
                "answers": [_answer(one) for one in passport.answers],
                "certificate": _certificate(row),
                "history": list(_history(passport)),
                "vault": None if row.vault_path is None else {"path": row.vault_path, "version": row.vault_version},
            },
        }
    )


def _enrollment(row: Enrollment) -> dict[str, Any]:
    """Tell whose key it is, and how its certificate was asked for."""
    return {
        "id": row.id,
        "environment": row.environment,
        "channel": row.channel,
        "customer_id": row.customer_id,
        "customer_name": row.customer_name,
        "contact": row.contact,
        "method": row.method,
        "generation": row.generation,
        "replaces": row.replaces,
        "state": row.state,
    }


def _key(row: Enrollment) -> dict[str, Any]:
    """Tell which key it is."""
    return {
        "key_id": row.key_id.hex(),
        "label": row.key_label,
        "public_key": _base64(row.public_key or b""),
        "state": KEY_STATES[row.state],
    }


def _birth(passport: Passport) -> dict[str, Any]:
    """Tell what was read back when the key was made."""
    custody = passport.row.custody or {}
    attributes = custody.get("attributes", {})
    made = (index for index, record in passport.records if record["act"] in {"generate", "adopt"})
    number = attributes.get("KEY_GEN_MECHANISM")
    return {
        "at": custody.get("made_at"),
        "record": next(made, None),
        "mechanism": MECHANISMS.get(number, _plain(number)) if number is not None else None,
        "local": attributes.get("LOCAL"),
        "attributes": _plain(attributes),
        "deviations": custody.get("deviations", []),
    }


def _token(token: TokenIdentity) -> dict[str, Any]:
    """Tell which token it is in, and what is known of its boundary."""
    return {**asdict(token), "boundary": BOUNDARY[is_software(token)]}


def _probe(probe: CustodyProbe) -> dict[str, Any]:
    """Tell each try with its return code, and with which firmware and library it was made."""
    versions = {"firmware": probe.token.firmware, "library": probe.token.library}
    return {"at": moment(probe.at), "fit": probe.fit, **versions, "results": [asdict(line) for line in probe.results]}


def _attestation(one: Attestation) -> dict[str, Any]:
    """Carry an attestation along."""
    return {"type": one.kind, "sha256": fingerprint(one.data), "data": _base64(one.data)}


def _answer(one: Answer) -> dict[str, Any]:
    """Carry an answer along as it was received, with its signature in it."""
    at = None if one.at is None else moment(one.at)
    return {**asdict(one), "at": at, "body": None if one.body is None else _base64(one.body)}


def _certificate(row: Enrollment) -> dict[str, Any] | None:
    """Tell which certificate the key has."""
    if row.certificate is None:
        return None
    dates = {"not_before": row.not_before, "not_after": row.not_after}
    return {
        "pem": row.certificate,
        "chain": row.chain,
        "serial_number": row.serial_number,
        **{name: None if at is None else moment(at) for name, at in dates.items()},
    }


def _history(passport: Passport) -> Iterable[dict[str, Any]]:
    """Yield each change of state by the log's records, in its own words and those of NIST SP 800-57."""
    for (index, record), sha256 in zip(passport.records, passport.hashes, strict=True):
        if record["target"] is None or record["source"] == record["target"]:
            continue
        yield {
            "record": index,
            "sha256": sha256,
            **{name: record[name] for name in ("at", "actor", "host", "act", "source", "target", "outcome")},
            "key_state": KEY_STATES[State(record["target"])],
        }


def _plain(value: Any) -> Any:
    """Write moments as text, and numbers that are too large to be the same for every reader in hexadecimal."""
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, datetime):
        return moment(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= EXACT:
        return f"{value:#x}"
    return value


def _sha256(public_key: bytes | None) -> str:
    """Return the hash by which the log names a public key."""
    return fingerprint(public_key or b"")


def _base64(data: bytes) -> str:
    """Encode in base64 (RFC 4648, 4)."""
    return base64.b64encode(data).decode()
