"""Agents of several hosts on one PostgreSQL: each works with its own token, and no row is done twice."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from harness.postgresql import PostgreSQL
from harness.softhsm import softhsm_module
from harness.stage import Stage
from varmenne.domain.steps import State
from varmenne.enrollment.agent import Agent
from varmenne.token import create_softhsm_token

AGE = timedelta(days=730 - 40)
PATIENCE = timedelta(seconds=10)


@pytest.fixture
def fleet(stage: Stage, postgresql: PostgreSQL) -> Stage:
    """Return a stage whose journal is in PostgreSQL."""
    stage.configure(journal={"url": postgresql.new_database()})
    return stage


def test_two_hosts_with_one_token(fleet: Stage) -> None:
    """A network HSM that both reach: the rows are shared out, and each certificate is renewed once."""
    for number in range(6):
        fleet.aged(fleet.order(f"{number:07d}-4"), AGE)
    with Agent(fleet.settings) as one, Agent(fleet.settings) as two:
        threads = [threading.Thread(target=agent.once, args=(PATIENCE,)) for agent in (one, two)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert one.tally.errors == two.tally.errors == []
        assert one.tally.carried
        assert two.tally.carried
    states = [row.state for row in fleet.rows()]
    assert (states.count(State.ACTIVE), states.count(State.SUPERSEDED), len(states)) == (6, 6, 12)
    operations = [line.as_json()["operation"] for line in fleet.bench.state.log()]
    assert operations.count("renewCertificate") == 6


def test_each_host_tends_the_keys_of_its_token(fleet: Stage, tmp_path: Path) -> None:
    """A host whose token does not hold a key leaves the certificate to the one whose does."""
    fleet.aged(fleet.order("0000001-4"), AGE)
    token = create_softhsm_token(tmp_path / "second", label="second host", module=softhsm_module())
    with Agent(msgspec.structs.replace(fleet.settings, token=token.settings)) as stranger:
        stranger.once(PATIENCE)
        assert (stranger.tally.carried, stranger.tally.errors) == (0, [])
    with Agent(fleet.settings) as owner:
        owner.once(PATIENCE)
        assert owner.tally.errors == []
    assert sorted(row.state for row in fleet.rows()) == [State.ACTIVE, State.SUPERSEDED]
