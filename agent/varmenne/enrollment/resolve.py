"""What a person decides about an enrollment whose fate is uncertain, or which is to be given up.

Nothing of this happens by itself: each decision is ordered in so many words, and recorded with its actor.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from varmenne.domain.credentials import Credentials, transfer_hash
from varmenne.domain.enrollment import Enrollment
from varmenne.domain.identifiers import RetrievalId
from varmenne.domain.steps import ENDED, STEPS, Method, State, allowed
from varmenne.enrollment import facts
from varmenne.enrollment.engine import Engine
from varmenne.enrollment.enroll import OPENED_UNSENT, Given
from varmenne.enrollment.preflight import before_spending
from varmenne.enrollment.reconcile import refuse_certified
from varmenne.enrollment.work import Work
from varmenne.errors import InputError, OutcomeUncertain, ServiceUnreachable, StateError
from varmenne.service.interface import Operation

if TYPE_CHECKING:
    from varmenne.enrollment.parts import Parts
    from varmenne.enrollment.progress import Progress


def explain(parts: Parts, row: Enrollment) -> list[str]:
    """Return sentences on what is known of an enrollment's request, for the person who decides."""
    told = [f"Enrollment {row.id} for {row.customer_id}, channel {row.channel}, is {row.state}."]
    if row.sent_at is not None:
        told.append(f"Its request was begun on {row.sent_at:%Y-%m-%d at %H:%M:%S} UTC, with the CSR that is kept.")
    else:
        told.append("Nothing has been sent for it.")
    answers = parts.journal.answers(row.id, Operation.SIGN_NEW)
    for answer in answers:
        form = f"HTTP {answer.http_status}, {len(answer.body)} bytes"
        told.append(f"An answer came at {answer.at:%H:%M:%S} UTC, {form}: {answer.verdict or 'not looked at yet'}.")
    if row.sent_at is not None and not answers:
        told.append("No answer has been stored.")
    if row.problem is not None:
        problem = ": ".join(filter(None, (row.problem["what"], row.problem["why"])))
        told.append(f"The last problem: {problem.rstrip('.')}.")
    if row.valid_until is not None:
        over = "were" if row.valid_until <= parts.now else "are"
        told.append(f"The credentials {over} valid until {row.valid_until:%Y-%m-%d %H:%M} UTC.")
    return told


SENSIBLE: dict[State, frozenset[State]] = {
    State.ACCEPTED: frozenset({State.UNCERTAIN, State.REJECTED, State.ACCEPTED}),
    State.SUBMITTING: frozenset({State.UNCERTAIN, State.REJECTED}),
    State.ABANDONED: frozenset(State) - ENDED | {State.REJECTED},
}
"""What a person may order → the states in which it makes sense. The table of steps has to allow it as well."""


def choices(row: Enrollment) -> tuple[State, ...]:
    """Return the states that a person may order an enrollment into: accepted, submitting (again), abandoned.

    A renewal is asked for again by itself, so that nothing but giving it up is left to decide.
    """
    sent = row.sent_at is not None and row.csr is not None and row.method is not Method.RENEWAL
    return tuple(
        target
        for target, sources in SENSIBLE.items()
        if row.state in sources and allowed(row.state, target) and (sent or target is State.ABANDONED)
    )


def found(parts: Parts, progress: Progress, row: Enrollment, retrieval: RetrievalId, *, wait: timedelta) -> Enrollment:
    """Go on with the RetrievalId that the service's support has found.

    Raises:
        StateError: nothing was sent for the enrollment, or it has its certificate.
        VarmenneError: whatever failed on the way on.
    """
    refuse_unless(row, State.ACCEPTED)
    engine = Engine(Work(parts, warn=progress.warns), progress)
    return engine.order(row, State.ACCEPTED, changes={"retrieval_id": retrieval}, until=parts.now + wait)


def resend(parts: Parts, progress: Progress, row: Enrollment, credentials: Given, *, wait: timedelta) -> Enrollment:
    """Send the same CSR with the same transfer ID once more, because a person has ordered it.

    First the stored answers are read once more: if one of them is proven by now, nothing is sent. Credentials that can
    be fetched only once are fetched when everything else is proven.

    Raises:
        InputError: the credentials are not this enrollment's, or expired.
        StateError: the enrollment is neither uncertain nor rejected.
        VarmenneError: whatever failed on the way; after a failure to send, the enrollment is as uncertain as before.
    """
    refuse_unless(row, State.SUBMITTING)
    facts.refuse_other_environment(parts.settings, row)
    if isinstance(credentials, Credentials):
        _refuse_other(credentials, row, parts)
    if row.state is State.UNCERTAIN:
        try:
            return Engine(Work(parts, warn=progress.warns), progress).walk(row, until=parts.now + wait)
        except OutcomeUncertain:
            row = parts.journal.get(row.id)
    before_spending(parts, progress, row.customer_id, row.channel)
    refuse_certified(parts, row)
    if isinstance(credentials, Credentials):
        return _send_again(parts, progress, row, credentials, wait)
    fetched = credentials()
    try:
        _refuse_other(fetched, row, parts)
        return _send_again(parts, progress, row, fetched, wait)
    except (InputError, ServiceUnreachable):
        progress.warns(OPENED_UNSENT)
        raise


def _send_again(
    parts: Parts, progress: Progress, row: Enrollment, credentials: Credentials, wait: timedelta
) -> Enrollment:
    """Send the request again with credentials that are here."""
    work = Work(parts, credentials, warn=progress.warns, before=row)
    return Engine(work, progress).order(
        row, State.SUBMITTING, changes={"sent_at": parts.now}, until=parts.now + wait, begun=STEPS[State.KEYED]
    )


def _refuse_other(credentials: Credentials, row: Enrollment, parts: Parts) -> None:
    """Refuse credentials that are another enrollment's, or expired."""
    if transfer_hash(credentials.transfer) != row.transfer_hash:
        raise InputError(f"The credentials are not those of enrollment {row.id}", why="its transfer ID is another one")
    credentials.refuse_expired(parts.now)


def abandon(parts: Parts, progress: Progress, row: Enrollment) -> Enrollment:
    """Give an enrollment up. Its key and CSR stay where they are.

    Where nothing was sent, or the service has refused by a proven answer, the transfer ID is free for another
    enrollment, such as one with the right customer ID. Otherwise it stays used.

    Raises:
        StateError: it is at an end already, or has its certificate.
    """
    refuse_unless(row, State.ABANDONED)
    refused = row.state in {State.REJECTED, State.PREPARED, State.KEYED}
    changes = {"transfer_hash": None} if refused else {}
    detail = {"transfer_hash": row.transfer_hash} if refused else {}
    return Engine(Work(parts), progress).order(row, State.ABANDONED, changes=changes, detail=detail, until=parts.now)


def refuse_unless(row: Enrollment, target: State) -> None:
    """Refuse an order that makes no sense in the enrollment's state.

    Raises:
        StateError: it does not.
    """
    if target not in choices(row):
        raise StateError(
            f"Enrollment {row.id} cannot become {target} by order",
            why=f"it is {row.state}",
            next_step=f"varmenne show {row.id}",
        )
