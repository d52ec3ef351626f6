"""``varmenne run`` as a process: it tells the service manager how it is, obeys signals, and ends clean."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from harness.stage import PATIENCE_SECONDS, Stage
from varmenne.domain.hooks import HookEvent
from varmenne.domain.steps import State
from varmenne.service.interface import Operation

AGE = timedelta(days=730 - 40)
APPROLE = {"method": "approle", "role_id": "x"}


class Manager:
    """Listens as systemd does."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self._socket.settimeout(0.1)
        self.heard: list[str] = []

    def until(self, line: str, times: int = 1, seconds: float = PATIENCE_SECONDS) -> None:
        """Listen until a line was heard so often."""
        deadline = time.monotonic() + seconds
        while sum(heard.startswith(line) for heard in self.heard) < times:
            assert time.monotonic() < deadline, self.heard
            try:
                self.heard += self._socket.recv(4096).decode().splitlines()
            except TimeoutError:
                continue

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()


@pytest.fixture
def manager() -> Iterator[Manager]:
    """Return a service manager that listens."""
    # A path of a socket has at most 108 bytes, which pytest's folders may exceed.
    folder = Path(f"/tmp/vm-{os.getpid()}-{time.monotonic_ns()}")  # noqa: S108 - made here, private, and removed
    folder.mkdir(mode=0o700)
    listening = Manager(folder)
    yield listening
    listening.close()
    listening.path.unlink()
    folder.rmdir()


@contextmanager
def running(stage: Stage, manager: Manager, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run the agent for the block, and end it hard if the block did not."""
    environment = {**stage.environment(), "NOTIFY_SOCKET": str(manager.path), **more}
    with stage.start("run", env=environment) as process:
        try:
            manager.until("READY=1")
            yield process
        finally:
            process.kill()


def ended(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    """Wait for the end, and return exit code and words."""
    _out, err = process.communicate(timeout=PATIENCE_SECONDS)
    return process.returncode, err.decode()


def until(stage: Stage, wanted: list[State]) -> None:
    """Look until the enrollments have come so far."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (found := [row.state for row in sorted(stage.rows(), key=lambda row: row.created_at)]) != wanted:
        assert time.monotonic() < deadline, found
        time.sleep(0.1)


def test_it_renews_and_ends_by_sigterm(stage: Stage, manager: Manager) -> None:
    """Ready, then at work without a word from anybody; SIGTERM ends it with exit code 0."""
    stage.aged(stage.order(), AGE)
    _make_due(stage)
    with running(stage, manager) as process:
        until(stage, [State.SUPERSEDED, State.ACTIVE])
        process.send_signal(signal.SIGTERM)
        manager.until("STOPPING=1")
        code, err = ended(process)
    assert code == 0, err
    assert "Traceback" not in err
    assert all(row.owner is None for row in stage.rows())


def _make_due(stage: Stage) -> None:
    """Have the certificate looked at now; otherwise the agent waits for the day."""
    import sqlite3

    with contextlib.closing(sqlite3.connect(stage.state_dir / "journal.sqlite")) as database, database:
        database.execute("UPDATE enrollment SET due_at = created_at WHERE state = 'active'")


def test_it_tells_that_it_is_alive(stage: Stage, manager: Manager) -> None:
    """At least twice in the time that the manager allows."""
    with running(stage, manager, WATCHDOG_USEC="1000000") as process:
        begin = time.monotonic()
        manager.until("WATCHDOG=1", times=6)
        assert time.monotonic() - begin < 6
        process.send_signal(signal.SIGINT)
        assert ended(process)[0] == 0


def test_sighup_reads_the_settings_anew(stage: Stage, manager: Manager) -> None:
    """Good ones are taken over, bad ones are refused by name and the old ones stay; it goes on either way."""
    with running(stage, manager) as process:
        stage.configure(renewal={"lead_days": 30.0})
        process.send_signal(signal.SIGHUP)
        manager.until("RELOADING=1")
        manager.until("READY=1", times=2)
        good = stage.config.read_text()
        stage.config.write_text(good.replace("lead_days", "leed_days"))
        process.send_signal(signal.SIGHUP)
        manager.until("RELOADING=1", times=2)
        manager.until("READY=1", times=3)
        stage.config.write_text(good)
        process.send_signal(signal.SIGTERM)
        code, err = ended(process)
    assert code == 0
    assert "the settings were read anew" in err
    assert "leed_days" in err
    assert "the old ones stay" in err


def test_bad_settings_are_taken_over_in_no_part(stage: Stage, manager: Manager) -> None:
    """Metrics that cannot be shown: the workers stay as many as they were, and the old metrics are shown on."""
    # Together they would be longer than the path of a socket may be.
    shown = manager.path.with_name("metrics")
    stage.configure(agent={"workers": 1}, metrics={"listen": f"unix:{shown}"})
    with running(stage, manager) as process:
        tasks = Path(f"/proc/{process.pid}/task")
        before = len(list(tasks.iterdir()))
        stage.configure(agent={"workers": 9}, metrics={"listen": "unix:/nonexistent/metrics"})
        process.send_signal(signal.SIGHUP)
        manager.until("READY=1", times=2)
        assert len(list(tasks.iterdir())) < before + 8  # Other threads come and go.
        assert shown.is_socket()
        process.send_signal(signal.SIGTERM)
        code, err = ended(process)
    assert code == 0
    assert "reload-refused" in err


def test_a_slow_answer_does_not_keep_it_from_ending(stage: Stage, manager: Manager) -> None:
    """What is under way is finished or parked; the next start goes on from there, and asks once."""
    stage.aged(stage.order(), AGE)
    _make_due(stage)
    stage.bench.state.fault("slow", operation=Operation.RENEW)
    with running(stage, manager) as process:
        until(stage, [State.ACTIVE, State.SUBMITTING])
        process.send_signal(signal.SIGTERM)
        assert ended(process)[0] == 0
    states = [row.state for row in sorted(stage.rows(), key=lambda row: row.created_at)]
    assert states[0] is State.ACTIVE
    assert states[1] in {State.KEYED, State.ACCEPTED}


READ_ONCE: dict[str, tuple[dict[str, dict[str, object]], str]] = {
    "a PIN that is typed": ({"token": {"pin": "prompt"}}, "token.pin"),
    "a PIN from a descriptor": ({"token": {"pin": "fd:0"}}, "token.pin"),
    "a secret ID that is typed": ({"vault": {"login": APPROLE | {"secret_id": "prompt"}}}, "vault.login.secret_id"),
    "a secret ID in memory": (
        {"vault": {"login": APPROLE | {"role": "agent", "wrapped_secret_id": "file:/x"}}},
        "vault.login.secret_id",
    ),
    "a password from a descriptor": (
        {"journal": {"url": "postgresql://nobody@/nowhere", "password": "fd:0"}},
        "journal.password",
    ),
}
"""What it is → settings, and the one that is to be changed."""


@pytest.mark.parametrize("how", [[], ["--once"]], ids=["for years", "once"])
@pytest.mark.parametrize("secret", READ_ONCE)
def test_secrets_must_be_there_a_second_time(stage: Stage, secret: str, how: list[str]) -> None:
    """Nobody sits there, and each worker logs in by itself: it says so at the start, and not at the first renewal."""
    settings, named = READ_ONCE[secret]
    stage.configure(**settings)
    result = stage.run("run", *how)
    assert result.code == 3, result
    assert f"`{named}` to file:PATH" in result.err


def test_once_tells_what_it_did(stage: Stage) -> None:
    """Words for people, numbers for programs, and an exit code for timers."""
    assert stage.run("run", "--once").out == "Nothing was due.\n"
    stage.aged(stage.order(), AGE)
    _make_due(stage)
    done: dict[str, Any] = stage.run("run", "--once", "--json").json
    assert done["failed"] == 0
    assert done["carried"] >= 2
    assert [row.state for row in sorted(stage.rows(), key=lambda row: row.created_at)] == [
        State.SUPERSEDED,
        State.ACTIVE,
    ]


def test_once_ends_with_the_code_of_what_failed(stage: Stage) -> None:
    """A timer that fails is noticed."""
    stage.aged(stage.order(), AGE)
    _make_due(stage)
    stage.configure(service={"endpoint": "https://127.0.0.1:9/"}, renewal={"automatic": False})
    result = stage.run("run", "--once")
    assert result.code == 15, result
    assert "1 failed" in result.out


def test_once_ends_with_the_code_of_a_hook_that_failed(stage: Stage) -> None:
    """The certificate is in use and nothing else is wrong: that nobody reloaded it is what a timer must notice."""
    folder = stage.folder / "hooks"
    hook = folder / "post-activate" / "reload"
    for event in HookEvent:
        (folder / event).mkdir(mode=0o755, parents=True)
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    stage.aged(stage.order(), AGE)
    _make_due(stage)
    stage.configure(hooks={"directory": str(folder)})
    result = stage.run("run", "--once", "--json")
    assert result.code == 17, result
    assert (result.json["failed"], result.json["hooks"], result.json["hooks_failing"]) == (0, 1, 1)


def test_nothing_is_made_where_the_journal_cannot_be(stage: Stage) -> None:
    """A state folder that is a file is told at once."""
    stage.configure(state_dir=str(stage.config))
    result = stage.run("run", "--once")
    assert result.code == 12, result
