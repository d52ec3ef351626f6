"""`varmenne journal` as people use it; neither token nor servers are needed."""

from __future__ import annotations

import json
import os
import shutil
import stat
from datetime import timedelta
from pathlib import Path

import pytest

from harness.stage import Result, run_main
from journal.rows import NOW, add, take_to
from varmenne.domain.steps import State
from varmenne.journal import Journal

CONFIG = """
environment = "test"
state_dir = "state"
[token]
module = "/nowhere/module.so"
label = "none"
[vault]
address = "https://vault.invalid"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A settings file with a state folder beside it."""
    path = tmp_path / "varmenne.toml"
    path.write_text(CONFIG)
    return path


def run(config: Path, *arguments: str | Path) -> Result:
    """Run a command with the settings."""
    return run_main("--config", str(config), "journal", *map(str, arguments))


def test_path_tells_where_it_is_and_makes_nothing(config: Path) -> None:
    """The path is alone on standard output, for other commands to take."""
    done = run(config, "path")
    assert (done.code, done.out, done.err) == (0, f"{config.parent}/state/journal.sqlite\n", "")
    assert run(config, "path", "--json").json["sent"] == f"{config.parent}/state/journal.sent"
    assert not (config.parent / "state").exists()


def test_check_tells_what_it_looked_at(config: Path) -> None:
    """A sound journal has a line for each thing that was looked at, and a damaged one ends with code 15."""
    done = run(config, "check")
    assert done.code == 0
    assert [line.split()[0] for line in done.out.splitlines()] == ["ok"] * 5
    with Journal(config.parent / "state") as journal:
        add(journal)
        with journal._transaction() as connection:
            connection.exec_driver_sql("DELETE FROM event")
    done = run(config, "check", "--json")
    assert done.code == 15
    assert [check["name"] for check in done.json if check["verdict"] == "fail"] == ["journal histories"]


def test_backup_and_restore(config: Path, tmp_path: Path) -> None:
    """A backup is made, work goes on, the backup is put back, and what was sent in between is uncertain."""
    state_dir = config.parent / "state"
    with Journal(state_dir) as journal:
        row = take_to(journal, add(journal), State.KEYED)
    backup = tmp_path / "backup.sqlite"
    done = run(config, "backup", backup, "--json")
    assert (done.code, done.json) == (0, {"backup": str(backup), "bytes": backup.stat().st_size})
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    assert run(config, "backup", backup).code == 4
    with Journal(state_dir) as journal:
        take_to(journal, row, State.ACCEPTED)

    done = run(config, "restore", backup, "--confirm", "1", "--json")
    assert done.code == 0
    assert done.json["uncertain"] == [row.id]
    assert Path(done.json["replaced"]).exists()
    assert done.json["recorded"] is True
    shown = run_main("--config", str(config), "show", row.id, "--json").json
    assert (shown["state"], shown["problem"]["next_step"]) == ("uncertain", f"varmenne resolve {row.id}")
    assert "No one-time credentials were sent since" in run(config, "restore").out


def test_a_restore_over_a_sound_journal_asks_first(config: Path, tmp_path: Path) -> None:
    """What would be lost is counted and has to be confirmed by its number; without that, nothing is touched."""
    state_dir = config.parent / "state"
    with Journal(state_dir) as journal:
        gone_on, stays = (take_to(journal, add(journal), State.KEYED) for _ in range(2))
        journal.backup(tmp_path / "backup.sqlite")
        take_to(journal, gone_on, State.ACCEPTED, NOW + timedelta(minutes=1))
        newer = add(journal), add(journal)
        rows = journal.list()
    for confirm in ([], ["--confirm", "2"]):
        done = run(config, "restore", tmp_path / "backup.sqlite", *confirm)
        assert (done.code, done.out) == (4, "")
        counts = [line.split()[-1] for line in done.err.splitlines() if line.startswith("  enroll") or "begun" in line]
        assert counts == ["2", "1", "1"]
    assert "Add: --confirm 3" in run(config, "restore", tmp_path / "backup.sqlite").err
    with Journal(state_dir) as journal:
        assert journal.list() == rows
    assert not list(state_dir.glob("journal.replaced-*"))
    assert run(config, "restore", tmp_path / "backup.sqlite", "--confirm", "3").code == 0
    with Journal(state_dir) as journal:
        assert {row.id for row in journal.list()} == {row.id for row in rows} - {row.id for row in newer}
        assert journal.get(stays.id) == stays


@pytest.mark.parametrize("damage", ["none", "deleted", "no database"])
def test_a_restore_that_loses_nothing_asks_nothing(config: Path, tmp_path: Path, damage: str) -> None:
    """There is nothing to confirm where the journal knows no more than the backup, or cannot be read."""
    state_dir = config.parent / "state"
    with Journal(state_dir) as journal:
        row = add(journal)
        journal.backup(tmp_path / "backup.sqlite")
        journal.release(row, NOW, due_at=None)
    if damage != "none":
        for path in state_dir.glob("journal.sqlite*"):
            path.unlink()
    if damage == "no database":
        (state_dir / "journal.sqlite").write_text("nonsense " * 100)
    done = run(config, "restore", tmp_path / "backup.sqlite")
    assert (done.code, done.err) == (0, "")
    with Journal(state_dir) as journal:
        assert [one.id for one in journal.list()] == [row.id]


@pytest.mark.parametrize(
    ("name", "words"),
    [("there", "exists already"), ("no/such/file", "does not exist"), ("x" * 300, "cannot be written")],
)
def test_a_backup_that_cannot_be_made_is_refused(config: Path, tmp_path: Path, name: str, words: str) -> None:
    """Nothing is overwritten and no folder is made; the mistake is the person's, and the journal is not to blame."""
    (tmp_path / "there").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    result = run(config, "backup", tmp_path / name)
    assert (result.code, result.out) == (4, "")
    assert words in result.err
    assert (sorted(tmp_path.rglob("*")), (tmp_path / "there").read_text()) == (before, "mine")


def test_every_command_refuses_a_journal_that_went_back_in_time(config: Path, tmp_path: Path) -> None:
    """The sentence names the command that makes it usable, and that command says which enrollments are in doubt."""
    state_dir = config.parent / "state"
    with Journal(state_dir) as journal:
        row = take_to(journal, add(journal), State.KEYED)
        journal.backup(tmp_path / "backup.sqlite")
        take_to(journal, row, State.ACCEPTED)
    for path in state_dir.glob("journal.sqlite*"):
        path.unlink()
    shutil.copy(tmp_path / "backup.sqlite", state_dir / "journal.sqlite")
    for command in (["list"], ["show", row.id], ["resume", "--all"], ["journal", "check"]):
        done = run_main("--config", str(config), *command)
        assert done.code == 12
        assert "varmenne journal restore" in done.err
    done = run(config, "restore")
    assert done.code == 0
    assert f"  {row.id}  keyed" in done.out.splitlines()
    assert run_main("--config", str(config), "list").code == 0


def test_a_restore_without_the_record_warns(config: Path, tmp_path: Path) -> None:
    """Orders that are not in the backup may be spent: nobody here knows."""
    with Journal(config.parent / "state") as journal:
        take_to(journal, add(journal), State.ACTIVE)
        journal.backup(tmp_path / "backup.sqlite")
    shutil.rmtree(config.parent / "state")
    done = run(config, "restore", tmp_path / "backup.sqlite")
    assert done.code == 0
    assert "no record of all that was sent after the backup" in done.err


def test_list_gives_pages(config: Path) -> None:
    """A page has so many, and the next one begins after its last ID; together they are what no limit gives."""
    with Journal(config.parent / "state") as journal:
        ids = sorted(add(journal).id for _ in range(5))

    def listed(*arguments: str) -> list[str]:
        return [row["id"] for row in run_main("--config", str(config), "list", "--json", *arguments).json]

    first = listed("--limit", "3")
    assert first + listed("--limit", "3", "--after", first[-1]) == ids
    assert sorted(listed()) == ids
    assert listed("--after", ids[3], "--customer-id", "0123456-7") == ids[4:]
    assert listed("--customer-id", "none") == []


def test_postgresql_is_told_which_commands_to_run(config: Path) -> None:
    """Its own tools make and restore its backups."""
    config.write_text(CONFIG + '[journal]\nurl = "postgresql+psycopg://varmenne@db/journal"\n')
    done = run(config, "backup", "/backup/file", "--json")
    assert done.code == 4
    assert json.loads(done.out)["error"]["next_step"] == (
        "Run: pg_dump --format=custom --dbname='postgresql://varmenne@db/journal' --file=/backup/file"
    )
    done = run(config, "restore", config)
    assert done.code == 4
    assert "pg_restore" in done.err
    assert run(config, "path").out == "postgresql+psycopg://varmenne@db/journal\n"


def test_a_password_in_the_url_is_refused_by_every_command(config: Path) -> None:
    """The password is not repeated."""
    config.write_text(CONFIG + '[journal]\nurl = "postgresql://varmenne:hunter2@db/journal"\n')
    for command in (["list"], ["journal", "path"], ["journal", "check"], ["journal", "restore"]):
        done = run_main("--config", str(config), *command)
        assert done.code == 3
        assert "hunter2" not in done.out + done.err
        assert "journal.password" in done.err
    assert os.listdir(config.parent) == ["varmenne.toml"]  # noqa: PTH208 - names alone
