"""Looking through a whole journal: is the database sound, do the rows hang together, is every history possible?"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from varmenne.domain.check import Check, Verdict
from varmenne.domain.steps import State, allowed
from varmenne.journal import schema, tree
from varmenne.journal.database import Database

RESTORE = "Stop using it, keep its files, and restore a backup: varmenne journal restore FILE"
SHOWN = 5
"""So many IDs are named; more would hide the sentence."""


def inspect(database: Database, state_dir: Path) -> Iterator[Check]:
    """Yield what was found, one check at a time. Nothing is changed."""
    yield from _files(state_dir)
    with database.reading() as connection:
        yield from (_sqlite if database.path is not None else _postgresql)(connection)
        yield from _histories(connection)
        yield _log(connection)


def _files(state_dir: Path) -> Iterator[Check]:
    """May anybody but the owner read the journal's files?"""
    paths = [path for path in (state_dir, *sorted(state_dir.glob("journal*"))) if path.exists()]
    open_ones = [path for path in paths if stat.S_IMODE(path.stat().st_mode) & 0o077]
    for path in open_ones:
        yield Check("journal files", Verdict.WARN, f"other users may read {path}", f"chmod go= {path}")
    if not open_ones:
        yield Check("journal files", Verdict.OK, f"{state_dir}, only its owner may read it")


def _sqlite(connection: sa.Connection) -> Iterator[Check]:
    """Is the file whole, and does every row that belongs to an enrollment have it?"""
    found = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
    if found == ["ok"]:
        yield Check("journal file", Verdict.OK, "whole")
    else:
        yield Check("journal file", Verdict.FAIL, "; ".join(found[:SHOWN]), RESTORE)
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
    if broken:
        yield Check("journal rows", Verdict.FAIL, f"{len(broken)} belong to an enrollment that is not there", RESTORE)
    else:
        yield Check("journal rows", Verdict.OK, "each belongs to an enrollment")


def _postgresql(connection: sa.Connection) -> Iterator[Check]:
    """Does the server keep what it says it has committed? Its own tools look after its files and foreign keys."""

    def setting(name: str) -> str:
        return str(connection.execute(sa.select(sa.func.current_setting(name))).scalar_one())

    told = f"PostgreSQL {setting('server_version')}"
    if setting("fsync") == "off" or setting("synchronous_commit") == "off":
        lost = f"{told} may lose commits in a power cut: fsync is off"
        yield Check("journal durability", Verdict.WARN, lost, "Set fsync = on")
    else:
        yield Check("journal durability", Verdict.OK, f"{told}, commits are on the disk when they return")


def _histories(connection: sa.Connection) -> Iterator[Check]:
    """Is every move one that the table of steps has, and does each begin where the one before it ended?"""
    good = True
    for look in (_impossible_moves, _broken_chains, _other_ends):
        for detail in look(connection):
            good = False
            yield Check("journal histories", Verdict.FAIL, detail, RESTORE)
    if good:
        count = connection.execute(sa.select(sa.func.count()).select_from(schema.enrollment)).scalar_one()
        yield Check("journal histories", Verdict.OK, f"{count} enrollments, each as the table of steps allows")


def _log(connection: sa.Connection) -> Check:
    """Does the tree over the audit records come out as it is kept? Whether it was rewritten, checkpoints tell."""
    kept, (found, nodes_fit) = tree.kept(connection), tree.recomputed(connection)
    hidden = tree.misfiled(connection) if kept == found and nodes_fit else None
    if kept == found and nodes_fit and hidden is None:
        return Check("audit log", Verdict.OK, f"{kept.size} records, and their tree is as it is kept")
    if hidden is not None:
        told = f"record {hidden} is about another enrollment than it is looked up by"
    elif kept.size != found.size:
        told = f"{found.size} records are there, {kept.size} were written"
    else:
        told = "a record changed" if kept != found else "the tree over the records changed"
    return Check("audit log", Verdict.FAIL, told, RESTORE)


def _impossible_moves(connection: sa.Connection) -> Iterator[str]:
    """Yield the moves that no step and no order makes."""
    event = schema.event
    moves = sa.select(event.c.source, event.c.target, sa.func.min(event.c.enrollment_id)).group_by(
        event.c.source, event.c.target
    )
    for source, target, example in connection.execute(moves):
        try:
            fine = target == State.PREPARED if source is None else _possible(State(source), State(target))
        except ValueError:
            fine = False
        if not fine:
            yield f"a move from {source or 'nothing'} to {target}, such as in {example}"


def _possible(source: State, target: State) -> bool:
    return source is target or allowed(source, target)


def _broken_chains(connection: sa.Connection) -> Iterator[str]:
    """Yield the enrollments with an event that does not begin where the one before it ended."""
    event = schema.event
    before = sa.func.lag(event.c.target).over(partition_by=event.c.enrollment_id, order_by=event.c.id)
    moves = sa.select(event.c.enrollment_id, event.c.source, before.label("before")).subquery()
    query = sa.select(moves.c.enrollment_id).where(moves.c.source.is_distinct_from(moves.c.before)).distinct()
    yield from _named(connection, query, "a gap in the history of")


def _other_ends(connection: sa.Connection) -> Iterator[str]:
    """Yield the enrollments whose state is not where their last event ended, or that have no event."""
    event, row = schema.event, schema.enrollment
    last = sa.select(event.c.enrollment_id, sa.func.max(event.c.id).label("id")).group_by(event.c.enrollment_id)
    newest = last.subquery()
    joined = row.outerjoin(newest, newest.c.enrollment_id == row.c.id).outerjoin(event, event.c.id == newest.c.id)
    query = sa.select(row.c.id).select_from(joined).where(row.c.state.is_distinct_from(event.c.target))
    yield from _named(connection, query, "another state than the history tells, of")


def _named(connection: sa.Connection, query: sa.Select[Any], words: str) -> Iterator[str]:
    """Yield one sentence with the first few IDs of a query's rows, if there are any."""
    found = connection.execute(query.limit(SHOWN + 1)).scalars().all()
    if found:
        yield f"{words} {', '.join(found[:SHOWN])}" + (" and more" if len(found) > SHOWN else "")
