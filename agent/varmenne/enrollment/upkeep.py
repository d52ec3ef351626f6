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
from varmenne.domain.outlook import prospect
from varmenne.domain.steps import ENDED, Method, State
from varmenne.enrollment import facts
from varmenne.enrollment.activation import stranger
from varmenne.enrollment.evidence.approvals import approvers
from varmenne.enrollment.preflight import prove_token, refuse_key_elsewhere
from varmenne.enrollment.progress import Silent
from varmenne.enrollment.rehearsal import rehearse, told
from varmenne.enrollment.work import Outcome, Work
from varmenne.errors import ChecksFailed, InputError, StateError, VaultDenied, VaultError
from varmenne.journal import NewEnrollment
from varmenne.monitoring.events import Event, log_event

if TYPE_CHECKING:
    from varmenne.enrollment.parts import Parts
    from varmenne.settings import Settings

BETWEEN_LOOKS = timedelta(days=1)
"""How often a certificate is looked at whose renewal is under way, was refused, or is due and cannot be begun."""

AFTER_FAILURE = timedelta(hours=6)
"""When a rehearsal that failed is repeated: somebody may have mended the cause."""

UNDECIDED = timedelta(days=7)
"""So long before its end a certificate that a person has gone back to is renewed all the same."""

LONGEST_WAIT = timedelta(days=15)
"""What is under way waits for nothing longer: one-time credentials last 14 days, windows come every week."""

CLOCK_TOLERANCE = timedelta(minutes=5)

FIRST_LEASE = timedelta(minutes=10)


def tend(work: Work, row: Enrollment) -> Outcome:
    """Begin the renewal of a certificate when it is time; otherwise rehearse it."""
    parts, now = work.parts, work.parts.now
    renewals = parts.journal.renewals(row.id)
    if row.not_after is None or row.not_after <= now:
        return Outcome(row.state, wait=BETWEEN_LOOKS, error=facts.certificate_expired(row))
    error = late(parts, row, renewals)
    if any(under_way(one) for one in renewals):
        return Outcome(row.state, told="its renewal is under way", wait=BETWEEN_LOOKS, error=error)
    due = _renewal_due(parts, row, renewals)
    if due is not None and due <= now:
        later = _later(parts, row)
        if later is not None and row.not_after - now > UNDECIDED:
            told_so = f"not renewed: generation {later.generation} can be put to use by `varmenne activate {later.id}`"
            return Outcome(row.state, told=told_so, wait=BETWEEN_LOOKS, error=error)
        _refuse_stranger(parts, row)
        prove_token(parts, Silent())
        begun = begin(parts, row)
        parts.journal.release(begun, now, due_at=now)
        told_so = f"renewal {begun.id} is begun"
        return Outcome(row.state, detail={"renewal": begun.id}, told=told_so, wait=BETWEEN_LOOKS, error=error)
    outcome = rehearsed(work, row)
    usual = next_due(parts, row, row.state)
    if due is not None and outcome.wait is None and usual is not None and due < usual:
        outcome = replace(outcome, wait=due - now)
    return outcome if error is None else replace(outcome, error=error, wait=BETWEEN_LOOKS)


def under_way(renewal: Enrollment) -> bool:
    """Tell whether a renewal is still on its way to its first use."""
    return renewal.state not in ENDED and renewal.vault_version is None


def _later(parts: Parts, row: Enrollment) -> Enrollment | None:
    """Return a later generation that could be put to use: a person has gone back, and no renewal undoes that."""
    latest = parts.journal.latest_generation(row.environment, row.customer_id, row.channel)
    for number in range(row.generation + 1, latest + 1):
        later = parts.journal.generation(row.environment, row.customer_id, row.channel, number)
        ready = later is not None and later.state is State.SUPERSEDED
        if later is not None and ready and later.not_after is not None and later.not_after > parts.now:
            return later
    return None


def _refuse_stranger(parts: Parts, row: Enrollment) -> None:
    """Refuse to renew what another installation has replaced. A Vault that cannot be asked now is asked again later."""
    try:
        theirs = stranger(parts, row)
    except VaultError:
        return
    if theirs is not None:
        raise StateError(
            f"The certificate of enrollment {row.id} is not renewed",
            why=f"Vault has that of enrollment {theirs} as the current one, which another installation has put there",
            next_step=f"If that is right, retire ours; if not: varmenne enroll --replaces {theirs}",
        )


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
        StateError: it is not in use, has expired, its renewal is under way, or its key is in another token.
    """
    refuse_not_in_use(row)
    if row.not_after is None or row.not_after <= parts.now:
        raise facts.certificate_expired(row)
    refuse_key_elsewhere(parts, row)
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


def refuse_not_in_use(row: Enrollment) -> None:
    """Refuse to renew what is not in use, whatever became of an earlier renewal of it.

    Raises:
        StateError: it is not in use.
    """
    if row.state is not State.ACTIVE:
        raise StateError(
            f"Enrollment {row.id} cannot be renewed",
            why=f"it is {row.state}; only the certificate in use is renewed",
            next_step="`varmenne list --state active` shows those in use",
        )


def late(parts: Parts, row: Enrollment, renewals: tuple[Enrollment, ...]) -> StateError | None:
    """Make the error for a renewal that is not to be counted on any more; ``None`` while it is."""
    ahead = prospect(row, renewals, parts.settings.renewal.plan)
    ready = any(under_way(one) and one.state in {State.ISSUED, State.STORED} for one in renewals)
    if ready or ahead.order_by is None or ahead.order_by > parts.now or ahead.failing_since is None:
        return None
    why = next((one.problem["what"] for one in renewals if one.problem is not None), "")
    return StateError(
        f"The renewal of enrollment {row.id} does not succeed, and its certificate ends on {row.not_after:%Y-%m-%d}",
        why=why,
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
    pause = min(timedelta(days=2.0 ** min(len(refused) - 1, 3)), calendar.LONGEST_PAUSE)
    return max(opens, max(refused) + pause)


def retire(work: Work, row: Enrollment) -> Outcome:
    """Mark a replaced certificate's key as retired, once its grace is over and no consumer says that it serves it.

    A certificate that has expired serves nobody any more, so that is the longest wait. A person need not wait.
    """
    now = work.parts.now
    still_valid = row.not_after is not None and row.not_after > now
    in_use = work.parts.journal.current(row.environment, row.customer_id, row.channel)
    if still_valid and not any(new.not_after is not None and new.not_after > now for new in in_use):
        return Outcome(row.state, told="nothing else is in use and valid, so it is kept", wait=BETWEEN_LOOKS)
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
    """Destroy a retired key that two have approved, and read back that it is gone. It may be already, after a crash."""
    if row.public_key is None:
        raise InputError(f"Enrollment {row.id} has no key")
    refuse_key_elsewhere(work.parts, row)
    approved = approvers(work.parts, row, by_order=work.at_once)
    if not work.at_once:
        _refuse_doubtful_clock(work.parts)
    was_there = work.parts.token.destroy(row.key_id, row.public_key)
    key_id = row.key_id.hex()
    return Outcome(
        State.DESTROYED,
        detail={
            "key_id": key_id,
            "public_key_sha256": facts.sha256(row.public_key),
            "was_there": was_there,
            "approvals": approved,
        },
        told=f"the key {key_id} is destroyed" if was_there else f"nothing of the key {key_id} was left in its token",
    )


def _refuse_doubtful_clock(parts: Parts) -> None:
    """Destroy nothing by itself while our clock is not the service's: one that ran ahead would end every grace.

    Raises:
        ServiceUnreachable: the service cannot be asked for the time.
        StateError: the clocks differ by more than a few minutes, or the service does not tell its own.
    """
    theirs = parts.service.endpoint.greet().time
    if theirs is None or abs(parts.now - theirs) > CLOCK_TOLERANCE:
        raise StateError(
            "No key is destroyed while the clock is in doubt",
            why=f"here it is {parts.now:%Y-%m-%d %H:%M} UTC, at the service {theirs:%Y-%m-%d %H:%M}"
            if theirs
            else "the service does not tell the time",
            next_step="Set the clock right. By order it is done at once: varmenne retire ID --destroy",
        )


def latest_due(settings: Settings) -> timedelta:
    """Return after how long, at most, everything is due again that is under way or in use."""
    return timedelta(days=max(LONGEST_WAIT.days, 1.2 * settings.renewal.rehearse_days))


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
