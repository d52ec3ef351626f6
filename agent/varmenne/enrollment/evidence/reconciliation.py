"""Compares what four places say of each key: the token, the journal, Vault and the audit log; and the certificates.

It only reads. The log is read once, then the rows one by one, so memory grows with the number of enrollments and not
with that of records. Others may be at work meanwhile: before a difference is told, the enrollment is looked at again.
That the log itself was not rewritten is proven by `varmenne audit verify`, not here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from varmenne.audit.verifier import Life, Refused, Walk, parse_record
from varmenne.domain.audit import fingerprint, row_document
from varmenne.domain.identifiers import EnrollmentId
from varmenne.domain.steps import State
from varmenne.enrollment import facts
from varmenne.enrollment.published import compared
from varmenne.enrollment.reconcile import KEY_GONE, Difference, KeysInToken, Kind
from varmenne.errors import InputError, KeyNotFound, TokenUnfit

if TYPE_CHECKING:
    from varmenne.domain.enrollment import Enrollment
    from varmenne.enrollment.parts import Parts
    from varmenne.enrollment.progress import Progress
    from varmenne.vault import Published

PARKED_AFTER = timedelta(days=30)
"""So long a key may wait for its certificate before it is told; credentials last 14 days."""

BESIDE_KEY = frozenset({State.STORED, State.ACTIVE, State.SUPERSEDED, State.RETIRED})
"""States in which the certificate stands beside its key."""

PUBLISHED = BESIDE_KEY | {State.DESTROYED}
"""States in which the generation's record stands in Vault."""

TOLD_EVERY = 500
LOOKS = 3
"""So often an enrollment that changes meanwhile is compared anew."""


@dataclass(slots=True)
class _Log:
    """What one reading of the log has found: how each enrollment stands, the log's own keys, and what is wrong."""

    of: dict[str, Life] = field(default_factory=dict)
    log_keys: set[str] = field(default_factory=set)
    broken: list[Difference] = field(default_factory=list)


def differences(parts: Parts, progress: Progress) -> Iterator[Difference]:
    """Compare everything, and yield each difference when it is found.

    Raises:
        TokenError, VaultError, JournalError: one of the places cannot be read; what was yielded until then stands.
    """
    parts.token.login()
    progress.begins("Read the keys in the token, and the audit log")
    keys = KeysInToken(parts)
    log = _read_log(parts)
    progress.done(f"{keys.count} keys; records of {len(log.of)} enrollments")
    yield from log.broken
    number = 0
    for number, row in enumerate(parts.journal.every(), 1):
        if number % TOLD_EVERY == 1:
            progress.begins(f"Compare enrollments, from number {number} on")
        yield from (one for one in keys.of(row) if _still(parts, row, one))
        yield from _twice(parts, row, keys, log.of.pop(row.id, Life()))
    yield from keys.left({*log.log_keys, parts.settings.vault.login.jwt_key})
    for name in log.of:
        yield Difference(Kind.ROW_GONE, "log, journal", "the log has records of it, the journal no row", name)
    progress.done(f"{number} enrollments compared")


def _read_log(parts: Parts) -> _Log:
    """Read the whole log once, and keep the last that it says of each enrollment."""
    log, walk = _Log(), Walk()
    for index, body in parts.journal.log.records(0, parts.journal.log.head().size):
        try:
            record = parse_record(body)
            wrong = list(walk.take(index, record))
        except Refused as exc:
            wrong = [str(exc)]
        else:
            if record.act == "log_key" and record.key_id is not None:
                log.log_keys.add(record.key_id)
        if wrong and not log.broken:  # The first tells enough: `audit verify` names them all.
            log.broken.append(Difference(Kind.BROKEN_LOG, "log", f"record {index}: {wrong[0]}"))
    log.of = walk.lives
    return log


def _still(parts: Parts, row: Enrollment, one: Difference) -> bool:
    """Tell whether a key is still there, or not there, after the keys were listed before the row was read."""
    if one.kind not in {Kind.NO_KEY, Kind.NOT_DESTROYED}:
        return True
    try:
        there = parts.token.find(row.key_id) is not None
    except (TokenUnfit, KeyNotFound):
        there = True
    gone = facts.known(parts.journal, row.id) and parts.journal.get(row.id).state in KEY_GONE
    return there if one.kind is Kind.NOT_DESTROYED else not there and not gone


def _twice(parts: Parts, row: Enrollment, keys: KeysInToken, logged: Life) -> list[Difference]:
    """Compare an enrollment; what differs is believed when it was looked at again and had not changed meanwhile."""
    found = list(_of_row(parts, row, keys, logged))
    for _look in range(LOOKS):
        if not found:
            break
        try:
            newest, now = parts.journal.get(row.id), _last_logged(parts, row.id)
        except InputError:
            return [Difference(Kind.ROW_GONE, "log, journal", "its row was there a moment ago", row.id)]
        if newest == row and now == logged:
            break
        row, logged = newest, now
        found = list(_of_row(parts, row, keys, logged))
    return found


def _last_logged(parts: Parts, enrollment: EnrollmentId) -> Life:
    """Read anew what the log says of one enrollment."""
    walk = Walk()
    for index, body in parts.journal.log.of(enrollment):
        try:
            list(walk.take(index, parse_record(body)))
        except Refused:
            continue
    return walk.lives.get(enrollment, Life())


def _of_row(parts: Parts, row: Enrollment, keys: KeysInToken, logged: Life) -> Iterator[Difference]:
    """Compare one enrollment with the log, the token, its certificate and Vault."""
    yield from _in_log(row, logged)
    yield from _certificate(row, parts)
    if row.token == keys.here:
        yield from _in_token(parts, row)
    if row.environment is parts.settings.environment and row.certificate is not None:
        yield from _in_vault(parts, row)


def _in_log(row: Enrollment, logged: Life) -> Iterator[Difference]:
    """Compare a row with what the log last said of it."""
    where = "journal, log"
    if logged.row is None:
        yield _about(row, Kind.NO_RECORD, where, f"it is {row.state}, and the log has no record of it")
    elif logged.row != fingerprint(row_document(row)):
        yield _about(row, Kind.ROW_CHANGED, where, _how(row, logged))
    if row.public_key is not None and logged.public_key is None:
        yield _about(row, Kind.UNLOGGED, where, "it has a key, and the log does not tell of its birth")


def _how(row: Enrollment, logged: Life) -> str:
    """Tell in which of the facts that the log names itself a row differs; other columns show by their hash only."""
    ours = Life(
        row.state,
        row.key_id.hex(),
        None if row.public_key is None else fingerprint(row.public_key),
        None if row.certificate is None else fingerprint(facts.pem_to_der(row.certificate)),
        logged.row,
    )
    names = ("state", "key_id", "public_key", "certificate")
    differing = [name for name in names if getattr(ours, name) != getattr(logged, name)]
    if not differing:
        return "its row is not as the last record left it, in what the log has only the hash of"
    told = ", ".join(f"{name} (journal {getattr(ours, name)}, log {getattr(logged, name)})" for name in differing)
    return f"its row is not as the last record left it: {told}"


def _certificate(row: Enrollment, parts: Parts) -> Iterator[Difference]:
    """Compare a row with its certificate, and the certificate with the time."""
    if row.certificate is None:
        return
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    try:
        found = x509.load_pem_x509_certificate(row.certificate.encode())
        public_key = found.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except ValueError as exc:
        yield _about(row, Kind.CONTRADICTION, "certificate, journal", f"its certificate cannot be read: {exc}")
        return
    said = {
        "public key": (public_key, row.public_key),
        "serial number": (found.serial_number, int((row.serial_number or "0").replace(":", ""), 16)),
        "begin": (found.not_valid_before_utc, row.not_before),
        "end": (found.not_valid_after_utc, row.not_after),
    }
    if wrong := [name for name, (theirs, ours) in said.items() if theirs != ours]:
        what = f"its certificate has another {' and another '.join(wrong)} than its row"
        yield _about(row, Kind.CONTRADICTION, "certificate, journal", what)
    if row.state is State.ACTIVE and found.not_valid_after_utc <= parts.now:
        what = f"it is in use, and ended on {found.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
        yield _about(row, Kind.EXPIRED, "certificate", what)


def _in_token(parts: Parts, row: Enrollment) -> Iterator[Difference]:
    """Compare a row with its key as it reads now, and with the certificates beside it."""
    try:
        key = parts.token.find(row.key_id)
    except TokenUnfit as exc:
        yield _about(row, Kind.UNFIT, "token", exc.why or exc.what)
        return
    except KeyNotFound:
        return  # Several have this CKA_ID, which is told of all keys together.
    if key is None:
        return  # Whether it has to be there is told of all keys together.
    if key.public_key != row.public_key:
        yield _about(row, Kind.OTHER_KEY, "token, journal", "under its CKA_ID there is another key than was made")
    if differing := facts.changed(row, key):
        yield _about(row, Kind.CHANGED, "token, journal", "; ".join(differing))
    yield from _beside(parts, row)
    if _parked(parts, row):
        yield _about(row, Kind.PARKED, "token", f"it is {row.state} since {row.updated_at:%Y-%m-%d}, with a key")


def _beside(parts: Parts, row: Enrollment) -> Iterator[Difference]:
    """Compare the certificates beside a key with the one that the journal has."""
    there = set(parts.token.certificates(row.key_id))
    ours = None if row.certificate is None else facts.pem_to_der(row.certificate)
    if row.state in BESIDE_KEY and ours not in there:
        yield _about(row, Kind.NO_CERTIFICATE, "token, journal", "its certificate is not beside its key")
    for other in sorted(there - {ours}):
        what = f"beside its key is a certificate of SHA-256 {fingerprint(other)}, which the journal does not have"
        yield _about(row, Kind.OTHER_CERTIFICATE, "token, journal", what)


def _parked(parts: Parts, row: Enrollment) -> bool:
    """Tell whether a key that is there has no certificate: its enrollment has ended, or waits for long."""
    if row.certificate is not None:
        return False
    return row.state in KEY_GONE or parts.now - row.created_at > PARKED_AFTER


def _in_vault(parts: Parts, row: Enrollment) -> Iterator[Difference]:
    """Compare a row with the record of its generation, and with the current one if it is in use."""
    if row.state not in PUBLISHED:
        return
    place = facts.place(parts.settings, row.customer_id, row.channel)
    generation = place.generation(row.generation)
    found = parts.store.read(generation)
    if found is None:
        yield _about(row, Kind.NOT_IN_VAULT, f"vault {generation.path}", "the record of its generation is gone")
    else:
        yield from _record(row, generation.path, found)
    if row.state is not State.ACTIVE:
        return
    current = parts.store.read(place)
    if (behind := compared(row, current)) is not None:
        yield _about(row, Kind.BEHIND, f"vault {place.path}", behind.why)
    elif current is not None:
        yield from _record(row, place.path, current)


def _record(row: Enrollment, path: str, found: Published) -> Iterator[Difference]:
    """Compare what a record says with what would be published of a row."""
    from varmenne.vault import record_schema

    wanted: dict[str, Any] = json.loads(json.dumps(facts.record(row)))
    needed = {*record_schema()["required"], *found.data}
    differing = [name for name, value in wanted.items() if name in needed and found.data.get(name) != value]
    if differing:
        what = f"version {found.version} has another {', '.join(differing)} than the journal"
        yield _about(row, Kind.VAULT_DIFFERS, f"vault {path}", what)


def _about(row: Enrollment, kind: Kind, where: str, what: str) -> Difference:
    """Tell of a difference of an enrollment."""
    return Difference(kind, where, what, row.id, row.key_id.hex())
