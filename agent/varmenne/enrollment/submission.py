"""The acts that ask for a certificate: with one-time credentials, which are spent, or with the key in use.

They differ in what a lost or refused answer means. One-time credentials are never sent again by themselves. A renewal
uses nothing up: the same CSR is sent again, some times a day, until the certificate that it renews has expired.
"""

from __future__ import annotations

import contextlib
import random
from datetime import timedelta
from typing import Any

from varmenne.domain.calendar import RENEWAL_WINDOW
from varmenne.domain.enrollment import Enrollment, Event, StoredAnswer
from varmenne.domain.identifiers import retrieval_id
from varmenne.domain.steps import KNOWN_ANSWER, NOT_SENT, Method, State
from varmenne.enrollment import facts
from varmenne.enrollment.work import REQUESTS, Outcome, Work, make_csr, verified
from varmenne.errors import (
    ConfigError,
    InputError,
    NotFinished,
    OutcomeUncertain,
    ServiceRefused,
    ServiceUnreachable,
    TokenError,
    VarmenneError,
    VerificationError,
)
from varmenne.service.answers import Answer
from varmenne.service.error_codes import Kind, advice
from varmenne.service.interface import Operation


def lapsed(work: Work, row: Enrollment) -> Outcome | None:
    """Return the end of an enrollment whose credentials are over, and were never sent; ``None`` while they are not."""
    if row.valid_until is None or row.valid_until > work.parts.now:
        return None
    return Outcome(State.EXPIRED, error=facts.credentials_expired(row))


def sign_csr(work: Work, row: Enrollment) -> dict[str, Any] | Outcome:
    """Before the wire: check that there is something to send, and sign the CSR. Its result is committed as intent.

    An enrollment whose credentials were never sent and are over has ended.
    """
    if (end := lapsed(work, row)) is not None:
        return end
    if work.credentials is None:
        raise NotFinished(
            f"Enrollment {row.id} needs its one-time credentials",
            why="they are never kept, and nothing has been sent yet",
            next_step=f"varmenne resume {row.id} --credentials FILE",
            due_at=row.valid_until,
        )
    work.credentials.refuse_expired(work.parts.now)
    facts.refuse_unnamed_replacement(work.parts.journal, row)
    return {"csr": row.csr or make_csr(work, row), "sent_at": work.parts.now, "tries": row.tries}


def submit(work: Work, row: Enrollment) -> Outcome:
    """Spend the one-time credentials. Whatever comes back is stored before it is looked at."""
    if work.credentials is None or row.csr is None:
        raise InputError("Nothing can be sent without credentials and a CSR")
    try:
        raw = work.parts.service.sign_new_certificate(
            row.customer_id, row.customer_name, work.credentials, facts.pem_to_der(row.csr)
        )
    except (ServiceUnreachable, InputError, ConfigError) as exc:  # All of these come before the first byte.
        return work.not_sent(row, exc)
    except OutcomeUncertain as exc:
        return _lost(work, row, exc)
    stored = work.parts.journal.record_answer(
        row, work.parts.now, operation=Operation.SIGN_NEW, http_status=raw.status, body=raw.body
    )
    return _read(work, row, stored)


def sign_renewal_csr(work: Work, row: Enrollment) -> dict[str, Any] | Outcome:
    """Before the wire: check that the certificate can still be renewed, and sign the CSR with the new key.

    A renewal whose certificate has expired has ended.
    """
    old = renewed(work, row)
    if old.not_after is None or old.not_after <= work.parts.now:
        return Outcome(State.EXPIRED, error=facts.certificate_expired(old))
    if old.not_after - RENEWAL_WINDOW > work.parts.now:
        raise NotFinished(
            f"It is too early to renew the certificate of enrollment {old.id}",
            why="the service takes renewals from 60 days before the end",
            next_step=f"From {old.not_after - RENEWAL_WINDOW:%Y-%m-%d}: varmenne renew {old.id}",
            due_at=old.not_after - RENEWAL_WINDOW,
        )
    # A state that changes usually begins to count anew; here it is the tries of one and the same request.
    return {"csr": row.csr or make_csr(work, row), "sent_at": work.parts.now, "tries": row.tries}


def renew(work: Work, row: Enrollment) -> Outcome:
    """Send the renewal request, signed in the token by the key in use. May be done again: it is the same request."""
    if row.csr is None:
        raise InputError("Nothing can be sent without a CSR")
    if (known := _proven(work, row)) is not None:
        return known
    try:
        raw = work.parts.service.renew_certificate(renewal_document(work, row, facts.pem_to_der(row.csr)))
    except (ServiceUnreachable, InputError, ConfigError, TokenError, VerificationError) as exc:  # Nothing has left.
        return work.not_sent(row, exc)
    except OutcomeUncertain as exc:
        return _lost(work, row, exc)
    stored = work.parts.journal.record_answer(
        row, work.parts.now, operation=Operation.RENEW, http_status=raw.status, body=raw.body
    )
    return _read(work, row, stored)


def renewed(work: Work, row: Enrollment) -> Enrollment:
    """Return the enrollment whose certificate a renewal renews."""
    if row.replaces is None:
        raise InputError(f"Enrollment {row.id} does not say what it renews")
    return work.parts.journal.get(row.replaces)


def renewal_document(work: Work, row: Enrollment, csr: bytes) -> bytes:
    """Return the renewal request for a CSR (DER), signed with the key in use, and verified."""
    old = renewed(work, row)
    if old.certificate is None:
        raise InputError(f"Enrollment {old.id} has no certificate")
    return work.parts.service.renewal_document(
        row.customer_id,
        row.customer_name,
        csr,
        certificate=facts.pem_to_der(old.certificate),
        signer=work.parts.token.signer(old.key_id),
    )


def settle(work: Work, row: Enrollment) -> Outcome:
    """Find out what became of a request that was begun, by the stored answers.

    Any proven acceptance settles it, however old: the order was accepted. A refusal counts only as the answer to the
    last request; one that was there before it says nothing of it.
    """
    if (known := _proven(work, row)) is not None:
        return known
    answers = work.parts.journal.answers(row.id, REQUESTS[row.method])
    if answers and answers[0].id > _known_before(work.parts.journal.history(row.id), answers):
        return _read(work, row, answers[0])
    lost = OutcomeUncertain(
        "The request was begun, and its answer was lost",
        why="the process or the connection ended before an answer was stored",
    )
    return _lost(work, row, lost)


def _proven(work: Work, row: Enrollment) -> Outcome | None:
    """Return what a stored answer says that is a proven acceptance; ``None`` if there is none."""
    for stored in work.parts.journal.answers(row.id, REQUESTS[row.method]):
        with contextlib.suppress(VerificationError):
            if verified(work, stored).ok:
                return _read(work, row, stored)
    return None


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


def _read(work: Work, row: Enrollment, stored: StoredAnswer) -> Outcome:
    """Verify a stored answer to the request for a certificate, and act on it."""
    try:
        answer = verified(work, stored)
    except VerificationError as exc:
        return _lost(work, row, exc)
    if answer.ok and answer.retrieval_id is not None:
        return Outcome(
            State.ACCEPTED,
            changes={"retrieval_id": retrieval_id(answer.retrieval_id)},
            detail={"answer": stored.id, "signer": answer.signer},
            told=f"accepted, RetrievalId {answer.retrieval_id}",
            wait=timedelta(seconds=work.parts.settings.service.first_poll_seconds),
        )
    return (_renewal_refused if row.method is Method.RENEWAL else _refused)(work, row, stored, answer)


def _lost(work: Work, row: Enrollment, cause: VarmenneError) -> Outcome:
    """There is no proven answer, so nobody knows what the service did."""
    return (_again if row.method is Method.RENEWAL else _uncertain)(work, row, cause)


def _refused(work: Work, row: Enrollment, stored: StoredAnswer, answer: Answer) -> Outcome:
    """The service has refused one-time credentials, by a proven answer."""
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


def _uncertain(_work: Work, row: Enrollment, cause: VarmenneError) -> Outcome:
    """A one-shot request may have been received: nothing is sent again, key and CSR are kept."""
    error = OutcomeUncertain(
        f"It is uncertain whether the certificate service has accepted enrollment {row.id}",
        why=str(cause),
        next_step="The one-time credentials are not sent again by themselves; key, CSR and answers are kept. If only "
        f"trust anchors or the clock were wrong, put them right and run: varmenne resume {row.id}. Otherwise ask "
        f"the service's support whether the order was used, and decide: varmenne resolve {row.id}",
    )
    return Outcome(State.UNCERTAIN, detail=facts.problem(cause), error=error)


def _renewal_refused(work: Work, row: Enrollment, stored: StoredAnswer, answer: Answer) -> Outcome:
    """The service has refused a renewal, by a proven answer: it may pass, or this CSR has no future."""
    told = advice(Operation.RENEW, answer.errors)
    detail = {"answer": stored.id, "errors": answer.errors}
    refused = ServiceRefused(
        "The certificate service refused the renewal",
        errors=answer.errors,
        why=facts.error_text(answer.errors),
        next_step=f"{told.next_step}. The certificate in use stays in use",
    )
    if told.kind is Kind.TRY_AGAIN:
        again = _again(work, row, refused)
        return Outcome(again.target, changes=again.changes, detail=detail, error=again.error)
    return Outcome(State.REJECTED, detail=detail, error=refused)


def _again(work: Work, row: Enrollment, cause: VarmenneError) -> Outcome:
    """Send the same request again later: so often a day as the settings allow, at most."""
    spacing = timedelta(days=1) / work.parts.settings.renewal.attempts_per_day
    due = work.parts.now + spacing * random.uniform(1.0, 1.1)  # noqa: S311 - politeness, not secrecy
    error = NotFinished(
        f"The renewal {row.id} is not accepted yet",
        why=str(cause).rstrip("."),
        next_step=f"The same request is sent again by the agent, or after {due:%H:%M} UTC by: varmenne resume {row.id}",
        due_at=due,
    )
    return Outcome(State.KEYED, changes={"tries": row.tries + 1}, detail=facts.problem(cause), error=error)
