"""The heart: what may happen to an enrollment is one table. Engine, progress, tests and documentation read it.

An enrollment is a row in the journal with a state. A step takes it from one state to the next, touches what the table
says, and its result is committed before anything else happens. Where a step cannot be repeated blindly, an *intent* is
committed first: whoever finds a row in that intent's state knows that the step was begun, and takes it from there.

There are three tables of the same form: the way of a certificate, what is different in a renewal, and the upkeep of
certificates that are in use.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """Where an enrollment stands."""

    PREPARED = "prepared"
    KEYED = "keyed"
    SUBMITTING = "submitting"
    ACCEPTED = "accepted"
    ISSUED = "issued"
    STORED = "stored"
    ACTIVE = "active"
    UNCERTAIN = "uncertain"
    REJECTED = "rejected"
    EXPIRED = "expired"
    ABANDONED = "abandoned"
    SUPERSEDED = "superseded"
    RETIRED = "retired"
    DESTROYED = "destroyed"


class StepName(StrEnum):
    """The acts that move an enrollment on."""

    GENERATE = "generate"
    SUBMIT = "submit"
    RENEW = "renew"
    SETTLE = "settle"
    RETRIEVE = "retrieve"
    STORE = "store"
    ACTIVATE = "activate"
    TEND = "tend"
    RETIRE = "retire"
    DESTROY = "destroy"


class Method(StrEnum):
    """How the CSR gets to the service, and what it is believed for there."""

    API = "api"
    """By its API, with one-time credentials."""
    RENEWAL = "renewal"
    """By its API, signed with the key of the certificate that is renewed."""
    E_SERVICE = "e-service"
    """A person carries it to the e-service's form."""


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the table.

    Attributes:
        name: the act.
        source: the state that it starts from.
        target: the state that it normally ends in.
        others: the states that it may end in instead.
        touches: what it reaches outside the journal (``token``, ``service``, ``vault``).
        repeatable: whether it may be done again blindly after a crash.
        intent: the state committed before it begins, where a request is sent: always if it is not repeatable.
        doing: what it does, for progress: "key made in the token".
    """

    name: StepName
    source: State
    target: State
    touches: tuple[str, ...]
    doing: str
    others: tuple[State, ...] = ()
    repeatable: bool = True
    intent: State | None = None


STEPS: dict[State, Step] = {
    step.source: step
    for step in (
        Step(
            StepName.GENERATE,
            State.PREPARED,
            State.KEYED,
            touches=("token",),
            doing="Make the key in the token and read it back",
        ),
        Step(
            StepName.SUBMIT,
            State.KEYED,
            State.ACCEPTED,
            touches=("token", "service"),
            doing="Sign the CSR in the token and send it with the one-time credentials",
            others=(State.KEYED, State.REJECTED, State.UNCERTAIN),
            repeatable=False,
            intent=State.SUBMITTING,
        ),
        Step(
            StepName.SETTLE,
            State.SUBMITTING,
            State.UNCERTAIN,
            touches=(),
            doing="Find out what became of a request that was begun",
            others=(State.ACCEPTED, State.REJECTED),
        ),
        Step(
            StepName.SETTLE,
            State.UNCERTAIN,
            State.ACCEPTED,
            touches=(),
            doing="Read the stored answer again",
            others=(State.UNCERTAIN, State.REJECTED),
        ),
        Step(
            StepName.RETRIEVE,
            State.ACCEPTED,
            State.ISSUED,
            touches=("service",),
            doing="Fetch the certificate and verify it",
            others=(State.ACCEPTED,),
        ),
        Step(
            StepName.STORE,
            State.ISSUED,
            State.STORED,
            touches=("token", "vault"),
            doing="Put the certificate beside its key, and its generation into Vault",
        ),
        Step(
            StepName.ACTIVATE,
            State.STORED,
            State.ACTIVE,
            touches=("vault",),
            doing="Make it the current certificate",
            others=(State.STORED, State.SUPERSEDED),
        ),
    )
}
"""State → the step that leads on from it. States that are not here are ends, or wait for a person."""

RENEWAL: dict[State, Step] = {
    step.source: step
    for step in (
        Step(
            StepName.RENEW,
            State.KEYED,
            State.ACCEPTED,
            touches=("token", "service"),
            doing="Sign the request with the key in use, in the token, and send it",
            others=(State.KEYED, State.REJECTED),
            intent=State.SUBMITTING,
        ),
        Step(
            StepName.SETTLE,
            State.SUBMITTING,
            State.KEYED,
            touches=(),
            doing="Find out what became of a request that was begun",
            others=(State.ACCEPTED, State.REJECTED),
        ),
    )
}
"""What is different in a renewal. Its request uses nothing up, so a lost answer leads to the same request again."""

UPKEEP: dict[State, Step] = {
    step.source: step
    for step in (
        Step(
            StepName.TEND,
            State.ACTIVE,
            State.ACTIVE,
            touches=("token", "service", "vault"),
            doing="Rehearse the renewal, or begin it when it is time",
        ),
        Step(
            StepName.RETIRE,
            State.SUPERSEDED,
            State.RETIRED,
            touches=("vault",),
            doing="Retire the key whose certificate was replaced",
            others=(State.SUPERSEDED,),
        ),
        Step(
            StepName.DESTROY,
            State.RETIRED,
            State.DESTROYED,
            touches=("token",),
            doing="Destroy the retired key",
        ),
    )
}
"""What is done, when it is due, with certificates that are in use or were: by the agent, or by order."""

INTENTS = frozenset(step.intent for step in STEPS.values() if step.intent is not None)
"""States that mean: a request was begun. One with one-time credentials must not be repeated by itself."""

ENDED = frozenset(
    {
        State.ACTIVE,
        State.REJECTED,
        State.EXPIRED,
        State.ABANDONED,
        State.SUPERSEDED,
        State.RETIRED,
        State.DESTROYED,
    }
)
"""States in which nothing is left to do for this enrollment itself; :data:`UPKEEP` may still come."""

IN_USE = frozenset({State.ACTIVE, State.SUPERSEDED})
"""States in which others may be using the key: the current certificate's, and the one before it through its grace."""


BY_ORDER: dict[State, frozenset[State]] = {
    State.PREPARED: frozenset({State.EXPIRED, State.ABANDONED}),
    State.KEYED: frozenset({State.ISSUED, State.EXPIRED, State.ABANDONED}),
    State.UNCERTAIN: frozenset({State.ACCEPTED, State.SUBMITTING, State.ABANDONED}),
    State.REJECTED: frozenset({State.ACCEPTED, State.SUBMITTING, State.ABANDONED}),
    State.ACCEPTED: frozenset({State.ACCEPTED, State.ABANDONED}),
    State.ISSUED: frozenset({State.ABANDONED}),
    State.STORED: frozenset({State.ABANDONED}),
    State.ACTIVE: frozenset({State.SUPERSEDED}),
    State.SUPERSEDED: frozenset({State.STORED}),
}
"""Moves that no step makes: a person brought a certificate, decided, gave up, put another one in its place or an
earlier one back, or the credentials ran out before they were sent."""

KNOWN_ANSWER = "known_answer"
NOT_SENT = "not_sent"
"""Facts in the history of a request: the newest answer before it was begun, and that it certainly was not sent."""


def step_from(state: State, method: Method) -> Step | None:
    """Return the step that leads on, or ``None`` at an end and where a person is awaited, who carries the CSR."""
    if state is State.KEYED and method is Method.E_SERVICE:
        return None
    different = RENEWAL.get(state) if method is Method.RENEWAL else None
    return different or STEPS.get(state)


def allowed(source: State, target: State) -> bool:
    """Tell whether a row may go from ``source`` to ``target``: by a step, from a step's intent, or by order."""
    ends = set(BY_ORDER.get(source, ()))
    for step in (*STEPS.values(), *RENEWAL.values(), *UPKEEP.values()):
        if source in {step.source, step.intent}:
            ends |= {step.target, *step.others}
        if source is step.source and step.intent is not None:
            ends.add(step.intent)
    return target in ends
