"""The command line, killed at one place: ``python -m harness.killer PLACE enroll …``.

A place names a moment before or after something that has an effect, such as ``after the token in generate`` or ``before
commit keyed to submitting``. There the process kills itself with SIGKILL, as a power cut would: nothing is closed,
flushed or given back. If the place is never come to, the command ends as it would have.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from varmenne.domain.steps import STEPS, UPKEEP, Method, State, Step, StepName, step_from

if TYPE_CHECKING:
    from harness.stage import Stage

EFFECTS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "token": (
        ("varmenne.token.client", "Token", "generate"),
        ("varmenne.token.client", "Token", "signer"),
        ("varmenne.token.client", "Token", "store_certificate"),
        ("varmenne.token.client", "Token", "destroy"),
    ),
    "service": (
        ("varmenne.service.client", "CertificateService", "_call"),
        ("varmenne.service.client", "CertificateService", "renew_certificate"),
    ),
    "answer": (("varmenne.journal.journal", "Journal", "record_answer"),),
    "vault": (("varmenne.vault.store", "CertificateStore", "publish"),),
}
"""What a step may touch by the table of steps → the methods that do it. Every answer of the service is stored."""


def places(method: Method = Method.API) -> Iterator[str]:
    """Yield the places before and after every effect and every commit of every step, as the tables have them."""
    yield from _around("the first row")
    for state in STEPS:
        step = step_from(state, method)
        if step is None or step.name is StepName.SETTLE:
            continue  # It comes after a crash only, and touches nothing: its commits are places of their own.
        if step.name is StepName.ACTIVATE and method is Method.RENEWAL:
            yield from _around(f"commit {State.ACTIVE} to {State.SUPERSEDED}")
        yield from _of_step(step)


def upkeep_places() -> Iterator[str]:
    """Yield the places of retiring a key and destroying it, ordered by a person, who waits for nobody."""
    for name in (StepName.RETIRE, StepName.DESTROY):
        (step,) = (one for one in UPKEEP.values() if one.name is name)
        for place in _of_step(step):
            if place.split(" in ")[0].split(" ", 1)[1] != "the vault":
                yield place


def _of_step(step: Step) -> Iterator[str]:
    """Yield the places of one step."""
    if step.intent is not None:
        yield from _around(f"commit {step.source} to {step.intent}")
        yield from _around("the mark of an intent")
    touched = [*step.touches, *(["answer"] if "service" in step.touches else [])]
    for effect in touched:
        yield from _around(f"the {effect} in {step.name}")
    yield from _around(f"commit {step.intent or step.source} to {step.target}")


def _around(what: str) -> Iterator[str]:
    """Yield both sides."""
    yield f"before {what}"
    yield f"after {what}"


def killed(stage: Stage, place: str, *arguments: str) -> None:
    """Run a command that kills itself at a place."""
    result = stage.command(place, *arguments, module="harness.killer")
    assert result.code == -signal.SIGKILL, f"{place} was never come to: {result}"


def main() -> None:
    """Set the trap and run the command line."""
    place = sys.argv.pop(1)
    _set_trap(place)
    from varmenne.cli.program import main as run

    run()


def _set_trap(place: str) -> None:
    """Wrap what the place names."""
    import importlib

    from varmenne.enrollment import acts
    from varmenne.journal import Journal
    from varmenne.journal.sent import SentRecord

    when, what = place.split(" ", 1)
    if what == "the first row":
        _wrap(Journal, "add", when, lambda *_, **__: True)
    elif what == "the mark of an intent":
        _wrap(SentRecord, "remember", when, lambda *_, **__: True)
    elif what.startswith("commit "):
        _commit, source, _to, target = what.split()
        _wrap(Journal, "commit", when, lambda _self, row, _now, to, **_: (row.state, to) == (source, target))
    else:
        effect, step = what.removeprefix("the ").split(" in ")
        present = _follow_steps(acts.ACTS, acts.BEFOREHAND)
        for module, owner, method in EFFECTS[effect]:
            _wrap(getattr(importlib.import_module(module), owner), method, when, lambda *_, **__: step in present)


def _follow_steps(*tables: dict[StepName, Callable[..., Any]]) -> set[str]:
    """Return a set that holds the name of the step whose act or intent runs."""
    present: set[str] = set()

    def followed(name: StepName, act: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(act)
        def follow(*arguments: Any) -> Any:
            present.add(name)
            try:
                return act(*arguments)
            finally:
                present.discard(name)

        return follow

    for table in tables:
        for name, act in list(table.items()):
            table[name] = followed(name, act)
    return present


def _wrap(owner: type, method: str, when: str, here: Callable[..., bool]) -> None:
    """Let a method kill the process before or after it runs, if it is the right call."""
    real = getattr(owner, method)

    @functools.wraps(real)
    def trapped(*arguments: Any, **options: Any) -> Any:
        hit = here(*arguments, **options)
        if hit and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*arguments, **options)
        if hit:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, method, trapped)


if __name__ == "__main__":
    main()
