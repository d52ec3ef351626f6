"""What the agent does while a part is away or something is wrong in itself: it tells the truth, and goes on."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest

from harness.postgresql import PostgreSQL
from harness.stage import Stage
from harness.years import DAY, IN_THE_WINDOW, Years
from varmenne.clock import system_clock
from varmenne.domain.enrollment import Enrollment
from varmenne.domain.steps import State
from varmenne.enrollment.agent import Agent
from varmenne.enrollment.engine import Engine
from varmenne.enrollment.parts import Parts
from varmenne.errors import ConfigError, JournalError, TokenError, VaultError
from varmenne.journal import Journal
from varmenne.settings import Settings
from varmenne.token import Token

ONE_WORKER = {"workers": 1, "longest_sleep_seconds": 1.0}


@pytest.fixture
def years(stage: Stage) -> Years:
    """Return a stage whose time can be moved on."""
    return Years(stage)


@contextmanager
def running(agent: Agent) -> Iterator[None]:
    """Have the agent run for the block."""
    thread = threading.Thread(target=agent.run, args=(lambda: 1.0,))
    thread.start()
    try:
        yield
    finally:
        agent.stop()
        thread.join(60)
    assert not thread.is_alive()


def until(agent: Agent, condition: Callable[[], object]) -> None:
    """Have the agent look for work again and again until something is so."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        agent.wake.wake()
        time.sleep(0.1)


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the events that were logged."""
    return [str(record.event) for record in caplog.records if hasattr(record, "event")]


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """Hear the log, whatever a command in this process has made of it before."""
    monkeypatch.setattr(logging.getLogger("varmenne"), "propagate", True)
    caplog.set_level(logging.INFO, "varmenne")
    return caplog


def at_work(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], None]) -> None:
    """Have something happen once, in the moment in which a worker begins to carry a row on."""
    carry, once = Engine.carry, [happens]

    def carried(engine: Engine, row: Enrollment) -> Enrollment:
        if once:
            once.pop()()
        return carry(engine, row)

    monkeypatch.setattr(Engine, "carry", carried)


def test_a_database_that_restarts_under_a_worker(
    years: Years, postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch, heard: pytest.LogCaptureFixture
) -> None:
    """The worker tells of it and lives; once the database is back, it does the work that it could not do."""
    settings: dict[str, Any] = {"journal": {"url": postgresql.new_database()}, "agent": ONE_WORKER}
    years.stage.configure(**settings)
    first = years.first()
    years.pass_by(8 * DAY)
    at_work(monkeypatch, postgresql.stop)
    with years.agent(**settings) as agent, running(agent):
        try:
            until(agent, lambda: agent.tally.carried == 1 and all(worker.free for worker in agent._workers))
        finally:
            postgresql.start()
        years.pass_by(DAY)
        until(agent, lambda: years.get(first).rehearsal is not None)
        assert [worker.is_alive() for worker in agent._workers] == [True]
        assert agent.tally.errors == []  # It would run for years.
    assert "journal-failed" in events(heard)
    assert "defect" not in events(heard)


def test_a_defect_does_not_end_a_worker(years: Years, heard: pytest.LogCaptureFixture) -> None:
    """It is told by class and place, without its text, and counts as a failure; the next work is done."""
    first = years.first()
    years.pass_by(8 * DAY)
    opened: list[Parts] = []

    def open_parts(settings: Settings) -> Parts:
        opened.append(Parts(settings, clock=lambda: system_clock() + years.passed))
        if len(opened) == 2:  # The first are the agent's own.
            raise RuntimeError("PIN 123456")
        return opened[-1]

    years.stage.configure(agent=ONE_WORKER)
    with Agent(years.stage.settings, open_parts=open_parts) as agent:
        agent.once()
        assert [error.what for error in agent.tally.errors] == ["An unexpected error in a worker: RuntimeError"]
        assert years.get(first).rehearsal is None
        years.pass_by(DAY)
        agent.once()
    assert years.get(first).rehearsal is not None
    assert events(heard).count("defect") == 1
    assert "test_agent_outage, line" in str(agent.tally.errors[0])
    assert "PIN" not in str(agent.tally.errors[0])


def test_errors_are_kept_for_a_command_only(years: Years) -> None:
    """A pass over what is due keeps them, without frames; an agent that runs for years keeps none."""
    years.first()
    years.pass_by(8 * DAY)
    with years.agent(vault={"address": "http://127.0.0.1:9"}) as agent:
        agent.once()
        error, unsigned = agent.tally.errors
        assert (error.__traceback__, error.__cause__, error.__context__) == (None, None, None)
        assert isinstance(unsigned, VaultError)
        years.pass_by(8 * DAY)
        with running(agent):
            until(agent, lambda: agent.tally.carried == 2 and all(worker.free for worker in agent._workers))
        assert agent.tally.errors == [error, unsigned]


def test_a_token_that_is_away_is_not_taken_for_the_journal(
    years: Years, postgresql: PostgreSQL, heard: pytest.LogCaptureFixture
) -> None:
    """Without it nobody knows which rows of a shared journal are this host's; that is what is told."""
    url = {"url": postgresql.new_database()}
    with years.agent(journal=url, token={"module": "/nonexistent.so"}) as agent:
        with running(agent):
            until(agent, lambda: "token-failed" in events(heard))
        assert "journal-failed" not in events(heard)
    with years.agent(journal=url, token={"module": "/nonexistent.so"}) as agent, pytest.raises(TokenError):
        agent.once()


def test_a_token_that_was_seen_need_not_be_seen_again(years: Years, postgresql: PostgreSQL) -> None:
    """Settings that are read anew change nothing about it, unless they name another."""
    url = {"url": postgresql.new_database()}
    asked: list[Settings] = []

    class Asking(Parts):
        """Notes when its token is asked for."""

        @functools.cached_property
        def token(self) -> Token:
            """Return it."""
            asked.append(self.settings)
            return super().token

    years.stage.configure(journal=url)
    with Agent(years.stage.settings, open_parts=Asking) as agent:
        agent.once()
        assert len(asked) == 2  # Whose rows are ours, and to sign the first record of the log.
        years.stage.configure(journal=url, renewal={"lead_days": 30.0})
        agent.reload(years.stage.settings)
        agent.once()
        assert len(asked) == 2
        years.stage.configure(journal=url, token={"call_timeout_seconds": 50.0})
        agent.reload(years.stage.settings)
        agent.once()
        assert len(asked) == 3


def test_settings_are_taken_over_everywhere_or_nowhere(years: Years) -> None:
    """Metrics that cannot be shown keep the workers as they were, and unfit settings never reach the metrics."""
    reached: list[Settings] = []

    def refuse(settings: Settings) -> None:
        reached.append(settings)
        raise ConfigError("no")

    with years.agent(agent={"workers": 1}) as agent:
        before = agent.settings
        years.stage.configure(agent={"workers": 3})
        with pytest.raises(ConfigError, match="no"):
            agent.reload(years.stage.settings, also=refuse)
        assert (agent.settings, len(agent._workers)) == (before, 1)
        years.stage.configure(token={"pin": "prompt"})
        with pytest.raises(ConfigError, match="cannot ask for the PIN"):
            agent.reload(years.stage.settings, also=refuse)
        assert len(reached) == 1


def test_a_pass_ends(years: Years, monkeypatch: pytest.MonkeyPatch) -> None:
    """What becomes due is waited for until a moment that stays: a certificate that never comes is left."""
    years.first()
    years.pass_by(IN_THE_WINDOW)
    years.stage.bench.state.fault("never-ready", count=None)
    waited: list[float] = []
    with years.agent(service={"first_poll_seconds": 30.0, "longest_poll_seconds": 30.0}) as agent:
        really_wait = agent.wake.wait

        def wait(seconds: float) -> None:
            if seconds > 1:  # Otherwise a worker is at work.
                years.pass_by(timedelta(seconds=seconds))
                waited.append(seconds)
                assert sum(waited) <= 120
            else:
                really_wait(seconds)

        monkeypatch.setattr(agent.wake, "wait", wait)
        agent.once(timedelta(seconds=120))
    assert len(waited) > 1
    assert years.rows()[1].state is State.ACCEPTED


def test_the_journal_is_pruned_once_a_day(years: Years) -> None:
    """An agent that runs for years lets raw answers go as the settings say."""
    first = years.first()

    def answers() -> int:
        with years.parts() as parts:
            return len(parts.journal.answers(first.id))

    with years.agent(journal={"keep_answers_days": 60}, renewal={"rehearse_days": 365.0}) as agent, running(agent):
        assert answers()
        years.pass_by(61 * DAY)
        until(agent, lambda: not answers())


def test_a_journal_that_cannot_be_pruned_stops_nothing(
    years: Years, monkeypatch: pytest.MonkeyPatch, heard: pytest.LogCaptureFixture
) -> None:
    """It is told, and tried again the next day; the work is done."""
    first = years.first()
    years.pass_by(8 * DAY)

    def full(_journal: Journal, _now: datetime) -> int:
        raise JournalError("The disk is full")

    monkeypatch.setattr(Journal, "prune", full)
    with years.agent() as agent, running(agent):
        until(agent, lambda: years.get(first).rehearsal is not None and "journal-failed" in events(heard))
        looks = agent.tally.wake_ups
        until(agent, lambda: agent.tally.wake_ups > looks + 3)
    assert events(heard).count("journal-failed") == 1
