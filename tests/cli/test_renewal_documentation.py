"""``docs/renewal.md`` is true: its commands are run in its order, and its tables are those of the code."""

from __future__ import annotations

import re
import shlex
from datetime import timedelta
from pathlib import Path

import pytest

from harness.approvals import approve
from harness.stage import CUSTOMER, NAME, Stage
from varmenne.domain.calendar import PATIENCE, RENEWAL_WINDOW, SFTP_DELAY
from varmenne.domain.identifiers import Channel, EnrollmentId
from varmenne.domain.steps import State
from varmenne.enrollment.upkeep import UNDECIDED
from varmenne.settings import RenewalSettings

TEXT = (Path(__file__).parents[2] / "docs" / "renewal.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^ *varmenne (.+)$", TEXT, re.MULTILINE)
FIRST, SECOND, SFTP = "20261124-7f3a9c21", "20280930-1b2c3d4e", "20261124-9d8e7f6a"

WORDS = {"None": "never", "[]": "any time", "7.0": "7", "5.0": "5", "21.0": "21"}
"""Defaults as the page writes them, where that is different."""


def test_the_commands_do_what_the_page_tells(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the rehearsal to the new order, one after the other, with the IDs that there are."""
    monkeypatch.chdir(stage.folder)
    age = timedelta(days=730 - 50)
    real = {
        FIRST: stage.aged(stage.order(CUSTOMER, name=NAME), age).id,
        SFTP: stage.aged(stage.order("7017233-8", channel=Channel.SFTP), timedelta(), Channel.SFTP).id,
    }
    stage.credentials_file(stage.order(CUSTOMER, name=NAME)).rename("mail.txt")
    stage.configure(renewal={"destroy_after_days": 90.0})
    failed = {}
    for line in sorted(COMMANDS, key=lambda line: line.split()[0] in {"status", "list"}):
        words = [real.get(word, word) for word in shlex.split(line)]
        if "--destroy" in words:
            with stage.parts() as parts:
                approve(parts, parts.journal.get(EnrollmentId(real[FIRST])))
                approve(parts)
        said = stage.run(*words)
        if said.code:
            failed[line] = said
        if words[0] == "renew" and "--dry-run" not in words:
            real[SECOND] = next(row.id for row in stage.rows() if row.replaces == real[FIRST])
    assert failed == {}
    states = {row.id: row.state for row in stage.rows()}
    assert states[real[FIRST]] is State.DESTROYED
    assert states[real[SECOND]] is State.SUPERSEDED
    assert sorted(states.values()).count(State.ACTIVE) == 2
    assert (stage.folder / "request.xml").stat().st_size > 0


def test_defaults_and_days_are_the_codes() -> None:
    """Whoever plans by the table plans by what is done."""
    table = TEXT.partition("## ")[0]
    told = dict(re.findall(r"\| `(\w+)` \| (\S.*?) \|", table))
    known = RenewalSettings()
    assert told == {name: WORDS.get(str(getattr(known, name)), str(getattr(known, name))) for name in told}
    assert {"rehearse_days", "spread_days", "attempts_per_day", "grace_days", "lead_days"} <= set(told)
    assert f"{RENEWAL_WINDOW.days} days before the end" in TEXT
    assert f"up to {SFTP_DELAY // timedelta(hours=1)} hours" in TEXT
    assert f"until {UNDECIDED.days} days before\nthe end of the certificate that was gone back to" in TEXT
    assert f"failed for {PATIENCE.days} days" in TEXT


def test_every_state_of_an_enrollment_is_a_state_of_its_key() -> None:
    """The table leaves none out, and names none that there is not."""
    table = TEXT.partition("## The states of a key")[2].partition("## ")[0]
    named = [
        word for line in re.findall(r"^\| (`.+?) \|", table, re.MULTILINE) for word in re.findall(r"`(\w+)`", line)
    ]
    assert sorted(named) == sorted(State)
