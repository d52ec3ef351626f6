"""Hooks after a failure, the agent that runs them, and what people are told of them."""

from __future__ import annotations

import json
from datetime import datetime, timedelta

import pytest
from cryptography import x509

from harness.hooks import AWAY, HOUR, POST, PRE, Hooks
from harness.stage import CUSTOMER, Stage
from harness.years import DAY, IN_THE_WINDOW, Years
from varmenne.clock import system_clock
from varmenne.domain.hooks import HookEvent, HookOutcome, HookRun
from varmenne.domain.steps import State
from varmenne.enrollment.hooks import queue, run_due
from varmenne.enrollment.standing import order_day, order_days
from varmenne.errors import ConfigError, HookFailed, InputError


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
        assert order_day(parts, parts.journal.get(first.id)) == shown, "a page shows the same"
        queue(parts, years.get(first), HookEvent.FAILED, AWAY)
        run_due(parts)
    assert (stage.folder / "order-by").read_text("utf-8") == f"{shown:%Y-%m-%dT%H:%M:%SZ}\n"


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
