"""Putting a backup in the journal's place, or accepting one that was put there by other means: nothing is sent twice.

In this order: everybody else is out; the backup is proven and copied beside the journal; what it replaces is renamed
and kept; the copy takes its name; the schema is brought up to date; what the record beside the database knows to have
been begun since, or may have been, becomes `uncertain`; a new epoch begins. Until the last of these is durable, opening
the journal is refused, so that a restore that was interrupted is simply run again.
"""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa

from varmenne.domain.steps import State
from varmenne.errors import InputError, JournalError
from varmenne.journal import past, schema
from varmenne.journal.copies import copy_sqlite, prove, to_disk
from varmenne.journal.database import JOURNAL_NAME, Database, checked_url, open_database
from varmenne.journal.lock import InUse
from varmenne.journal.sent import SentRecord
from varmenne.journal.upgrade import bring_up_to_date
from varmenne.settings import JournalSettings

WITH_IT = ("", "-wal", "-shm")
"""Endings of the files that belong to an SQLite database."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did.

    Attributes:
        name: what people know the database by.
        replaced: the SQLite file that was in its place, if there was one.
        recorded: whether this host knew all that was begun to be sent; if not, everything unsent is in doubt.
        doubts: the enrollments that became `uncertain`.
        newest: when the restored journal was last changed, or ``None`` if it is empty.
    """

    name: str
    replaced: Path | None
    recorded: bool
    doubts: tuple[past.Doubt, ...]
    newest: datetime | None


@dataclass(frozen=True, slots=True)
class Loss:
    """What a journal knows and a backup does not: enrollments that are not in it, that have gone on since, requests."""

    missing: int
    changed: int
    sent: int

    @property
    def enrollments(self) -> int:
        """How many enrollments a restore would take back."""
        return self.missing + self.changed


def would_lose(state_dir: Path, backup: Path) -> Loss:
    """Compare the SQLite journal that is there with a backup, of whatever version each is; nothing is changed.

    A journal that is missing or cannot be read has nothing to lose.

    Raises:
        InputError: the file is no backup of a journal.
        JournalError: it is damaged.
    """
    refuse_no_backup(backup)
    kept, kept_sent = _contents(backup)
    try:
        rows, sent = _contents(state_dir / JOURNAL_NAME)
    except sqlite3.Error:
        return Loss(0, 0, 0)
    return Loss(
        missing=len(rows.keys() - kept.keys()),
        changed=sum(updated > kept[name] for name, updated in rows.items() if name in kept),
        sent=max(0, sent - kept_sent),
    )


def _contents(path: Path) -> tuple[dict[str, str], int]:
    """Return ID → time of the last change of the enrollments in an SQLite file, and how many requests were begun."""
    with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        rows = dict(connection.execute("SELECT id, updated_at FROM enrollment").fetchall())
        sent = connection.execute("SELECT count(*) FROM event WHERE target = ?", [State.SUBMITTING]).fetchone()
    return rows, sent[0]


def restore(state_dir: Path, settings: JournalSettings, backup: Path | None, now: datetime) -> Restored:
    """Put an SQLite backup in the journal's place; without one, make the journal usable that is there now.

    Raises:
        InputError: the file is no backup of a journal, or the journal is in PostgreSQL and a file was given.
        JournalError: another process uses the journal, the file is damaged or newer, or something cannot be written.
    """
    if settings.url:
        checked_url(settings.url)
    if backup is not None:
        if settings.url:
            raise InputError(
                "A journal in PostgreSQL is not restored from a file by varmenne",
                why="PostgreSQL has its own tools",
                next_step="Restore it with pg_restore, then run: varmenne journal restore",
            )
        refuse_no_backup(backup)
    record = SentRecord(state_dir)
    try:
        lock = InUse(state_dir, alone=True)
    except OSError as exc:
        raise JournalError(f"The folder {state_dir} cannot be used", why=exc.strerror or str(exc)) from exc
    with contextlib.closing(lock):
        replaced = None if backup is None else _put_in_place(backup, state_dir / JOURNAL_NAME, now)
        with contextlib.closing(open_database(state_dir, settings)) as database:
            bring_up_to_date(database, record)
            newest = _newest(database)
            doubts, recorded = past.reconcile(database, record, now)
            return Restored(database.name, replaced, recorded, tuple(doubts), newest)


def refuse_no_backup(path: Path) -> None:
    """Refuse a file that is not a whole journal.

    Raises:
        InputError: the file is not there, or is something else.
        JournalError: it is damaged.
    """
    if not path.is_file():
        raise InputError(f"There is no file {path}", next_step="`varmenne journal backup FILE` makes one")
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            connection.execute(f"SELECT count(*) FROM {schema.enrollment.name}")  # noqa: S608 - a name of ours
            prove(connection, str(path))
    except sqlite3.Error as exc:
        raise InputError(f"{path} is not a backup of a journal", why=str(exc)) from exc


def _put_in_place(backup: Path, target: Path, now: datetime) -> Path | None:
    """Copy a backup to where the journal is, and return where the journal that was there is kept."""
    fresh = target.with_name(f"{target.stem}.restoring{target.suffix}")
    kept = target.with_name(f"{target.stem}.replaced-{now:%Y%m%dT%H%M%SZ}{target.suffix}")
    try:
        fresh.unlink(missing_ok=True)
        copy_sqlite(backup, fresh)
        was_there = target.exists()
        for ending in WITH_IT:
            old = target.with_name(target.name + ending)
            if old.exists():
                old.rename(kept.with_name(kept.name + ending))
        fresh.rename(target)
        to_disk(target.parent)
    except (OSError, sqlite3.Error) as exc:
        raise JournalError(
            f"The backup {backup} could not be put in place",
            why=str(exc),
            next_step="Check that the disk has room and that this user may write there, then run the command again",
        ) from exc
    return kept if was_there else None


def _newest(database: Database) -> datetime | None:
    """Return when the journal was last changed."""
    with database.reading() as connection:
        return connection.execute(sa.select(sa.func.max(schema.enrollment.c.updated_at, type_=schema.UtcTime))).scalar()
