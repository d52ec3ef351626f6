"""Issues custody passports: gathers what is known of a key, has the log's key sign it, and proves that in the log."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from varmenne.audit import dsse
from varmenne.audit.passport import Answer, Attestation, Passport, Reading, statement
from varmenne.audit.proof import proof_text
from varmenne.domain.audit import fingerprint, row_document
from varmenne.domain.keys import CustodyProbe, ProbeResult
from varmenne.domain.steps import State
from varmenne.enrollment import facts
from varmenne.enrollment.evidence.checkpoints import checkpoint, log_signer
from varmenne.enrollment.preflight import probe_name, refuse_key_elsewhere, tried, unfit
from varmenne.enrollment.reconcile import KEY_GONE
from varmenne.errors import EvidenceError, InputError, KeyNotFound, TokenUnfit, VaultError

if TYPE_CHECKING:
    from varmenne.domain.enrollment import Enrollment
    from varmenne.domain.identifiers import EnrollmentId
    from varmenne.enrollment.parts import Parts
    from varmenne.enrollment.progress import Progress

Records = tuple[tuple[int, bytes], ...]

LOOKS = 3
"""So often row and log are read again when they do not fit, as somebody may be at work on the enrollment."""


@dataclass(frozen=True, slots=True)
class Issued:
    """A passport: the envelope, the proof that it is in the log, and the index of its record."""

    envelope: bytes
    proof: bytes
    record: int


def issue(
    parts: Parts, progress: Progress, enrollment: EnrollmentId, attestations: tuple[Attestation, ...] = ()
) -> Issued:
    """Issue a passport of an enrollment's key. The live key is probed for it, and read anew.

    Raises:
        InputError: the enrollment has no key yet.
        StateError: its key is in another token.
        EvidenceError: the journal does not say of the enrollment what the log says, so nothing can be vouched for.
        TokenError: the token cannot be used, or the key is not in it.
    """
    row, records = _agreed(parts, enrollment)
    if row.public_key is None:
        raise InputError(f"Enrollment {row.id} has no key yet", next_step=f"varmenne resume {row.id}")
    refuse_key_elsewhere(parts, row)
    logged = tuple((index, json.loads(body)) for index, body in records)
    answers = _answers(parts, row, logged)
    progress.begins(f"Try and read the key of enrollment {row.id}")
    probes, reading = _now(parts, progress, row)
    progress.done("the key is destroyed, or was not needed any more" if reading is None else "as told in the passport")
    progress.begins("Sign the passport in the token, and record it")
    signer = log_signer(parts)
    origin = parts.journal.log.head().origin
    content = statement(
        Passport(
            row=row,
            at=parts.now,
            origin=origin,
            records=logged,
            hashes=tuple(fingerprint(body) for _index, body in records),
            token=facts.identity(row),
            reading=reading,
            probes=probes,
            answers=answers,
            attestations=attestations,
        )
    )
    envelope = dsse.envelope(signer, origin, content)
    index = parts.journal.log.record("passport", parts.now, row=row, sha256=fingerprint(envelope))
    issued = Issued(envelope, _proof(parts, progress, index), index)
    progress.done(f"record {index} of {origin}")
    return issued


def _agreed(parts: Parts, enrollment: EnrollmentId) -> tuple[Enrollment, Records]:
    """Return an enrollment and the log's records about it, which agree.

    Raises:
        EvidenceError: they do not.
    """
    for _look in range(LOOKS):
        row, records = parts.journal.get(enrollment), parts.journal.log.of(enrollment)
        hashes = [found for _index, body in records if (found := json.loads(body)["row"]) is not None]
        if hashes and hashes[-1] == fingerprint(row_document(row)):
            return row, records
    raise EvidenceError(
        f"The journal does not say of enrollment {enrollment} what the audit log says",
        why="its row was changed outside varmenne, or the log was",
        next_step="No passport is issued of it. Find out what happened: varmenne audit reconcile",
    )


def _now(parts: Parts, progress: Progress, row: Enrollment) -> tuple[dict[str, CustodyProbe], Reading | None]:
    """Probe and read the live key, and return this with the newest probe of the token.

    Raises:
        KeyNotFound: the key is needed, and not in the token.
    """
    token = parts.token.identity()
    probes: dict[str, CustodyProbe] = {}
    if (kept := parts.journal.latest_probe(probe_name(parts, token))) is not None:
        lines = tuple(ProbeResult(**line) for line in kept[2]["results"])
        probes["token"] = CustodyProbe(token, kept[0], lines)
    if row.state is State.DESTROYED:
        return probes, None
    try:
        probes["key"] = tried(parts, row)
        return probes, _reading(parts, progress, row, probes["key"])
    except KeyNotFound:
        if row.state not in KEY_GONE:
            raise
        return probes, None


def _reading(parts: Parts, progress: Progress, row: Enrollment, probe: CustodyProbe) -> Reading:
    """Read a key anew. One that is unfit gets its passport all the same: that is what the passport then says."""
    if (error := unfit(probe, row)) is not None:
        progress.warns(f"{error}. The passport says so")
    try:
        key = parts.token.find(row.key_id)
    except TokenUnfit as exc:
        return Reading(parts.now, None, (), (), exc.why or exc.what)
    if key is None:
        raise KeyNotFound(f"The key {row.key_id.hex()} is not in the token", matches=0)
    changed = facts.changed(row, key)
    if key.public_key != row.public_key:
        changed = (*changed, "it is another key than the one that was made")
    return Reading(parts.now, key.attributes, key.deviations, changed, None)


def _answers(parts: Parts, row: Enrollment, logged: tuple[tuple[int, dict[str, Any]], ...]) -> tuple[Answer, ...]:
    """Return the service's answers, oldest first; those whose bodies were pruned by what the log has of them.

    Raises:
        EvidenceError: an answer is not the one that was recorded when it came.
    """
    recorded: dict[int, tuple[int | None, dict[str, Any] | None]] = {
        one["detail"]["answer"]: (index, one)
        for index, one in logged
        if one["act"] == "answer" and "sha256" in one["detail"]
    }
    kept = {one.id: one for one in parts.journal.answers(row.id)}
    found: list[Answer] = []
    for number in sorted({*recorded, *kept}):
        (index, record), answer = recorded.get(number, (None, None)), kept.get(number)
        if answer is not None:
            sha256 = fingerprint(answer.body)
            if record is not None and record["detail"]["sha256"] != sha256:
                raise EvidenceError(
                    f"Answer {number} of enrollment {row.id} is not the one that was recorded when it came",
                    why=f"its SHA-256 is {sha256}, and record {index} has {record['detail']['sha256']}",
                    next_step="No passport is issued of it. The journal was changed outside varmenne",
                )
            found.append(
                Answer(answer.operation, answer.at, answer.http_status, answer.verdict, sha256, answer.body, index)
            )
        elif record is not None:
            detail = record["detail"]
            found.append(Answer(detail["operation"], None, detail["http_status"], None, detail["sha256"], None, index))
    return tuple(found)


def _proof(parts: Parts, progress: Progress, index: int) -> bytes:
    """Sign the log, and prove that a record is in it. A Vault that is away leaves the anchoring for later.

    Raises:
        EvidenceError: the log does not go on from what was signed before.
    """
    log = parts.journal.log
    try:
        made = checkpoint(parts)
    except VaultError as exc:
        progress.warns(f"The checkpoint is not in Vault yet: {exc}")
        made = log.latest()
    log.grew = False  # It is signed; should it not be anchored, the next checkpoint makes up for it.
    if made is None or made.size <= index:
        raise EvidenceError("The audit log could not be signed", next_step="varmenne audit checkpoint")
    ((_index, record),) = log.records(index, index + 1)
    return proof_text(index, log.inclusion(index, made.size), made.note, record=record)
