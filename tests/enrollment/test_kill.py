"""Killed before and after every effect of every step: afterwards all is finished, or known to be uncertain.

The places come from the table of steps, so a new step is covered by itself.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from harness.killer import killed, places
from harness.stage import Result, Stage
from varmenne.domain.check import Verdict
from varmenne.domain.enrollment import Enrollment
from varmenne.domain.steps import STEPS, State, StepName
from varmenne.enrollment.reconcile import reconcile
from varmenne.testbench.family import Family
from varmenne.testbench.state import Order

PLACES = tuple(places())

LOST = {
    "before the mark of an intent",
    "after the mark of an intent",
    "after commit keyed to submitting",
    "before the service in submit",
    "after the service in submit",
    "before the answer in submit",
}
"""Where the intent to send is durable and no answer is: nobody can know what became of the request."""


def row_of(stage: Stage, customer: str) -> Enrollment | None:
    """Return a customer's enrollment; there is never a second one."""
    rows = [row for row in stage.rows() if row.customer_id == customer]
    assert len(rows) <= 1
    return rows[0] if rows else None


def enrolling(stage: Stage, order: Order) -> list[str]:
    """Return the arguments that enroll with an order."""
    return ["enroll", "--customer-id", order.customer_id, "--credentials", str(stage.credentials_file(order))]


def finish(stage: Stage, order: Order) -> Result:
    """Do what a person would: resume, and if credentials are asked for, give the same command again."""
    result = stage.run("resume", "--all")
    row = row_of(stage, order.customer_id)
    if row is None or row.state in {State.PREPARED, State.KEYED}:
        result = stage.run(*enrolling(stage, order))
    return result


def check_promises(stage: Stage, order: Order, row: Enrollment) -> None:
    """Nothing was sent twice, there is one key, at most one certificate and one version, and nothing is unexplained."""
    assert row.owner is None
    assert stage.sent(order.transfer_id) <= 1
    assert stage.keys_of(row) == 1
    done = row.state is State.ACTIVE
    assert len(stage.versions(order.customer_id)) == done
    with stage.parts() as parts:
        parts.journal.check()
        assert len(parts.token.certificates(row.key_id)) == done
        differences = [check for check in reconcile(parts) if check.verdict is not Verdict.OK]
        assert [check for check in differences if row.id in check.detail or check.name == "journal and token"] == []
        history = parts.journal.history(row.id)
    assert len([event for event in history if event.target is State.SUBMITTING]) <= 1
    assert [event.source for event in history[1:]] == [event.target for event in history[:-1]]


@pytest.mark.parametrize("place", PLACES)
def test_killed(shared_stage: Stage, place: str) -> None:
    """After a kill at any place, the same commands as ever finish the work, or say that it is uncertain."""
    order = shared_stage.order(f"{PLACES.index(place):07d}-1")
    killed(shared_stage, place, *enrolling(shared_stage, order))
    result = finish(shared_stage, order)
    row = row_of(shared_stage, order.customer_id)
    assert row is not None
    assert row.state is (State.UNCERTAIN if place in LOST else State.ACTIVE), result
    check_promises(shared_stage, order, row)
    if row.state is State.UNCERTAIN:
        assert "It is uncertain whether" in result.out + result.err
        done = shared_stage.run("resolve", row.id, "--abandon", "--confirm", row.id)
        assert done.code == 0, done


def test_every_step_has_places() -> None:
    """No step of the table is left out, and the uncertain places are among those that are tried."""
    assert set(PLACES) > LOST
    for step in STEPS.values():
        if step.name is not StepName.SETTLE:
            assert any(place.endswith(f" to {step.target}") for place in PLACES)
    assert len(PLACES) == len(set(PLACES))


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_while_settling(shared_stage: Stage, when: str) -> None:
    """A kill around the commit that says "uncertain" changes nothing about what is known."""
    order = shared_stage.order(f"settle-{when}")
    killed(shared_stage, "after the service in submit", *enrolling(shared_stage, order))
    killed(shared_stage, f"{when} commit submitting to uncertain", "resume", "--all")
    assert finish(shared_stage, order).code == 9
    row = row_of(shared_stage, order.customer_id)
    assert row is not None
    assert row.state is State.UNCERTAIN
    check_promises(shared_stage, order, row)
    assert shared_stage.run("resolve", row.id, "--abandon", "--confirm", row.id).code == 0


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_while_settling_from_a_stored_answer(stage: Stage, strangers: Path, when: str) -> None:
    """An answer that was stored before the kill is believed once it can be, however often the process dies."""
    order = stage.order()
    killed(stage, "after the answer in submit", *enrolling(stage, order))
    stage.configure(trust={"directory": str(strangers)})
    assert finish(stage, order).code == 9
    stage.configure()
    killed(stage, f"{when} commit uncertain to accepted", "resume", "--all")
    assert finish(stage, order).code == 0
    row = row_of(stage, order.customer_id)
    assert row is not None
    assert row.state is State.ACTIVE
    check_promises(stage, order, row)


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trust anchors of another family."""
    from varmenne.clock import system_clock

    folder = tmp_path_factory.mktemp("strangers")
    Family(folder / "ca", "http://127.0.0.1:9", system_clock()).publish_trust(folder / "trust" / "test")
    return folder / "trust"


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_while_superseding(stage: Stage, when: str) -> None:
    """The old certificate and its successor never both lose their place."""
    assert stage.run(*enrolling(stage, stage.order())).code == 0
    (old,) = stage.rows()
    second = stage.order()
    command = [*enrolling(stage, second), "--replaces", old.id]
    killed(stage, f"{when} commit active to superseded", *command)
    assert stage.run("resume", "--all").code == 0
    states = {row.id: row.state for row in stage.rows()}
    assert states.pop(old.id) is State.SUPERSEDED
    assert list(states.values()) == [State.ACTIVE]
    assert sorted(stage.versions()) == ["1", "2"]
    assert stage.sent(second.transfer_id) == 1


def killed_at_random(stage: Stage, order: Order, seed: int) -> None:
    """Kill a command and its children again and again at moments that nobody chose; the work ends like any other."""
    chance = random.Random(seed)  # noqa: S311 - the same moments every time
    (token_file,) = stage.token.directory.glob("tokens/*/token.object")
    content = token_file.read_bytes()
    for _ in range(6):
        command = enrolling(stage, order)
        with stage.start(*command, start_new_session=True, stderr=subprocess.DEVNULL) as process:
            time.sleep(chance.uniform(0.3, 1.8))
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        # SoftHSM writes this file anew at each login, in place: whoever is killed just then leaves a token that is no
        # more. No HSM is harmed by the death of a client, so it is put back.
        if token_file.read_bytes() != content:
            token_file.write_bytes(content)
    result = finish(stage, order)
    row = row_of(stage, order.customer_id)
    assert row is not None, result
    assert row.state in {State.ACTIVE, State.UNCERTAIN}, result
    check_promises(stage, order, row)
    if row.state is State.UNCERTAIN:
        assert stage.run("resolve", row.id, "--abandon", "--confirm", row.id).code == 0


SEEDS = [1, 2, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(3, 21))]
"""Of the kills at random: a few each time, more with ``--long``."""


@pytest.mark.parametrize("seed", SEEDS)
def test_killed_at_random(shared_stage: Stage, seed: int) -> None:
    """Killed at any moment, with all its children, nothing is sent twice and nothing is lost."""
    killed_at_random(shared_stage, shared_stage.order(f"random-{seed}"), seed)
