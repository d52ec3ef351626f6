"""The schema at opening: made in a new database, migrated in an old one (after a backup), refused if it is newer.

Alembic is imported only when there is something to migrate: a journal that is up to date opens with one query.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from varmenne.errors import JournalError
from varmenne.journal import log, schema
from varmenne.journal.copies import copy_sqlite
from varmenne.journal.database import Database, open_sqlite
from varmenne.journal.past import begin_epoch, read_mark
from varmenne.journal.sent import Mark, SentRecord

NEWEST = schema.REVISIONS[-1]
WITHOUT_EPOCH = schema.REVISIONS[0]
WITHOUT_LOG = schema.REVISIONS[:3]

_LOCK = 0x7661726D
"""Key of PostgreSQL's advisory lock for upgrades: `varm`."""


def bring_up_to_date(database: Database, record: SentRecord) -> None:
    """Make the schema what this varmenne needs. Of several processes that open at once, one does it.

    Raises:
        JournalError: the schema is newer, or it could not be migrated; then nothing is changed.
    """
    with database.reading() as connection:
        if _quick_look(connection) == NEWEST:
            return
    with _alone(database) as connection:
        found = _revision(connection)
        if found == NEWEST:
            return
        if found is None:
            _create(connection)
        elif found in schema.REVISIONS:
            copy = None if database.path is None else _backup(database, database.path)
            try:
                _migrate(connection)
                if found in WITHOUT_LOG:
                    log.adopt(connection, datetime.now(UTC))
                if found == WITHOUT_EPOCH:
                    _begin_record(database, connection, record)
            except BaseException:
                if copy is not None:
                    copy.unlink()
                raise
        else:
            raise JournalError(
                f"The journal {database.name} was written by a newer varmenne",
                why=f"its schema is {found}, this varmenne knows {NEWEST}",
                next_step="Use the newer varmenne, or restore a backup from before",
            )


def _quick_look(connection: sa.Connection) -> str | None:
    """Return the revision of a database, or ``None`` if that is not to be had with one query."""
    try:
        return connection.execute(sa.select(schema.revision.c.version_num)).scalar()
    except (sa.exc.OperationalError, sa.exc.ProgrammingError):
        connection.rollback()
        return None


def _revision(connection: sa.Connection) -> str | None:
    """Return the revision of a database, ``None`` for one without tables. Before Alembic came, all were 0001."""
    tables = set(sa.inspect(connection).get_table_names())
    if schema.revision.name in tables:
        return connection.execute(sa.select(schema.revision.c.version_num)).scalar()
    return schema.REVISIONS[0] if schema.enrollment.name in tables else None


@contextlib.contextmanager
def _alone(database: Database) -> Iterator[sa.Connection]:
    """Run a transaction that no other upgrade runs beside; foreign keys are looked at when it ends.

    SQLite alters a table by making it anew, which the foreign keys of others must not see.
    """
    if database.path is None:
        with database.transaction() as connection:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
            yield connection
        return
    unchecked = open_sqlite(database.path, foreign_keys=False)
    try:
        with unchecked.transaction() as connection:
            yield connection
            if broken := connection.exec_driver_sql("PRAGMA foreign_key_check").all():
                raise JournalError(f"The journal {database.name} is damaged", why=f"{len(broken)} rows hang in the air")
    finally:
        unchecked.close()


def _create(connection: sa.Connection) -> None:
    """Make the tables of a new database as the last migration would leave them."""
    schema.metadata.create_all(connection)
    schema.revision.create(connection)
    connection.execute(sa.insert(schema.revision).values(version_num=NEWEST))
    begin_epoch(connection, Mark(secrets.token_hex(8), 0))
    log.begin(connection)


def _backup(database: Database, path: Path) -> Path:
    """Copy an SQLite journal as it was before a migration. The copy stays until a person removes it."""
    copy = path.with_name(f"{path.stem}.before-{NEWEST}-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}{path.suffix}")
    with database.translated():
        copy_sqlite(path, copy)
    return copy


def _begin_record(database: Database, connection: sa.Connection, record: SentRecord) -> None:
    """Begin the record beside a journal that had none, before its first epoch can be seen by anybody.

    A record that knows of more is left alone: then the journal is an old copy, and is refused next.
    """
    mark, known = read_mark(connection), record.mark()
    if known is None or known.sent <= mark.sent:
        with database.translated():
            record.note(mark)


def _migrate(connection: sa.Connection) -> None:
    """Run the migrations that are missing, all or none."""
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory

    folder = Path(__file__).with_name("migrations")
    script = ScriptDirectory(str(folder), version_locations=[str(folder / "versions")])
    # Before Alembic came, a journal had the first tables and no mark.
    start = None if sa.inspect(connection).has_table(schema.revision.name) else WITHOUT_EPOCH

    def missing(revision: Any, _context: Any) -> Any:
        return script._upgrade_revs(NEWEST, revision)  # noqa: SLF001 - the way of Alembic's own commands

    with EnvironmentContext(Config(), script, fn=missing, destination_rev=NEWEST) as environment:
        # Alembic believes that SQLite cannot roll back tables, and would commit in between.
        environment.configure(connection=connection, target_metadata=schema.metadata, transactional_ddl=True)
        migration = environment.get_context()
        if start is not None:
            migration.stamp(script, start)
        environment.run_migrations()
