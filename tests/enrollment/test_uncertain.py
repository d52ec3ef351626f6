"""Sent, and no believable answer: nothing is sent again by itself, and what is known is kept and used."""

from __future__ import annotations

from datetime import timedelta

import pytest

from harness.stage import Listener, Stage, order_for
from varmenne.clock import system_clock
from varmenne.domain.enrollment import Enrollment
from varmenne.domain.steps import State
from varmenne.enrollment.enroll import enroll, go_on, unfinished
from varmenne.errors import ConfigError, OutcomeUncertain, VarmenneError
from varmenne.service.interface import Operation
from varmenne.testbench.family import Family
from varmenne.testbench.state import Order

WAIT = timedelta(seconds=20)

LOST = ("drop-unread", "drop-after-receipt", "slow")
UNBELIEVED = (
    "http-503",
    "http-502-after-receipt",
    "html-page",
    "half-answer",
    "huge",
    "redirect",
    "tampered",
    "unsigned",
    "wrong-signer",
    "customer-signs",
    "expired-signer",
)


def spoilt(stage: Stage, fault: str, customer: str) -> tuple[Enrollment, Order, OutcomeUncertain]:
    """Enroll with a fault at the request, which leaves its fate open."""
    if fault == "slow":
        stage.configure(service={"read_timeout_seconds": 1.0})
    order = stage.order(customer)
    stage.bench.state.fault(fault, operation=Operation.SIGN_NEW)
    with stage.parts() as parts, pytest.raises(OutcomeUncertain) as caught:
        enroll(parts, Listener(), order_for(customer), stage.credentials(order), wait=WAIT)
    stage.configure()
    (row,) = [row for row in stage.rows() if row.customer_id == customer]
    assert (row.state, row.owner, row.due_at) == (State.UNCERTAIN, None, None)
    assert row.sent_at is not None
    assert row.csr is not None
    assert row.problem is not None
    assert stage.keys_of(row) == 1
    return row, order, caught.value


def test_what_a_person_reads(shared_stage: Stage) -> None:
    """The message names the enrollment, the cause, what will not happen by itself, and what can be done."""
    row, _order, error = spoilt(shared_stage, "drop-after-receipt", "person")
    assert row.id in error.what
    assert "uncertain" in error.what
    assert "had been sent" in error.why
    assert "not sent again by themselves" in error.next_step
    assert error.exit_code == 9


@pytest.mark.parametrize("fault", [*LOST, *UNBELIEVED])
def test_going_on_sends_nothing(shared_stage: Stage, fault: str) -> None:
    """After any lost or unbelieved answer, going on changes nothing outside; so does the same command again."""
    row, order, _error = spoilt(shared_stage, fault, fault)
    before = len(shared_stage.bench.state.log()), shared_stage.keys(), shared_stage.versions(fault)
    with shared_stage.parts() as parts:
        for _ in range(2):
            with pytest.raises(OutcomeUncertain):
                go_on(parts, Listener(), row, wait=WAIT)
            row = parts.journal.get(row.id)
        with pytest.raises(OutcomeUncertain):
            enroll(parts, Listener(), order_for(fault), shared_stage.credentials(order), wait=WAIT)
        row = parts.journal.get(row.id)
        answers = parts.journal.answers(row.id)
    assert (row.state, row.owner) == (State.UNCERTAIN, None)
    assert (len(shared_stage.bench.state.log()), shared_stage.keys(), shared_stage.versions(fault)) == before
    assert shared_stage.sent(order.transfer_id) <= 1
    assert len(answers) == (fault in UNBELIEVED)
    assert all(answer.verdict and answer.verdict.startswith("refused: ") for answer in answers)
    assert order.one_time_password not in repr(row.problem)


def test_anchors_put_right(stage: Stage) -> None:
    """An answer that only our own anchors kept from being believed is settled from what was stored."""
    order = stage.order()
    other = stage.folder / "other-trust"
    Family(stage.folder / "stranger", "http://127.0.0.1:9", system_clock()).publish_trust(other / "test")
    stage.configure(trust={"directory": str(other)})
    with stage.parts() as parts:
        with pytest.raises(OutcomeUncertain) as caught:
            enroll(parts, Listener(), order_for(), stage.credentials(order), wait=WAIT)
        (row,) = parts.journal.list()
        assert unfinished(parts) == (row,)
    assert "trust anchors" in caught.value.next_step
    stage.configure()
    with stage.parts() as parts:
        row = go_on(parts, Listener(), row, wait=WAIT)
        (answer,) = parts.journal.answers(row.id, Operation.SIGN_NEW)
    assert (row.state, row.problem) == (State.ACTIVE, None)
    assert answer.verdict == "verified"
    assert stage.sent() == 1


def test_anchors_gone_at_answer_time(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anchors that vanish while the answer is on its way leave it stored; put back, it is settled from there."""
    order = stage.order()
    trust, away = stage.bench.trust_dir, stage.folder / "away"
    with stage.parts() as parts:
        send = parts.service.sign_new_certificate

        def send_and_lose_trust(*arguments: object) -> object:
            answer = send(*arguments)  # type: ignore[arg-type]  # passed on as they came
            trust.rename(away)
            return answer

        monkeypatch.setattr(parts.service, "sign_new_certificate", send_and_lose_trust)
        with pytest.raises(VarmenneError) as caught:
            enroll(parts, Listener(), order_for(), stage.credentials(order), wait=WAIT)
        (row,) = parts.journal.list()
    assert isinstance(caught.value, (ConfigError, OutcomeUncertain))
    assert row.state in {State.SUBMITTING, State.UNCERTAIN}
    assert row.owner is None
    away.rename(trust)
    with stage.parts() as parts:
        assert go_on(parts, Listener(), row, wait=WAIT).state is State.ACTIVE
    assert stage.sent() == 1


def test_clock_put_right(stage: Stage) -> None:
    """An answer that our own clock kept from being believed is settled once the clock is right."""
    order = stage.order()
    off = timedelta(0)
    with stage.parts(clock=lambda: system_clock() + off) as parts:
        send = parts.service.sign_new_certificate

        def send_and_err(*arguments: object) -> object:
            nonlocal off
            answer = send(*arguments)  # type: ignore[arg-type]  # passed on as they came
            off = timedelta(days=4000)
            return answer

        parts.service.sign_new_certificate = send_and_err  # type: ignore[method-assign,assignment]
        with pytest.raises(VarmenneError):
            enroll(parts, Listener(), order_for(), stage.credentials(order), wait=WAIT)
        (row,) = parts.journal.list()
    with stage.parts() as parts:
        done = go_on(parts, Listener(), row, wait=WAIT)
    assert done.state is State.ACTIVE
    assert stage.sent() == 1


def test_uncertain_credentials_are_not_taken_for_a_new_enrollment(shared_stage: Stage) -> None:
    """Another order of the same customer goes its own way beside an uncertain one."""
    _row, order, _error = spoilt(shared_stage, "drop-unread", "two-orders")
    with shared_stage.parts() as parts:
        second = shared_stage.credentials(shared_stage.order("two-orders"))
        done = enroll(parts, Listener(), order_for("two-orders"), second, wait=WAIT)
        assert done.state is State.ACTIVE
        with pytest.raises(OutcomeUncertain):
            enroll(parts, Listener(), order_for("two-orders"), shared_stage.credentials(order), wait=WAIT)
