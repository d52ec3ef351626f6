"""A journal that went back in time: noticed when it is opened and before a request is sent, put right by a restore.

:mod:`varmenne.journal.sent` tells what the file beside the database remembers, and why. That file is this host's; what
another host sent, it may never have heard of. So a journal in PostgreSQL also names its own home, see :func:`home`.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from varmenne.domain.enrollment import Event
from varmenne.domain.identifiers import EnrollmentId
from varmenne.domain.steps import KNOWN_ANSWER, Method, State
from varmenne.errors import JournalError, OutcomeUncertain
from varmenne.journal import meta, schema
from varmenne.journal.database import Database
from varmenne.journal.log import ORIGIN, append_restore, origin
from varmenne.journal.owner import this_process
from varmenne.journal.rows import get_row, write_event
from varmenne.journal.sent import Mark, SentRecord
from varmenne.journal.tree import kept

WAYS: dict[State | None, tuple[State, ...]] = {
    None: (State.PREPARED, State.KEYED, State.SUBMITTING, State.UNCERTAIN),
    State.PREPARED: (State.KEYED, State.SUBMITTING, State.UNCERTAIN),
    State.KEYED: (State.SUBMITTING, State.UNCERTAIN),
    State.SUBMITTING: (State.UNCERTAIN,),
    State.UNCERTAIN: (State.SUBMITTING, State.UNCERTAIN),
    State.REJECTED: (State.SUBMITTING, State.UNCERTAIN),
}
"""What the journal knows of an enrollment whose request was begun without its knowledge → the states in between."""

RENEWED: dict[State | None, tuple[State, ...]] = {
    None: (State.PREPARED, State.KEYED),
    State.PREPARED: (State.KEYED,),
    State.KEYED: (),
    State.SUBMITTING: (State.KEYED,),
}
"""The same for a renewal, as far as `keyed`. Its request uses nothing up, so it is simply sent again."""

SENT_AGAIN = (State.SUBMITTING, State.KEYED)

HOME = "home"
"""Name of the row in ``meta`` that says where PostgreSQL keeps the journal."""

NEXT_STEP = "`varmenne journal restore` makes it usable: what may have been sent since becomes `uncertain`"


@dataclass(frozen=True, slots=True)
class Doubt:
    """An enrollment that a restore made uncertain. ``was`` is its state before, ``None`` if it was not there."""

    id: EnrollmentId
    was: State | None


def read_mark(connection: sa.Connection) -> Mark:
    """Return how far the database has come."""
    query = sa.select(schema.meta).where(schema.meta.c.name.in_(["epoch", "sent"]))
    found = {row.name: row.value for row in connection.execute(query)}
    return Mark(found["epoch"], int(found["sent"]))


def home(connection: sa.Connection) -> str:
    """Name the place where PostgreSQL keeps this journal: no dump, copy or promoted standby shares it.

    That is the cluster's system identifier, its timeline (which a recovery to a point in time and a promotion begin
    anew), the database and the table. Empty for SQLite, where the record lies beside the file.
    """
    if connection.dialect.name == "sqlite":
        return ""
    parts = connection.exec_driver_sql(
        "SELECT (SELECT system_identifier FROM pg_control_system()), left(pg_walfile_name(pg_current_wal_lsn()), 8),"
        " (SELECT oid FROM pg_database WHERE datname = current_database()), 'meta'::regclass::oid"
    ).one()
    return "/".join(map(str, parts))


def _refuse_other_home(connection: sa.Connection) -> None:
    """Refuse a journal that PostgreSQL keeps elsewhere than where varmenne used it. An old one may have no home yet.

    Raises:
        JournalError: it was restored, copied, or a standby with it was promoted.
    """
    told = meta.get(connection, HOME)
    if told is not None and told != home(connection):
        raise JournalError(
            "The journal may have gone back in time: PostgreSQL keeps it in another place than before",
            why="it was restored or copied, or a standby was promoted, which may lack what was committed last",
            next_step="Stop varmenne on all hosts, run `varmenne journal restore` on each, only then start it again",
        )


def count_intent(connection: sa.Connection, epoch: str, record: SentRecord) -> Mark:
    """Count one more intent to send, in the transaction that makes it durable.

    The record is written after the commits that it tells of, so it never knows more than the database, unless that
    went back in time behind an open connection.

    Raises:
        JournalError: the journal was restored or went back in time since we opened it.
    """
    table = schema.meta
    number = sa.cast(table.c.value, sa.BigInteger) + 1
    statement = sa.update(table).where(table.c.name == "sent").values(value=sa.cast(number, sa.Text))
    connection.execute(statement)
    mark = read_mark(connection)
    if mark.epoch != epoch:
        raise JournalError("The journal was restored while this process had it open", next_step="Run the command again")
    _refuse_other_home(connection)
    known = record.mark()
    if known is not None and known.epoch == mark.epoch and known.sent >= mark.sent:
        raise JournalError(
            "The journal has gone back in time while this process had it open",
            why=f"{known.sent} requests were begun by this host's knowledge, this journal knew {mark.sent - 1}",
            next_step=NEXT_STEP,
        )
    return mark


def refuse_past(database: Database, record: SentRecord) -> Mark:
    """Return how far the journal has come, if that is not less far than it was known to be, and remember it.

    Raises:
        JournalError: requests were begun that this journal does not know, or may have been.
    """
    with database.reading() as connection:
        mark = read_mark(connection)
    known = record.mark()
    if known == mark:
        return _at_home(database, mark)
    is_other = known is None or known.epoch != mark.epoch
    if known is not None and known.sent > (0 if is_other else mark.sent):
        why = (
            "it is another one than this host had, or it was restored by another host"
            if is_other
            else f"{known.sent} requests were begun by this host's knowledge, this journal knows {mark.sent}"
        )
        raise JournalError(
            f"The journal {database.name} has gone back in time: it may not know which credentials were sent",
            why=why,
            next_step=NEXT_STEP,
        )
    if is_other and mark.sent > 0 and database.path is not None:
        missing = "is missing" if known is None else "is another journal's"
        raise JournalError(
            f"The journal {database.name} came here without the record of what was sent",
            why=f"{record.path} {missing}; a copy of the journal alone may be older than what was sent",
            next_step=f"Bring that file from where the journal was. If it is lost: {NEXT_STEP}",
        )
    _at_home(database, mark)
    with database.translated():
        record.note(mark)
    return mark


def _at_home(database: Database, mark: Mark) -> Mark:
    """Return the mark if the journal is kept where it was, and note that place if nobody has yet."""
    if database.path is not None:
        return mark
    with database.reading() as connection:
        _refuse_other_home(connection)
        is_known = meta.get(connection, HOME) is not None
    if not is_known:
        with database.transaction() as connection:
            meta.put(connection, HOME, home(connection))
    return mark


def reconcile(database: Database, record: SentRecord, now: datetime) -> tuple[list[Doubt], bool]:
    """Begin a new epoch, with every enrollment `uncertain` whose request was begun without the journal knowing it.

    A renewal is `keyed` instead, and goes on by itself. What is returned are those that became uncertain.

    If the record does not account for all that is missing, such as what another host began, that is also every
    enrollment that could have been sent since; the second value tells that it does.
    """
    known = record.mark()
    with database.transaction() as connection:
        connection.execute(sa.select(schema.meta).with_for_update())  # One host at a time.
        come, size = read_mark(connection), kept(connection).size
        found, missing = ([], 0) if known is None else _unknown(connection, record)
        is_complete = known is not None and known.sent - come.sent <= missing
        if not is_complete:
            seen = {row["id"] for row in found}
            found += [row for row in _could_have_been_sent(connection) if row["id"] not in seen]
        uncertain = [row for row in reversed(found) if not _go_on(connection, row, now)]
        for row in uncertain:
            _doubt(connection, row, now)
        mark = Mark(secrets.token_hex(8), max(come.sent, 0 if known is None else known.sent))
        before = origin(connection)
        begin_epoch(connection, mark)
        others = dict.fromkeys(f"{ORIGIN}{epoch}" for epoch in record.epochs())
        append_restore(connection, now, before, size, [name for name in others if name != before])
    with database.translated():
        record.note(mark)
    return [Doubt(EnrollmentId(row["id"]), row["was"]) for row in reversed(uncertain)], is_complete


def begin_epoch(connection: sa.Connection, mark: Mark) -> None:
    """Write how far a journal has come, and where it is kept."""
    values = {"epoch": mark.epoch, "sent": str(mark.sent), HOME: home(connection)}
    for name, value in values.items():
        if value:
            meta.put(connection, name, value)


def _could_have_been_sent(connection: sa.Connection) -> list[dict[str, Any]]:
    """Return the rows that a person's credentials would take further, since nobody knows whether they were."""
    table = schema.enrollment
    query = sa.select(table).where(
        table.c.method == Method.API, table.c.state.in_([State.PREPARED, State.KEYED, State.SUBMITTING])
    )
    return [{**row, "was": State(row["state"]), "missing": 1} for row in connection.execute(query).mappings()]


def _unknown(connection: sa.Connection, record: SentRecord) -> tuple[list[dict[str, Any]], int]:
    """Return the rows whose intents the record knows and the journal does not, and how many such intents there are."""
    begun: dict[str, list[dict[str, Any]]] = {}
    for line in record.begun():
        begun.setdefault(line.row["id"], []).append(line.row)
    lost, count = [], 0
    event, table = schema.event, schema.enrollment
    for enrollment_id, rows in begun.items():
        query = sa.select(sa.func.count()).where(
            event.c.enrollment_id == enrollment_id, event.c.target == State.SUBMITTING
        )
        state = connection.execute(sa.select(table.c.state).where(table.c.id == enrollment_id)).scalar()
        missing = len(rows) - connection.execute(query).scalar_one()
        count += max(0, missing)
        if missing > 0 and (state is None or State(state) in WAYS):
            lost.append({**rows[-1], "was": None if state is None else State(state), "missing": missing})
    return lost, count


def _go_on(connection: sa.Connection, row: dict[str, Any], now: datetime) -> bool:
    """Make a renewal `keyed`, so that it asks again with the same CSR; tell whether it is one that can go on so.

    There is one renewal of a certificate at a time: where another one is under way, this one is in doubt.
    """
    was: State | None = row["was"]
    if row["method"] != Method.RENEWAL or was not in RENEWED:
        return False
    table = schema.enrollment
    others = sa.select(table.c.id).where(
        table.c.id != row["id"],
        table.c.replaces == row["replaces"],
        table.c.method == Method.RENEWAL,
        table.c.state.in_(schema.OPEN_STATES),
        table.c.vault_version.is_(None),
    )
    if connection.execute(others).first() is not None:
        return False
    way = RENEWED[was] + SENT_AGAIN * row["missing"]
    _bring_back(connection, row, now, way, {"due_at": now, "problem": None})
    return True


def _doubt(connection: sa.Connection, row: dict[str, Any], now: datetime) -> None:
    """Make a row `uncertain`."""
    problem = {
        "kind": OutcomeUncertain.__name__,
        "what": f"It is uncertain whether the certificate service has accepted enrollment {row['id']}",
        "why": "the journal was restored from an older copy, and the request may have been sent after that",
        "next_step": f"varmenne resolve {row['id']}",
    }
    # A request that was begun more than once is told as often, so that the next restore finds nothing missing.
    way = WAYS[row["was"]] + WAYS[State.UNCERTAIN] * (row["missing"] - 1)
    _bring_back(connection, row, now, way, {"due_at": None, "problem": problem})


def _bring_back(
    connection: sa.Connection, row: dict[str, Any], now: datetime, way: tuple[State, ...], values: dict[str, Any]
) -> None:
    """Take a row along the steps that it went, or may have gone; write it anew if it is not there."""
    values = {name: value for name, value in row.items() if name in schema.enrollment.c} | {
        "state": way[-1],
        "version": row["version"] + len(way),
        "updated_at": now,
        "owner": None,
        **values,
    }
    table, answer = schema.enrollment, schema.answer
    if row["was"] is None:
        connection.execute(sa.insert(table).values(values))
    else:
        connection.execute(sa.update(table).where(table.c.id == row["id"]).values(values))
    newest = sa.select(sa.func.max(answer.c.id)).where(answer.c.enrollment_id == row["id"])
    known = connection.execute(newest).scalar() or 0
    source, row_now = row["was"], get_row(connection, row["id"])
    for target in way:
        detail: dict[str, Any] = {"why": "restored from an older copy"}
        if target is State.SUBMITTING:
            # No answer that the copy has is the answer to this request.
            detail[KNOWN_ANSWER] = known
        write_event(connection, row_now, Event(now, this_process(), "restore", source, target, detail))
        source = target
