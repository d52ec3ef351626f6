"""What can be asked of the journal: rows, their history and answers, probes. Asking takes no lock, changes nothing."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Collection, Iterator
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from varmenne.domain import identifiers as ids
from varmenne.domain.enrollment import Enrollment, Event, StoredAnswer
from varmenne.domain.steps import Method, State
from varmenne.journal import claims, probes, rows, schema, witness
from varmenne.journal.database import Database
from varmenne.journal.rows import enrollment_of, get_row

NEEDLESS = (State.ABANDONED, State.RETIRED, State.DESTROYED, State.REJECTED, State.EXPIRED)
"""States in which nobody needs the key any more."""


class Queries:
    """The reading half of a journal."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, enrollment_id: ids.EnrollmentId) -> Enrollment:
        """Return an enrollment.

        Raises:
            InputError: there is none with this ID.
        """
        with self._reading() as connection:
            return get_row(connection, enrollment_id)

    def by_transfer(self, environment: ids.Environment, transfer_hash: str) -> Enrollment | None:
        """Return the enrollment of a transfer ID, if there is one."""
        table = schema.enrollment
        query = sa.select(table).where(table.c.environment == environment, table.c.transfer_hash == transfer_hash)
        with self._reading() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else enrollment_of(row)

    def current(
        self, environment: ids.Environment, customer: ids.CustomerId, channel: ids.Channel
    ) -> tuple[Enrollment, ...]:
        """Return the active enrollments of a customer's channel, newest first."""
        table = schema.enrollment
        query = (
            sa.select(table)
            .where(
                _of_channel(environment, customer, channel),
                table.c.state == State.ACTIVE,
            )
            .order_by(table.c.created_at.desc())
        )
        with self._reading() as connection:
            return tuple(map(enrollment_of, connection.execute(query)))

    def renewals(self, enrollment_id: ids.EnrollmentId) -> tuple[Enrollment, ...]:
        """Return the renewals of a certificate that were ever begun, newest first; at most one is under way."""
        table = schema.enrollment
        query = (
            sa.select(table)
            .where(table.c.replaces == enrollment_id, table.c.method == Method.RENEWAL)
            .order_by(table.c.created_at.desc(), table.c.id)
        )
        with self._reading() as connection:
            return tuple(map(enrollment_of, connection.execute(query)))

    def latest_generation(self, environment: ids.Environment, customer: ids.CustomerId, channel: ids.Channel) -> int:
        """Return the number of the latest generation of a customer's channel that may have a certificate; 0: none."""
        table = schema.enrollment
        query = sa.select(sa.func.max(table.c.generation)).where(
            _of_channel(environment, customer, channel),
            sa.or_(
                table.c.certificate.is_not(None),
                table.c.state.not_in([State.ABANDONED, State.REJECTED, State.EXPIRED]),
            ),
        )
        with self._reading() as connection:
            return connection.execute(query).scalar_one() or 0

    def generation(
        self, environment: ids.Environment, customer: ids.CustomerId, channel: ids.Channel, number: int
    ) -> Enrollment | None:
        """Return the enrollment that is one generation of a customer's channel and has its certificate, the newest."""
        table = schema.enrollment
        query = (
            sa.select(table)
            .where(
                _of_channel(environment, customer, channel),
                table.c.generation == number,
                table.c.certificate.is_not(None),
            )
            .order_by(table.c.created_at.desc())
            .limit(1)
        )
        with self._reading() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else enrollment_of(row)

    def list(
        self,
        *,
        states: frozenset[State] | None = None,
        customer: str | None = None,
        after: str = "",
        limit: int = 1000,
        documents: bool = True,
    ) -> tuple[Enrollment, ...]:
        """Return a page of enrollments in order of their IDs, after a given one; of some states or one customer only.

        An ID begins with its day, so this is the order of days. Without ``documents``, what is long is left out and
        not even read: CSR, certificate, chain, custody and public key are ``None`` then, whatever the journal has.
        """
        table = schema.enrollment
        columns = [column for column in table.c if documents or column.name not in rows.DOCUMENTS]
        query = sa.select(*columns).where(table.c.id > after).order_by(table.c.id).limit(limit)
        if states is not None:
            query = query.where(table.c.state.in_(sorted(states)))
        if customer is not None:
            query = query.where(table.c.customer_id == customer)
        with self._reading() as connection:
            return tuple(map(enrollment_of, connection.execute(query)))

    def every(
        self,
        *,
        states: frozenset[State] | None = None,
        customer: str | None = None,
        after: str = "",
        documents: bool = True,
    ) -> Iterator[Enrollment]:
        """Yield what :meth:`list` would return without a limit, a page at a time."""
        while page := self.list(states=states, customer=customer, after=after, documents=documents):
            yield from page
            after = page[-1].id

    def newest_key(self, token: str) -> Enrollment | None:
        """Return the newest enrollment whose key is in the given token (a hash of its identity) and still needed."""
        table = schema.enrollment
        query = (
            sa.select(table)
            .where(table.c.token == token, table.c.public_key.is_not(None))
            .where(table.c.state.not_in(NEEDLESS))
            .order_by(table.c.created_at.desc(), table.c.id)
            .limit(1)
        )
        with self._reading() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else enrollment_of(row)

    def next_due(self, among: claims.Among = claims.ALL) -> datetime | None:
        """Return when the next row is due, which may be in the past; ``None`` if none ever is by itself."""
        with self._reading() as connection:
            return claims.next_due(connection, among)

    def answers(self, enrollment_id: ids.EnrollmentId, operation: str | None = None) -> tuple[StoredAnswer, ...]:
        """Return the stored answers of an enrollment, newest first, without those that were pruned."""
        table = schema.answer
        query = sa.select(table).where(table.c.enrollment_id == enrollment_id, table.c.body.is_not(None))
        query = query.order_by(table.c.id.desc())
        if operation is not None:
            query = query.where(table.c.operation == operation)
        with self._reading() as connection:
            return tuple(
                StoredAnswer(r.id, r.operation, r.at, r.http_status, zlib.decompress(r.body), r.verdict)
                for r in connection.execute(query)
            )

    def history(self, enrollment_id: ids.EnrollmentId) -> tuple[Event, ...]:
        """Return the events of an enrollment, oldest first."""
        table = schema.event
        query = sa.select(table).where(table.c.enrollment_id == enrollment_id).order_by(table.c.id)
        with self._reading() as connection:
            return tuple(
                Event(r.at, r.actor, r.step, State(r.source) if r.source else None, State(r.target), r.detail)
                for r in connection.execute(query)
            )

    def latest_probe(self, token: str) -> tuple[datetime, bool, dict[str, Any]] | None:
        """Return time, fitness and result of the newest probe of a token, as the audit log has it.

        Raises:
            EvidenceError: somebody else has written a record of a probe.
        """
        with self._reading() as connection:
            return probes.latest(connection, token)

    def unfit_keys(self, token: str) -> tuple[ids.EnrollmentId, ...]:
        """Return the enrollments whose live keys in a token (a hash of its identity) did not pass their newest probe.

        Raises:
            EvidenceError: somebody else has written a record of a probe.
        """
        with self._reading() as connection:
            return probes.unfit(connection, token)

    def unknown(self, enrollments: Collection[ids.EnrollmentId]) -> tuple[ids.EnrollmentId, ...]:
        """Return those of the enrollments that have no row here and that nobody has acknowledged as another's."""
        with self._reading() as connection:
            return witness.unknown(connection, enrollments)

    def acknowledged(self) -> tuple[witness.Acknowledged, ...]:
        """Return all that was acknowledged, in order of the enrollments' IDs."""
        with self._reading() as connection:
            return witness.acknowledged(connection)

    def _reading(self) -> contextlib.AbstractContextManager[sa.Connection]:
        """Run a read transaction, which takes no lock."""
        return self._database.reading()


def _of_channel(environment: ids.Environment, customer: ids.CustomerId, channel: ids.Channel) -> sa.ColumnElement[bool]:
    """Select what was ever enrolled for a customer's channel."""
    table = schema.enrollment
    return sa.and_(table.c.environment == environment, table.c.customer_id == customer, table.c.channel == channel)
