"""The same promises with the journal in PostgreSQL: killed before and after every effect of every step."""

from __future__ import annotations

import pytest

from enrollment.test_kill import (
    LOST,
    PLACES,
    SEEDS,
    check_promises,
    enrolling,
    finish,
    killed_at_random,
    row_of,
)
from harness.killer import killed
from harness.postgresql import PostgreSQL
from harness.stage import Stage, Template
from varmenne.domain.steps import State
from varmenne.journal import Journal

OFTEN = frozenset(LOST) | {"after commit prepared to keyed", "before commit stored to active"}
"""Places that are tried each time; the others take the same way, and are tried with ``--long``."""


@pytest.fixture(scope="module")
def fleet(shared_stage: Stage, postgresql: PostgreSQL, token_template: Template) -> Stage:
    """A stage whose journal is in PostgreSQL."""
    shared_stage.configure(journal={"url": postgresql.new_database()})
    at, fit, result = token_template.probe
    with Journal(shared_stage.state_dir, shared_stage.settings.journal) as journal:
        journal.save_probe(token_template.name, at, fit=fit, result=result)
    return shared_stage


@pytest.mark.parametrize(
    "place", [place if place in OFTEN else pytest.param(place, marks=pytest.mark.long) for place in PLACES]
)
def test_killed(fleet: Stage, place: str) -> None:
    """After a kill at any place, the same commands as ever finish the work, or say that it is uncertain."""
    order = fleet.order(f"{PLACES.index(place):07d}-2")
    killed(fleet, place, *enrolling(fleet, order))
    result = finish(fleet, order)
    row = row_of(fleet, order.customer_id)
    assert row is not None
    assert row.state is (State.UNCERTAIN if place in LOST else State.ACTIVE), result
    check_promises(fleet, order, row)
    if row.state is State.UNCERTAIN:
        assert fleet.run("resolve", row.id, "--abandon", "--confirm", row.id).code == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_killed_at_random(fleet: Stage, seed: int) -> None:
    """Killed at any moment, with all its children, nothing is sent twice and nothing is lost."""
    killed_at_random(fleet, fleet.order(f"random-{seed}"), seed)


def test_the_places_that_are_tried_often_are_places() -> None:
    """A place that was renamed would be tried no more."""
    assert set(PLACES) > OFTEN


def test_a_database_that_is_gone_is_told_before_anything_is_sent(fleet: Stage, postgresql: PostgreSQL) -> None:
    """Nothing is made or sent without a journal, and once it is back, the command goes through."""
    order = fleet.order("gone")
    before = len(fleet.bench.state.log())
    postgresql.stop()
    try:
        failed = fleet.run(*enrolling(fleet, order))
    finally:
        postgresql.start()
    assert (failed.code, len(fleet.bench.state.log())) == (12, before)
    assert "cannot be used" in failed.err
    assert fleet.run(*enrolling(fleet, order)).code == 0
