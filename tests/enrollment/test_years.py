"""Five years of twelve certificates, with real parts and a clock that runs fast.

The clock jumps from one due time to the next, half a day at least. Outages are drawn from a seed: the service or Vault
is away, the token is, the PIN is wrong, the agent is off for a month just when renewals open.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import shutil
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from harness.approvals import OTHERS, approve
from harness.stage import Listener, Stage, order_for
from harness.years import DAY, WAIT, Years
from varmenne.clock import system_clock
from varmenne.domain.enrollment import Enrollment
from varmenne.domain.identifiers import Channel
from varmenne.domain.steps import Method, State
from varmenne.enrollment.agent import Agent
from varmenne.enrollment.enroll import enroll

CUSTOMERS = tuple(f"{number:07d}-5" for number in range(12))
YEARS_SIMULATED = 5 * timedelta(days=365)
STEP = timedelta(hours=12)


@dataclass(frozen=True, slots=True)
class Outage:
    """Something that is away for a while: from when, counted from the beginning, and for how long."""

    what: str
    begin: timedelta
    length: timedelta


def outages(seed: int) -> list[Outage]:
    """Draw outages; each round of renewals, which come every twenty-two months or so, meets some of them."""
    chance = random.Random(seed)  # noqa: S311 - a simulation
    drawn = []
    for window in (timedelta(days=670), timedelta(days=1340)):
        for what, longest in (("service", 7), ("token", 4), ("vault", 3), ("pin", 5)):
            begin = window + timedelta(days=chance.uniform(-5, 25))
            drawn.append(Outage(what, begin, timedelta(days=chance.uniform(1, longest))))
    drawn.append(Outage("agent", timedelta(days=1338), timedelta(days=31)))
    return drawn


@dataclass
class World:
    """A stage, its time, and what is away at present."""

    years: Years
    drawn: list[Outage]
    begin: datetime = field(default_factory=system_clock)
    away: set[str] = field(default_factory=set)
    gaps: list[tuple[datetime, str]] = field(default_factory=list)
    agent: Agent | None = None

    @property
    def elapsed(self) -> timedelta:
        """Time since the beginning."""
        return system_clock() + self.years.passed - self.begin

    def move_on(self, until: timedelta) -> None:
        """Let time pass until a moment, and take away or bring back what the plan says."""
        self.years.pass_by(max(STEP, until - self.elapsed))
        wanted = {one.what for one in self.drawn if one.begin <= self.elapsed < one.begin + one.length}
        for what in sorted(wanted ^ self.away):
            getattr(self, f"_{what}")(gone=what in wanted)
        self.away = wanted

    def next_change(self) -> timedelta:
        """Return when the plan changes something next."""
        moments = [moment for one in self.drawn for moment in (one.begin, one.begin + one.length)]
        return min((moment for moment in moments if moment > self.elapsed), default=YEARS_SIMULATED)

    def _service(self, *, gone: bool) -> None:
        if gone:
            self.years.stage.bench.state.fault("http-503", count=None)
        else:
            self.years.stage.bench.state.clear_faults()

    def _token(self, *, gone: bool) -> None:
        folder = self.years.stage.token.directory
        hidden = folder.with_name("token-away")
        (folder if gone else hidden).rename(hidden if gone else folder)

    def _vault(self, *, gone: bool) -> None:
        self._configure(vault={"address": "http://127.0.0.1:9"} if gone else {})

    def _pin(self, *, gone: bool) -> None:
        pin = Path(self.years.stage.token.pin.removeprefix("file:"))
        right = pin.with_name("pin-right")
        if gone:
            shutil.copy(pin, right)
            pin.write_text("000000")
        else:
            right.replace(pin)

    def _agent(self, *, gone: bool) -> None:
        """Nothing changes but that nobody looks."""

    def _configure(self, **changes: object) -> None:
        self.years.stage.configure(renewal=RENEWAL, **changes)  # type: ignore[arg-type]  # tables, as always
        if self.agent is not None:
            self.agent.reload(self.years.stage.settings)


RENEWAL = {"rehearse_days": 180.0, "destroy_after_days": 90.0}


def look(world: World, agent: Agent) -> None:
    """Let the agent do what is due, and note who has no valid certificate in use."""
    with contextlib.suppress(Exception):
        agent.once(timedelta(seconds=5))
    now = system_clock() + world.years.passed
    for customer in CUSTOMERS:
        rows = [row for row in world.years.rows() if row.customer_id == customer and row.state is State.ACTIVE]
        if not any(row.not_after is not None and row.not_after > now for row in rows):
            world.gaps.append((now, customer))


@pytest.fixture
def world(stage: Stage) -> World:
    """Return a world with twelve certificates, ten for the Web Service and two for SFTP."""
    years = Years(stage)
    stage.configure(renewal=RENEWAL)
    with years.parts() as parts:
        approve(parts, people=OTHERS)
    for number, customer in enumerate(CUSTOMERS):
        channel = Channel.SFTP if number >= 10 else Channel.WS
        with years.parts() as parts:
            enroll(
                parts,
                Listener(),
                order_for(customer, channel=channel),
                stage.credentials(stage.order(customer, channel=channel)),
                wait=WAIT,
            )
    return World(years, outages(seed=20261124))


@pytest.mark.timeout(900)  # A minute and a half, where nobody else is at work.
def test_five_years(world: World) -> None:
    """No certificate ends unrenewed, each is renewed once in its life, and old keys are destroyed in the end."""
    while world.elapsed < YEARS_SIMULATED:
        with world.years.agent() as agent:  # It runs until it is switched off, or to the end.
            world.agent = agent
            while world.elapsed < YEARS_SIMULATED and "agent" not in world.away:
                look(world, agent)
                world.move_on(min(next_due(world), world.next_change()))
        world.agent = None
        while "agent" in world.away:
            world.move_on(world.next_change())
    assert world.gaps == []
    rows = world.years.rows()
    for customer in CUSTOMERS:
        life = sorted((row for row in rows if row.customer_id == customer), key=lambda row: row.created_at)
        check_life(world, life)
    renewals = world.years.operations().count("renewCertificate")
    assert renewals >= 2 * len(CUSTOMERS)


def next_due(world: World) -> timedelta:
    """Return when the journal wants to be looked at next."""
    with world.years.parts() as parts:
        due = parts.journal.next_due()
    return world.elapsed + DAY if due is None else due - world.begin


def check_life(world: World, life: list[Enrollment]) -> None:
    """One customer's certificates follow one another: each is renewed once, in time, and its key is gone later."""
    done = [row for row in life if row.certificate is not None]
    assert [row.state for row in done] == [State.DESTROYED, State.DESTROYED, State.ACTIVE]
    assert [row.generation for row in done] == [1, 2, 3]
    assert [row.method for row in done] == [Method.API, Method.RENEWAL, Method.RENEWAL]
    for old, new in itertools.pairwise(done):
        assert old.not_after is not None
        assert new.not_before is not None
        assert timedelta(days=20) < old.not_after - new.not_before <= timedelta(days=60)
        assert world.years.stage.keys_of(old) == 0
    assert world.years.stage.keys_of(done[-1]) == 1
    assert all(row.state in {State.REJECTED, State.EXPIRED} for row in life if row.certificate is None)
