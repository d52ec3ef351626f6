"""The audit log: records in the order of their commits, and the hash tree over them, written with what they record.

One row, ``head``, has the size and the frontier of the tree. Whoever appends locks it, so that numbers have no gaps;
that is the last thing that a transaction does before it ends, so nobody waits longer than for one insert.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from varmenne.domain import merkle
from varmenne.domain.audit import AuditRecord, about, canonical, fingerprint, of_event, row_document
from varmenne.domain.enrollment import Enrollment, Event
from varmenne.domain.keys import KeyId, new_key_id
from varmenne.domain.steps import State
from varmenne.errors import EvidenceError
from varmenne.journal import meta, schema
from varmenne.journal.database import Database
from varmenne.journal.owner import this_host, this_person

PAGE = 2_000
_KEY = "log key "
_KEY_TOLD = "log key told "
ORIGIN = "varmenne/"

_HEAD = sa.select(schema.head.c.size, schema.head.c.frontier)
_LOCKED_HEAD = _HEAD.with_for_update()
_INSERT = sa.insert(schema.log)
_INSERT_NODES = sa.insert(schema.node)
_UPDATE_HEAD = sa.update(schema.head).values(size=sa.bindparam("new_size"), frontier=sa.bindparam("new_frontier"))
_NODE = sa.select(schema.node.c.hash).where(
    schema.node.c.level == sa.bindparam("level"), schema.node.c.index == sa.bindparam("index")
)
_IN_TREE = schema.log.c.seq < sa.select(schema.head.c.size).scalar_subquery()
"""Only what the tree holds counts: a row beyond its end could be taken away again without a trace."""
_BODY = sa.select(schema.log.c.body).where(schema.log.c.seq == sa.bindparam("seq"))


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
        facts = {"act": "adopt", "target": row.state, "row": fingerprint(row_document(row))}
        append(connection, about(row, at=now, actor=this_person(), host=this_host(), **facts))


def append_event(connection: sa.Connection, row: Enrollment, event: Event) -> None:
    """Append the record of an event, given the row as the event left it."""
    append(connection, of_event(row, event, actor=this_person(), host=this_host()))


def append_answer(
    connection: sa.Connection, row: Enrollment, now: datetime, facts: Mapping[str, object], body: bytes
) -> None:
    """Append the record of an answer as it came."""
    detail = {**facts, "sha256": fingerprint(body), "bytes": len(body)}
    append(connection, about(row, at=now, actor=this_person(), host=this_host(), act="answer", detail=detail))


def append_day(connection: sa.Connection, now: datetime) -> None:
    """Append the record of a day: by it, a log in which nothing happened differs from one that was cut off."""
    append(connection, AuditRecord(at=now, actor=this_person(), host=this_host(), act="day"))


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
    append(connection, AuditRecord(at=now, actor=this_person(), host=this_host(), act="restore", detail=detail))


def append(connection: sa.Connection, record: AuditRecord) -> int:
    """Append a record and return its index. The caller writes everything else before."""
    body = record.encoded()
    found = connection.execute(_LOCKED_HEAD).one()
    tree, nodes = _tree(found.size, found.frontier).grown(merkle.leaf_hash(body))
    connection.execute(_INSERT, {"seq": found.size, "enrollment_id": record.enrollment, "body": body})
    if nodes:
        connection.execute(_INSERT_NODES, [{"level": n.level, "index": n.index, "hash": n.hash} for n in nodes])
    connection.execute(_UPDATE_HEAD, {"new_size": tree.size, "new_frontier": b"".join(tree.frontier)})
    return int(found.size)


def recomputed(connection: sa.Connection) -> tuple[merkle.Tree, bool]:
    """Grow the tree anew from all records, and tell whether the nodes that are kept are those of that tree.

    The tree comes from the records alone; what the database says of it is only compared.
    """
    tree, fit, count = merkle.Tree(), True, 0
    kept_nodes: dict[int, Iterator[tuple[int, object]]] = {}
    for _index, body in _records(connection, 0, None):
        tree, new = tree.grown(merkle.leaf_hash(body))
        count += len(new)
        for node in new:
            beside = kept_nodes.setdefault(node.level, _nodes(connection, node.level))
            fit = fit and next(beside, None) == (node.index, node.hash)
    return tree, fit and count == connection.execute(sa.select(sa.func.count()).select_from(schema.node)).scalar_one()


def misfiled(connection: sa.Connection) -> int | None:
    """Return the first record that is looked up by another enrollment than it is about, or by none; ``None``: no one.

    Only the record itself is hashed: somebody could hide it from whoever asks for the records of its enrollment.
    """
    table, after = schema.log, -1
    query = sa.select(table.c.seq, table.c.enrollment_id, table.c.body).order_by(table.c.seq).limit(PAGE)
    while found := connection.execute(query.where(table.c.seq > after)).all():
        for row in found:
            if parsed(row.body).get("enrollment") != row.enrollment_id:
                return int(row.seq)
        after = found[-1].seq
    return None


def kept(connection: sa.Connection) -> merkle.Tree:
    """Return the tree as the head has it."""
    found = connection.execute(_HEAD).one()
    return _tree(found.size, found.frontier)


class Snapshot:
    """Log, rows and checkpoints as they are together at one moment, however long the reading takes."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        tree = kept(connection)
        self.head = Head(origin(connection), tree.size, tree.root)

    def records(self) -> Iterator[bytes]:
        """Yield each record, a page at a time."""
        return (body for _index, body in _records(self._connection, 0, None))

    def rows(self) -> Iterator[bytes]:
        """Yield what each row of the journal is, in order of the IDs, a page at a time."""
        from varmenne.journal.rows import enrollment_of

        table, after = schema.enrollment, ""
        while True:
            query = sa.select(table).where(table.c.id > after).order_by(table.c.id).limit(PAGE)
            page = self._connection.execute(query).all()
            if not page:
                return
            yield from (row_document(enrollment_of(row)) for row in page)
            after = page[-1].id

    def acts(self, act: str) -> tuple[bytes, ...]:
        """Return the records of acts of one kind that are about no enrollment, oldest first."""
        return _acts(self._connection, act)

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
            tree = kept(connection)
            return Head(origin(connection), tree.size, tree.root)

    def add(self, record: AuditRecord) -> int:
        """Append a record of an act that is no step of an enrollment, and return its index."""
        with self._database.transaction() as connection:
            return append(connection, record)

    def record(
        self, act: str, at: datetime, *, row: Enrollment | None = None, reason: str | None = None, **detail: object
    ) -> int:
        """Append a record of an act by this process's person, on an enrollment's key or on none; return its index."""
        who = {"at": at, "actor": this_person(), "host": this_host()}
        facts = {**who, "act": act, "reason": reason, "detail": detail}
        return self.add(AuditRecord(**facts) if row is None else about(row, **facts))  # type: ignore[arg-type]

    def records(self, start: int = 0, end: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Yield index and bytes of the records from ``start`` to before ``end``, a page at a time."""
        with self._database.reading() as connection:
            yield from _records(connection, start, end)

    def of(self, enrollment: str) -> tuple[tuple[int, bytes], ...]:
        """Return index and bytes of the records of one enrollment, oldest first."""
        table = schema.log
        query = sa.select(table.c.seq, table.c.body).where(table.c.enrollment_id == enrollment, _IN_TREE)
        query = query.order_by(table.c.seq)
        with self._database.reading() as connection:
            return tuple((row.seq, _bytes(row.body)) for row in connection.execute(query))

    def acts(self, act: str) -> tuple[bytes, ...]:
        """Return the records of acts of one kind that are about no enrollment, oldest first."""
        with self._database.reading() as connection:
            return _acts(connection, act)

    def acts_on_keys(self, act: str, states: Collection[State]) -> tuple[bytes, ...]:
        """Return the records of acts of one kind on keys whose enrollments are in some states now, oldest first."""
        log, enrollment = schema.log, schema.enrollment
        query = (
            sa.select(log.c.body)
            .join(enrollment, enrollment.c.id == log.c.enrollment_id)
            .where(enrollment.c.state.in_(sorted(states)), _is_act(act), _IN_TREE)
        )
        with self._database.reading() as connection:
            return tuple(connection.execute(query.order_by(log.c.seq)).scalars())

    def root(self, size: int) -> bytes:
        """Return the root that the tree had at a size.

        Raises:
            ValueError: the log was never of that size.
        """
        with self._database.reading() as connection:
            _refuse_beyond(connection, size)
            return merkle.root(size, _subtree(connection))

    def inclusion(self, index: int, size: int) -> tuple[bytes, ...]:
        """Prove that a record is in the log of a size.

        Raises:
            ValueError: it is not, or the log was never of that size.
        """
        with self._database.reading() as connection:
            _refuse_beyond(connection, size)
            return merkle.inclusion(index, size, _subtree(connection))

    def consistency(self, old: int, size: int) -> tuple[bytes, ...]:
        """Prove that the log of a size begins with what it was at an older one.

        Raises:
            ValueError: the log was never of these sizes.
        """
        with self._database.reading() as connection:
            _refuse_beyond(connection, size)
            return merkle.consistency(old, size, _subtree(connection))

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
                return Checkpoint(**found._mapping)  # noqa: SLF001 - SQLAlchemy's documented way
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
            return covered or 0, int(connection.execute(_HEAD).one().size)

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
        return None if found is None else Checkpoint(**found._mapping)  # noqa: SLF001 - as above


def origin(connection: sa.Connection) -> str:
    """Return the name of the log: a journal that was restored goes on under a new one."""
    return f"{ORIGIN}{meta.get(connection, 'epoch')}"


def _tree(size: int, frontier: bytes) -> merkle.Tree:
    """Return the tree that the head has.

    Raises:
        EvidenceError: somebody else has written the head.
    """
    step = merkle.HASH_BYTES
    try:
        return merkle.Tree(size, tuple(frontier[start : start + step] for start in range(0, len(frontier), step)))
    except (TypeError, ValueError) as exc:
        raise _tampered("its head", str(exc)) from exc


def _tampered(what: str, why: str) -> EvidenceError:
    """Tell of a part of the log that varmenne did not write so."""
    return EvidenceError(
        f"The audit log is not as it was written: {what} was changed",
        why=why,
        next_step="Find out who wrote to the journal. A backup of it brings it back: varmenne journal restore FILE",
    )


def _subtree(connection: sa.Connection) -> merkle.Subtree:
    """Return how to look up the hash of a complete subtree."""

    def look_up(level: int, index: int) -> bytes:
        if level == 0:
            body = connection.execute(_BODY, {"seq": index}).scalar()
            if body is None:
                raise _tampered("a record", f"record {index} is gone")
            return merkle.leaf_hash(_bytes(body))
        found = connection.execute(_NODE, {"level": level, "index": index}).scalar()
        if not isinstance(found, bytes) or len(found) != merkle.HASH_BYTES:
            raise _tampered("its tree", f"node {index} of level {level} is gone, or is no hash")
        return found

    return look_up


def _records(connection: sa.Connection, start: int, end: int | None) -> Iterator[tuple[int, bytes]]:
    """Yield index and bytes of records, a page at a time."""
    table = schema.log
    while True:
        query = sa.select(table.c.seq, table.c.body).where(table.c.seq >= start).order_by(table.c.seq).limit(PAGE)
        if end is not None:
            query = query.where(table.c.seq < end)
        found = connection.execute(query).all()
        if not found:
            return
        yield from ((row.seq, _bytes(row.body)) for row in found)
        start = found[-1].seq + 1


def _nodes(connection: sa.Connection, level: int) -> Iterator[tuple[int, object]]:
    """Yield index and hash of the nodes of a level, a page at a time."""
    table, after = schema.node, -1
    query = sa.select(table.c.index, table.c.hash).where(table.c.level == level).order_by(table.c.index).limit(PAGE)
    while found := connection.execute(query.where(table.c.index > after)).all():
        yield from ((at, value) for at, value in found)
        after = found[-1][0]


def _acts(connection: sa.Connection, act: str) -> tuple[bytes, ...]:
    """Return the records of acts of one kind that are about no enrollment, oldest first."""
    table = schema.log
    query = sa.select(table.c.body).where(table.c.enrollment_id.is_(None), _is_act(act), _IN_TREE)
    return tuple(_bytes(row.body) for row in connection.execute(query.order_by(table.c.seq)))


def _is_act(act: str) -> sa.ColumnElement[bool]:
    """Select the records of acts of one kind by the first of a record's names, without reading the others."""
    beginning = canonical({"act": act})[:-1] + b","
    return sa.func.substr(schema.log.c.body, 1, len(beginning)) == beginning


def parsed(body: object) -> dict[str, Any]:
    """Read a record.

    Raises:
        EvidenceError: somebody has put something else in its place.
    """
    try:
        return dict(json.loads(_bytes(body)))
    except (ValueError, TypeError) as exc:
        raise _tampered("a record", str(exc)) from exc


def _bytes(body: object) -> bytes:
    """Return a record's bytes. SQLite keeps whatever somebody put there, a text or a number too."""
    return body if isinstance(body, bytes) else str(body).encode()


def _checkpoints(connection: sa.Connection) -> tuple[Checkpoint, ...]:
    """Return all checkpoints, oldest first."""
    table = schema.checkpoint
    found = connection.execute(sa.select(table).order_by(table.c.at, table.c.size)).all()
    return tuple(Checkpoint(**row._mapping) for row in found)  # noqa: SLF001 - SQLAlchemy's documented way


def _refuse_beyond(connection: sa.Connection, size: int) -> None:
    """Refuse a size that the log has not reached."""
    if not 0 <= size <= connection.execute(_HEAD).one().size:
        raise ValueError(f"the log has no {size} records")
