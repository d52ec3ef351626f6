"""The table of steps holds together: every state is reached, every step can be taken, nothing moves otherwise."""

from __future__ import annotations

import pytest

from varmenne.domain.steps import (
    BY_ORDER,
    ENDED,
    RENEWAL,
    STEPS,
    UPKEEP,
    Method,
    State,
    StepName,
    allowed,
    step_from,
)
from varmenne.enrollment.acts import ACTS, BEFOREHAND

LINES = [*STEPS.values(), *RENEWAL.values(), *UPKEEP.values()]

FINAL = ENDED - {State.ACTIVE, State.REJECTED} - set(UPKEEP)
"""Ends that nothing leads away from, not even an order."""


def ends(state: State) -> set[State]:
    """Return the states that a row may go to."""
    return {target for target in State if allowed(state, target)}


def test_every_state_is_reached() -> None:
    """From ``prepared`` every state can be reached by allowed moves."""
    reached, edge = {State.PREPARED}, {State.PREPARED}
    while edge:
        edge = set().union(*map(ends, edge)) - reached
        reached |= edge
    assert reached == set(State)


def test_every_state_leads_on_or_is_an_end() -> None:
    """No state is a dead end by oversight, and no end has a step."""
    assert {state for state in State if state not in STEPS} == ENDED
    assert set(STEPS) | ENDED == set(State)
    assert set(UPKEEP) < ENDED
    assert set(RENEWAL) < set(STEPS)


def test_every_end_can_be_reached_from_every_state_that_is_none() -> None:
    """Whatever happens, an enrollment can come to an end."""
    for state in set(State) - ENDED:
        reached, edge = {state}, {state}
        while edge:
            edge = set().union(*map(ends, edge)) - reached
            reached |= edge
        assert reached & ENDED


def test_every_step_has_an_act_and_every_act_a_step() -> None:
    """The engine never meets a step that it cannot take."""
    assert {step.name for step in LINES} == set(ACTS) == set(StepName)


def test_steps_with_an_intent_are_those_that_cannot_be_repeated() -> None:
    """An intent belongs to the steps that send a request, of which one must not be repeated, and to no other."""
    with_intent = {step.name for step in LINES if step.intent is not None}
    assert with_intent == {StepName.SUBMIT, StepName.RENEW} == set(BEFOREHAND)
    assert {step.name for step in LINES if not step.repeatable} == {StepName.SUBMIT}
    assert all(step.intent in STEPS for step in LINES if step.intent is not None)


def test_whoever_finds_an_intent_does_not_touch_the_service() -> None:
    """The step that leads on from an intent must not send again."""
    for step in LINES:
        if step.intent is not None:
            assert STEPS[step.intent].touches == ()
            assert STEPS[step.intent].target is not step.source
    assert RENEWAL[State.SUBMITTING].touches == ()


@pytest.mark.parametrize("step", LINES, ids=lambda step: f"{step.name}-{step.source}-{step.target}")
def test_lines_are_well_formed(step: object) -> None:
    """Each line is keyed by its source, ends elsewhere, and says in words what it does."""
    (line,) = [one for one in LINES if one is step]
    assert line in {STEPS.get(line.source), RENEWAL.get(line.source), UPKEEP.get(line.source)}
    assert (line.target not in {line.source, *line.others}) or line.name is StepName.TEND
    assert set(line.touches) <= {"token", "service", "vault"}
    assert line.doing[0].isupper()
    assert not line.doing.endswith(".")


def test_only_a_person_sends_again() -> None:
    """No step leads back to sending once a request was begun; only an order does, and from two states."""
    begun = {step.intent for step in STEPS.values() if step.intent is not None}
    by_step = {state for state, step in STEPS.items() if step.intent is None and {step.target, *step.others} & begun}
    assert by_step == set()
    by_order = {state for state, targets in BY_ORDER.items() if targets & begun}
    assert by_order == {State.UNCERTAIN, State.REJECTED}


def test_what_is_in_use_is_not_given_up() -> None:
    """Abandoning is for enrollments that no consumer uses yet, and never in the middle of a request."""
    assert {state for state, targets in BY_ORDER.items() if State.ABANDONED in targets}.isdisjoint(
        {State.SUBMITTING, State.ACTIVE, State.SUPERSEDED, State.RETIRED}
    )


def test_every_state_that_is_not_an_end_can_be_left_by_order() -> None:
    """Whatever stands in the way of the next step, a person can end it; only a request under way is settled first."""
    assert {state for state in set(State) - ENDED if State.ABANDONED not in BY_ORDER.get(state, ())} == {
        State.SUBMITTING
    }


def test_what_may_have_been_sent_does_not_expire() -> None:
    """`expired` says that nothing was ever sent."""
    assert {state for state in State if allowed(state, State.EXPIRED)} == {State.PREPARED, State.KEYED}


@pytest.mark.parametrize(
    ("source", "target", "may"),
    [
        (State.PREPARED, State.KEYED, True),
        (State.KEYED, State.SUBMITTING, True),
        (State.SUBMITTING, State.ACCEPTED, True),
        (State.SUBMITTING, State.KEYED, True),  # Certainly not sent.
        (State.SUBMITTING, State.UNCERTAIN, True),
        (State.UNCERTAIN, State.ACCEPTED, True),
        (State.KEYED, State.ISSUED, True),  # A person brought the certificate.
        (State.ACTIVE, State.SUPERSEDED, True),
        (State.PREPARED, State.SUBMITTING, False),
        (State.PREPARED, State.ACTIVE, False),
        (State.UNCERTAIN, State.SUBMITTING, True),  # By order of a person only.
        (State.UNCERTAIN, State.KEYED, False),
        (State.ACCEPTED, State.KEYED, False),
        (State.ACTIVE, State.PREPARED, False),
        (State.SUPERSEDED, State.ACTIVE, False),
        (State.SUPERSEDED, State.STORED, True),  # By order: an earlier certificate is put back.
        (State.SUPERSEDED, State.RETIRED, True),
        (State.RETIRED, State.DESTROYED, True),
        (State.RETIRED, State.STORED, False),
        (State.REJECTED, State.ACCEPTED, True),  # By order: the first request was accepted after all.
        *((end, other, False) for end in sorted(FINAL) for other in State if other is not end),
    ],
)
def test_moves(source: State, target: State, may: bool) -> None:
    """What may happen may, and nothing else."""
    assert allowed(source, target) is may


def test_who_carries_the_csr_decides_the_step_from_keyed() -> None:
    """By API the row goes on by itself; by the e-service it waits for a person."""
    keyed = step_from(State.KEYED, Method.API)
    assert keyed is not None
    assert keyed.name is StepName.SUBMIT
    assert step_from(State.KEYED, Method.E_SERVICE) is None
    for state in set(State) - {State.KEYED}:
        assert step_from(state, Method.API) is step_from(state, Method.E_SERVICE)


def test_a_renewal_differs_in_its_request_alone() -> None:
    """It is asked for with another key, may be asked for again, and then goes the same way."""
    for state in State:
        step = step_from(state, Method.RENEWAL)
        assert step is (RENEWAL[state] if state in RENEWAL else STEPS.get(state))
    assert RENEWAL[State.KEYED].repeatable
    assert State.UNCERTAIN not in {end for step in RENEWAL.values() for end in (step.target, *step.others)}
