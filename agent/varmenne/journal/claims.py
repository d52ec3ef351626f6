"""Taking rows that are due: one statement on both databases, in which the due time is the lease.

A claim moves ``due_at`` to the lease's end, so a process that died loses its rows by the clock alone; and it raises the
row's version, so a process that was only slow can commit nothing after that. PostgreSQL passes over rows that another
claim has locked; SQLite has one writer at a time.
"""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from varmenne.domain.enrollment import Enrollment, Event
from varmenne.domain.identifiers import Environment
from varmenne.domain.steps import UPKEEP
from varmenne.errors import StateError
from varmenne.journal import schema
from varmenne.journal.owner import this_process
from varmenne.journal.rows import enrollment_of, write_event


@dataclasses.dataclass(frozen=True, slots=True)
class Among:
    """Which rows are looked at.

    Attributes:
        environment: the world that they belong to; ``None`` for both.
        token: hash of the identity of the token that holds their keys, or will hold them; ``None`` for any.
    """

    environment: Environment | None = None
    token: str | None = None

    def conditions(self) -> tuple[sa.ColumnElement[bool], ...]:
        """Return them for a statement."""
        table = schema.enrollment
        environment = () if self.environment is None else (table.c.environment == self.environment,)
        token = () if self.token is None else (table.c.token == self.token,)
        return (*environment, *token)


ALL = Among()

MAX_CLAIMS = 5
"""So often a row is taken without a sign of progress; each time its process ended, or lost its lease."""

PAUSE = timedelta(days=1)
"""After so long a certificate whose upkeep nobody survived is taken once more: it must not end forgotten."""


def _due(now: datetime, limit: int | None, *more: sa.ColumnElement[bool]) -> sa.CTE:
    """Return the IDs of rows that are due. The name before the statement makes PostgreSQL choose them only once."""
    table = schema.enrollment
    query = sa.select(table.c.id).where(table.c.due_at <= now, *more).order_by(table.c.due_at).limit(limit)
    return query.with_for_update(skip_locked=True).cte("due")


def any_due(connection: sa.Connection, now: datetime, among: Among) -> bool:
    """Tell whether a row is due."""
    table = schema.enrollment
    query = sa.select(table.c.id).where(table.c.due_at <= now, *among.conditions()).limit(1)
    return connection.execute(query).one_or_none() is not None


def next_due(connection: sa.Connection, among: Among) -> datetime | None:
    """Return when the next row is due."""
    table = schema.enrollment
    query = sa.select(table.c.due_at).where(table.c.due_at.is_not(None), *among.conditions())
    return connection.execute(query.order_by(table.c.due_at).limit(1)).scalar_one_or_none()


def claim_due(
    connection: sa.Connection, now: datetime, limit: int, *, lease: timedelta, among: Among = ALL
) -> tuple[Enrollment, ...]:
    """Take rows that are due, at most ``limit``, the longest due first."""
    table = schema.enrollment
    due = _due(now, limit, table.c.claims < MAX_CLAIMS, *among.conditions())
    statement = (
        sa.update(table)
        .where(table.c.id.in_(sa.select(due.c.id)))
        .values(owner=this_process(), due_at=now + lease, version=table.c.version + 1, claims=table.c.claims + 1)
        .returning(table)
    )
    return tuple(map(enrollment_of, connection.execute(statement)))


def stop_poisoned(connection: sa.Connection, now: datetime) -> None:
    """Stop work on rows that nobody survives, and write why, so that a person looks at them.

    An enrollment on its way is not taken any more; the upkeep of a certificate is tried once a day.
    """
    table = schema.enrollment
    if connection.execute(sa.select(table.c.id).where(table.c.due_at <= now, table.c.claims >= MAX_CLAIMS)).all() == []:
        return
    cared_for = table.c.state.in_(sorted(UPKEEP))
    look = "Look into the logs of the hosts named in its history"
    _stop(connection, now, ~cared_for, {"due_at": None}, f"{look}, then run `varmenne resume` with its ID")
    again = {"due_at": now + PAUSE, "claims": MAX_CLAIMS - 1}
    _stop(connection, now, cared_for, again, f"{look}; it is tried again once a day")


def _stop(
    connection: sa.Connection, now: datetime, which: sa.ColumnElement[bool], values: dict[str, Any], next_step: str
) -> None:
    """Take some of the rows that nobody survives from their owners, with the problem and its line of history."""
    table = schema.enrollment
    problem = {
        "kind": "Poisoned",
        "what": f"Work on this enrollment was begun {MAX_CLAIMS} times, and each time the process ended without a word",
        "why": "it was killed, the machine stopped, or something that it calls never returns",
        "next_step": next_step,
    }
    due = _due(now, None, table.c.claims >= MAX_CLAIMS, which)
    statement = (
        sa.update(table)
        .where(table.c.id.in_(sa.select(due.c.id)))
        .values(owner=None, version=table.c.version + 1, updated_at=now, problem=problem, **values)
        .returning(table)
    )
    for row in map(enrollment_of, connection.execute(statement).all()):
        write_event(connection, row, Event(now, this_process(), "problem", row.state, row.state, problem))


def renew(connection: sa.Connection, row: Enrollment, until: datetime) -> Enrollment:
    """Lengthen the lease of a row by compare-and-set on its version and owner.

    Raises:
        StateError: the row is another's by now.
    """
    table = schema.enrollment
    statement = sa.update(table).where(
        table.c.id == row.id, table.c.version == row.version, table.c.owner == this_process()
    )
    if connection.execute(statement.values(due_at=until)).rowcount != 1:
        raise StateError(
            f"Enrollment {row.id} was taken over by another process, since its lease was over",
            next_step="`varmenne show` tells where it stands",
        )
    return dataclasses.replace(row, due_at=until)
