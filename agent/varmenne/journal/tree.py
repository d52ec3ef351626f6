"""The hash tree as the database keeps it, and the records below it: looked up, read by pages, and grown anew."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from varmenne.domain import merkle
from varmenne.domain.audit import canonical
from varmenne.errors import EvidenceError
from varmenne.journal import schema

PAGE = 2_000

HEAD = sa.select(schema.head.c.size, schema.head.c.frontier)
IN_TREE = schema.log.c.seq < sa.select(schema.head.c.size).scalar_subquery()
"""Only what the tree holds counts: a row beyond its end could be taken away again without a trace."""
_NODE = sa.select(schema.node.c.hash).where(
    schema.node.c.level == sa.bindparam("level"), schema.node.c.index == sa.bindparam("index")
)
_BODY = sa.select(schema.log.c.body).where(schema.log.c.seq == sa.bindparam("seq"))


def kept(connection: sa.Connection) -> merkle.Tree:
    """Return the tree as the head has it."""
    found = connection.execute(HEAD).one()
    return tree_of(found.size, found.frontier)


def tree_of(size: int, frontier: bytes) -> merkle.Tree:
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


def subtree(connection: sa.Connection) -> merkle.Subtree:
    """Return how to look up the hash of a complete subtree."""

    def look_up(level: int, index: int) -> bytes:
        if level == 0:
            body = connection.execute(_BODY, {"seq": index}).scalar()
            if body is None:
                raise _tampered("a record", f"record {index} is gone")
            return merkle.leaf_hash(record_bytes(body))
        found = connection.execute(_NODE, {"level": level, "index": index}).scalar()
        if not isinstance(found, bytes) or len(found) != merkle.HASH_BYTES:
            raise _tampered("its tree", f"node {index} of level {level} is gone, or is no hash")
        return found

    return look_up


def records(connection: sa.Connection, start: int, end: int | None) -> Iterator[tuple[int, bytes]]:
    """Yield index and bytes of records, a page at a time."""
    table = schema.log
    while True:
        query = sa.select(table.c.seq, table.c.body).where(table.c.seq >= start).order_by(table.c.seq).limit(PAGE)
        if end is not None:
            query = query.where(table.c.seq < end)
        found = connection.execute(query).all()
        if not found:
            return
        yield from ((row.seq, record_bytes(row.body)) for row in found)
        start = found[-1].seq + 1


def _nodes(connection: sa.Connection, level: int) -> Iterator[tuple[int, object]]:
    """Yield index and hash of the nodes of a level, a page at a time."""
    table, after = schema.node, -1
    query = sa.select(table.c.index, table.c.hash).where(table.c.level == level).order_by(table.c.index).limit(PAGE)
    while found := connection.execute(query.where(table.c.index > after)).all():
        yield from ((at, value) for at, value in found)
        after = found[-1][0]


def acts(connection: sa.Connection, act: str) -> tuple[bytes, ...]:
    """Return the records of acts of one kind that are about no enrollment, oldest first."""
    table = schema.log
    query = sa.select(table.c.body).where(table.c.enrollment_id.is_(None), is_act(act), IN_TREE)
    return tuple(record_bytes(row.body) for row in connection.execute(query.order_by(table.c.seq)))


def is_act(act: str) -> sa.ColumnElement[bool]:
    """Select the records of acts of one kind by the first of a record's names, without reading the others."""
    beginning = canonical({"act": act})[:-1] + b","
    return sa.func.substr(schema.log.c.body, 1, len(beginning)) == beginning


def parsed(body: object) -> dict[str, Any]:
    """Read a record.

    Raises:
        EvidenceError: somebody has put something else in its place.
    """
    try:
        return dict(json.loads(record_bytes(body)))
    except (ValueError, TypeError) as exc:
        raise _tampered("a record", str(exc)) from exc


def record_bytes(body: object) -> bytes:
    """Return a record's bytes. SQLite keeps whatever somebody put there, a text or a number too."""
    return body if isinstance(body, bytes) else str(body).encode()


def refuse_beyond(connection: sa.Connection, size: int) -> None:
    """Refuse a size that the log has not reached."""
    if not 0 <= size <= connection.execute(HEAD).one().size:
        raise ValueError(f"the log has no {size} records")


def recomputed(connection: sa.Connection) -> tuple[merkle.Tree, bool]:
    """Grow the tree anew from all records, and tell whether the nodes that are kept are those of that tree.

    The tree comes from the records alone; what the database says of it is only compared.
    """
    tree, fit, count = merkle.Tree(), True, 0
    kept_nodes: dict[int, Iterator[tuple[int, object]]] = {}
    for _index, body in records(connection, 0, None):
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
