"""Hooks and processes that end in their midst: they are run again, and never lost."""

from __future__ import annotations

import signal
import time
from datetime import timedelta
from pathlib import Path

import pytest

from harness.hooks import HOUR, POST, PRE, Hooks, until
from harness.stage import CUSTOMER, Listener
from harness.years import WAIT
from varmenne.clock import system_clock
from varmenne.domain.hooks import MOST_TRIES, HookEvent, HookOutcome
from varmenne.domain.identifiers import Environment
from varmenne.domain.steps import State
from varmenne.enrollment.enroll import go_on
from varmenne.journal import Among


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_around_the_commit(hooks: Hooks, when: str) -> None:
    """Between the commit and the run, or before it: the hook is run in the end, for a person as for the agent."""
    hooks.write(PRE, "check")
    hooks.write(POST, "reload")
    file = hooks.stage.credentials_file(hooks.stage.order())
    command = ("enroll", "--customer-id", CUSTOMER, "--credentials", file)
    result = hooks.stage.command(f"{when} commit stored to active", *command, module="harness.killer")
    assert result.code == -signal.SIGKILL
    assert hooks.runs() == [f"{PRE} check"]
    assert hooks.stage.run("resume", "--all").code == 0
    assert hooks.row().state is State.ACTIVE
    assert hooks.runs() == [f"{PRE} check", f"{POST} reload"]
    assert hooks.stage.run("resume", hooks.row().id).code == 0
    assert len(hooks.runs()) == 2


def test_resume_of_one_runs_its_own(hooks: Hooks) -> None:
    """An enrollment that is done, but for its hooks, is finished by name too."""
    hooks.write(POST, "reload")
    file = hooks.stage.credentials_file(hooks.stage.order())
    command = ("enroll", "--customer-id", CUSTOMER, "--credentials", file)
    hooks.stage.command("after commit stored to active", *command, module="harness.killer")
    assert hooks.runs() == []
    assert hooks.stage.run("resume", hooks.row().id).code == 0
    assert hooks.runs() == [f"{POST} reload"]


def test_an_agent_runs_what_a_killed_command_has_left(hooks: Hooks) -> None:
    """Nobody need know that there was a crash."""
    hooks.write(POST, "reload")
    file = hooks.stage.credentials_file(hooks.stage.order())
    command = ("enroll", "--customer-id", CUSTOMER, "--credentials", file)
    hooks.stage.command("after commit stored to active", *command, module="harness.killer")
    assert hooks.runs() == []
    assert hooks.stage.command("run", "--once", "--wait", "0").code == 0
    assert hooks.runs() == [f"{POST} reload"]


def test_a_slow_one_before_keeps_the_row(hooks: Hooks) -> None:
    """While it runs, which may be long, no other process takes the enrollment for abandoned."""
    hooks.stage.configure(hooks={"directory": str(hooks.folder), "timeout_seconds": 900.0})
    mark = hooks.stage.folder / "running"
    hooks.write(PRE, "slow", f"touch {mark}; sleep 1")
    file = hooks.stage.credentials_file(hooks.stage.order())
    with hooks.stage.start("enroll", "--customer-id", CUSTOMER, "--credentials", file) as process:
        until(mark.exists)
        row = hooks.row()
        assert row.due_at is not None
        assert row.due_at - system_clock() > timedelta(seconds=900)
        assert process.wait(30) == 0


@pytest.mark.parametrize("event", [PRE, POST])
def test_killed_while_a_hook_runs(hooks: Hooks, event: HookEvent) -> None:
    """Nobody knows how far it came, so it is run once more: one after, when its lease is over."""
    mark = hooks.stage.folder / "running"
    path = hooks.write(event, "hook", f"touch {mark}; sleep 3")
    file = hooks.stage.credentials_file(hooks.stage.order())
    with hooks.stage.start("enroll", "--customer-id", CUSTOMER, "--credentials", file) as process:
        until(mark.exists)
        process.kill()
    assert [outcome for _name, outcome, _tries in hooks.known()] == [HookOutcome.RUNNING]
    path.write_text(path.read_text("utf-8").replace("sleep 3", ""), encoding="utf-8")
    with hooks.parts() as parts:
        go_on(parts, Listener(), hooks.row(), wait=WAIT)
    assert len(hooks.runs()) == (2 if event is PRE else 1)
    assert hooks.later(5 * timedelta(minutes=1)) == (0 if event is PRE else 1)
    assert hooks.known() == [("hook", HookOutcome.OK, 2)]


def test_one_that_kills_its_caller_is_given_up(hooks: Hooks) -> None:
    """A try is counted before it begins, so a hook that takes the agent down with it does not do so for ever."""
    hooks.write(POST, "killer", "kill -9 $PPID")
    file = hooks.stage.credentials_file(hooks.stage.order())
    killed = hooks.stage.command("enroll", "--customer-id", CUSTOMER, "--credentials", file)
    assert killed.code == -signal.SIGKILL
    with hooks.parts() as parts:
        for _ in range(MOST_TRIES - 1):
            hooks.passed += HOUR
            run = parts.journal.hooks.claim(parts.now, lease=HOUR, among=Among(Environment.TEST))
            assert run is not None
    assert hooks.later(2 * HOUR) == 1
    assert hooks.known() == [("killer", HookOutcome.FAILED, MOST_TRIES + 1)]
    assert len(hooks.runs()) == 1


def test_ctrl_c_while_a_hook_runs(hooks: Hooks) -> None:
    """The hook is ended with the command, and is due at once for whoever looks next."""
    mark = hooks.stage.folder / "pid"
    hooks.write(POST, "slow", f"echo $$ > {mark}.new; mv {mark}.new {mark}; exec sleep 60")
    file = hooks.stage.credentials_file(hooks.stage.order())
    with hooks.stage.start("enroll", "--customer-id", CUSTOMER, "--credentials", file) as process:
        until(mark.exists)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    assert not Path(f"/proc/{mark.read_text('utf-8').strip()}").exists()
    assert [(run.outcome, run.detail) for run in hooks.of()] == [(HookOutcome.FAILING, "it was interrupted")]
    hooks.write(POST, "slow")
    assert hooks.later(timedelta()) == 1
    assert hooks.known() == [("slow", HookOutcome.OK, 2)]
