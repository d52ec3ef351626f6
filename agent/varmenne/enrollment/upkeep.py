"""The acts for certificates that are in use, or were: rehearse and begin renewals, retire keys, destroy them.

They happen when they are due: the agent looks, or a person orders one of them.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from varmenne.domain import calendar
from varmenne.domain.enrollment import Enrollment
from varmenne.domain.keys import new_key_id
from varmenne.domain.steps import ENDED, Method, State
from varmenne.enrollment import facts
from varmenne.enrollment.preflight import prove_token
from varmenne.enrollment.progress import Silent
from varmenne.enrollment.rehearsal import rehearse, told
from varmenne.enrollment.work import Outcome, Work
from varmenne.errors import ChecksFailed, InputError, StateError, VaultDenied
from varmenne.journal import NewEnrollment
from varmenne.monitoring.events import Event, log_event

if TYPE_CHECKING:
    from varmenne.enrollment.parts import Parts

BETWEEN_LOOKS = timedelta(days=1)
"""How often a certificate is looked at whose renewal is under way, was refused, or is due and cannot be begun."""

AFTER_FAILURE = timedelta(hours=6)
"""When a rehearsal that failed is repeated: somebody may have mended the cause."""

FIRST_LEASE = timedelta(minutes=10)

MOST_REFUSED = 6
"""Refused renewals after which the wait for the next one grows no more."""


def tend(work: Work, row: Enrollment) -> Outcome:
    """Begin the renewal of a certificate when it is time; otherwise rehearse it."""
    parts, now = work.parts, work.parts.now
    renewals = parts.journal.renewals(row.id)
    if row.not_after is None or row.not_after <= now:
        return Outcome(row.state, wait=BETWEEN_LOOKS, error=facts.certificate_expired(row))
    if (under_way := next((one for one in renewals if one.state not in ENDED), None)) is not None:
        error = late(parts, row, under_way)
        return Outcome(row.state, told="its renewal is under way", wait=BETWEEN_LOOKS, error=error)
    due = _renewal_due(parts, row, renewals)
    if due is not None and due <= now:
        prove_token(parts, Silent())
        begun = begin(parts, row)
        parts.journal.release(begun, now, due_at=now)
        return Outcome(row.state, detail={"renewal": begun.id}, told=f"renewal {begun.id} is begun", wait=BETWEEN_LOOKS)
    outcome = rehearsed(work, row)
    usual = next_due(parts, row, row.state)
    if due is not None and outcome.wait is None and usual is not None and due < usual:
        return replace(outcome, wait=due - now)
    return outcome


def rehearsed(work: Work, row: Enrollment) -> Outcome:
    """Rehearse a renewal; a failure is a problem of the certificate in use, months before it matters."""
    found = told(work.parts, list(rehearse(work.parts, row)))
    error = None
    if not found["ok"]:
        failed = found["failed"]
        error = ChecksFailed(
            f"The renewal of enrollment {row.id} would not succeed today",
            why="; ".join(f"{name}: {why}" for name, why in failed.items()) if isinstance(failed, dict) else "",
            next_step=f"Put it right, then try again: varmenne rehearse {row.id}",
        )
    changes = {"rehearsal": found, "problem": None if error is None else facts.problem(error)}
    told_so = "a renewal would succeed today"
    return Outcome(
        row.state,
        changes=changes,
        detail=found,
        told=told_so,
        error=error,
        wait=None if error is None else AFTER_FAILURE,
    )


def begin(parts: Parts, row: Enrollment) -> Enrollment:
    """Write the renewal of a certificate to the journal, owned by this process, before anything is made or sent.

    Raises:
        StateError: it is not in use, has expired, or its renewal is under way.
    """
    if row.state is not State.ACTIVE:
        raise StateError(
            f"Enrollment {row.id} cannot be renewed",
            why=f"it is {row.state}; only the certificate in use is renewed",
            next_step="`varmenne list --state active` shows those in use",
        )
    if row.not_after is None or row.not_after <= parts.now:
        raise facts.certificate_expired(row)
    new = NewEnrollment(
        environment=row.environment,
        channel=row.channel,
        customer_id=row.customer_id,
        customer_name=row.customer_name,
        method=Method.RENEWAL,
        key_id=new_key_id(),
        replaces=row.id,
        generation=parts.journal.latest_generation(row.environment, row.customer_id, row.channel) + 1,
        token=row.token,
        sftp_user=row.sftp_user,
        contact=row.contact,
    )
    begun = parts.journal.add(new, parts.now, lease=FIRST_LEASE)
    log_event(Event.PREPARED, begun, replaces=row.id)
    return begun


def late(parts: Parts, row: Enrollment, renewal: Enrollment) -> StateError | None:
    """Make the error for a renewal that is not to be counted on any more; ``None`` while it is."""
    by = calendar.order_by(row, renewal, timedelta(days=parts.settings.renewal.lead_days))
    if by is None or by > parts.now or renewal.problem is None:
        return None
    return StateError(
        f"The renewal of enrollment {row.id} does not succeed, and its certificate ends on {row.not_after:%Y-%m-%d}",
        why=renewal.problem["what"],
        next_step=f"Order a new one in the e-service now, then: varmenne enroll --replaces {row.id} --credentials FILE",
    )


def _renewal_due(parts: Parts, row: Enrollment, renewals: tuple[Enrollment, ...]) -> datetime | None:
    """Return when a renewal is to be begun: at its moment, and after a refused one with growing distance."""
    opens = calendar.renewal_opens(row, timedelta(days=parts.settings.renewal.spread_days))
    if opens is None or not parts.settings.renewal.automatic:
        return None
    refused = [renewal.updated_at for renewal in renewals if renewal.state is State.REJECTED]
    if not refused:
        return opens
    return max(opens, max(refused) + timedelta(days=2.0 ** min(len(refused) - 1, MOST_REFUSED)))


def retire(work: Work, row: Enrollment) -> Outcome:
    """Mark a replaced certificate's key as retired, once its grace is over and no consumer says that it serves it.

    A certificate that has expired serves nobody any more, so that is the longest wait. A person need not wait.
    """
    still_valid = row.not_after is not None and row.not_after > work.parts.now
    if still_valid and not work.at_once and (serving := _serving(work, row)):
        told_so = f"still served by {', '.join(serving)}"
        return Outcome(row.state, detail={"served_by": serving}, told=told_so, wait=BETWEEN_LOOKS)
    return Outcome(State.RETIRED, told=f"the key {row.key_id.hex()} is retired")


def _serving(work: Work, row: Enrollment) -> list[str]:
    """Return the consumers that have said that they serve a replaced certificate, or what nobody can read."""
    location = facts.place(work.parts.settings, row.customer_id, row.channel)
    try:
        said = work.parts.store.served(location)
    except VaultDenied as exc:
        work.warn(f"Nobody knows whether the certificate of {row.id} is still served: {exc}")
        return []
    return [one.consumer for one in said if one.serial_number in {row.serial_number, None}]


def destroy(work: Work, row: Enrollment) -> Outcome:
    """Destroy a retired key in the token, and read back that it is gone."""
    if row.public_key is None:
        raise InputError(f"Enrollment {row.id} has no key")
    work.parts.token.destroy(row.key_id, row.public_key)
    return Outcome(
        State.DESTROYED,
        detail={"key_id": row.key_id.hex(), "public_key_sha256": facts.sha256(row.public_key)},
        told=f"the key {row.key_id.hex()} is destroyed",
    )


def next_due(parts: Parts, row: Enrollment, target: State) -> datetime | None:
    """Return when an enrollment that is in ``target`` now is to be looked at again; ``None``: never by itself.

    Args:
        parts: the parts.
        row: the enrollment before it got there.
        target: one of :data:`varmenne.domain.steps.ENDED`.
    """
    now, settings = parts.now, parts.settings.renewal
    if target is State.ACTIVE:
        wait = timedelta(days=settings.rehearse_days) * (0.9 + 0.2 * calendar.fraction(row.id))
        opens = calendar.renewal_opens(row, timedelta(days=settings.spread_days))
        if opens is None or (opens <= now and row.state is State.ACTIVE):  # It was looked at just now.
            return now + wait
        return max(now, min(now + wait, opens))
    if target is State.SUPERSEDED:
        return now + timedelta(days=settings.grace_days)
    if target is State.RETIRED and settings.destroy_after_days is not None:
        return now + timedelta(days=settings.destroy_after_days)
    return None
