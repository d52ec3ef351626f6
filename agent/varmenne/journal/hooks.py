"""The hooks that are to be run, and what became of each. Each is a row: it is claimed, run and tried again alone.

A claim is one statement, as for enrollments: the due time is the lease, so that a process that died loses the hook by
the clock, and two processes never run it at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import datetime, timedelta

import sqlalchemy as sa

from varmenne.domain.hooks import HookEvent, HookOutcome, HookRun, NewHook, gist
from varmenne.domain.identifiers import EnrollmentId
from varmenne.domain.steps import State
from varmenne.journal import claims, schema
from varmenne.journal.database import Database

_table = schema.hook
_OPEN = sa.or_(_table.c.outcome.is_(None), _table.c.outcome == HookOutcome.RUNNING)
"""Neither done nor given up; ``NULL`` means waiting or failing, and the number of tries tells which."""
_theirs = schema.enrollment.alias("theirs")
_other = _table.alias("other")
_held = (
    sa.select(sa.func.max(_other.c.due_at))
    .join_from(_other, _theirs)
    .where(
        _theirs.c.environment == schema.enrollment.c.environment,
        _theirs.c.customer_id == schema.enrollment.c.customer_id,
        _theirs.c.channel == schema.enrollment.c.channel,
        _other.c.event == _table.c.event,
        _other.c.outcome == HookOutcome.RUNNING,
        _other.c.id != _table.c.id,
    )
    .scalar_subquery()
    .correlate(_table, schema.enrollment)
)
"""Until when another hook of the same event and the same customer's channel is being run, of whichever generation."""
_turn = sa.case((_held > _table.c.due_at, _held), else_=_table.c.due_at)
"""When a hook may be run: one after the other, lest a slow one of an old certificate end after a new one's."""
_CLAIMING = 0x766B6F68
"""Key of PostgreSQL's advisory lock for claiming hooks: `hokv`, for one at a time (SQLite has one writer anyway)."""
_FIELDS = tuple(field.name for field in dataclasses.fields(NewHook))


def insert_hooks(connection: sa.Connection, hooks: Sequence[NewHook]) -> None:
    """Write hooks that are to be run, within a transaction that writes what they are about."""
    if hooks:
        values = [{name: getattr(hook, name) for name in _FIELDS} | {"tries": 0} for hook in hooks]
        connection.execute(sa.insert(_table), values)


def forget_hooks(connection: sa.Connection, moment: datetime) -> None:
    """Remove the hooks of before a moment that are over."""
    connection.execute(sa.delete(_table).where(_table.c.at < moment, ~_OPEN))


class Hooks:
    """The hooks of one journal.

    Raises:
        JournalError: the database cannot be read or written; any method may raise it.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, hooks: Sequence[NewHook], *, unless_since: datetime) -> int:
        """Write hooks that are to be run, without those that are there with the same reason since a moment.

        Returns how many were written.
        """
        with self._database.transaction() as connection:
            new = [hook for hook in hooks if not _told(connection, hook, unless_since)]
            insert_hooks(connection, new)
        return len(new)

    def begin(self, hook: NewHook | HookRun, *, lease_until: datetime | None = None) -> HookRun:
        """Write that a hook is being run now, for the first time or again."""
        fields = {"outcome": HookOutcome.RUNNING, "due_at": lease_until}
        with self._database.transaction() as connection:
            if isinstance(hook, HookRun):
                again = sa.update(_table).where(_table.c.id == hook.id)
                row = connection.execute(again.values(**fields, tries=_table.c.tries + 1).returning(_table)).one()
            else:
                values = {name: getattr(hook, name) for name in _FIELDS} | fields | {"tries": 1}
                row = connection.execute(sa.insert(_table).returning(_table), values).one()
        return _run_of(row)

    def settle(self, run: HookRun, outcome: HookOutcome, detail: str, *, due_at: datetime | None = None) -> HookRun:
        """Write how a run ended; with ``due_at``, when it is tried again."""
        stored = None if outcome in {HookOutcome.FAILING, HookOutcome.WAITING} else outcome.value
        statement = sa.update(_table).where(_table.c.id == run.id)
        with self._database.transaction() as connection:
            connection.execute(statement.values(outcome=stored, detail=detail, due_at=due_at))
        return dataclasses.replace(run, outcome=outcome, detail=detail, due_at=due_at)

    def of(self, enrollment: EnrollmentId) -> tuple[HookRun, ...]:
        """Return the hooks of an enrollment, in the order in which they came up."""
        query = sa.select(_table).where(_table.c.enrollment_id == enrollment).order_by(_table.c.id)
        with self._database.reading() as connection:
            return tuple(map(_run_of, connection.execute(query)))

    def claim(
        self, now: datetime, *, lease: timedelta, among: claims.Among, enrollment: EnrollmentId | None = None
    ) -> HookRun | None:
        """Take the hook that is due and came up first, of all rows or of one enrollment; ``None`` if none is due."""
        due = _due(now, among, enrollment)
        with self._database.reading() as connection:  # Looking takes no lock.
            if connection.execute(due).one_or_none() is None:
                return None
        statement = (
            sa.update(_table)
            .where(_table.c.id.in_(sa.select(due.cte("due").c.id)))
            .values(outcome=HookOutcome.RUNNING, due_at=now + lease, tries=_table.c.tries + 1)
            .returning(_table)
        )
        with self._database.transaction() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_CLAIMING)))
            row = connection.execute(statement).one_or_none()
        return None if row is None else _run_of(row)

    def next_due(self, among: claims.Among = claims.ALL, enrollment: EnrollmentId | None = None) -> datetime | None:
        """Return when the next hook may be run, which may be in the past; ``None`` if none ever is by itself."""
        query = sa.select(sa.func.min(_turn)).select_from(_JOINED)
        query = query.where(_table.c.due_at.is_not(None), _OPEN, *_of(among, enrollment))
        with self._database.reading() as connection:
            return connection.execute(query).scalar_one_or_none()

    def held(self, now: datetime, among: claims.Among, enrollment: EnrollmentId | None = None) -> datetime | None:
        """Return until when at most hooks that are due wait for another to end; ``None`` if none waits for that."""
        query = sa.select(sa.func.min(_turn)).select_from(_JOINED)
        query = query.where(_table.c.due_at <= now, _OPEN, _turn > now, *_of(among, enrollment))
        with self._database.reading() as connection:
            return connection.execute(query).scalar_one_or_none()

    def revive(self, now: datetime, among: claims.Among, enrollment: EnrollmentId | None = None) -> int:
        """Make due now what waits to be tried again, and what was given up, by a person's order.

        What is run before an activation is left out: that is run again with the activation. Returns how many.
        """
        given_up = _table.c.outcome == HookOutcome.FAILED
        chosen = sa.select(_table.c.id).select_from(_JOINED)
        chosen = chosen.where(
            sa.or_(given_up, _table.c.outcome.is_(None)),
            _table.c.event != HookEvent.PRE_ACTIVATE,
            *_of(among, enrollment),
        )
        tries = sa.case((given_up, 0), else_=_table.c.tries)
        statement = sa.update(_table).where(_table.c.id.in_(chosen)).values(outcome=None, due_at=now, tries=tries)
        with self._database.transaction() as connection:
            return connection.execute(statement).rowcount

    def in_trouble(self) -> tuple[HookRun, ...]:
        """Return the hooks that failed and matter still, since their enrollment has not been replaced or given up.

        One before an activation is not among them: it is the problem of the enrollment that it holds up.
        """
        over = (State.SUPERSEDED, State.RETIRED, State.DESTROYED, State.ABANDONED)
        query = (
            sa.select(_table)
            .join_from(_table, schema.enrollment)
            .where(
                sa.or_(_table.c.outcome == HookOutcome.FAILED, sa.and_(_table.c.outcome.is_(None), _table.c.tries > 0))
            )
            .where(schema.enrollment.c.state.not_in(over), _table.c.event != HookEvent.PRE_ACTIVATE)
            .order_by(_table.c.id)
        )
        with self._database.reading() as connection:
            return tuple(map(_run_of, connection.execute(query)))

    def counts(self) -> dict[HookOutcome, int]:
        """Return how many hooks there are of each outcome, zeros included."""
        words = sa.case(
            (_table.c.outcome.is_not(None), _table.c.outcome),
            (_table.c.tries > 0, HookOutcome.FAILING.value),
            else_=HookOutcome.WAITING.value,
        ).label("word")
        query = sa.select(words, sa.func.count()).group_by(words)
        with self._database.reading() as connection:
            found = {HookOutcome(word): number for word, number in connection.execute(query)}
        return {outcome: found.get(outcome, 0) for outcome in HookOutcome}


_JOINED = _table.join(schema.enrollment)


def _of(among: claims.Among, enrollment: EnrollmentId | None) -> tuple[sa.ColumnElement[bool], ...]:
    """Return the conditions for hooks of some enrollments, or of one of them."""
    one = () if enrollment is None else (_table.c.enrollment_id == enrollment,)
    return (*among.conditions(), *one)


def _due(now: datetime, among: claims.Among, enrollment: EnrollmentId | None) -> sa.Select[tuple[int]]:
    """Return the query for the hook that is to be run now: of those that are due, the one that came up first."""
    query = sa.select(_table.c.id).select_from(_JOINED)
    query = query.where(_table.c.due_at <= now, _OPEN, _turn <= now, *_of(among, enrollment))
    return query.order_by(_table.c.id).limit(1)


def _told(connection: sa.Connection, hook: NewHook, since: datetime) -> bool:
    """Tell whether the same was to be told by the same hook since a moment."""
    query = sa.select(_table.c.facts).where(
        _table.c.enrollment_id == hook.enrollment_id,
        _table.c.event == hook.event,
        _table.c.name == hook.name,
        _table.c.at > since,
    )
    return any(gist(facts["reason"]) == gist(hook.facts["reason"]) for facts in connection.execute(query).scalars())


def _run_of(row: sa.Row[tuple[object, ...]]) -> HookRun:
    """Turn a row into the domain's value."""
    return HookRun(
        id=row.id,
        enrollment_id=row.enrollment_id,
        event=HookEvent(row.event),
        name=row.name,
        at=row.at,
        facts=row.facts,
        due_at=row.due_at,
        outcome=HookOutcome(row.outcome or ("failing" if row.tries else "waiting")),
        detail=row.detail or "",
        tries=row.tries,
    )
