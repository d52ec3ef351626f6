"""Which database, who may know its password, and how its schema comes to be what it should be."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from harness.postgresql import PostgreSQL
from journal.rows import NOW, add, take_to
from varmenne.domain.identifiers import EnrollmentId
from varmenne.domain.steps import State
from varmenne.errors import ConfigError, JournalError
from varmenne.journal import Journal, schema
from varmenne.journal.database import open_database
from varmenne.journal.upgrade import NEWEST
from varmenne.settings import JournalSettings

OLD = Path(__file__).with_name("old")


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("postgresql+psycopg://varmenne:hunter2@db/varmenne", "holds a password"),
        ("postgresql://db/varmenne?password=hunter2", "holds a password"),
        ("mysql://hunter2@db/varmenne", "names a mysql database"),
        ("sqlite:///hunter2", "names a sqlite database"),
        ("varmenne:hunter2@db", "is not a URL"),
    ],
)
def test_urls_that_are_refused(tmp_path: Path, url: str, sentence: str) -> None:
    """A wrong URL is told without repeating it, since a password may be in it; nothing is made."""
    with pytest.raises(ConfigError, match=sentence) as caught:
        Journal(tmp_path / "state", JournalSettings(url=url))
    assert "hunter2" not in f"{caught.value} {caught.value.next_step}"
    assert list(tmp_path.iterdir()) == []


def test_the_password_comes_from_its_source(tmp_path: Path, postgresql: PostgreSQL) -> None:
    """It is read when a connection is made, and is in no message, name or representation."""
    source = tmp_path / "password"
    source.touch(mode=0o600)
    source.write_text("hunter2\n")
    settings = JournalSettings(url=postgresql.new_database(), password=f"file:{source}")
    with Journal(tmp_path / "state", settings) as journal:
        assert add(journal) in journal.list()
        shown = f"{journal.name} {journal._database.engine!r}"
    source.unlink()
    with pytest.raises(ConfigError, match="password cannot be read from file:"):
        Journal(tmp_path / "state", settings)
    assert "hunter2" not in shown


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    """It is a journal error with the URL in it, and the sentence says what to look at."""
    with pytest.raises(JournalError, match="cannot be used") as caught:
        Journal(tmp_path, JournalSettings(url=f"postgresql+psycopg://nobody@/journal?host={tmp_path}"))
    assert "server runs" in caught.value.next_step


def test_a_server_that_restarts(tmp_path: Path) -> None:
    """The journal of a long-lived process finds the server again."""
    with tempfile.TemporaryDirectory(prefix="varmenne-pg-") as folder:
        server = PostgreSQL(Path(folder))
        server.start()
        try:
            with Journal(tmp_path / "state", JournalSettings(url=server.new_database())) as journal:
                row = add(journal)
                server.stop()
                with pytest.raises(JournalError, match="cannot be used"):
                    journal.get(row.id)
                server.start()
                assert journal.get(row.id) == row
        finally:
            server.stop()


def test_commits_of_postgresql_are_durable(tmp_path: Path, postgresql: PostgreSQL) -> None:
    """A server that forgets commits by default is told not to forget ours."""
    settings = JournalSettings(url=postgresql.new_database())
    name = settings.url.partition("@/")[2].partition("?")[0]
    postgresql.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    with Journal(tmp_path, settings) as journal, journal._reading() as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"


def shape(settings: JournalSettings, state_dir: Path) -> dict[str, Any]:
    """Return all that a database says of its own tables."""
    with contextlib.closing(open_database(state_dir, settings)) as database, database.reading() as connection:
        seen = sa.inspect(connection)
        return {
            table: {
                "columns": {
                    column["name"]: (
                        repr(column["type"]),
                        column["nullable"],
                        column["default"],
                        column.get("comment"),
                    )
                    for column in seen.get_columns(table)
                },
                "primary key": seen.get_pk_constraint(table),
                "foreign keys": seen.get_foreign_keys(table),
                "unique": sorted(seen.get_unique_constraints(table), key=repr),
                "indexes": [
                    {**index, "dialect_options": {name: str(value) for name, value in index["dialect_options"].items()}}
                    for index in sorted(seen.get_indexes(table), key=lambda index: str(index["name"]))
                ],
            }
            for table in sorted(seen.get_table_names())
        }


def old_journal(state_dir: Path, settings: JournalSettings) -> EnrollmentId:
    """Make a journal as the first version did, with one enrollment that was sent, and return its ID."""
    with contextlib.closing(open_database(state_dir, settings)) as database, database.transaction() as connection:
        for script in (f"0001.{connection.dialect.name}.sql", "0001.rows.sql"):
            for statement in filter(str.strip, (OLD / script).read_text().split(";")):
                connection.exec_driver_sql(statement)
        connection.execute(sa.text("UPDATE enrollment SET key_id = :key_id"), {"key_id": bytes(16)})
    return EnrollmentId("20260101-00000000")


def test_an_old_journal_is_migrated(tmp_path: Path, database: JournalSettings, new_postgresql_url: Any) -> None:
    """It has the same tables as a new one then, with its rows in them; requests that were begun are counted."""
    state_dir = tmp_path / "old"
    enrollment_id = old_journal(state_dir, database)
    with Journal(state_dir, database) as journal:
        row = journal.get(enrollment_id)
        assert (row.state, row.claims, len(journal.history(row.id))) == (State.ACCEPTED, 0, 4)
        ((_index, record),) = journal.log.of(row.id)
        assert (json.loads(record)["act"], json.loads(record)["target"]) == ("adopt", "accepted")
        with journal._reading() as connection:
            assert connection.execute(sa.select(schema.answer.c.verdict)).scalars().all() == ["verified"]
        assert [check.name for check in journal.inspect() if check.verdict == "fail"] == []
        assert journal._record.mark() is not None
        assert journal._record.mark().sent == 1  # type: ignore[union-attr]
        journal.prune(NOW)
    other = JournalSettings(url=new_postgresql_url()) if database.url else JournalSettings()
    Journal(tmp_path / "new", other).close()
    migrated, made = shape(database, state_dir), shape(other, tmp_path / "new")
    assert migrated == made


@pytest.mark.parametrize(("state", "due"), [("active", True), ("superseded", True), ("abandoned", False)])
def test_a_migration_has_old_certificates_looked_after(
    tmp_path: Path, database: JournalSettings, state: str, due: bool
) -> None:
    """What is in use or was replaced by a version that knew no upkeep is due at once; what ended is not."""
    enrollment_id = old_journal(tmp_path, database)
    with contextlib.closing(open_database(tmp_path, database)) as old, old.transaction() as connection:
        connection.execute(
            sa.text("UPDATE enrollment SET state = :state, due_at = NULL, owner = NULL"), {"state": state}
        )
    with Journal(tmp_path, database) as journal:
        row = journal.get(enrollment_id)
        assert row.due_at == (row.updated_at if due else None)


def test_a_new_journal_is_as_the_code_says(tmp_path: Path, database: JournalSettings) -> None:
    """Alembic's own comparison finds no difference between the database and the code's tables."""
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext

    with Journal(tmp_path, database) as journal, journal._reading() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, schema.metadata) == []
        assert context.get_current_revision() == NEWEST


def test_the_list_of_revisions_is_that_of_the_scripts() -> None:
    """Opening compares with a constant, so that Alembic need not be imported."""
    from alembic.script import ScriptDirectory

    folder = Path(schema.__file__).with_name("migrations")
    script = ScriptDirectory(str(folder), version_locations=[str(folder / "versions")])
    assert tuple(reversed([step.revision for step in script.walk_revisions()])) == schema.REVISIONS


def test_a_backup_is_made_before_a_migration(tmp_path: Path) -> None:
    """The copy is private and has the old schema; opening again makes no other."""
    old_journal(tmp_path, JournalSettings())
    for _ in range(2):
        Journal(tmp_path).close()
    (copy,) = tmp_path.glob("journal.before-*.sqlite")
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    with contextlib.closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("SELECT value FROM meta").fetchall() == [("1",)]
        assert connection.execute("SELECT state FROM enrollment").fetchall() == [("accepted",)]


def test_a_migration_that_fails_changes_nothing(
    tmp_path: Path, database: JournalSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old journal is as it was, and the next try succeeds."""
    from alembic import op

    old_journal(tmp_path, database)
    before = shape(database, tmp_path)

    def fail(*_arguments: object, **_words: object) -> None:
        raise sa.exc.OperationalError("statement", {}, Exception("disk full"))

    with monkeypatch.context() as broken:
        broken.setattr(op, "bulk_insert", fail)  # the last thing that the migration does
        with pytest.raises(JournalError, match="cannot be used"):
            Journal(tmp_path, database)
    assert shape(database, tmp_path) == before
    Journal(tmp_path, database).close()


def test_several_open_an_old_or_a_new_journal_at_once(tmp_path: Path, database: JournalSettings) -> None:
    """One of them makes or migrates the tables, all of them can work, and none sees an error."""
    if database.url:
        old_journal(tmp_path / "state", database)
    errors: list[BaseException] = []
    barrier = threading.Barrier(6)

    def open_and_add() -> None:
        try:
            barrier.wait()
            with Journal(tmp_path / "state", database) as journal:
                add(journal)
        except BaseException as exc:  # noqa: BLE001 - told below
            errors.append(exc)

    threads = [threading.Thread(target=open_and_add) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with Journal(tmp_path / "state", database) as journal:
        assert len(journal.list()) == 6 + bool(database.url)


def test_a_newer_journal_is_refused(tmp_path: Path, database: JournalSettings) -> None:
    """The sentence tells both schemas; the database is left as it is."""
    with Journal(tmp_path, database) as journal, journal._transaction() as connection:
        connection.execute(sa.update(schema.revision).values(version_num="0999"))
    with pytest.raises(JournalError, match="was written by a newer varmenne") as caught:
        Journal(tmp_path, database)
    assert "0999" in caught.value.why


def test_opening_a_journal_loads_no_migration_tools(tmp_path: Path) -> None:
    """Commands start fast: Alembic, the ORM and the other database's driver stay unloaded."""
    Journal(tmp_path).close()
    program = (
        "import pathlib, sys\nfrom varmenne.journal import Journal\n"
        "Journal(pathlib.Path(sys.argv[1])).close()\n"
        "print(*[name for name in ('alembic', 'sqlalchemy.orm', 'psycopg') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path], check=True, capture_output=True, timeout=60)
    assert done.stdout.decode().strip() == ""


def test_states_of_each_database_are_the_same(journal: Journal) -> None:
    """A row that went the whole way reads the same from the table as from the commit."""
    row = take_to(journal, add(journal, valid_until=NOW), State.ACTIVE)
    assert journal.get(row.id) == row
    assert row.created_at.utcoffset() == NOW.utcoffset()
