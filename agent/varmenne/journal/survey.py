"""Counts over the whole journal, for those who look at it from afar. Nothing is changed, and no document is read."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from varmenne.domain.identifiers import EnrollmentId, Environment
from varmenne.domain.steps import ENDED, State
from varmenne.journal import schema
from varmenne.journal.database import Database


class Survey:
    """The counts of one journal.

    Raises:
        JournalError: the database cannot be read; any method may raise it.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def states(self, environment: Environment) -> dict[State, int]:
        """Return how many enrollments are in each state, zeros included."""
        table = schema.enrollment
        query = sa.select(table.c.state, sa.func.count()).where(table.c.environment == environment)
        with self._database.reading() as connection:
            found = {State(state): number for state, number in connection.execute(query.group_by(table.c.state))}
        return {state: found.get(state, 0) for state in State}

    def since(self, environment: Environment) -> dict[EnrollmentId, datetime]:
        """Return for each enrollment on its way, or uncertain, since when it has been in its state."""
        table, event = schema.enrollment, schema.event
        moved = event.c.target.is_distinct_from(event.c.source)
        query = (
            sa.select(table.c.id, sa.func.max(event.c.at, type_=schema.UtcTime()))
            .join_from(table, event, event.c.enrollment_id == table.c.id)
            .where(table.c.environment == environment, table.c.state.not_in(sorted(ENDED)), moved)
            .group_by(table.c.id)
        )
        with self._database.reading() as connection:
            return {EnrollmentId(key): at for key, at in connection.execute(query)}
