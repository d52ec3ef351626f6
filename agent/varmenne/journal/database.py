"""Opening the database: durable commits, writers that wait for each other, files that only their owner may read."""

from __future__ import annotations

import contextlib
import functools
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from varmenne.errors import ConfigError, JournalError
from varmenne.secret_sources import read_secret
from varmenne.settings import JournalSettings

JOURNAL_NAME = "journal.sqlite"

BUSY_TIMEOUT_SECONDS = 30
CONNECT_TIMEOUT_SECONDS = 10

PRAGMAS = (
    # FULL: a commit that returned is on the disk. With NORMAL a power cut could forget the intent to send.
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA trusted_schema = OFF",
)

SECRET_QUERIES = {"password", "sslpassword"}
"""Words of a PostgreSQL URL that hold a secret."""


class Database:
    """An engine, the name that people know it by, and its transactions."""

    def __init__(self, engine: sa.Engine, name: str, path: Path | None) -> None:
        self.engine = engine
        self.name = name
        self.path = path
        """The SQLite file; ``None`` for PostgreSQL."""

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """Run a write transaction. SQLite's lock is taken at its beginning, so that it never fails half-way."""
        with self.translated(), self.engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def reading(self, *, snapshot: bool = False) -> Iterator[sa.Connection]:
        """Run a read transaction, which takes no lock; with ``snapshot``, all of it sees the same moment."""
        options: dict[str, Any] = {"read_only": True}
        if snapshot and self.path is None:  # In SQLite every transaction is one.
            options["isolation_level"] = "REPEATABLE READ"
        with self.translated(), self.engine.connect().execution_options(**options) as connection:
            yield connection

    @contextlib.contextmanager
    def translated(self) -> Iterator[None]:
        """Turn the database's and the file system's errors into ours.

        Raises:
            JournalError: instead of anything that SQLAlchemy, the database or the operating system raised.
        """
        try:
            yield
        except (SQLAlchemyError, sqlite3.Error, OSError) as exc:
            cause = exc.orig if isinstance(exc, DBAPIError) else exc
            raise JournalError(
                f"The journal {self.name} cannot be used",
                why=" ".join(str(cause).split()),
                next_step="Check that the server runs and lets this user in, then run the command again"
                if self.path is None
                else "Check that the disk has room and that this user may write there, then run the command again",
            ) from exc


def open_database(state_dir: Path, settings: JournalSettings) -> Database:
    """Return the database that the settings name: PostgreSQL by its URL, or else SQLite in the state folder.

    Raises:
        ConfigError: the URL cannot be used.
        JournalError: the folder or the file cannot be made or read.
    """
    if settings.url:
        return open_postgresql(settings)
    return open_sqlite(state_dir / JOURNAL_NAME)


def open_sqlite(path: Path, *, foreign_keys: bool = True) -> Database:
    """Return an SQLite file, which is made if it is missing (folder 0700, file 0600).

    Raises:
        JournalError: the folder or the file cannot be made or read.
    """
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=str(path)),
        connect_args={"timeout": BUSY_TIMEOUT_SECONDS},
        hide_parameters=True,
    )
    database = Database(engine, str(path), path)
    with database.translated():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            # The mode is set before any content is, and SQLite gives its -wal and -shm files the same one.
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))

    @sa.event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # SQLAlchemy's `begin` below decides when a transaction begins
        _write_ahead(connection)
        for pragma in PRAGMAS:
            connection.execute(pragma)
        if not foreign_keys:
            connection.execute("PRAGMA foreign_keys = OFF")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        # A writer takes its lock at once: one that read first and writes later could only fail.
        read_only = connection.get_execution_options().get("read_only", False)
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return database


def _write_ahead(connection: Any) -> None:
    """Switch to write-ahead logging; SQLite does not wait for other processes that do the same to a new file."""
    patience = time.monotonic() + BUSY_TIMEOUT_SECONDS
    while True:
        try:
            if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] == "wal":
                return
        except connection.OperationalError as exc:
            if "locked" not in str(exc) or time.monotonic() > patience:
                raise
        if time.monotonic() > patience:
            raise connection.OperationalError("the file system does not allow write-ahead logging")
        time.sleep(0.02)


def open_postgresql(settings: JournalSettings) -> Database:
    """Return a PostgreSQL database. The password comes from its source when the first connection is made.

    Raises:
        ConfigError: the URL is not one of PostgreSQL, holds a password, or the driver is not installed.
    """
    url = checked_url(settings.url)
    try:
        engine = sa.create_engine(
            url,
            connect_args={"connect_timeout": CONNECT_TIMEOUT_SECONDS, "application_name": "varmenne"},
            pool_size=1,
            pool_pre_ping=True,
            hide_parameters=True,
        )
    except ImportError as exc:
        raise ConfigError(
            "The journal is to be in PostgreSQL, but its driver is not installed",
            why=str(exc),
            next_step="Install it: pip install 'varmenne[postgresql]'",
        ) from exc

    @functools.cache
    def password() -> str:
        return read_secret(settings.password or "", what="journal's database password").reveal()

    @sa.event.listens_for(engine, "do_connect")
    def _password(_dialect: object, _record: object, _args: list[Any], words: dict[str, Any]) -> None:
        if settings.password is not None:
            words["password"] = password()

    @sa.event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET TIME ZONE 'UTC'")
            cursor.execute("SELECT current_setting('synchronous_commit')")
            if cursor.fetchone()[0] == "off":
                cursor.execute("SET synchronous_commit = on")
        connection.commit()

    return Database(engine, url.render_as_string(), None)


def checked_url(text: str) -> sa.URL:
    """Parse the URL of a PostgreSQL database, and refuse a password in it: settings files are read by many."""
    try:
        url = sa.make_url(text)
    except ArgumentError:
        # The text is not repeated: it may hold a password in the wrong place.
        raise ConfigError("The setting 'journal.url' is not a URL", next_step=_URL_HINT) from None
    if url.drivername not in {"postgresql", "postgresql+psycopg"}:
        raise ConfigError(f"The setting 'journal.url' names a {url.drivername} database", next_step=_URL_HINT)
    if url.password is not None or SECRET_QUERIES & url.query.keys():
        raise ConfigError(
            "The setting 'journal.url' holds a password",
            why="settings files are copied and shown; secrets have files of their own",
            next_step="Take it out, and name its source: journal.password = 'file:PATH'",
        )
    return url.set(drivername="postgresql+psycopg")


_URL_HINT = "It looks like postgresql+psycopg://USER@HOST/DATABASE; leave it out for SQLite in the state folder"
