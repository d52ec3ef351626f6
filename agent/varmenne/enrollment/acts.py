"""What each step of the table does. An act looks outside, and returns what it found; the engine commits it.

No act changes the journal's rows; the one thing that acts write there are the service's answers, as they came, before
they are interpreted.
"""

from __future__ import annotations

import contextlib
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from varmenne.csr import build_csr, to_pem
from varmenne.domain.enrollment import Enrollment, Event, StoredAnswer
from varmenne.domain.forms import colon_hex
from varmenne.domain.identifiers import retrieval_id
from varmenne.domain.steps import KNOWN_ANSWER, NOT_SENT, State, StepName
from varmenne.enrollment import facts
from varmenne.enrollment.preflight import probe_name
from varmenne.enrollment.revoked import look_up
from varmenne.errors import (
    ConfigError,
    InputError,
    KeyNotFound,
    NotFinished,
    OutcomeUncertain,
    ServiceRefused,
    ServiceUnreachable,
    VarmenneError,
    VerificationError,
)
from varmenne.service.answers import Answer, verify_answer
from varmenne.service.certificates import IssuedCertificate, SubjectPolicy, verify_certificate
from varmenne.service.error_codes import Kind, advice
from varmenne.service.interface import Operation
from varmenne.vault.record import index_strings

if TYPE_CHECKING:
    from varmenne.domain.credentials import Credentials
    from varmenne.enrollment.parts import Parts

POLL_GROWTH = 1.5
"""Each wait for the certificate is this much longer than the one before, up to `service.longest_poll_seconds`."""

MOST_GROWTH = 30
"""Tries after which it grows no more: by then any first wait has become the longest that the settings allow."""

LONGEST_RETRY_AFTER = timedelta(hours=1)

NO_ANSWER = frozenset({"size", "encoding", "xml", "doctype", "envelope", "fault"})
"""Checks that fail because something else than the service spoke: a gateway, a maintenance page, half an answer."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an act found.

    Attributes:
        target: the state that the enrollment is in now; its present one means "not yet".
        changes: values for the row.
        detail: facts for its history.
        told: a sentence for people.
        wait: when to look again, counted from now.
        error: what the caller is told after the outcome is durable.
    """

    target: State
    changes: Mapping[str, Any] = field(default_factory=dict)
    detail: Mapping[str, Any] = field(default_factory=dict)
    told: str = ""
    wait: timedelta | None = None
    error: VarmenneError | None = None


@dataclass(frozen=True, slots=True)
class Work:
    """What an act works with."""

    parts: Parts
    credentials: Credentials | None = None
    warn: Callable[[str], None] = lambda _sentence: None
    before: Enrollment | None = None
    """The enrollment before a person ordered its request to be sent again; ``None`` for the first time."""

    def not_sent(self, error: VarmenneError) -> Outcome:
        """Say that certainly nothing was sent: the enrollment is as it was before."""
        state, sent_at = (State.KEYED, None) if self.before is None else (self.before.state, self.before.sent_at)
        detail = {**facts.problem(error), NOT_SENT: True}
        return Outcome(state, changes={"sent_at": sent_at}, detail=detail, error=error)


def generate(work: Work, row: Enrollment) -> Outcome:
    """Make the key in the token, or find the one that an earlier try made there, and keep what was read back."""
    key = work.parts.token.generate(row.key_id, row.key_label)
    for deviation in key.deviations:
        work.warn(deviation)
    return Outcome(
        State.KEYED,
        changes={
            "public_key": key.public_key,
            "token": key.token.digest,
            "custody": facts.custody(key, work.parts.journal.latest_probe(probe_name(work.parts, key.token))),
        },
        detail={"key_id": key.key_id.hex(), "public_key_sha256": facts.sha256(key.public_key)},
        told=f"key {key.key_id.hex()}, not extractable, read back from the token",
    )


def sign_csr(work: Work, row: Enrollment) -> dict[str, Any]:
    """Before the wire: check that there is something to send, and sign the CSR. Its result is committed as intent."""
    if work.credentials is None:
        raise NotFinished(
            f"Enrollment {row.id} needs its one-time credentials",
            why="they are never kept, and nothing has been sent yet",
            next_step=f"varmenne resume {row.id} --credentials FILE",
        )
    work.credentials.refuse_expired(work.parts.now)
    facts.refuse_unnamed_replacement(work.parts.journal, row)
    return {"csr": row.csr or make_csr(work, row), "sent_at": work.parts.now}


def make_csr(work: Work, row: Enrollment) -> str:
    """Build the CSR, signed by the enrollment's key in the token, and return it in PEM."""
    key = work.parts.token.find(row.key_id)
    signer = work.parts.token.signer(row.key_id)
    if key is None or key.public_key != row.public_key or signer.public_key != row.public_key:
        raise KeyNotFound(
            f"The key {row.key_id.hex()} in the token is not the one that this enrollment made",
            next_step="Do not go on with this token: find out who changed it. `varmenne doctor` shows which one it is",
        )
    return to_pem(build_csr(signer, row.customer_id, row.customer_name))


def submit(work: Work, row: Enrollment) -> Outcome:
    """Spend the one-time credentials. Whatever comes back is stored before it is looked at."""
    if work.credentials is None or row.csr is None:
        raise InputError("Nothing can be sent without credentials and a CSR")
    try:
        raw = work.parts.service.sign_new_certificate(
            row.customer_id, row.customer_name, work.credentials, facts.pem_to_der(row.csr)
        )
    except (ServiceUnreachable, InputError, ConfigError) as exc:  # All of these come before the first byte.
        return work.not_sent(exc)
    except OutcomeUncertain as exc:
        return _uncertain(row, exc)
    stored = work.parts.journal.record_answer(
        row, work.parts.now, operation=Operation.SIGN_NEW, http_status=raw.status, body=raw.body
    )
    return _read_submission(work, row, stored)


def settle(work: Work, row: Enrollment) -> Outcome:
    """Find out what became of a request that was begun, by the stored answers.

    Any proven acceptance settles it, however old: the order was accepted. A refusal counts only as the answer to the
    last request; one that was there before it says nothing of it.
    """
    answers = work.parts.journal.answers(row.id, Operation.SIGN_NEW)
    for stored in answers:
        with contextlib.suppress(VerificationError):
            if _verified(work, stored).ok:
                return _read_submission(work, row, stored)
    if answers and answers[0].id > _known_before(work.parts.journal.history(row.id), answers):
        return _read_submission(work, row, answers[0])
    lost = OutcomeUncertain(
        "The request was begun, and its answer was lost",
        why="the process or the connection ended before an answer was stored",
    )
    return _uncertain(row, lost)


def _known_before(history: tuple[Event, ...], answers: tuple[StoredAnswer, ...]) -> int:
    """Return the newest answer that was there before the last request that may have been sent was begun.

    It goes by the answers' numbers: a clock may step back between sending and the answer. Only where a history does
    not tell the number, the times do.
    """
    known = [0]
    for event in history:
        if event.target is State.SUBMITTING:
            older = max((answer.id for answer in answers if answer.at < event.at), default=0)
            known.append(int(event.detail.get(KNOWN_ANSWER, older)))
        elif event.detail.get(NOT_SENT):
            known.pop()
    return known[-1]


def _read_submission(work: Work, row: Enrollment, stored: StoredAnswer) -> Outcome:
    """Verify a stored answer to signNewCertificate and act on it."""
    try:
        answer = _verified(work, stored)
    except VerificationError as exc:
        return _uncertain(row, exc)
    if answer.ok and answer.retrieval_id is not None:
        return Outcome(
            State.ACCEPTED,
            changes={"retrieval_id": retrieval_id(answer.retrieval_id)},
            detail={"answer": stored.id, "signer": answer.signer},
            told=f"accepted, RetrievalId {answer.retrieval_id}",
            wait=timedelta(seconds=work.parts.settings.service.first_poll_seconds),
        )
    refused = ServiceRefused(
        "The certificate service refused the request",
        errors=answer.errors,
        why=facts.error_text(answer.errors),
        next_step=f"{advice(Operation.SIGN_NEW, answer.errors).next_step}. What can be done: varmenne resolve {row.id}",
    )
    # After a lost answer, "already used" may mean that the first request was accepted: that stays open.
    open_still = work.before is not None and work.before.state is State.UNCERTAIN
    target = State.UNCERTAIN if open_still else State.REJECTED
    return Outcome(target, detail={"answer": stored.id, "errors": answer.errors}, error=refused)


def _uncertain(row: Enrollment, cause: VarmenneError) -> Outcome:
    """A one-shot request may have been received: nothing is sent again, key and CSR are kept."""
    error = OutcomeUncertain(
        f"It is uncertain whether the certificate service has accepted enrollment {row.id}",
        why=str(cause),
        next_step="The one-time credentials are not sent again by themselves; key, CSR and answers are kept. If only "
        f"trust anchors or the clock were wrong, put them right and run: varmenne resume {row.id}. Otherwise ask "
        f"the service's support whether the order was used, and decide: varmenne resolve {row.id}",
    )
    return Outcome(State.UNCERTAIN, detail=facts.problem(cause), error=error)


def retrieve(work: Work, row: Enrollment) -> Outcome:
    """Ask for the certificate and verify it. While it is not there, say when to ask again."""
    if row.retrieval_id is None:
        raise InputError(f"Enrollment {row.id} has no RetrievalId")
    again = _poll_delay(work, row)
    try:
        raw = work.parts.service.get_certificate(row.customer_id, row.customer_name, row.retrieval_id)
    except (ServiceUnreachable, OutcomeUncertain) as exc:
        return _not_yet(row, again, f"the service did not answer: {exc.why or exc.what}")
    stored = work.parts.journal.record_answer(
        row, work.parts.now, operation=Operation.GET, http_status=raw.status, body=raw.body
    )
    try:
        answer = _verified(work, stored)
    except VerificationError as exc:
        if raw.problem or exc.check in NO_ANSWER or raw.status != HTTPStatus.OK:
            why = raw.problem or exc.why
            return _not_yet(row, max(again, _retry_after(raw.retry_after)), f"the service is disturbed: {why}")
        raise
    told = advice(Operation.GET, answer.errors)
    if not answer.ok and told.kind is not Kind.TRY_AGAIN:
        refused = ServiceRefused(
            "The certificate service does not give the certificate",
            errors=answer.errors,
            why=facts.error_text(answer.errors),
            next_step=f"{told.next_step}. If the RetrievalId is wrong: varmenne resolve {row.id} --retrieval-id R",
        )
        return Outcome(row.state, detail={"answer": stored.id, "errors": answer.errors}, error=refused)
    if not answer.ok or answer.certificate is None:
        return _not_yet(row, again, f"not ready yet ({facts.error_text(answer.errors) or 'no reason given'})")
    return issued(work, row, answer.certificate)


def issued(work: Work, row: Enrollment, certificate: bytes) -> Outcome:
    """Verify a certificate against the enrollment, whichever way it came."""
    if row.public_key is None:
        raise InputError(f"Enrollment {row.id} has no key yet")
    found: IssuedCertificate = verify_certificate(
        certificate,
        public_key=row.public_key,
        customer=row.customer_id,
        trust=work.parts.trust(),
        at=work.parts.now,
        subject=SubjectPolicy(work.parts.settings.trust.subject),
        older_serials=_older_serials(work, row),
    )
    for warning in found.warnings:
        work.warn(warning)
    serial = colon_hex(found.serial_number)
    return Outcome(
        State.ISSUED,
        changes={
            "certificate": facts.der_to_pem(found.certificate),
            "chain": "".join(map(facts.der_to_pem, found.chain)),
            "serial_number": serial,
            "not_before": found.not_before,
            "not_after": found.not_after,
        },
        detail={"serial_number": serial, "fingerprint_sha256": facts.sha256(found.certificate)},
        told=f"certificate {serial}, valid until {found.not_after:%Y-%m-%d}, verified",
    )


def _verified(work: Work, stored: StoredAnswer) -> Answer:
    """Verify a stored answer and note the verdict beside it."""
    try:
        answer = verify_answer(stored.body, Operation(stored.operation), work.parts.trust().services, work.parts.now)
    except VerificationError as exc:
        work.parts.journal.judge_answer(stored, f"refused: {exc.check}")
        raise
    work.parts.journal.judge_answer(stored, "verified")
    return answer


def _older_serials(work: Work, row: Enrollment) -> frozenset[int]:
    """Return the serial numbers of the certificates that the new one stands beside or takes the place of."""
    rows = [*work.parts.journal.current(row.environment, row.customer_id, row.channel)]
    if row.replaces is not None:
        rows.append(work.parts.journal.get(row.replaces))
    return frozenset(
        int(old.serial_number.replace(":", ""), 16) for old in rows if old.serial_number and old.id != row.id
    )


def _poll_delay(work: Work, row: Enrollment) -> timedelta:
    """Return the wait before the next getCertificate: growing, bounded, with jitter, so that clients spread out."""
    limits = work.parts.settings.service
    seconds = min(limits.longest_poll_seconds, limits.first_poll_seconds * POLL_GROWTH ** min(row.tries, MOST_GROWTH))
    return timedelta(seconds=seconds * random.uniform(0.9, 1.1))  # noqa: S311 - politeness, not secrecy


def _retry_after(header: str) -> timedelta:
    """Return the wait that the service asked for in seconds (RFC 9110, 10.2.3), at most an hour; a date counts as 0."""
    if not re.fullmatch(r"[0-9]{1,9}", header.strip()):
        return timedelta()
    return min(timedelta(seconds=int(header)), LONGEST_RETRY_AFTER)


def _not_yet(row: Enrollment, wait: timedelta, told: str) -> Outcome:
    """The enrollment stays as it is; look again later."""
    return Outcome(row.state, changes={"tries": row.tries + 1}, detail={"told": told}, told=told, wait=wait)


def store(work: Work, row: Enrollment) -> Outcome:
    """Put the certificate beside its key in the token, then publish it in Vault. Both may be repeated."""
    if row.certificate is None:
        raise InputError(f"Enrollment {row.id} has no certificate yet")
    for warning in look_up(
        work.parts, [facts.pem_to_der(text) for text in facts.split_pem(f"{row.certificate}{row.chain or ''}")]
    ):
        work.warn(warning)
    work.parts.token.store_certificate(row.key_id, row.key_label, facts.pem_to_der(row.certificate))
    location = facts.place(work.parts.settings, row.customer_id, row.channel)
    record = facts.record(row)
    before = None if row.replaces is None else work.parts.journal.get(row.replaces).vault_version
    version = work.parts.store.publish(
        location, record, operation=row.id, custom_metadata=index_strings(record), expected_version=before or 0
    )
    return Outcome(
        State.STORED,
        changes={"vault_path": location.path, "vault_version": version},
        detail={"vault_path": location.path, "vault_version": version},
        told=f"in the token, and in Vault at {location.path}, version {version}",
    )


def activate(_work: Work, _row: Enrollment) -> Outcome:
    """Make it the current certificate of its customer and channel; the engine supersedes the one that it replaces."""
    return Outcome(State.ACTIVE, told="it is the current certificate")


ACTS: dict[StepName, Callable[[Work, Enrollment], Outcome]] = {
    StepName.GENERATE: generate,
    StepName.SUBMIT: submit,
    StepName.SETTLE: settle,
    StepName.RETRIEVE: retrieve,
    StepName.STORE: store,
    StepName.ACTIVATE: activate,
}

BEFOREHAND: dict[StepName, Callable[[Work, Enrollment], dict[str, Any]]] = {StepName.SUBMIT: sign_csr}
"""For steps with an intent: what is done, and then committed with the intent, before the act itself."""
