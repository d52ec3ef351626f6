"""Hooks around an activation and after a failure: in time, with the facts, once more if they fail, and never lost."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from harness.stage import CUSTOMER, NAME, Listener, Stage, order_for
from harness.years import IN_THE_WINDOW, Years
from varmenne.clock import system_clock
from varmenne.domain.enrollment import Enrollment
from varmenne.domain.hooks import MOST_TRIES, HookEvent, HookOutcome, HookRun
from varmenne.domain.steps import State
from varmenne.enrollment.enroll import enroll, go_on
from varmenne.enrollment.hooks import queue, run_due
from varmenne.enrollment.parts import Parts
from varmenne.enrollment.renew import activate
from varmenne.enrollment.standing import order_days
from varmenne.errors import ConfigError, HookFailed, InputError

PRE, POST = HookEvent.PRE_ACTIVATE, HookEvent.POST_ACTIVATE
AWAY = {"kind": "TokenUnavailable", "what": "The token is away", "why": "unplugged", "next_step": "Plug it in"}
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
WAIT = timedelta(seconds=20)


class Hooks:
    """A stage with a folder of hooks, each of which writes a line to a log when it is run."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.folder = stage.folder / "hooks"
        self.log = stage.folder / "hooks.log"
        self.passed = timedelta()
        for event in HookEvent:
            (self.folder / event).mkdir(parents=True)
        stage.configure(hooks={"directory": str(self.folder), "timeout_seconds": 5.0})

    def write(self, event: HookEvent, name: str, then: str = "exit 0") -> Path:
        """Write a hook that notes its run, and then does what it is for."""
        path = self.folder / event / name
        path.write_text(f'#!/bin/sh\necho "$VARMENNE_EVENT {name}" >> {self.log}\n{then}\n', encoding="utf-8")
        path.chmod(0o755)
        return path

    def runs(self) -> list[str]:
        """Return the lines of the log: what was run so far, in order."""
        return self.log.read_text(encoding="utf-8").splitlines() if self.log.exists() else []

    def parts(self) -> Parts:
        """Return the parts, at the present moment."""
        return self.stage.parts(clock=lambda: system_clock() + self.passed)

    def enrolled(self) -> Enrollment:
        """Get a certificate."""
        order = self.stage.order(CUSTOMER, name=NAME)
        with self.parts() as parts:
            given = self.stage.credentials(order)
            return enroll(parts, Listener(), order_for(CUSTOMER, name=NAME), given, wait=WAIT)

    def row(self) -> Enrollment:
        """Return the only enrollment."""
        (row,) = self.stage.rows()
        return row

    def known(self, row: Enrollment | None = None) -> list[tuple[str, HookOutcome, int]]:
        """Return name, outcome and tries of the hooks of an enrollment, as the journal has them."""
        return [(run.name, run.outcome, run.tries) for run in self.of(row)]

    def of(self, row: Enrollment | None = None) -> tuple[HookRun, ...]:
        """Return the hooks of an enrollment."""
        with self.parts() as parts:
            return parts.journal.hooks.of((row or self.row()).id)

    def later(self, time: timedelta) -> int:
        """Let time pass, and run what is due then."""
        self.passed += time
        with self.parts() as parts:
            return run_due(parts)


@pytest.fixture
def hooks(stage: Stage) -> Hooks:
    """Return a stage with hooks."""
    return Hooks(stage)


def test_around_an_activation(hooks: Hooks, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those before see a staged certificate, those after one in use, and neither a secret."""
    monkeypatch.setenv("VAULT_TOKEN", "hvs.secret")
    folder = hooks.stage.folder
    for event in (PRE, POST):
        for name in ("20-second", "10-first"):
            hooks.write(event, name, f"cat > {folder}/{event}-{name}.json; env > {folder}/{event}-{name}.env")
    row = hooks.enrolled()
    assert hooks.runs() == [f"{event} {name}" for event in (PRE, POST) for name in ("10-first", "20-second")]
    before, after = (json.loads((folder / f"{event}-10-first.json").read_text("utf-8")) for event in (PRE, POST))
    assert (before["state"], before["vault_version"], before["event"]) == ("stored", None, "pre-activate")
    assert (after["state"], after["vault_version"], after["event"]) == ("active", 1, "post-activate")
    assert (after["enrollment"], after["customer_id"], after["customer_name"]) == (row.id, CUSTOMER, NAME)
    assert (after["serial_number"], after["generation"], after["certificate"]) == (
        row.serial_number,
        1,
        row.certificate,
    )
    assert after["order_by"] < after["not_after"]
    assert after["key_uri"].startswith("pkcs11:")
    found = dict(line.split("=", 1) for line in (folder / f"{POST}-10-first.env").read_text("utf-8").splitlines())
    assert found["VARMENNE_ENROLLMENT"] == row.id
    assert found["VARMENNE_SERIAL_NUMBER"] == row.serial_number
    assert found["VARMENNE_NOT_AFTER"] == after["not_after"]
    assert found["VARMENNE_GENERATION"] == "1"
    assert found["VARMENNE_KEY_URI"] == after["key_uri"]
    pin = Path(hooks.stage.token.pin.removeprefix("file:")).read_text("utf-8").strip()
    secret_id = (folder / "secret-id").read_text("utf-8").strip()
    told = "".join(path.read_text("utf-8") for event in (PRE, POST) for path in folder.glob(f"{event}-*"))
    for secret in (pin, secret_id, "hvs.secret"):
        assert secret not in told
    assert [outcome for _name, outcome, _tries in hooks.known(row)] == [HookOutcome.OK] * 4


def test_every_documented_fact_is_there(hooks: Hooks) -> None:
    """The table in the documentation names exactly what hooks are told."""
    document = (Path(__file__).parents[2] / "docs" / "hooks.md").read_text(encoding="utf-8")
    table = document.split("| fact | ")[1].split("\n\n")[0]
    named = [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")]
    hooks.write(POST, "facts", f"cat > {hooks.stage.folder}/facts.json")
    hooks.enrolled()
    assert named == list(json.loads((hooks.stage.folder / "facts.json").read_text("utf-8")))


def test_one_before_holds_the_activation_up(hooks: Hooks) -> None:
    """It fails: nothing is published. When it succeeds, those that did before are not run again."""
    hooks.write(PRE, "10-fine")
    hooks.write(PRE, "20-check", "echo no such server >&2; exit 7")
    hooks.write(PRE, "30-last")
    hooks.write(POST, "reload")
    with pytest.raises(HookFailed, match="exit code 7: no such server") as caught:
        hooks.enrolled()
    row = hooks.row()
    assert caught.value.exit_code == 17
    assert (row.state, row.owner) == (State.STORED, None)
    assert row.due_at is not None
    assert row.problem is not None
    assert row.problem["kind"] == "HookFailed"
    assert hooks.stage.vault.root.secrets.kv.v2.list_secrets(
        f"{hooks.stage.vault.settings.prefix}/test/{CUSTOMER}/ws", mount_point=hooks.stage.vault.settings.mount
    )["data"]["keys"] == ["generation-1"]
    assert hooks.known() == [("10-fine", HookOutcome.OK, 1), ("20-check", HookOutcome.FAILED, 1)]
    with hooks.parts() as parts:
        assert parts.journal.hooks.in_trouble() == ()  # The enrollment's own problem says it, with what to do.
    assert hooks.later(DAY) == 0
    hooks.write(PRE, "20-check")
    with hooks.parts() as parts:
        assert go_on(parts, Listener(), row, wait=WAIT).state is State.ACTIVE
    assert hooks.runs() == [
        f"{PRE} 10-fine", f"{PRE} 20-check", f"{PRE} 20-check", f"{PRE} 30-last", f"{POST} reload",
    ]  # fmt: skip
    assert hooks.known()[1] == ("20-check", HookOutcome.OK, 2)


def test_one_before_has_only_its_time(hooks: Hooks) -> None:
    """One that hangs is ended, and the certificate waits."""
    hooks.stage.configure(hooks={"directory": str(hooks.folder), "timeout_seconds": 0.5})
    hooks.write(PRE, "hang", "sleep 60")
    with pytest.raises(HookFailed, match=r"took longer than 0\.5 s"):
        hooks.enrolled()
    assert hooks.row().state is State.STORED


def test_unusable_hooks_hold_the_activation_up(hooks: Hooks) -> None:
    """If others could change them, nothing is put to use in silence without them, nor with them."""
    hooks.write(POST, "reload")
    (hooks.folder / POST).chmod(0o777)
    with pytest.raises(ConfigError, match="others may write to"):
        hooks.enrolled()
    assert hooks.row().state is State.STORED
    assert hooks.runs() == []


def test_one_after_undoes_nothing(hooks: Hooks) -> None:
    """It fails: the certificate is in use, the others are run, and it alone is tried again, after a while."""
    hooks.write(POST, "10-mail", "echo no route; exit 1")
    hooks.write(POST, "20-reload")
    with pytest.raises(HookFailed, match="10-mail of post-activate: it ended with exit code 1: no route"):
        hooks.enrolled()
    row = hooks.row()
    assert row.state is State.ACTIVE
    assert hooks.known() == [("10-mail", HookOutcome.FAILING, 1), ("20-reload", HookOutcome.OK, 1)]
    with hooks.parts() as parts:
        assert [run.name for run in parts.journal.hooks.in_trouble()] == ["10-mail"]
    assert hooks.later(timedelta(minutes=1)) == 0
    assert hooks.later(timedelta(minutes=6)) == 1
    assert hooks.known() == [("10-mail", HookOutcome.FAILING, 2), ("20-reload", HookOutcome.OK, 1)]
    hooks.write(POST, "10-mail")
    assert hooks.later(HOUR) == 1
    assert hooks.known() == [("10-mail", HookOutcome.OK, 3), ("20-reload", HookOutcome.OK, 1)]
    assert hooks.later(DAY) == 0
    assert hooks.runs().count(f"{POST} 20-reload") == 1


def test_one_that_never_succeeds_is_given_up(hooks: Hooks) -> None:
    """After about a day of tries it stops, shows, and is run again when a person says so."""
    hooks.write(POST, "mail", "exit 1")
    with pytest.raises(HookFailed):
        hooks.enrolled()
    assert sum(hooks.later(8 * HOUR) for _ in range(20)) == MOST_TRIES - 1
    assert hooks.known() == [("mail", HookOutcome.FAILED, MOST_TRIES)]
    shown = hooks.stage.run("show", hooks.row().id)
    assert "post-activate mail" in shown.out
    assert "failed, it ended with exit code 1" in shown.out
    assert hooks.stage.run("hooks", "retry", hooks.row().id).code == 17
    hooks.write(POST, "mail")
    done = hooks.stage.run("hooks", "retry", "--json")
    assert (done.code, done.json[0]["name"], done.json[0]["outcome"]) == (0, "mail", "ok")
    assert hooks.stage.run("hooks", "retry", "--json").json == []


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
        _until(mark.exists)
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
        _until(mark.exists)
        process.kill()
    assert [outcome for _name, outcome, _tries in hooks.known()] == [HookOutcome.RUNNING]
    path.write_text(path.read_text("utf-8").replace("sleep 3", ""), encoding="utf-8")
    with hooks.parts() as parts:
        go_on(parts, Listener(), hooks.row(), wait=WAIT)
    assert len(hooks.runs()) == (2 if event is PRE else 1)
    assert hooks.later(5 * timedelta(minutes=1)) == (0 if event is PRE else 1)
    assert hooks.known() == [("hook", HookOutcome.OK, 2)]


def _until(true: Callable[[], bool]) -> None:
    """Wait for something that another process does."""
    until = time.monotonic() + 30
    while not true():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_one_that_kills_its_caller_is_given_up(hooks: Hooks) -> None:
    """A try is counted before it begins, so a hook that takes the agent down with it does not do so for ever."""
    hooks.write(POST, "killer", "kill -9 $PPID")
    file = hooks.stage.credentials_file(hooks.stage.order())
    killed = hooks.stage.command("enroll", "--customer-id", CUSTOMER, "--credentials", file)
    assert killed.code == -signal.SIGKILL
    with hooks.parts() as parts:
        for _ in range(MOST_TRIES - 1):
            hooks.passed += HOUR
            run = parts.journal.hooks.claim(parts.now, lease=HOUR, among=_ours())
            assert run is not None
    assert hooks.later(2 * HOUR) == 1
    assert hooks.known() == [("killer", HookOutcome.FAILED, MOST_TRIES + 1)]
    assert len(hooks.runs()) == 1


def _ours() -> Any:
    """Return the enrollments of the stage's environment."""
    from varmenne.domain.identifiers import Environment
    from varmenne.journal import Among

    return Among(Environment.TEST)


def test_one_that_was_overtaken_is_dropped(stage: Stage) -> None:
    """Reloading for a certificate that was replaced could put the old one back."""
    hooks, years = Hooks(stage), Years(stage)
    hooks.write(POST, "a", "exit 1")
    with pytest.raises(HookFailed):
        years.first()
    (first,) = stage.rows()
    hooks.write(POST, "a")
    years.pass_by(IN_THE_WINDOW)
    second = years.renewed(first)
    with years.parts() as parts:
        assert run_due(parts) == 1
        told = [(run.outcome, run.detail) for run in parts.journal.hooks.of(first.id)]
    assert told == [(HookOutcome.DROPPED, "the certificate is superseded by now")]
    assert hooks.known(second) == [("a", HookOutcome.OK, 1)]


def test_one_that_was_removed_is_dropped(hooks: Hooks) -> None:
    """Nobody wants it to be run any more."""
    path = hooks.write(POST, "reload", "exit 1")
    with pytest.raises(HookFailed):
        hooks.enrolled()
    path.unlink()
    assert hooks.later(HOUR) == 1
    assert [(run.outcome, run.detail) for run in hooks.of()] == [
        (HookOutcome.DROPPED, "it is not in its folder any more")
    ]


def test_a_slow_one_of_an_old_certificate_does_not_end_last(stage: Stage) -> None:
    """Generation 1 is put back while the hook of generation 2 runs: its own waits, so what is served is as in Vault."""
    hooks, years = Hooks(stage), Years(stage)
    first = years.first()
    begun, served = stage.folder / "begun", stage.folder / "served"
    hooks.write(
        POST,
        "reload",
        f'[ "$VARMENNE_GENERATION" = 1 ] || {{ touch {begun}; sleep 2; }}; echo "$VARMENNE_GENERATION" > {served}',
    )
    years.pass_by(IN_THE_WINDOW)
    renewal = threading.Thread(target=years.renewed, args=(first,))
    renewal.start()
    _until(begun.exists)
    with years.parts() as parts:
        activate(parts, Listener(), years.get(first), generation=1)
    renewal.join(30)
    assert (years.record()["generation"], served.read_text("utf-8")) == (1, "1\n")
    assert [run.outcome for run in hooks.of(first)] == [HookOutcome.OK]


def test_the_day_to_order_is_that_of_the_status(stage: Stage) -> None:
    """It counts from the first renewal that failed, wherever it is told."""
    hooks, years = Hooks(stage), Years(stage)
    first = years.first()
    hooks.write(HookEvent.FAILED, "note", f'echo "$VARMENNE_ORDER_BY" > {stage.folder}/order-by')
    years.pass_by(IN_THE_WINDOW)
    assert first.certificate is not None
    stage.bench.state.revoke(x509.load_pem_x509_certificate(first.certificate.encode()).serial_number)
    for _ in range(3):
        years.once()
        years.pass_by(9 * DAY)
    assert [row.state for row in years.rows()] == [State.ACTIVE, *[State.REJECTED] * 3]
    with years.parts() as parts:
        shown = order_days(parts)[first.id]
        queue(parts, years.get(first), HookEvent.FAILED, AWAY)
        run_due(parts)
    assert (stage.folder / "order-by").read_text("utf-8") == f"{shown:%Y-%m-%dT%H:%M:%SZ}\n"


def test_going_back_runs_them_again(stage: Stage) -> None:
    """Each time that a certificate is put to use is an activation of its own."""
    hooks, years = Hooks(stage), Years(stage)
    hooks.write(PRE, "check")
    hooks.write(POST, "reload")
    first = years.first()
    years.pass_by(IN_THE_WINDOW)
    second = years.renewed(first)
    with years.parts() as parts:
        back = activate(parts, Listener(), second, generation=1)
    assert (back.id, back.state) == (first.id, State.ACTIVE)
    assert hooks.runs() == [f"{PRE} check", f"{POST} reload"] * 3
    assert [outcome for _name, outcome, _tries in hooks.known(first)] == [HookOutcome.OK] * 4


def test_a_failure_is_told_once_a_day(hooks: Hooks) -> None:
    """With its reason; another reason at once; and to each hook of the event."""
    folder = hooks.stage.folder
    hooks.write(HookEvent.FAILED, "mail", f"cat > {folder}/told.json")
    hooks.write(HookEvent.FAILED, "page")
    hooks.write(HookEvent.ATTENTION, "mail")
    row = hooks.enrolled()

    def told(event: HookEvent, reason: dict[str, str]) -> int:
        with hooks.parts() as parts:
            queue(parts, row, event, reason)
            return run_due(parts)

    assert told(HookEvent.FAILED, AWAY) == 2
    found = json.loads((folder / "told.json").read_text("utf-8"))
    assert (found["event"], found["reason"], found["enrollment"]) == ("failed", AWAY, row.id)
    assert told(HookEvent.FAILED, AWAY) == 0
    assert told(HookEvent.FAILED, {**AWAY, "why": "locked"}) == 2
    assert told(HookEvent.ATTENTION, AWAY) == 1
    hooks.passed += timedelta(hours=25)
    assert told(HookEvent.FAILED, AWAY) == 2


def test_without_hooks_nothing_is_kept(stage: Stage) -> None:
    """Neither without a folder, nor without an executable in it; nor is anything lost if it cannot be read."""
    hooks = Hooks(stage)
    row = hooks.enrolled()
    with hooks.parts() as parts:
        queue(parts, row, HookEvent.FAILED, AWAY)
        assert parts.journal.hooks.of(row.id) == ()
    stage.configure()
    with hooks.parts() as parts:
        queue(parts, row, HookEvent.FAILED, AWAY)
        assert run_due(parts) == 0
        assert parts.journal.hooks.of(row.id) == ()


def test_a_stop_leaves_the_rest(hooks: Hooks) -> None:
    """An agent that is to end runs no further hook; they are due still."""
    for name in ("a", "b", "c"):
        hooks.write(HookEvent.FAILED, name)
    row = hooks.enrolled()
    with hooks.parts() as parts:
        queue(parts, row, HookEvent.FAILED, AWAY)
        assert run_due(parts, stopping=lambda: len(hooks.runs()) == 1) == 1
        assert run_due(parts) == 2


def test_an_agent_runs_them(stage: Stage) -> None:
    """A hook holds its renewal up; another is told of that; once put right, the agent goes on by itself."""
    hooks, years = Hooks(stage), Years(stage)
    stage.configure()
    first = years.first()
    hooks.write(PRE, "check", "exit 1")
    hooks.write(POST, "reload", "exit 1")
    hooks.write(HookEvent.FAILED, "mail", f'echo "$VARMENNE_REASON_KIND" > {stage.folder}/mail')
    settings = {"directory": str(hooks.folder), "timeout_seconds": 5.0}
    years.pass_by(IN_THE_WINDOW)
    years.once(hooks=settings)
    (_first, second) = years.rows()
    assert (second.replaces, second.state) == (first.id, State.STORED)
    assert years.get(first).state is State.ACTIVE
    assert (stage.folder / "mail").read_text("utf-8") == "HookFailed\n"
    hooks.write(PRE, "check")
    years.pass_by(HOUR)
    years.once()
    assert years.get(second).state is State.ACTIVE
    assert years.get(first).state is State.SUPERSEDED
    assert hooks.known(second) == [
        ("check", HookOutcome.OK, 2),
        ("mail", HookOutcome.OK, 1),
        ("reload", HookOutcome.FAILING, 1),
    ]
    hooks.write(POST, "reload")
    years.pass_by(HOUR)
    agent = years.once()
    assert agent.tally.hooks == 1
    assert hooks.known(second)[-1] == ("reload", HookOutcome.OK, 2)
    assert hooks.runs() == [f"{PRE} check", "failed mail", f"{PRE} check", f"{POST} reload", f"{POST} reload"]


def test_a_long_turn_ends(hooks: Hooks) -> None:
    """An agent that has many hooks to run comes back to its other work in between, and nothing is left behind."""
    for name in ("a", "b", "c"):
        hooks.write(HookEvent.FAILED, name)
    row = hooks.enrolled()
    with hooks.parts() as parts:
        queue(parts, row, HookEvent.FAILED, AWAY)

        def six_minutes(_run: HookRun) -> None:
            hooks.passed += timedelta(minutes=6)

        assert run_due(parts, heard=six_minutes) == 2
        assert run_due(parts, heard=six_minutes) == 1


def test_the_log_tells_of_them(hooks: Hooks, caplog: pytest.LogCaptureFixture) -> None:
    """One event for each run, good or bad, of the one vocabulary."""
    caplog.set_level("INFO", logger="varmenne")
    hooks.write(PRE, "check")
    hooks.write(POST, "reload", "exit 1")
    with pytest.raises(HookFailed):
        hooks.enrolled()
    told = [(vars(record)["event"], vars(record)["facts"]) for record in caplog.records if "event" in vars(record)]
    assert [(event.value, facts["hook"], facts["outcome"]) for event, facts in told if "hook" in facts] == [
        ("hook-done", "check", "ok"),
        ("hook-failed", "reload", "failing"),
    ]


def test_the_commands(hooks: Hooks) -> None:
    """`hooks list` shows what is run and what is not, and why; `hooks test` runs them for trial and keeps nothing."""
    stage = hooks.stage
    row = hooks.enrolled()
    assert "There are no hooks in" in stage.run("hooks", "list").err
    hooks.write(POST, "reload", '[ "$VARMENNE_TEST" = true ] && echo "would reload for $VARMENNE_SERIAL_NUMBER"')
    hooks.write(POST, "old~")
    listed = stage.run("hooks", "list")
    assert listed.code == 0
    assert listed.out.splitlines() == [
        "post-activate  old~  NOT RUN: its name has other signs than letters, digits, `_` and `-`",
        "post-activate  reload",
    ]
    tried = stage.run("hooks", "test", "post-activate", row.id)
    assert (tried.code, tried.out) == (
        0,
        f"reload: ok, it ended with exit code 0\nwould reload for {row.serial_number}\n",
    )
    assert hooks.known(row) == []
    assert stage.run("hooks", "test", "attention", row.id).code == InputError.exit_code
    hooks.write(HookEvent.ATTENTION, "mail", "exit 2")
    assert stage.run("hooks", "test", "attention", row.id, "--json").json == [
        {"name": "mail", "ok": False, "detail": "it ended with exit code 2"}
    ]
    (hooks.folder / POST / "reload").chmod(0o777)
    listed = stage.run("hooks", "list", "--json")
    assert listed.code == 17
    assert listed.json[1]["why"] == f"others may write to {hooks.folder / POST / 'reload'}"
    checks = [line for line in stage.run("doctor", "--json").json if line["name"] == "hooks"]
    assert [(line["verdict"], line["detail"]) for line in checks] == [
        ("fail", f"post-activate reload is not run: {listed.json[1]['why']}"),
        ("ok", "attention mail"),
    ]
    stage.configure(hooks={"directory": str(hooks.folder / "missing")})
    assert stage.run("hooks", "list").code == ConfigError.exit_code


def test_show_tells_of_them(hooks: Hooks) -> None:
    """What was run, for what, when, and how it ended; for people and for programs."""
    hooks.write(PRE, "check")
    hooks.write(POST, "reload", "echo one; echo two; exit 1")
    file = hooks.stage.credentials_file(hooks.stage.order())
    result = hooks.stage.run("enroll", "--customer-id", CUSTOMER, "--credentials", file)
    assert result.code == 17
    assert "✓ it is the current certificate" in result.err
    assert "reload of post-activate" in result.err
    row = hooks.row()
    lines = [
        line.strip() for line in hooks.stage.run("show", row.id).out.splitlines() if line.strip().startswith("hook")
    ]
    assert lines[0].startswith("hook  pre-activate check, ")
    assert lines[0].endswith(": ok")
    assert ": failing, it ended with exit code 1: two; again 2" in lines[1]
    shown = hooks.stage.run("show", row.id, "--json").json["hooks"]
    assert [(line["event"], line["name"], line["outcome"], line["tries"]) for line in shown] == [
        ("pre-activate", "check", "ok", 1),
        ("post-activate", "reload", "failing", 1),
    ]
    assert datetime.fromisoformat(shown[1]["due_at"]) > system_clock()
    assert shown[1]["detail"] == "it ended with exit code 1\none\ntwo"


def test_ctrl_c_while_a_hook_runs(hooks: Hooks) -> None:
    """The hook is ended with the command, and is due at once for whoever looks next."""
    mark = hooks.stage.folder / "pid"
    hooks.write(POST, "slow", f"echo $$ > {mark}.new; mv {mark}.new {mark}; exec sleep 60")
    file = hooks.stage.credentials_file(hooks.stage.order())
    with hooks.stage.start("enroll", "--customer-id", CUSTOMER, "--credentials", file) as process:
        _until(mark.exists)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    assert not Path(f"/proc/{mark.read_text('utf-8').strip()}").exists()
    assert [(run.outcome, run.detail) for run in hooks.of()] == [(HookOutcome.FAILING, "it was interrupted")]
    hooks.write(POST, "slow")
    assert hooks.later(timedelta()) == 1
    assert hooks.known() == [("slow", HookOutcome.OK, 2)]
