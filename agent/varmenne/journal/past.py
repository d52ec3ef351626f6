"""A journal that went back in time: noticed when it is opened, refused, and put right by a restore.

:mod:`varmenne.journal.sent` tells what the file beside the database remembers, and why.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from varmenne.domain.enrollment import Event
from varmenne.domain.identifiers import EnrollmentId
from varmenne.domain.steps import Method, State
from varmenne.errors import JournalError, OutcomeUncertain
from varmenne.journal import schema
from varmenne.journal.database import Database
from varmenne.journal.owner import this_process
from varmenne.journal.rows import write_event
from varmenne.journal.sent import Mark, SentRecord

WAYS: dict[State | None, tuple[State, ...]] = {
    None: (State.PREPARED, State.KEYED, State.SUBMITTING, State.UNCERTAIN),
    State.PREPARED: (State.KEYED, State.SUBMITTING, State.UNCERTAIN),
    State.KEYED: (State.SUBMITTING, State.UNCERTAIN),
    State.SUBMITTING: (State.UNCERTAIN,),
    State.UNCERTAIN: (State.SUBMITTING, State.UNCERTAIN),
    State.REJECTED: (State.SUBMITTING, State.UNCERTAIN),
}
"""What the journal knows of an enrollment whose request was begun without its knowledge → the states in between."""


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


def count_intent(connection: sa.Connection, epoch: str) -> Mark:
    """Count one more intent to send, in the transaction that makes it durable.

    Raises:
        JournalError: the journal was restored since we opened it.
    """
    table = schema.meta
    number = sa.cast(table.c.value, sa.BigInteger) + 1
    statement = sa.update(table).where(table.c.name == "sent").values(value=sa.cast(number, sa.Text))
    connection.execute(statement)
    mark = read_mark(connection)
    if mark.epoch != epoch:
        raise JournalError("The journal was restored while this process had it open", next_step="Run the command again")
    return mark


def refuse_past(database: Database, record: SentRecord) -> Mark:
    """Return how far the journal has come, if that is not less far than it was known to be.

    Raises:
        JournalError: requests were begun that this journal does not know, or may have been.
    """
    with database.reading() as connection:
        mark = read_mark(connection)
    known = record.mark()
    if known is not None and known.epoch == mark.epoch and known.sent <= mark.sent:
        return mark
    next_step = "`varmenne journal restore` makes it usable: what may have been sent since becomes `uncertain`"
    if known is not None and known.sent > 0:
        why = (
            f"{known.sent} requests were begun by this host's knowledge, this journal knows {mark.sent}"
            if known.epoch == mark.epoch
            else "it is another one than this host had, or it was restored by another host"
        )
        raise JournalError(
            f"The journal {database.name} has gone back in time: it may not know which credentials were sent",
            why=why,
            next_step=next_step,
        )
    if known is None and mark.sent > 0 and database.path is not None:
        raise JournalError(
            f"The journal {database.name} came here without the record of what was sent",
            why=f"{record.path} is missing; a copy of the journal alone may be older than what was sent",
            next_step=f"Bring that file from where the journal was. If it is lost: {next_step}",
        )
    with database.translated():
        record.note(mark)
    return mark


def reconcile(database: Database, record: SentRecord, now: datetime) -> list[Doubt]:
    """Begin a new epoch, with every enrollment `uncertain` whose request was begun without the journal knowing it.

    Without a record, that is every one that could have been sent since.
    """
    known = record.mark()
    with database.transaction() as connection:
        found = _without_record(connection) if known is None else _unknown(connection, record)
        for row in found:
            _doubt(connection, row, now)
        sent = max(read_mark(connection).sent, 0 if known is None else known.sent)
        mark = Mark(secrets.token_hex(8), sent)
        for name, value in (("epoch", mark.epoch), ("sent", str(sent))):
            connection.execute(sa.update(schema.meta).where(schema.meta.c.name == name).values(value=value))
    with database.translated():
        record.note(mark)
    return [Doubt(EnrollmentId(row["id"]), row["was"]) for row in found]


def _without_record(connection: sa.Connection) -> list[dict[str, Any]]:
    """Return the rows that a person's credentials would take further, since nobody knows whether they were."""
    table = schema.enrollment
    query = sa.select(table).where(
        table.c.method == Method.API, table.c.state.in_([State.PREPARED, State.KEYED, State.SUBMITTING])
    )
    return [{**row, "was": State(row["state"]), "missing": 1} for row in connection.execute(query).mappings()]


def _unknown(connection: sa.Connection, record: SentRecord) -> list[dict[str, Any]]:
    """Return the rows whose intents the record knows and the journal does not, as the record has them."""
    begun: dict[str, list[dict[str, Any]]] = {}
    for line in record.begun():
        begun.setdefault(line.row["id"], []).append(line.row)
    lost = []
    event, table = schema.event, schema.enrollment
    for enrollment_id, rows in begun.items():
        query = sa.select(sa.func.count()).where(
            event.c.enrollment_id == enrollment_id, event.c.target == State.SUBMITTING
        )
        state = connection.execute(sa.select(table.c.state).where(table.c.id == enrollment_id)).scalar()
        missing = len(rows) - connection.execute(query).scalar_one()
        if missing > 0 and (state is None or State(state) in WAYS):
            lost.append({**rows[-1], "was": None if state is None else State(state), "missing": missing})
    return lost


def _doubt(connection: sa.Connection, row: dict[str, Any], now: datetime) -> None:
    """Make a row `uncertain` in the steps that it went, or may have gone; write it anew if it is not there."""
    was: State | None = row["was"]
    values = {name: value for name, value in row.items() if name in schema.enrollment.c} | {
        "state": State.UNCERTAIN,
        "version": row["version"] + len(WAYS[None]),
        "updated_at": now,
        "due_at": None,
        "owner": None,
        "problem": {
            "kind": OutcomeUncertain.__name__,
            "what": f"It is uncertain whether the certificate service has accepted enrollment {row['id']}",
            "why": "the journal was restored from an older copy, and the request may have been sent after that",
            "next_step": f"varmenne resolve {row['id']}",
        },
    }
    table = schema.enrollment
    if was is None:
        connection.execute(sa.insert(table).values(values))
    else:
        connection.execute(sa.update(table).where(table.c.id == row["id"]).values(values))
    source = was
    # A request that was begun more than once is told as often, so that the next restore finds nothing missing.
    for target in WAYS[was] + WAYS[State.UNCERTAIN] * (row["missing"] - 1):
        event = Event(now, this_process(), "restore", source, target, {"why": "restored from an older copy"})
        write_event(connection, row["id"], event)
        source = target
