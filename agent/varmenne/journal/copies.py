"""Copies of an SQLite journal: made while it is in use, private, proven to be whole, and only then given their name."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

from varmenne.errors import JournalError


def copy_sqlite(source: Path, target: Path) -> None:
    """Copy a journal to a new file of mode 0600, and prove that the copy is sound.

    Others may read and write the source meanwhile; the copy is as the source was at one moment.

    Raises:
        JournalError: the copy is damaged; it is removed again.
        OSError: the target is there already, or cannot be written.
        sqlite3.Error: the source cannot be read.
    """
    unfinished = target.with_name(f".{target.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    os.close(os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        with (
            contextlib.closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as old,
            contextlib.closing(sqlite3.connect(unfinished)) as new,
        ):
            old.backup(new)
            # One file, without a log beside it, so that it can be carried away.
            new.execute("PRAGMA journal_mode = DELETE")
            new.execute("PRAGMA synchronous = FULL")
            prove(new, str(target))
        to_disk(unfinished)
        os.link(unfinished, target)  # unlike a rename, this never replaces a file
        to_disk(target.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def prove(connection: sqlite3.Connection, name: str) -> None:
    """Prove that a database is whole and that its rows hang together.

    Raises:
        JournalError: they do not.
    """
    found = [line for (line,) in connection.execute("PRAGMA integrity_check")]
    if found != ["ok"]:
        raise JournalError(f"{name} is damaged", why="; ".join(found[:3]))
    if broken := connection.execute("PRAGMA foreign_key_check").fetchall():
        raise JournalError(f"{name} is damaged", why=f"{len(broken)} rows belong to an enrollment that is not there")


def to_disk(path: Path) -> None:
    """Make a file's content, or a folder's names, durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
