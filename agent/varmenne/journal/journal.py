"""The journal: rows of enrollments, changed by compare-and-set, each change with its event in one transaction."""

from __future__ import annotations

import contextlib
import dataclasses
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from varmenne.domain import identifiers as ids
from varmenne.domain.check import Check
from varmenne.domain.enrollment import Enrollment, Event, StoredAnswer
from varmenne.domain.hooks import NewHook
from varmenne.domain.keys import KeyId
from varmenne.domain.steps import ENDED, INTENTS, Method, State, allowed
from varmenne.errors import StateError
from varmenne.journal import claims, meta, past, probes, rows, schema, witness
from varmenne.journal.copies import copy_sqlite
from varmenne.journal.database import open_database
from varmenne.journal.hooks import Hooks, forget_hooks, insert_hooks
from varmenne.journal.inspection import inspect
from varmenne.journal.lock import InUse
from varmenne.journal.log import Log, append_answer, append_day
from varmenne.journal.owner import this_process
from varmenne.journal.queries import Queries
from varmenne.journal.rows import enrollment_of, get_row, update_row, write_event
from varmenne.journal.sent import KEPT_FOR, SentRecord
from varmenne.journal.survey import Survey
from varmenne.journal.upgrade import bring_up_to_date
from varmenne.settings import JournalSettings

MAX_ANSWER_BYTES = 256 * 1024 + 1
"""So much of an answer is kept, as much as the transport reads: a byte more than is verified, which tells its size."""

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
    token: str | None = None
    sftp_user: str | None = None
    contact: str | None = None


class Journal(Queries):
    """Durable state: a commit that returned has reached the disk.

    One journal may be used by several processes, and by several hosts if it is in PostgreSQL; a row is changed by one
    of them at a time.

    Raises:
        ConfigError: the settings name no database that can be used.
        JournalError: the database cannot be opened, is newer than this varmenne, or has gone back in time.
    """

    def __init__(self, state_dir: Path, settings: JournalSettings | None = None) -> None:
        self._settings = settings or JournalSettings()
        self._state_dir = state_dir
        super().__init__(open_database(state_dir, self._settings))
        self.hooks = Hooks(self._database)
        self.survey = Survey(self._database)
        self.log = Log(self._database)
        self._closing = contextlib.ExitStack()
        self._closing.callback(self._database.close)
        with contextlib.ExitStack() as opening:
            opening.callback(self.close)
            with self._database.translated():
                self._closing.callback(InUse(state_dir).close)
            self._record = SentRecord(state_dir)
            bring_up_to_date(self._database, self._record)
            self._epoch = past.refuse_past(self._database, self._record).epoch
            opening.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the database."""
        self._closing.close()

    @property
    def name(self) -> str:
        """What people know the database by: the file's path, or the URL, which holds no password."""
        return self._database.name

    @property
    def shared(self) -> bool:
        """Whether several hosts may use it, each with a token of its own."""
        return self._database.path is None

    @property
    def path(self) -> Path:
        """The SQLite file.

        Raises:
            StateError: the journal is in PostgreSQL.
        """
        if self._database.path is None:
            raise StateError(f"The journal {self.name} is not a file")
        return self._database.path

    def add(self, new: NewEnrollment, now: datetime, *, lease: timedelta) -> Enrollment:
        """Begin an enrollment in state ``prepared``, owned by this process.

        Raises:
            StateError: an enrollment with the same transfer ID is there already, the renewal of the same certificate
                is under way, or what is to be renewed is not the certificate in use any more.
        """
        owner = this_process()
        enrollment_id = ids.new_enrollment_id(now)
        values = {
            **dataclasses.asdict(new),
            "id": enrollment_id,
            "key_label": ids.key_label(enrollment_id),
            "state": State.PREPARED,
            "version": 1,
            "created_at": now,
            "updated_at": now,
            "due_at": now + lease,
            "owner": owner,
            "tries": 0,
        }
        with self._transaction() as connection:
            if new.method is Method.RENEWAL:
                _refuse_replaced(connection, new)
            try:
                connection.execute(sa.insert(schema.enrollment), values)
            except IntegrityError as exc:
                what = (
                    "renewal of this certificate" if new.transfer_hash is None else "enrollment with this transfer ID"
                )
                raise StateError(
                    f"Another {what} was begun at the same moment",
                    next_step="`varmenne list` shows it; run the command again to go on with it",
                ) from exc
            row = get_row(connection, enrollment_id)
            write_event(connection, row, Event(now, owner, "prepare", None, State.PREPARED, {}))
        self.log.grew = True
        return row

    def claim(self, row: Enrollment, now: datetime, *, lease: timedelta) -> Enrollment:
        """Take a row for this process until the lease ends, and return it as it now is.

        A row of a process that is known to have ended is taken at once.

        Raises:
            StateError: another process is at work on it.
        """
        with self._transaction() as connection:
            newest = get_row(connection, row.id)
            if newest.owner not in {None, this_process()} and not rows.is_free(newest, now):
                raise StateError(
                    f"Another process is at work on enrollment {row.id}",
                    why=str(newest.owner),
                    next_step="Wait for it to end; `varmenne show` tells where it stands",
                )
            values = {"owner": this_process(), "due_at": now + lease, "claims": newest.claims + 1}
            return update_row(connection, newest, now, values, clock_only=True)

    def claim_due(
        self, now: datetime, limit: int, *, lease: timedelta, among: claims.Among = claims.ALL
    ) -> tuple[Enrollment, ...]:
        """Take rows that are due for this process, at most so many, the longest due first.

        A row whose processes ended again and again without a result is not taken any more: it waits for a person.
        """
        with self._reading() as connection:  # Looking takes no lock: an agent at rest does not keep others waiting.
            if not claims.any_due(connection, now, among):
                return ()
        with self._transaction() as connection:
            claims.stop_poisoned(connection, now)
            return claims.claim_due(connection, now, limit, lease=lease, among=among)

    def take_back(self, now: datetime) -> int:
        """Let go of the rows of processes that are known to have ended, so that they are due at once; return how many.

        Otherwise they would be due when their leases end.
        """
        table = schema.enrollment
        with self._transaction() as connection:
            owned = connection.execute(sa.select(table).where(table.c.owner.is_not(None), table.c.due_at > now)).all()
            left = [row for row in map(enrollment_of, owned) if rows.is_free(row, now)]
            for row in left:
                update_row(connection, row, now, {"owner": None, "due_at": now}, clock_only=True)
            return len(left)

    def pull_in(self, now: datetime, latest: datetime) -> int:
        """Have looked at now what is due later than anything can be, since a clock ran ahead; return how many rows.

        Args:
            now: the present moment.
            latest: what is under way or in use is never due later than this.
        """
        table = schema.enrollment
        statement = sa.update(table).where(
            table.c.state.in_([*schema.OPEN_STATES, State.ACTIVE]), table.c.owner.is_(None), table.c.due_at > latest
        )
        with self._transaction() as connection:
            return connection.execute(statement.values(due_at=now, version=table.c.version + 1)).rowcount

    def renew(self, row: Enrollment, now: datetime, *, lease: timedelta) -> Enrollment:
        """Lengthen the lease of a row that is ours, through a long step. Its version stays, so a commit fits still.

        Raises:
            StateError: the lease was over, and another process has taken the row.
        """
        with self._transaction() as connection:
            return claims.renew(connection, row, now + lease)

    @staticmethod
    def is_free(row: Enrollment, now: datetime) -> bool:
        """Tell whether no process is at work on a row: it has no owner, or one that has ended or lost its lease."""
        return rows.is_free(row, now)

    def release(
        self, row: Enrollment, now: datetime, *, due_at: datetime | None, tries: int | None = None
    ) -> Enrollment:
        """Give a row back, to be looked at again at ``due_at``, or by a person if that is ``None``.

        With ``tries``, how often its present state has been tried is noted as well.
        """
        values = {"owner": None, "due_at": due_at, "claims": 0, **({} if tries is None else {"tries": tries})}
        with self._transaction() as connection:
            return update_row(connection, row, now, values, clock_only=True)

    def commit(
        self,
        row: Enrollment,
        now: datetime,
        target: State,
        *,
        step: str,
        changes: Mapping[str, Any] | None = None,
        detail: Mapping[str, Any] | None = None,
        hooks: Sequence[NewHook] = (),
    ) -> Enrollment:
        """Move a row to ``target`` with its new values, its event and the hooks to be run for it, all or nothing.

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
            updated = update_row(connection, row, now, values)
            insert_hooks(connection, hooks)
            mark = past.count_intent(connection, self._epoch, self._record) if target in INTENTS else None
            write_event(connection, updated, Event(now, this_process(), step, row.state, target, dict(detail or {})))
        self.log.grew = True
        if mark is not None:
            with self._database.translated():
                self._record.remember(mark, now, updated)
        return updated

    def record_answer(
        self, row: Enrollment, now: datetime, *, operation: str, http_status: int, body: bytes
    ) -> StoredAnswer:
        """Store an answer as it came, before anybody interprets it; also when the row was lost to another process."""
        values = {
            "enrollment_id": row.id,
            "operation": operation,
            "at": now,
            "http_status": http_status,
            "body": zlib.compress(body[:MAX_ANSWER_BYTES]),
        }
        with self._transaction() as connection:
            key = connection.execute(sa.insert(schema.answer).returning(schema.answer.c.id), values).scalar_one()
            append_answer(
                connection, row, now, {"answer": key, "operation": operation, "http_status": http_status}, body
            )
        return StoredAnswer(key, operation, now, http_status, body, None)

    def judge_answer(self, answer: StoredAnswer, verdict: str) -> None:
        """Note what verification said of an answer."""
        with self._transaction() as connection:
            connection.execute(sa.update(schema.answer).where(schema.answer.c.id == answer.id).values(verdict=verdict))

    def save_probe(
        self, token: str, at: datetime, *, fit: bool, result: Mapping[str, Any], row: Enrollment | None = None
    ) -> None:
        """Keep in the audit log what a custody probe found.

        Args:
            token: name of what was probed, see :mod:`varmenne.enrollment.preflight`.
            at: when.
            fit: the verdict.
            result: each try.
            row: the enrollment whose live key it was.
        """
        with self._transaction() as connection:
            probes.append(connection, at, {"token": token, "fit": fit, **result}, row)
        self.log.grew = True

    def check(self) -> None:
        """Prove that the journal has room for the largest answer, by writing as much and freeing it again.

        Whoever sends something that can be sent only once has to be sure that the answer can be kept.

        Raises:
            JournalError: it cannot be written.
        """
        name = schema.meta.c.name
        with self._transaction() as connection:
            connection.execute(sa.delete(schema.meta).where(name.startswith("room ")))
            room = {"name": f"room {this_process()}", "value": "0" * MAX_ANSWER_BYTES}
            connection.execute(sa.insert(schema.meta).values(room))
        with self._transaction() as connection:
            connection.execute(sa.delete(schema.meta).where(name.startswith("room ")))

    def acknowledge(self, enrollments: Collection[ids.EnrollmentId], now: datetime) -> None:
        """Keep that a person said of enrollments without a row that they are another installation's."""
        with self._transaction() as connection:
            witness.acknowledge(connection, enrollments, now)
        self.log.grew = True

    def inspect(self) -> Iterator[Check]:
        """Look through the whole journal and yield what was found, changing nothing."""
        return inspect(self._database, self._state_dir)

    def backup(self, target: Path) -> None:
        """Copy an SQLite journal to a new file, while it may be in use, and prove that the copy is whole.

        Raises:
            JournalError: the file is there already or cannot be written, or the journal is damaged.
            StateError: the journal is in PostgreSQL, which has tools of its own.
        """
        with self._database.translated():
            copy_sqlite(self.path, target)

    def prune(self, now: datetime) -> int:
        """Remove the raw answers of enrollments that ended long enough ago, once a day, and return how many.

        What is known of them stays: when they came, of which operation, and what verification said. Of several hosts,
        one does it, and removes hooks of that age as well; old lines of its own record are dropped by each.
        """
        with self._database.translated():
            self._record.forget_before(now - KEPT_FOR)
        table, row = schema.answer, schema.enrollment
        until = now - timedelta(days=self._settings.keep_answers_days)
        old = sa.select(row.c.id).where(row.c.state.in_(sorted(ENDED)), row.c.updated_at < until)
        statement = (
            sa.update(table)
            .where(table.c.enrollment_id.in_(old), table.c.at < until, table.c.body.is_not(None))
            .values(body=None)
        )
        today = f"{now:%Y-%m-%d}"
        with self._reading() as connection:
            if meta.get(connection, "pruned") == today:
                return 0
        with self._transaction() as connection:
            if not meta.put(connection, "pruned", today):
                return 0
            forget_hooks(connection, until)
            gone = connection.execute(statement).rowcount
            append_day(connection, now)
            return gone

    def _transaction(self) -> contextlib.AbstractContextManager[sa.Connection]:
        """Run a write transaction; the lock is taken at its beginning, so that it never fails half-way."""
        return self._database.transaction()


def _refuse_replaced(connection: sa.Connection, new: NewEnrollment) -> None:
    """Refuse a renewal of what is not in use, with the renewed row kept as it is until the renewal is written.

    Raises:
        StateError: the certificate was replaced since somebody looked.
    """
    table = schema.enrollment
    query = sa.select(table.c.state).where(table.c.id == new.replaces).with_for_update(read=True)
    state = connection.execute(query).scalar()
    if state != State.ACTIVE:
        raise StateError(
            f"Enrollment {new.replaces} cannot be renewed",
            why=f"it is {state or 'not in the journal'}; only the certificate in use is renewed",
            next_step="`varmenne list --state active` shows those in use",
        )
