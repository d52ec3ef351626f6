"""The journal cannot be written, or two commands want one enrollment: told before anything is made or sent."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from harness.postgresql import PostgreSQL
from harness.stage import Result, Stage, Template
from varmenne.domain.steps import State
from varmenne.journal import Journal


def enrolling(stage: Stage, customer: str) -> list[str]:
    """Return a command that enrolls."""
    return ["enroll", "--customer-id", customer, "--credentials", str(stage.credentials_file(stage.order(customer)))]


def run_under(stage: Stage, wrapper: list[str], command: list[str]) -> Result:
    """Run the command line as a process of its own, under another program."""
    done = subprocess.run(
        [*wrapper, sys.executable, "-m", "varmenne", *command],
        check=False, capture_output=True, text=True, timeout=60, env=stage.environment(), cwd=stage.folder,
    )  # fmt: skip
    return Result(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def read_only(stage: Stage) -> Iterator[list[str]]:
    """Make the state folder read-only; yield what to put before a command so that this holds for root too."""
    paths = [stage.state_dir, *stage.state_dir.iterdir()]
    for path in paths:
        path.chmod(0o500 if path.is_dir() else 0o400)
    setpriv = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all", "--"]
    assert os.getuid() or shutil.which("setpriv"), "setpriv is missing: install the package util-linux"
    yield [] if os.getuid() else setpriv
    for path in paths:
        path.chmod(0o700 if path.is_dir() else 0o600)


def test_a_read_only_journal(stage: Stage, read_only: list[str]) -> None:
    """It is told with what to check; neither key nor request is made."""
    failed = run_under(stage, read_only, enrolling(stage, "1111111-1"))
    assert failed.code == 12, failed
    assert "cannot be used" in failed.err
    assert "that this user may write there" in failed.err
    assert (stage.keys(), len(stage.bench.state.log())) == (frozenset(), 0)


def test_a_full_disk(stage: Stage) -> None:
    """Room for an answer is tried first; with room again, the same command goes through."""
    command = enrolling(stage, "1111111-1")
    size = max(path.stat().st_size for path in stage.state_dir.iterdir())
    failed = run_under(stage, ["prlimit", f"--fsize={size + 100_000}"], command)
    assert failed.code == 12, failed
    assert "Check that the disk has room" in failed.err
    assert (stage.rows(), stage.keys(), len(stage.bench.state.log())) == ((), frozenset(), 0)
    assert run_under(stage, [], command).code == 0
    (row,) = stage.rows()
    assert row.state is State.ACTIVE


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_the_same_command_three_times_at_once(
    stage: Stage, postgresql: PostgreSQL, token_template: Template, database: str
) -> None:
    """One of them does the work; the others say who is at it, or that it is done. It is sent once, with one key."""
    if database == "postgresql":
        stage.configure(journal={"url": postgresql.new_database()})
        at, fit, result = token_template.probe
        with Journal(stage.state_dir.with_name("fleet"), stage.settings.journal) as journal:
            journal.save_probe(token_template.name, at, fit=fit, result=result)
        stage.configure(state_dir=str(stage.state_dir.with_name("fleet")), journal={"url": stage.settings.journal.url})
    command = enrolling(stage, "1111111-1")
    processes = [stage.start(*command) for _ in range(3)]
    ends = [process.communicate(timeout=60) for process in processes]
    codes = sorted(process.returncode for process in processes)
    assert codes[0] == 0, ends
    assert set(codes) <= {0, 13}, ends
    (row,) = stage.rows()
    assert (row.state, row.owner) == (State.ACTIVE, None)
    assert stage.keys_of(row) == stage.sent() == len(stage.keys()) == len(stage.versions("1111111-1")) == 1
    assert all(b"locked" not in err and b"Traceback" not in err for _out, err in ends)
