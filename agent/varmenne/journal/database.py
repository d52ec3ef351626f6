"""Opening the database: durable commits, writers that wait for each other, files that only their owner may read."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from varmenne.errors import JournalError

BUSY_TIMEOUT_SECONDS = 30

PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    # FULL: a commit that returned is on the disk. With NORMAL a power cut could forget the intent to send.
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA trusted_schema = OFF",
)


def open_sqlite(path: Path) -> sa.Engine:
    """Return an engine over an SQLite file, which is made if it is missing (folder 0700, file 0600).

    Raises:
        JournalError: the folder or the file cannot be made or read.
    """
    with translated(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            # The mode is set before any content is, and SQLite gives its -wal and -shm files the same one.
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        engine = sa.create_engine(
            f"sqlite:///{path}", connect_args={"timeout": BUSY_TIMEOUT_SECONDS}, hide_parameters=True
        )

    @sa.event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # SQLAlchemy's `begin` below decides when a transaction begins
        for pragma in PRAGMAS:
            connection.execute(pragma)

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        # A writer takes its lock at once: one that read first and writes later could only fail.
        read_only = connection.get_execution_options().get("read_only", False)
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn the database's and the file system's errors into ours.

    Raises:
        JournalError: instead of anything that SQLAlchemy, SQLite or the operating system raised.
    """
    try:
        yield
    except (SQLAlchemyError, OSError) as exc:
        cause = exc.orig if isinstance(exc, DBAPIError) else exc
        raise JournalError(
            f"The journal {path} cannot be used",
            why=str(cause),
            next_step="Check that the disk has room and that this user may write there, then run the command again",
        ) from exc
