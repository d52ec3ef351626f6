"""How things stand: what the journal, the hooks and the trust anchors say, put together for `status` and the list."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from varmenne.domain.concerns import Concern, Reason
from varmenne.domain.enrollment import Enrollment
from varmenne.domain.hooks import HookOutcome
from varmenne.domain.identifiers import EnrollmentId
from varmenne.domain.outlook import WATCHED, Outlook, outlook, prospect
from varmenne.domain.steps import State
from varmenne.enrollment.evidence import approvals
from varmenne.errors import VarmenneError
from varmenne.service.trust_check import ANCHORS, END_WARNING
from varmenne.service.trust_store import TrustStore

if TYPE_CHECKING:
    from varmenne.enrollment.parts import Parts


def standing(parts: Parts) -> Outlook:
    """Return what is fine, due, and in need of a person, in the settings' environment. Nothing is called or changed.

    Raises:
        JournalError: the journal cannot be read.
    """
    environment = parts.settings.environment
    rows = (row for row in _watched(parts) if row.environment is environment)
    return outlook(rows, parts.now, parts.settings.renewal.plan).plus(
        [*_hooks(parts), *approvals.awaited(parts), *_trust(parts)]
    )


def order_days(parts: Parts) -> dict[EnrollmentId, datetime]:
    """Return for each certificate in use by when people must order new credentials, should it not be renewed.

    Raises:
        JournalError: the journal cannot be read.
    """
    found = outlook(_watched(parts), parts.now, parts.settings.renewal.plan)
    return {one.row.id: one.order_by for one in found.prospects if one.order_by is not None}


def order_day(parts: Parts, row: Enrollment) -> datetime | None:
    """Return the same for one enrollment; ``None`` if it is not in use. A page of many need not read them all.

    Raises:
        JournalError: the journal cannot be read.
    """
    if row.state is not State.ACTIVE:
        return None
    begun = (one for one in parts.journal.renewals(row.id) if one.state in WATCHED)
    return prospect(row, begun, parts.settings.renewal.plan).order_by


def _watched(parts: Parts) -> Iterator[Enrollment]:
    """Yield the rows that may have something to tell, without what is long in them."""
    return parts.journal.every(states=WATCHED, documents=False)


def _hooks(parts: Parts) -> Iterator[Concern]:
    """Hooks that failed: those that were given up need a person."""
    for run in parts.journal.hooks.in_trouble():
        given_up = run.outcome is HookOutcome.FAILED
        told = f"the hook {run.name} of {run.event} {'was given up' if given_up else 'fails, and is tried again'}"
        yield Concern(
            Reason.HOOKS if given_up else Reason.WAITING,
            f"{told}: {run.in_a_line}",
            f"Put it right, then: varmenne hooks retry {run.enrollment_id}",
            enrollment=run.enrollment_id,
            at=run.at,
        )


def _trust(parts: Parts) -> Iterator[Concern]:
    """Trust anchors that end within a year, or cannot be used."""
    try:
        parts.trust()
        stored = TrustStore(parts.settings.trust_dir, parts.settings.environment).stored()
    except VarmenneError as exc:
        yield Concern(Reason.TRUST, str(exc), exc.next_step)
        return
    for role in ANCHORS:
        # A successor is trusted beside the one that ends: only the last of them matters.
        last = max(
            (item.authority for item in stored if item.role == role), key=lambda one: one.not_after, default=None
        )
        if last is not None and last.not_after - parts.now < END_WARNING:
            told = f"the last trust anchor for {role}, {last.subject}, ends on {last.not_after:%Y-%m-%d}"
            step = f"Bring its successor in: varmenne trust import FILE --role {role}"
            yield Concern(Reason.TRUST, told, step, at=last.not_after)
