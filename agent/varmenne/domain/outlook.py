"""What is fine, what is due, and what needs a person: read from the rows of the journal and the calendar. No I/O.

``varmenne status``, the list and the metrics all tell what is found here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from varmenne.domain import calendar
from varmenne.domain.concerns import Concern, Reason
from varmenne.domain.enrollment import Enrollment
from varmenne.domain.identifiers import Channel, CustomerId, EnrollmentId, Environment
from varmenne.domain.steps import ENDED, Method, State
from varmenne.errors import Transient, family

WATCHED = frozenset(State) - {State.ABANDONED, State.DESTROYED}
"""States in which an enrollment may have something to tell."""

OVERDUE_AFTER = timedelta(hours=1)
"""Work that was due so long ago and was not taken: no agent is at work."""

PATIENCE = timedelta(days=1)
"""For so long, what may pass by itself is left to do so before a person is asked."""

RENEWAL_PATIENCE = timedelta(days=3)
"""The same for a renewal, for which there are two months."""

POISONED = "Poisoned"
"""The kind of problem that the journal writes for a row that no process survives."""

_MAY_PASS = {cls.__name__ for cls in family() if issubclass(cls, Transient)}


@dataclass(frozen=True, slots=True)
class Plan:
    """When renewals are begun, as the settings have it.

    Attributes:
        spread: within so long after the service accepts it.
        lead: how long people need to order anew.
        automatic: whether the agent begins it.
    """

    spread: timedelta
    lead: timedelta
    automatic: bool = True


@dataclass(frozen=True, slots=True)
class Prospect:
    """The certificate in use of a customer's channel, and what lies before it.

    Attributes:
        row: its enrollment.
        renewal_due: when its renewal is begun.
        order_by: by when people must order new credentials, should it not be renewed.
        failing_since: since when its renewal has failed; ``None`` if it has not.
    """

    row: Enrollment
    renewal_due: datetime | None
    order_by: datetime | None
    failing_since: datetime | None


@dataclass(frozen=True, slots=True)
class Outlook:
    """All that is found.

    Attributes:
        prospects: the certificates in use.
        concerns: what there is to tell, the most urgent first.
    """

    prospects: tuple[Prospect, ...]
    concerns: tuple[Concern, ...]

    @property
    def needs(self) -> tuple[Concern, ...]:
        """What needs a person."""
        return tuple(concern for concern in self.concerns if concern.reason.person)

    def plus(self, more: Iterable[Concern]) -> Outlook:
        """Return the same with more to tell."""
        return Outlook(self.prospects, _sorted([*self.concerns, *more]))


@dataclass(frozen=True)
class _View:
    """What the sentences about one row are made from."""

    now: datetime
    plan: Plan
    renewals: Mapping[EnrollmentId, Sequence[Enrollment]]
    newest: Mapping[tuple[Environment, CustomerId, Channel], datetime]

    def prospect(self, row: Enrollment) -> Prospect:
        """Return what lies before a certificate in use."""
        return prospect(row, self.renewals.get(row.id, ()), self.plan)

    def is_newest(self, row: Enrollment) -> bool:
        """Tell whether nothing was begun for the same customer and channel after it."""
        return self.newest[_place(row)] <= row.created_at


def outlook(rows: Iterable[Enrollment], now: datetime, plan: Plan) -> Outlook:
    """Return what is fine, due, and in need of a person.

    Args:
        rows: the enrollments in the states of :data:`WATCHED`. Their certificates, chains and CSRs are not looked at.
        now: the present moment.
        plan: when renewals are begun.
    """
    watched = tuple(rows)
    renewals: dict[EnrollmentId, list[Enrollment]] = defaultdict(list)
    newest: dict[tuple[Environment, CustomerId, Channel], datetime] = {}
    for row in watched:
        if row.method is Method.RENEWAL and row.replaces is not None:
            renewals[row.replaces].append(row)
        newest[_place(row)] = max(newest.get(_place(row), row.created_at), row.created_at)
    view = _View(now, plan, renewals, newest)
    concerns = [concern for row in watched for concern in TOLD.get(row.state, _unfinished)(row, view)]
    return Outlook(
        tuple(view.prospect(row) for row in watched if row.state is State.ACTIVE),
        _sorted([*concerns, *_overdue(watched, now)]),
    )


def prospect(row: Enrollment, renewals: Iterable[Enrollment], plan: Plan) -> Prospect:
    """Return what lies before a certificate in use.

    Args:
        row: the certificate in use.
        renewals: all renewals of it that were begun and not given up.
        plan: when renewals are begun.
    """
    failed = [one for one in renewals if one.problem is not None and (one.state not in ENDED or _refused(one))]
    first = min(failed, key=lambda one: one.created_at, default=None)
    return Prospect(
        row,
        calendar.renewal_opens(row, plan.spread),
        calendar.order_by(row, first, plan.lead),
        None if first is None else first.created_at,
    )


def _refused(row: Enrollment) -> bool:
    return row.state is State.REJECTED


def _place(row: Enrollment) -> tuple[Environment, CustomerId, Channel]:
    """Return whose current certificate an enrollment is about."""
    return row.environment, row.customer_id, row.channel


def _sorted(concerns: Iterable[Concern]) -> tuple[Concern, ...]:
    return tuple(sorted(concerns, key=lambda concern: concern.urgency))


def _of(row: Enrollment, reason: Reason, told: str, next_step: str = "", at: datetime | None = None) -> Concern:
    """Make a concern about one enrollment."""
    return Concern(reason, told, next_step, row.id, row.customer_id, row.channel, at)


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d}"


def _why(row: Enrollment) -> str:
    """Return a row's problem as the end of a sentence."""
    return f": {_cause(row)}" if row.problem is not None else ""


def _cause(row: Enrollment) -> str:
    """Return what a row's problem is, and why, where that is known."""
    problem = row.problem or {}
    return "; ".join(part for part in (problem.get("what", ""), problem.get("why", "")) if part)


def _active(row: Enrollment, view: _View) -> Iterator[Concern]:
    """The certificate in use: what lies before it, and what fails that nothing else tells of."""
    told = [*_in_use(row, view)]
    yield from told
    reasons = {one.reason for one in told}
    if Reason.EXPIRED in reasons:
        return
    if _is_poisoned(row):
        yield _poisoned(row)
    elif row.problem is not None and reasons <= {Reason.SFTP_USER} and not _may_pass(row, row.updated_at, view.now):
        yield _of(row, Reason.BLOCKED, f"its upkeep fails{_why(row)}", f"varmenne rehearse {row.id}", row.updated_at)
    elif row.due_at is None:
        yield _of(row, Reason.OVERDUE, "it is in use, and never looked after", f"varmenne rehearse {row.id}")


def _is_poisoned(row: Enrollment) -> bool:
    """Tell whether a row is one that no process survives."""
    return (row.problem or {}).get("kind") == POISONED


def _poisoned(row: Enrollment) -> Concern:
    """A row that no process survives: a person looks into it, and orders by hand what was tried."""
    command = BY_HAND.get(row.state, "resume {}").format(row.id)
    return _of(row, Reason.POISONED, _cause(row), f"varmenne {command}", row.updated_at)


BY_HAND = {State.ACTIVE: "rehearse {}", State.SUPERSEDED: "retire {}", State.RETIRED: "retire {} --destroy"}
"""State → the command that does by hand what the agent does there; `resume` for those on their way."""


def _may_pass(row: Enrollment, since: datetime, now: datetime) -> bool:
    """Tell whether a row's problem may still pass by itself."""
    return (row.problem or {}).get("kind") in _MAY_PASS and now - since <= PATIENCE


def _in_use(row: Enrollment, view: _View) -> Iterator[Concern]:
    """How long the certificate in use lasts, and whether its renewal will succeed."""
    before, now = view.prospect(row), view.now
    anew = f"Order it in the e-service, then: varmenne enroll --replaces {row.id} --credentials FILE"
    if row.not_after is not None and row.not_after <= now:
        yield _of(row, Reason.EXPIRED, f"it expired on {_day(row.not_after)}", anew, row.not_after)
        return
    if row.channel is Channel.SFTP and row.sftp_user is None:
        told = "the user ID of the SFTP channel is not known yet; it comes by e-mail to the technical contact"
        yield _of(row, Reason.SFTP_USER, told, f"varmenne sftp set-user {row.id} USER", row.usable_from)
    open_ = next((one for one in view.renewals.get(row.id, ()) if one.state not in ENDED), None)
    ready = open_ is not None and open_.state is State.STORED
    if before.order_by is not None and before.order_by <= now and not ready:
        told = f"it ends on {_day(row.not_after)} and is not renewed" if row.not_after else "it is not renewed"
        yield _of(
            row,
            Reason.ORDER,
            f"new credentials were to be ordered by {_day(before.order_by)}; {told}",
            anew,
            before.order_by,
        )
    if before.failing_since is not None:
        yield from _failing(row, before.failing_since, view)
    elif open_ is not None and not ready:
        yield _of(row, Reason.RENEWING, f"its renewal {open_.id} is {open_.state}", at=open_.created_at)
    elif open_ is None and not view.plan.automatic and before.renewal_due is not None and before.renewal_due <= now:
        yield _of(row, Reason.RENEW, "its renewal is due", f"varmenne renew {row.id}", before.renewal_due)
    if row.rehearsal is not None and not row.rehearsal["ok"]:
        failed = "; ".join(f"{name}: {why}" for name, why in row.rehearsal["failed"].items())
        yield _of(
            row, Reason.REHEARSAL, f"its renewal would not succeed today: {failed}", f"varmenne rehearse {row.id}"
        )


def _failing(row: Enrollment, since: datetime, view: _View) -> Iterator[Concern]:
    """A renewal that fails: it is tried again by itself, and told of as work for a person when that takes long."""
    newest = max(view.renewals[row.id], key=lambda one: one.created_at)
    worst = next((one for one in (newest, *view.renewals[row.id]) if one.problem is not None), newest)
    reason = Reason.RENEWAL_FAILING if view.now - since > RENEWAL_PATIENCE else Reason.RENEWING
    told = f"its renewal {worst.id} has failed since {_day(since)}{_why(worst)}"
    yield _of(row, reason, told, f"varmenne show {worst.id}", since)


def _unfinished(row: Enrollment, view: _View) -> Iterator[Concern]:
    """An enrollment on its way."""
    problem = row.problem or {}
    if _is_poisoned(row):
        yield _poisoned(row)
    elif row.owner is not None and row.due_at is not None and row.due_at > view.now:
        yield _of(row, Reason.WAITING, f"it is {row.state}, and work goes on")
    elif row.state is State.KEYED and row.method is not Method.RENEWAL:
        yield _awaited(row, view)
    elif row.state is State.STORED and row.due_at is not None and not problem:
        told = f"generation {row.generation} is staged, and put to use on {row.due_at:%Y-%m-%d %H:%M} UTC"
        yield _of(row, Reason.STAGED, told, f"At once: varmenne activate {row.id}", row.due_at)
    elif row.method is Method.RENEWAL and row.state in {State.PREPARED, State.KEYED, State.SUBMITTING}:
        return  # The certificate that it renews tells it.
    elif problem and not _may_pass(row, row.created_at, view.now):
        yield _of(
            row, Reason.BLOCKED, f"it is {row.state}, and does not get on{_why(row)}", f"varmenne resume {row.id}"
        )
    else:
        yield _of(row, Reason.WAITING, f"it is {row.state}{_why(row)}", f"varmenne resume {row.id}", row.due_at)


def _awaited(row: Enrollment, view: _View) -> Concern:
    """An enrollment whose key is made, and which waits for what only a person can bring."""
    if row.method is Method.E_SERVICE:
        told = "its CSR is to be carried to the e-service, and the certificate brought back"
        return _of(row, Reason.E_SERVICE, told, f"varmenne import {row.id} FILE", row.created_at)
    until = row.valid_until
    if until is not None and until <= view.now:
        return _lapse(row)
    told = "its one-time credentials were not sent yet" + (f"; they end on {until:%Y-%m-%d %H:%M} UTC" if until else "")
    return _of(row, Reason.CREDENTIALS, told, f"varmenne resume {row.id} --credentials FILE", until)


def _lapse(row: Enrollment) -> Concern:
    """Credentials that ran out."""
    told = "its one-time credentials ran out before they were sent"
    anew = "Order anew in the e-service, then: varmenne enroll --credentials FILE. "
    return _of(row, Reason.LAPSED, told, f"{anew}If it is not wanted: varmenne show {row.id}", row.valid_until)


def _lapsed(row: Enrollment, view: _View) -> Iterator[Concern]:
    """An order that ran out, unless a later one took its place."""
    if row.method is not Method.RENEWAL and view.is_newest(row):
        yield _lapse(row)


def _rejected(row: Enrollment, view: _View) -> Iterator[Concern]:
    """An order that was refused, unless a later one took its place. A refused renewal is begun anew by itself."""
    if row.method is not Method.RENEWAL and view.is_newest(row):
        yield _of(
            row, Reason.REJECTED, f"the service refused it{_why(row)}", f"varmenne resolve {row.id}", row.updated_at
        )


def _uncertain(row: Enrollment, _view: _View) -> Iterator[Concern]:
    """Nobody knows what the service did."""
    told = "its request was sent, and the answer is lost; a person decides"
    yield _of(row, Reason.UNCERTAIN, told, f"varmenne resolve {row.id}", row.sent_at)


def _superseded(row: Enrollment, _view: _View) -> Iterator[Concern]:
    """A key that others may still be using."""
    if _is_poisoned(row):
        yield _poisoned(row)
    elif row.due_at is not None:
        told = f"generation {row.generation} was replaced; its key is retired on {_day(row.due_at)}"
        yield _of(row, Reason.GRACE, told, f"Earlier: varmenne retire {row.id}", row.due_at)


def _retired(row: Enrollment, _view: _View) -> Iterator[Concern]:
    """A key that is to be destroyed, where the settings say so."""
    if _is_poisoned(row):
        yield _poisoned(row)


TOLD: dict[State, Callable[[Enrollment, _View], Iterator[Concern]]] = {
    State.ACTIVE: _active,
    State.UNCERTAIN: _uncertain,
    State.REJECTED: _rejected,
    State.EXPIRED: _lapsed,
    State.SUPERSEDED: _superseded,
    State.RETIRED: _retired,
}
"""State → what there is to tell of it; the others are on their way."""


def overdue(rows: Iterable[Enrollment], now: datetime) -> tuple[Enrollment, ...]:
    """Return the rows whose work was due so long ago that an agent would have taken it."""
    return tuple(row for row in rows if row.due_at is not None and row.due_at + OVERDUE_AFTER < now)


def _overdue(rows: Sequence[Enrollment], now: datetime) -> Iterator[Concern]:
    """Work that nothing takes."""
    late = overdue(rows, now)
    if late:
        since = min(row.due_at for row in late if row.due_at is not None)
        told = f"{len(late)} enrollments are due, the first since {since:%Y-%m-%d %H:%M} UTC, and nothing takes them"
        yield Concern(Reason.OVERDUE, told, "Is the agent running? By hand: varmenne run --once", at=since)
