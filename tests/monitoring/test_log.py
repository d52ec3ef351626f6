"""The log: one vocabulary, one line for each event, for people, for programs and for systemd; and no secret in it."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

import varmenne
from harness.stage import Stage
from harness.years import Years
from varmenne.domain.secret import Secret
from varmenne.domain.steps import State
from varmenne.errors import TokenError
from varmenne.monitoring import Event, log_event, log_to_stderr
from varmenne.monitoring.logs import FORMATS

SECRET = "kJ8-very-private"


@pytest.fixture(autouse=True)
def _loggers() -> Iterator[None]:
    """Give the package's logger back as it was."""
    logger = logging.getLogger("varmenne")
    before = logger.handlers, logger.level, logger.propagate
    yield
    logger.handlers, logger.propagate = before[0], before[2]
    logger.setLevel(before[1])


def _say(capsys: pytest.CaptureFixture[str], log_format: str, *, verbosity: int = 0) -> None:
    capsys.readouterr()
    log_to_stderr(log_format, verbosity=verbosity)


def test_every_state_has_an_event_of_its_name() -> None:
    """What an enrollment reaches is told in the word that the journal has for it."""
    assert {state.value for state in State} <= {event.value for event in Event}
    assert len({event.meaning for event in Event}) == len(Event)


def test_every_event_is_told_somewhere() -> None:
    """A vocabulary with words that nobody says would promise what does not come."""
    agent = Path(varmenne.__file__).parent
    text = "".join(path.read_text() for path in sorted(agent.rglob("*.py")) if path.name != "events.py")
    said = {event for event in Event if f"Event.{event.name}" in text}
    assert {event.value for event in set(Event) - said} <= {state.value for state in State}
    assert "REACHED[row.state]" in text


def test_no_other_word_can_be_an_event() -> None:
    """The vocabulary is closed."""
    with pytest.raises(ValueError, match="is not a valid Event"):
        Event("surprise")  # type: ignore[call-arg]  # a look-up, which needs the value alone


def test_a_line_for_people_tells_event_enrollment_and_facts(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    """With its time where systemd does not add one; the customer is not named."""
    row = Years(stage).first()
    _say(capsys, "text")
    log_event(Event.ACTIVE, row, told="as ordered")
    (line,) = capsys.readouterr().err.splitlines()
    time, said = line.split(" ", 1)
    assert datetime.fromisoformat(time).tzinfo is not None
    facts = "(channel ws, generation 1, state active, told as ordered)"
    assert said == f"info    active {row.id}: {Event.ACTIVE.meaning} {facts}"
    assert row.customer_id not in line


def test_a_line_for_programs_is_one_json_object(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    """An error's sentences are facts of their own."""
    row = Years(stage).first()
    _say(capsys, "json")
    error = TokenError("The token is gone", why="it was pulled out", next_step="Put it back")
    log_event(Event.FAILED, row, error=error, due_at=datetime(2026, 11, 24, tzinfo=UTC), tries=3)
    (line,) = capsys.readouterr().err.splitlines()
    told = json.loads(line)
    assert datetime.fromisoformat(told.pop("at")).tzinfo is not None
    assert told == {
        "level": "warning",
        "event": "failed",
        "message": Event.FAILED.meaning,
        "enrollment": row.id,
        "channel": "ws",
        "generation": 1,
        "state": "active",
        "error": "TokenError",
        "what": "The token is gone",
        "why": "it was pulled out",
        "next_step": "Put it back",
        "due_at": "2026-11-24T00:00:00Z",
        "tries": 3,
    }


@pytest.mark.parametrize("log_format", FORMATS)
def test_what_a_stranger_wrote_stays_on_its_line(log_format: str, capsys: pytest.CaptureFixture[str]) -> None:
    """No line break forges an event, and no control character reaches a terminal."""
    _say(capsys, log_format)
    log_event(Event.FAILED, told="x\n2026-11-24T12:00:00Z info active: forged\r\x1b[2J\x9b2J\u2028\u202eö")
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.endswith("\n")
    assert said[:-1].isprintable()
    assert "ö" in said


@pytest.mark.parametrize("log_format", FORMATS)
def test_a_secret_does_not_show(log_format: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither as a fact, nor inside one, nor in the message of another logger."""
    _say(capsys, log_format, verbosity=2)
    secret = Secret(SECRET)
    log_event(Event.NOTE, pin=secret, several=[secret], named={"password": secret}, text=f"{secret}")
    logging.getLogger("varmenne.vault").warning("the token is %s, %r", secret, secret)
    said = capsys.readouterr().err
    assert said.count("***") >= 6
    assert SECRET not in said


def test_other_loggers_of_the_package_are_notes(capsys: pytest.CaptureFixture[str]) -> None:
    """They name themselves; what only helps to find a defect is told only when that is wanted."""
    _say(capsys, "json")
    logging.getLogger("varmenne.vault").info("Logged in to Vault by %s", "approle")
    logging.getLogger("varmenne.vault").debug("more")
    log_event(Event.WOKE)
    (line,) = capsys.readouterr().err.splitlines()
    told = json.loads(line)
    assert (told["event"], told["logger"], told["message"]) == (
        "note",
        "varmenne.vault",
        "Logged in to Vault by approle",
    )


def test_systemd_gets_priorities_and_adds_the_time_itself() -> None:
    """JOURNAL_STREAM names standard error by device and inode; then each line begins with its priority."""
    script = (
        "import os, sys\n"
        "from varmenne.monitoring import Event, log_event, log_to_stderr\n"
        "found = os.fstat(2)\n"
        "os.environ['JOURNAL_STREAM'] = f'{found.st_dev}:{found.st_ino}'\n"
        "for name in ('text', 'json'):\n"
        "    log_to_stderr(name)\n"
        "    log_event(Event.JOURNAL_FAILED)\n"
        "    log_event(Event.FAILED)\n"
        "    log_event(Event.STARTED)\n"
        "os.environ['JOURNAL_STREAM'] = '1:1'\n"
        "log_to_stderr('text')\n"
        "log_event(Event.STARTED)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    lines = done.stderr.splitlines()
    assert [line[:3] for line in lines[:6]] == ["<3>", "<4>", "<6>"] * 2
    assert lines[0] == f"<3>error   journal-failed: {Event.JOURNAL_FAILED.meaning}"
    assert [json.loads(line[3:])["event"] for line in lines[3:6]] == ["journal-failed", "failed", "started"]
    assert not lines[6].startswith("<")


def test_the_agent_of_a_service_logs_events_as_the_settings_want(stage: Stage) -> None:
    """`agent.log_format = "json"`: every line of `run --once` is an object with a known event, and holds no secret."""
    Years(stage).first()
    stage.configure(agent={"log_format": "json"})
    done = stage.command("run", "--once", "--wait", "0", "-vv")
    lines = [json.loads(line) for line in done.err.splitlines()]
    assert lines
    assert {line["event"] for line in lines} <= set(Event)
    assert all({"at", "level", "message"} <= line.keys() for line in lines)
    pin = (stage.folder / "token" / "pin").read_text().strip()
    assert pin not in done.err
