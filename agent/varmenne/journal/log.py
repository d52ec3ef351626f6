"""The audit log: records in the order of their commits, and the hash tree over them, written with what they record.

One row, ``head``, has the size and the frontier of the tree. Whoever appends locks it, so that numbers have no gaps;
that is the last thing that a transaction does before it ends, so nobody waits longer than for one insert.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from varmenne.domain import merkle
from varmenne.domain.audit import AuditRecord, about, fingerprint, of_event, row_document
from varmenne.domain.enrollment import Enrollment, Event
from varmenne.domain.keys import KeyId, new_key_id
from varmenne.domain.steps import State
from varmenne.journal import meta, schema, tree
from varmenne.journal.database import Database
from varmenne.journal.owner import this_host, this_person

_KEY = "log key "
_KEY_TOLD = "log key told "
ORIGIN = "varmenne/"

_LOCKED_HEAD = tree.HEAD.with_for_update()
_INSERT = sa.insert(schema.log)
_INSERT_NODES = sa.insert(schema.node)
_UPDATE_HEAD = sa.update(schema.head).values(size=sa.bindparam("new_size"), frontier=sa.bindparam("new_frontier"))


@dataclass(frozen=True, slots=True)
class Head:
    """How far the log has come. ``origin`` is the name that its checkpoints bear; a restore begins a new one."""

    origin: str
    size: int
    root: bytes


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A signed statement of how far the log had come.

    Attributes:
        origin: the log's name.
        size: number of records.
        root: hash of the tree of that size.
        at: when it was signed.
        note: the signed note (C2SP ``tlog-checkpoint``), cosignatures included.
        anchored_at: since when it stands in Vault, or ``None``.
    """

    origin: str
    size: int
    root: bytes
    at: datetime
    note: str
    anchored_at: datetime | None = None


def begin(connection: sa.Connection) -> None:
    """Begin the log of a new journal."""
    connection.execute(sa.insert(schema.head).values(id=1, size=0, frontier=b""))


def adopt(connection: sa.Connection, now: datetime) -> None:
    """Begin the log of a journal that had none: with a record for each enrollment, as it stands."""
    from varmenne.journal.rows import enrollment_of

    begin(connection)
    for found in connection.execute(sa.select(schema.enrollment).order_by(schema.enrollment.c.id)).all():
        row = enrollment_of(found)
        append(connection, ours("adopt", now, row, target=row.state, row=fingerprint(row_document(row))))


def ours(act: str, at: datetime, of: Enrollment | None = None, /, **facts: Any) -> AuditRecord:
    """Return a record of an act by this process's person, on this host, on an enrollment's key or on none."""
    who: dict[str, Any] = {"act": act, "at": at, "actor": this_person(), "host": this_host()}
    return AuditRecord(**who, **facts) if of is None else about(of, **who, **facts)


def append_event(connection: sa.Connection, row: Enrollment, event: Event) -> None:
    """Append the record of an event, given the row as the event left it."""
    append(connection, of_event(row, event, actor=this_person(), host=this_host()))


def append_answer(
    connection: sa.Connection, row: Enrollment, now: datetime, facts: Mapping[str, object], body: bytes
) -> None:
    """Append the record of an answer as it came."""
    detail = {**facts, "sha256": fingerprint(body), "bytes": len(body)}
    append(connection, ours("answer", now, row, detail=detail))


def append_day(connection: sa.Connection, now: datetime) -> None:
    """Append the record of a day: by it, a log in which nothing happened differs from one that was cut off."""
    append(connection, ours("day", now))


def append_restore(connection: sa.Connection, now: datetime, before: str, size: int, known: Collection[str]) -> None:
    """Append the record of a restore, by which the log got a new name.

    Args:
        connection: the restore's transaction.
        now: when.
        before: what the log was called in the backup.
        size: how many records it had there.
        known: the other names under which this host knew it, such as that since an earlier restore of the same backup.
    """
    detail = {"origin": before, "size": size, **({"known": [*known]} if known else {})}
    append(connection, ours("restore", now, detail=detail))


def append(connection: sa.Connection, record: AuditRecord) -> int:
    """Append a record and return its index. The caller writes everything else before."""
    body = record.encoded()
    found = connection.execute(_LOCKED_HEAD).one()
    grown, nodes = tree.tree_of(found.size, found.frontier).grown(merkle.leaf_hash(body))
    connection.execute(_INSERT, {"seq": found.size, "enrollment_id": record.enrollment, "body": body})
    if nodes:
        connection.execute(_INSERT_NODES, [{"level": n.level, "index": n.index, "hash": n.hash} for n in nodes])
    connection.execute(_UPDATE_HEAD, {"new_size": grown.size, "new_frontier": b"".join(grown.frontier)})
    return int(found.size)


class Snapshot:
    """Log, rows and checkpoints as they are together at one moment, however long the reading takes."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        self.head = _head(connection)

    def records(self) -> Iterator[bytes]:
        """Yield each record, a page at a time."""
        return (body for _index, body in tree.records(self._connection, 0, None))

    def rows(self) -> Iterator[bytes]:
        """Yield what each row of the journal is, in order of the IDs, a page at a time."""
        from varmenne.journal.rows import enrollment_of

        table, after = schema.enrollment, ""
        while True:
            query = sa.select(table).where(table.c.id > after).order_by(table.c.id).limit(tree.PAGE)
            page = self._connection.execute(query).all()
            if not page:
                return
            yield from (row_document(enrollment_of(row)) for row in page)
            after = page[-1].id

    def acts(self, act: str) -> tuple[bytes, ...]:
        """Return the records of acts of one kind that are about no enrollment, oldest first."""
        return tree.acts(self._connection, act)

    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """Return all checkpoints, oldest first."""
        return _checkpoints(self._connection)


class Log:
    """The audit log of one journal.

    Raises:
        JournalError: the database cannot be read or written; any method may raise it.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.grew = False
        """Whether something was done to a key by this process that no checkpoint covers yet."""

    def head(self) -> Head:
        """Return how far the log has come."""
        with self._database.reading() as connection:
            return _head(connection)

    def add(self, record: AuditRecord) -> int:
        """Append a record of an act that is no step of an enrollment, and return its index."""
        with self._database.transaction() as connection:
            return append(connection, record)

    def record(
        self, act: str, at: datetime, *, row: Enrollment | None = None, reason: str | None = None, **detail: object
    ) -> int:
        """Append a record of an act by this process's person, on an enrollment's key or on none; return its index."""
        return self.add(ours(act, at, row, reason=reason, detail=detail))

    def records(self, start: int = 0, end: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Yield index and bytes of the records from ``start`` to before ``end``, a page at a time."""
        with self._database.reading() as connection:
            yield from tree.records(connection, start, end)

    def of(self, enrollment: str) -> tuple[tuple[int, bytes], ...]:
        """Return index and bytes of the records of one enrollment, oldest first."""
        table = schema.log
        query = sa.select(table.c.seq, table.c.body).where(table.c.enrollment_id == enrollment, tree.IN_TREE)
        query = query.order_by(table.c.seq)
        with self._database.reading() as connection:
            return tuple((row.seq, tree.record_bytes(row.body)) for row in connection.execute(query))

    def acts(self, act: str) -> tuple[bytes, ...]:
        """Return the records of acts of one kind that are about no enrollment, oldest first."""
        with self._database.reading() as connection:
            return tree.acts(connection, act)

    def acts_on_keys(self, act: str, states: Collection[State]) -> tuple[bytes, ...]:
        """Return the records of acts of one kind on keys whose enrollments are in some states now, oldest first."""
        log, enrollment = schema.log, schema.enrollment
        query = (
            sa.select(log.c.body)
            .join(enrollment, enrollment.c.id == log.c.enrollment_id)
            .where(enrollment.c.state.in_(sorted(states)), tree.is_act(act), tree.IN_TREE)
        )
        with self._database.reading() as connection:
            return tuple(connection.execute(query.order_by(log.c.seq)).scalars())

    def root(self, size: int) -> bytes:
        """Return the root that the tree had at a size.

        Raises:
            ValueError: the log was never of that size.
        """
        with self._database.reading() as connection:
            tree.refuse_beyond(connection, size)
            return merkle.root(size, tree.subtree(connection))

    def inclusion(self, index: int, size: int) -> tuple[bytes, ...]:
        """Prove that a record is in the log of a size.

        Raises:
            ValueError: it is not, or the log was never of that size.
        """
        with self._database.reading() as connection:
            tree.refuse_beyond(connection, size)
            return merkle.inclusion(index, size, tree.subtree(connection))

    def consistency(self, old: int, size: int) -> tuple[bytes, ...]:
        """Prove that the log of a size begins with what it was at an older one.

        Raises:
            ValueError: the log was never of these sizes.
        """
        with self._database.reading() as connection:
            tree.refuse_beyond(connection, size)
            return merkle.consistency(old, size, tree.subtree(connection))

    def key_of(self, token: str) -> KeyId:
        """Return the ``CKA_ID`` of the log's key in a token, which is reserved before the key is made.

        Args:
            token: hash of the token's identity.
        """
        with self._database.transaction() as connection:
            return KeyId(bytes.fromhex(meta.keep(connection, f"{_KEY}{token}", new_key_id().hex())))

    @contextlib.contextmanager
    def making_key(self, token: str) -> Iterator[None]:
        """Keep all others from making the log's key in a token for the block, lest there be two."""
        table = schema.meta
        with self._database.transaction() as connection:  # In SQLite, this alone keeps them away.
            connection.execute(sa.select(table.c.value).where(table.c.name == f"{_KEY}{token}").with_for_update())
            yield

    def tell_key(self, token: str, name: str, record: AuditRecord) -> None:
        """Append the record of a log key's birth, unless it was told under this name of the log before."""
        with self._database.transaction() as connection:
            if meta.put(connection, f"{_KEY_TOLD}{token}", name):
                append(connection, record)

    def save(self, checkpoint: Checkpoint) -> Checkpoint:
        """Keep a checkpoint unless there is one of this size, and return the one that is there then."""
        table = schema.checkpoint
        values = {name: getattr(checkpoint, name) for name in Checkpoint.__slots__}
        same = sa.select(table).where(table.c.origin == checkpoint.origin, table.c.size == checkpoint.size)
        with self._database.transaction() as connection:
            connection.execute(sa.select(schema.head.c.id).with_for_update())  # Of two tokens, one signs first.
            found = connection.execute(same).one_or_none()
            if found is not None:
                return _checkpoint_of(found)
            connection.execute(sa.insert(table).values(values))
        return checkpoint

    def cosigned(self, checkpoint: Checkpoint, note: str) -> bool:
        """Put a note with more signatures in the place of a checkpoint's, unless that was done meanwhile."""
        table = schema.checkpoint
        same = (table.c.origin == checkpoint.origin, table.c.size == checkpoint.size, table.c.note == checkpoint.note)
        with self._database.transaction() as connection:
            return connection.execute(sa.update(table).where(*same).values(note=note)).rowcount == 1

    def anchored(self, checkpoint: Checkpoint, at: datetime) -> None:
        """Note that a checkpoint stands in Vault."""
        table = schema.checkpoint
        statement = sa.update(table).where(table.c.origin == checkpoint.origin, table.c.size == checkpoint.size)
        with self._database.transaction() as connection:
            connection.execute(statement.values(anchored_at=at))

    def unsigned(self) -> bool:
        """Tell whether there are records that no checkpoint in Vault covers."""
        covered, size = self.covered()
        return size > covered

    def covered(self) -> tuple[int, int]:
        """Return how many records a checkpoint in Vault covers, and how many there are."""
        table = schema.checkpoint
        anchored = sa.select(sa.func.max(table.c.size)).where(table.c.anchored_at.is_not(None))
        with self._database.reading() as connection:
            covered = connection.execute(anchored.where(table.c.origin == origin(connection))).scalar()
            return covered or 0, int(connection.execute(tree.HEAD).one().size)

    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """Return all checkpoints, oldest first."""
        with self._database.reading() as connection:
            return _checkpoints(connection)

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """Read all of it as it is now."""
        with self._database.reading(snapshot=True) as connection:
            yield Snapshot(connection)

    def latest(self) -> Checkpoint | None:
        """Return the newest checkpoint of the present origin."""
        table = schema.checkpoint
        with self._database.reading() as connection:
            query = sa.select(table).where(table.c.origin == origin(connection)).order_by(table.c.size.desc()).limit(1)
            found = connection.execute(query).one_or_none()
        return None if found is None else _checkpoint_of(found)


def _head(connection: sa.Connection) -> Head:
    """Return how far the log has come."""
    kept = tree.kept(connection)
    return Head(origin(connection), kept.size, kept.root)


def origin(connection: sa.Connection) -> str:
    """Return the name of the log: a journal that was restored goes on under a new one."""
    return f"{ORIGIN}{meta.get(connection, 'epoch')}"


def _checkpoints(connection: sa.Connection) -> tuple[Checkpoint, ...]:
    """Return all checkpoints, oldest first."""
    table = schema.checkpoint
    found = connection.execute(sa.select(table).order_by(table.c.at, table.c.size)).all()
    return tuple(map(_checkpoint_of, found))


def _checkpoint_of(row: sa.Row[Any]) -> Checkpoint:
    """Return a checkpoint as it is kept."""
    return Checkpoint(**row._mapping)  # noqa: SLF001 - SQLAlchemy's documented way to a row's mapping
