"""The journal: rows of enrollments, changed by compare-and-set, each change with its event in one transaction."""

from __future__ import annotations

import contextlib
import dataclasses
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from varmenne.domain import identifiers as ids
from varmenne.domain.enrollment import Enrollment, Event, StoredAnswer
from varmenne.domain.keys import KeyId
from varmenne.domain.steps import Method, State, allowed
from varmenne.errors import InputError, JournalError, StateError
from varmenne.journal import schema
from varmenne.journal.database import open_sqlite, translated
from varmenne.journal.owner import is_gone, this_process

MAX_ANSWER_BYTES = 256 * 1024
"""Largest answer that is kept; the transport reads no more than this either."""

JOURNAL_NAME = "journal.sqlite"

_COLUMNS = {field.name for field in dataclasses.fields(Enrollment)}


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEnrollment:
    """What is known of an enrollment when it begins."""

    environment: ids.Environment
    channel: ids.Channel
    customer_id: ids.CustomerId
    customer_name: ids.CustomerName | None
    method: Method
    key_id: KeyId
    transfer_hash: str | None = None
    valid_until: datetime | None = None
    replaces: ids.EnrollmentId | None = None
    generation: int = 1


class Journal:
    """Durable state in SQLite, with ``synchronous=FULL``: a commit that returned has reached the disk.

    One journal may be used by several processes; a row is changed by one of them at a time.
    """

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / JOURNAL_NAME
        self._engine = open_sqlite(self.path)
        with translated(self.path):
            self._create_or_check()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the database."""
        self._engine.dispose()

    def add(self, new: NewEnrollment, now: datetime, *, lease: timedelta) -> Enrollment:
        """Begin an enrollment in state ``prepared``, owned by this process.

        Raises:
            StateError: an enrollment with the same transfer ID is there already.
        """
        owner = this_process()
        enrollment_id = ids.new_enrollment_id(now)
        values = {
            **dataclasses.asdict(new),
            "id": enrollment_id,
            "key_label": f"varmenne-{enrollment_id}",
            "state": State.PREPARED,
            "version": 1,
            "created_at": now,
            "updated_at": now,
            "due_at": now + lease,
            "owner": owner,
            "tries": 0,
        }
        with self._transaction() as connection:
            try:
                connection.execute(sa.insert(schema.enrollment), values)
            except IntegrityError as exc:
                raise StateError(
                    "Another enrollment with this transfer ID was begun at the same moment",
                    next_step="`varmenne list` shows it; run the command again to go on with it",
                ) from exc
            _write_event(connection, enrollment_id, Event(now, owner, "prepare", None, State.PREPARED, {}))
            return _get(connection, enrollment_id)

    def get(self, enrollment_id: ids.EnrollmentId) -> Enrollment:
        """Return an enrollment.

        Raises:
            InputError: there is none with this ID.
        """
        with self._reading() as connection:
            return _get(connection, enrollment_id)

    def by_transfer(self, environment: ids.Environment, transfer_hash: str) -> Enrollment | None:
        """Return the enrollment of a transfer ID, if there is one."""
        table = schema.enrollment
        query = sa.select(table).where(table.c.environment == environment, table.c.transfer_hash == transfer_hash)
        with self._reading() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else _enrollment(row)

    def current(
        self, environment: ids.Environment, customer: ids.CustomerId, channel: ids.Channel
    ) -> tuple[Enrollment, ...]:
        """Return the active enrollments of a customer's channel, newest first."""
        table = schema.enrollment
        query = (
            sa.select(table)
            .where(
                table.c.environment == environment,
                table.c.customer_id == customer,
                table.c.channel == channel,
                table.c.state == State.ACTIVE,
            )
            .order_by(table.c.created_at.desc())
        )
        with self._reading() as connection:
            return tuple(map(_enrollment, connection.execute(query)))

    def list(
        self, *, states: frozenset[State] | None = None, after: str = "", limit: int = 1000
    ) -> tuple[Enrollment, ...]:
        """Return a page of enrollments in order of their IDs, after a given one; optionally of some states only."""
        table = schema.enrollment
        query = sa.select(table).where(table.c.id > after).order_by(table.c.id).limit(limit)
        if states is not None:
            query = query.where(table.c.state.in_(sorted(states)))
        with self._reading() as connection:
            return tuple(map(_enrollment, connection.execute(query)))

    def every(self, *, states: frozenset[State] | None = None) -> Iterator[Enrollment]:
        """Yield all enrollments in order of their IDs, optionally of some states only, a page at a time."""
        after = ""
        while page := self.list(states=states, after=after):
            yield from page
            after = page[-1].id

    def newest_key(self, token: str) -> Enrollment | None:
        """Return the newest enrollment whose key is in the given token (a hash of its identity) and still needed."""
        table = schema.enrollment
        query = (
            sa.select(table)
            .where(table.c.token == token, table.c.public_key.is_not(None))
            .where(table.c.state.not_in([State.ABANDONED, State.RETIRED, State.REJECTED, State.EXPIRED]))
            .order_by(table.c.created_at.desc(), table.c.id)
            .limit(1)
        )
        with self._reading() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else _enrollment(row)

    def claim(self, row: Enrollment, now: datetime, *, lease: timedelta) -> Enrollment:
        """Take a row for this process until the lease ends, and return it as it now is.

        A row of a process that is known to have ended is taken at once.

        Raises:
            StateError: another process is at work on it.
        """
        with self._transaction() as connection:
            newest = _get(connection, row.id)
            if newest.owner not in {None, this_process()} and not _abandoned(newest, now):
                raise StateError(
                    f"Another process is at work on enrollment {row.id}",
                    why=str(newest.owner),
                    next_step="Wait for it to end; `varmenne show` tells where it stands",
                )
            return _update(connection, newest, now, {"owner": this_process(), "due_at": now + lease}, clock_only=True)

    @staticmethod
    def is_free(row: Enrollment, now: datetime) -> bool:
        """Tell whether no process is at work on a row: it has no owner, or one that has ended or lost its lease."""
        return _abandoned(row, now)

    def release(self, row: Enrollment, now: datetime, *, due_at: datetime | None) -> Enrollment:
        """Give a row back, to be looked at again at ``due_at``, or by a person if that is ``None``."""
        with self._transaction() as connection:
            return _update(connection, row, now, {"owner": None, "due_at": due_at}, clock_only=True)

    def commit(
        self,
        row: Enrollment,
        now: datetime,
        target: State,
        *,
        step: str,
        changes: Mapping[str, Any] | None = None,
        detail: Mapping[str, Any] | None = None,
    ) -> Enrollment:
        """Move a row to ``target`` with its new values and its event, all or nothing.

        Raises:
            StateError: the table of steps has no such transition, or somebody else changed the row since it was read.
        """
        if target is not row.state and not allowed(row.state, target):
            raise StateError(f"An enrollment cannot go from {row.state} to {target}")
        values = dict(changes or {})
        unknown = values.keys() - _COLUMNS
        if unknown:
            raise ValueError(f"no such columns: {unknown}")
        values["state"] = target
        values.setdefault("tries", 0 if target is not row.state else row.tries)
        with self._transaction() as connection:
            updated = _update(connection, row, now, values)
            _write_event(connection, row.id, Event(now, this_process(), step, row.state, target, dict(detail or {})))
            return updated

    def record_answer(
        self, row: Enrollment, now: datetime, *, operation: str, http_status: int, body: bytes
    ) -> StoredAnswer:
        """Store an answer as it came, before anybody interprets it."""
        values = {
            "enrollment_id": row.id,
            "operation": operation,
            "at": now,
            "http_status": http_status,
            "body": zlib.compress(body[:MAX_ANSWER_BYTES]),
        }
        with self._transaction() as connection:
            key = connection.execute(sa.insert(schema.answer).returning(schema.answer.c.id), values).scalar_one()
        return StoredAnswer(key, operation, now, http_status, body, None)

    def judge_answer(self, answer: StoredAnswer, verdict: str) -> None:
        """Note what verification said of an answer."""
        with self._transaction() as connection:
            connection.execute(sa.update(schema.answer).where(schema.answer.c.id == answer.id).values(verdict=verdict))

    def answers(self, enrollment_id: ids.EnrollmentId, operation: str | None = None) -> tuple[StoredAnswer, ...]:
        """Return the stored answers of an enrollment, newest first."""
        table = schema.answer
        query = sa.select(table).where(table.c.enrollment_id == enrollment_id).order_by(table.c.id.desc())
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

    def save_probe(self, token: str, at: datetime, *, fit: bool, result: Mapping[str, Any]) -> None:
        """Keep what a custody probe of a token found."""
        with self._transaction() as connection:
            connection.execute(sa.insert(schema.probe).values(token=token, at=at, fit=fit, result=dict(result)))

    def latest_probe(self, token: str) -> tuple[datetime, bool, dict[str, Any]] | None:
        """Return time, fitness and result of the newest probe of a token."""
        table = schema.probe
        query = sa.select(table).where(table.c.token == token).order_by(table.c.id.desc()).limit(1)
        with self._reading() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else (row.at, row.fit, row.result)

    def check(self) -> None:
        """Prove that the journal is sound and has room for the largest answer, by writing as much and freeing it again.

        Whoever sends something that can be sent only once has to be sure that the answer can be kept.

        Raises:
            JournalError: it cannot be written, or SQLite found damage.
        """
        scratch = sa.delete(schema.meta).where(schema.meta.c.name == "room")
        with self._transaction() as connection:
            found = connection.execute(sa.text("PRAGMA quick_check")).scalar_one()
            connection.execute(scratch)
            connection.execute(sa.insert(schema.meta).values(name="room", value="0" * MAX_ANSWER_BYTES))
        with self._transaction() as connection:
            connection.execute(scratch)
        if found != "ok":
            raise JournalError(f"The journal {self.path} is damaged", why=str(found), next_step="Restore a backup")

    def _create_or_check(self) -> None:
        """Create the tables in a new database; refuse one that a newer varmenne has written."""
        with self._engine.begin() as connection:
            schema.metadata.create_all(connection)
            found = connection.execute(sa.select(schema.meta.c.value).where(schema.meta.c.name == "schema")).scalar()
            if found is None:
                connection.execute(sa.insert(schema.meta).values(name="schema", value=str(schema.SCHEMA_VERSION)))
            elif int(found) > schema.SCHEMA_VERSION:
                raise JournalError(
                    f"The journal {self.path} was written by a newer varmenne",
                    why=f"its schema is {found}, this varmenne knows {schema.SCHEMA_VERSION}",
                    next_step="Use the newer varmenne, or restore a backup from before",
                )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        """Run a write transaction; the lock is taken at its beginning, so that it never fails half-way."""
        with translated(self.path), self._engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        """Run a read transaction, which takes no lock."""
        with translated(self.path), self._engine.connect().execution_options(read_only=True) as connection:
            yield connection


def _abandoned(row: Enrollment, now: datetime) -> bool:
    """Tell whether the row's owner has ended, or its lease has."""
    return row.owner is None or is_gone(row.owner) or row.due_at is None or row.due_at <= now


def _get(connection: sa.Connection, enrollment_id: str) -> Enrollment:
    """Read one row."""
    row = connection.execute(sa.select(schema.enrollment).where(schema.enrollment.c.id == enrollment_id)).one_or_none()
    if row is None:
        raise InputError(f"There is no enrollment {enrollment_id}", next_step="`varmenne list` shows those that are")
    return _enrollment(row)


def _update(
    connection: sa.Connection, row: Enrollment, now: datetime, values: dict[str, Any], *, clock_only: bool = False
) -> Enrollment:
    """Write values by compare-and-set on the version, and return the new row."""
    table = schema.enrollment
    if not clock_only:
        values = {**values, "updated_at": now}
    statement = (
        sa.update(table)
        .where(table.c.id == row.id, table.c.version == row.version)
        .values(**values, version=row.version + 1)
        .returning(*table.c)
    )
    written = connection.execute(statement).one_or_none()
    if written is None:
        raise StateError(
            f"Enrollment {row.id} was changed by somebody else in between",
            next_step="`varmenne show` tells where it stands",
        )
    return _enrollment(written)


def _write_event(connection: sa.Connection, enrollment_id: str, event: Event) -> None:
    """Add a line to an enrollment's history."""
    values = {**dataclasses.asdict(event), "enrollment_id": enrollment_id}
    connection.execute(sa.insert(schema.event).values(values))


def _enrollment(row: sa.Row[Any]) -> Enrollment:
    """Turn a database row into the domain's value; unknown words in it would be a defect and raise ValueError."""
    values = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's documented way to a row's mapping
    name = values["customer_name"]
    replaces = values["replaces"]
    retrieval = values["retrieval_id"]
    return Enrollment(
        **values
        | {
            "id": ids.EnrollmentId(values["id"]),
            "environment": ids.Environment(values["environment"]),
            "channel": ids.Channel(values["channel"]),
            "customer_id": ids.CustomerId(values["customer_id"]),
            "customer_name": None if name is None else ids.CustomerName(name),
            "method": Method(values["method"]),
            "state": State(values["state"]),
            "replaces": None if replaces is None else ids.EnrollmentId(replaces),
            "key_id": KeyId(values["key_id"]),
            "retrieval_id": None if retrieval is None else ids.RetrievalId(retrieval),
        }
    )
