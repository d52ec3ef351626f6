"""What a person decides about an enrollment whose fate is uncertain, or which is given up."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import Any

import pytest

from harness.stage import Listener, Stage, order_for
from varmenne.clock import system_clock
from varmenne.domain.enrollment import Enrollment
from varmenne.domain.identifiers import RetrievalId
from varmenne.domain.secret import Secret
from varmenne.domain.steps import State
from varmenne.enrollment import resolve
from varmenne.enrollment.enroll import enroll, go_on, unfinished
from varmenne.enrollment.parts import Parts
from varmenne.errors import InputError, OutcomeUncertain, ServiceRefused, ServiceUnreachable, StateError
from varmenne.testbench.family import Family
from varmenne.testbench.state import Order

WAIT = timedelta(seconds=20)


def uncertain_by(stage: Stage, fault: str, parts: Parts) -> tuple[Enrollment, Order]:
    """Enroll with a fault of the bench, and return the enrollment whose fate is open, with its order."""
    order = stage.order()
    stage.bench.state.fault(fault, count=1)
    with pytest.raises(OutcomeUncertain):
        enroll(parts, Listener(), order_for(), stage.credentials(order), wait=WAIT)
    (row,) = parts.journal.list()
    assert row.state is State.UNCERTAIN
    return row, order


def test_what_is_known_is_told(stage: Stage) -> None:
    """The person who decides hears when it was sent, what came back, and why it was not believed."""
    with stage.parts() as parts:
        row, order = uncertain_by(stage, "drop-after-receipt", parts)
        told = " ".join(resolve.explain(parts, row))
    assert "is uncertain" in told
    assert "Its request was begun on" in told
    assert "No answer has been stored" in told
    assert order.one_time_password not in told


def test_retrieval_id_from_support(stage: Stage) -> None:
    """With the RetrievalId that support has found, the enrollment is finished and nothing is sent again."""
    with stage.parts() as parts:
        row, order = uncertain_by(stage, "drop-after-receipt", parts)
        issued = stage.bench.state.store.find_issued(by="transfer_id", value=order.transfer_id)
        assert issued is not None
        done = resolve.found(parts, Listener(), row, RetrievalId(issued.retrieval_id), wait=WAIT)
        events = [event.step for event in parts.journal.history(row.id)]
    assert done.state is State.ACTIVE
    assert stage.sent(order.transfer_id) == 1
    assert "order" in events


def test_resend_is_an_order(stage: Stage) -> None:
    """What a person orders is sent: the same CSR, the same transfer ID; the service then says what it thinks of it."""
    with stage.parts() as parts:
        row, order = uncertain_by(stage, "drop-unread", parts)
        done = resolve.resend(parts, Listener(), row, stage.credentials(order), wait=WAIT)
    assert done.state is State.ACTIVE
    assert done.csr == row.csr
    assert stage.keys_of(done) == 1


def test_resend_of_spent_credentials_leaves_the_first_request_open(stage: Stage) -> None:
    """If the first request had arrived after all, the second is refused, and the RetrievalId can still be given."""
    with stage.parts() as parts:
        row, order = uncertain_by(stage, "drop-after-receipt", parts)
        with pytest.raises(ServiceRefused):
            resolve.resend(parts, Listener(), row, stage.credentials(order), wait=WAIT)
        row = parts.journal.get(row.id)
        assert row.state is State.UNCERTAIN
        issued = stage.bench.state.store.find_issued(by="transfer_id", value=order.transfer_id)
        assert issued is not None
        done = resolve.found(parts, Listener(), row, RetrievalId(issued.retrieval_id), wait=WAIT)
    assert done.state is State.ACTIVE


def test_wrong_retrieval_id_can_be_put_right(stage: Stage) -> None:
    """A RetrievalId that the service does not know stops for a person, who may give another."""
    with stage.parts() as parts:
        row, order = uncertain_by(stage, "drop-after-receipt", parts)
        with pytest.raises(ServiceRefused, match="does not give the certificate"):
            resolve.found(parts, Listener(), row, RetrievalId("mistyped"), wait=WAIT)
        issued = stage.bench.state.store.find_issued(by="transfer_id", value=order.transfer_id)
        assert issued is not None
        row = parts.journal.get(row.id)
        done = resolve.found(parts, Listener(), row, RetrievalId(issued.retrieval_id), wait=WAIT)
    assert done.state is State.ACTIVE
    assert stage.sent(order.transfer_id) == 1


def test_stored_acceptance_is_found_before_anything_is_sent_again(stage: Stage) -> None:
    """With the anchors put right, a resend finds the acceptance that was stored, and sends nothing."""
    order = stage.order()
    other = stage.folder / "other-trust"
    Family(stage.folder / "stranger", "http://127.0.0.1:9", system_clock()).publish_trust(other / "test")
    stage.configure(trust={"directory": str(other)})
    with stage.parts() as parts:
        with pytest.raises(OutcomeUncertain):
            enroll(parts, Listener(), order_for(), stage.credentials(order), wait=WAIT)
        (row,) = parts.journal.list()
    stage.configure()
    with stage.parts() as parts:
        done = resolve.resend(parts, Listener(), row, stage.credentials(order), wait=WAIT)
    assert done.state is State.ACTIVE
    assert stage.sent(order.transfer_id) == 1


def test_test_settings_do_not_touch_production(stage: Stage) -> None:
    """A row of the other environment is neither resumed nor decided about: nothing of it reaches the endpoint."""
    with stage.parts() as parts:
        row, order = uncertain_by(stage, "drop-unread", parts)
    stage.configure(environment="production")
    with stage.parts() as parts:
        assert unfinished(parts) == ()
        with pytest.raises(StateError, match="of the test environment"):
            go_on(parts, Listener(), row, credentials=stage.credentials(order), wait=WAIT)
        with pytest.raises(StateError, match="of the test environment"):
            resolve.resend(parts, Listener(), row, stage.credentials(order), wait=WAIT)
        with pytest.raises(StateError, match="of the test environment"):
            resolve.abandon(parts, Listener(), row)
        assert parts.journal.get(row.id) == row
    assert stage.sent(order.transfer_id) == 1


def test_abandoned_after_a_refusal_frees_the_transfer_id(stage: Stage) -> None:
    """A mistyped customer ID does not burn the order: given up, its transfer ID serves the right customer."""
    order = stage.order("7654321-4")
    credentials = dataclasses.replace(stage.credentials(order), customer=None)
    with stage.parts() as parts:
        with pytest.raises(ServiceRefused):
            enroll(parts, Listener(), order_for("7654321-0"), credentials, wait=WAIT)
        with pytest.raises(StateError, match="belongs to another") as caught:
            enroll(parts, Listener(), order_for("7654321-4"), credentials, wait=WAIT)
        (row,) = parts.journal.list()
        assert f"resolve {row.id} --abandon" in caught.value.next_step
        resolve.abandon(parts, Listener(), row)
        assert enroll(parts, Listener(), order_for("7654321-4"), credentials, wait=WAIT).state is State.ACTIVE


def test_order_is_about_what_was_seen(stage: Stage) -> None:
    """A decision about an enrollment that went on meanwhile is not carried out."""
    with stage.parts() as parts:
        row, order = uncertain_by(stage, "drop-unread", parts)
        resolve.resend(parts, Listener(), row, stage.credentials(order), wait=WAIT)
        with pytest.raises(StateError, match="changed meanwhile"):
            resolve.abandon(parts, Listener(), row)
        assert parts.journal.get(row.id).state is State.ACTIVE


def test_looking_again_adds_nothing_to_the_history(stage: Stage) -> None:
    """Resuming an uncertain enrollment twice tells the same twice, and the history stays as short."""
    with stage.parts() as parts:
        row, _order = uncertain_by(stage, "drop-after-receipt", parts)
        lengths = []
        for _ in range(3):
            with pytest.raises(OutcomeUncertain):
                go_on(parts, Listener(), parts.journal.get(row.id), wait=WAIT)
            lengths.append(len(parts.journal.history(row.id)))
    assert lengths[1] == lengths[2]


def test_resend_that_is_not_sent_changes_nothing(stage: Stage) -> None:
    """When the second try cannot even be sent, the enrollment is as uncertain as before."""
    with stage.parts() as parts:
        row, order = uncertain_by(stage, "drop-after-receipt", parts)
        stage.bench.stop()
        with pytest.raises(ServiceUnreachable):
            resolve.resend(parts, Listener(), row, stage.credentials(order), wait=WAIT)
        after = parts.journal.get(row.id)
    assert (after.state, after.sent_at, after.csr) == (State.UNCERTAIN, row.sent_at, row.csr)


def test_old_answer_says_nothing_of_a_new_request(stage: Stage) -> None:
    """After a resend whose answer is lost, a refusal that came before it is not taken for its answer."""
    with stage.parts() as parts:
        order = stage.order()
        wrong = stage.credentials(order)
        object.__setattr__(wrong, "password", Secret("wrong"))
        with pytest.raises(ServiceRefused):
            enroll(parts, Listener(), order_for(), wrong, wait=WAIT)
        (row,) = parts.journal.list()
        stage.bench.state.fault("drop-after-receipt", count=1)
        with pytest.raises(OutcomeUncertain):
            resolve.resend(parts, Listener(), row, stage.credentials(order), wait=WAIT)
        with pytest.raises(OutcomeUncertain):
            go_on(parts, Listener(), parts.journal.get(row.id), wait=WAIT)
        assert parts.journal.get(row.id).state is State.UNCERTAIN


def test_wrong_password_can_be_put_right_by_order(stage: Stage) -> None:
    """A mistyped password is refused by the service; the right one is sent only because a person says so."""
    with stage.parts() as parts:
        order = stage.order()
        wrong = stage.credentials(order)
        object.__setattr__(wrong, "password", Secret("wrong"))
        with pytest.raises(ServiceRefused):
            enroll(parts, Listener(), order_for(), wrong, wait=WAIT)
        (row,) = parts.journal.list()
        with pytest.raises(StateError, match="has refused this transfer ID"):
            enroll(parts, Listener(), order_for(), stage.credentials(order), wait=WAIT)
        done = resolve.resend(parts, Listener(), row, stage.credentials(order), wait=WAIT)
    assert done.state is State.ACTIVE
    assert stage.sent(order.transfer_id) == 2


def test_credentials_of_another_order_are_refused(stage: Stage) -> None:
    """A resend takes the enrollment's own credentials only."""
    with stage.parts() as parts:
        row, _order = uncertain_by(stage, "drop-after-receipt", parts)
        with pytest.raises(InputError, match="not those of enrollment"):
            resolve.resend(parts, Listener(), row, stage.credentials(stage.order()), wait=WAIT)
        assert parts.journal.get(row.id) == row


def test_abandoned_is_an_end(stage: Stage) -> None:
    """What is given up stays so: the key stays in the token, nothing is left to do, and no decision is open."""
    with stage.parts() as parts:
        row, _order = uncertain_by(stage, "drop-after-receipt", parts)
        ended = resolve.abandon(parts, Listener(), row)
        assert ended.state is State.ABANDONED
        assert unfinished(parts) == ()
        assert resolve.choices(ended) == ()
        with pytest.raises(StateError):
            resolve.abandon(parts, Listener(), ended)
    assert stage.keys_of(ended) == 1


def test_active_is_not_decided_about(stage: Stage) -> None:
    """An enrollment with its certificate cannot be sent again, found or given up."""
    with stage.parts() as parts:
        order = stage.order()
        row = enroll(parts, Listener(), order_for(), stage.credentials(order), wait=WAIT)
        assert resolve.choices(row) == ()
        with pytest.raises(StateError, match="is active"):
            resolve.resend(parts, Listener(), row, stage.credentials(order), wait=WAIT)


def test_command_asks_for_confirmation(stage: Stage) -> None:
    """Without a terminal the ID must be given again; a wrong one does nothing; the right one resends."""
    with stage.parts() as parts:
        row, order = uncertain_by(stage, "drop-unread", parts)
    told = stage.run("resolve", row.id)
    assert told.code == 0
    assert "--resend" in told.err
    before = stage.world()
    command = ("resolve", row.id, "--resend", "--credentials", stage.credentials_file(order))
    for confirmation in ((), ("--confirm", "20260101-00000000")):
        refused = stage.run(*command, *confirmation)
        assert refused.code == InputError.exit_code
    assert stage.world() == before
    done = stage.run(*command, "--confirm", row.id, "--json")
    assert done.code == 0
    assert done.json["state"] == "active"


def test_expired_only_when_nothing_was_sent(stage: Stage) -> None:
    """Credentials that run out before they are sent end the enrollment; those that were sent leave it uncertain."""
    with stage.parts() as parts:
        row, _order = uncertain_by(stage, "drop-after-receipt", parts)
        unsent = stage.order("1234567-1")
        stage.bench.stop()
        with pytest.raises(ServiceUnreachable):
            enroll(parts, Listener(), order_for("1234567-1"), stage.credentials(unsent), wait=WAIT)
    late = unsent.valid_until + timedelta(seconds=1)
    with stage.parts(clock=lambda: late) as parts:
        for waiting in unfinished(parts):
            with pytest.raises((InputError, OutcomeUncertain)):
                go_on(parts, Listener(), waiting, wait=WAIT)
        states = {each.id: each.state for each in parts.journal.list()}
    assert states.pop(row.id) is State.UNCERTAIN
    assert list(states.values()) in ([State.EXPIRED], [])


def test_clock_that_steps_back_loses_no_answer(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that is stored under an earlier time than its request is its answer all the same."""
    order = stage.order()
    moments = {"now": order.valid_until - timedelta(days=14) + timedelta(seconds=5)}
    with stage.parts(clock=lambda: moments["now"]) as parts:
        send = parts.service.sign_new_certificate

        def sent_and_stepped_back(*given: Any) -> Any:
            answer = send(*given)
            moments["now"] -= timedelta(minutes=10)
            return answer

        monkeypatch.setattr(parts.service, "sign_new_certificate", sent_and_stepped_back)
        with pytest.raises(OutcomeUncertain):  # The signer's certificate is not valid yet by the clock that stepped.
            enroll(parts, Listener(), order_for(), stage.credentials(order), wait=WAIT)
        moments["now"] += timedelta(minutes=10)
        (row,) = parts.journal.list()
        assert go_on(parts, Listener(), row, wait=WAIT).state is State.ACTIVE
    assert stage.sent(order.transfer_id) == 1


def test_stored_answer_counts_after_a_resend_that_was_not_sent(stage: Stage) -> None:
    """A resend that never left does not make the stored answer look like one to an earlier request."""
    with stage.parts() as parts:
        row, order = uncertain_by(stage, "wrong-signer", parts)
        stage.bench.stop()
        with pytest.raises(ServiceUnreachable):
            resolve.resend(parts, Listener(), row, stage.credentials(order), wait=WAIT)
        with pytest.raises(OutcomeUncertain) as caught:
            go_on(parts, Listener(), parts.journal.get(row.id), wait=WAIT)
    assert "lost" not in caught.value.why
    assert "not trusted" in caught.value.why


def test_show_points_at_what_was_not_believed(stage: Stage) -> None:
    """An answer that was refused is kept, and `show` tells of it and of how to get it out."""
    with stage.parts() as parts:
        row, _order = uncertain_by(stage, "wrong-signer", parts)
    told = stage.run("show", row.id)
    assert "refused: chain" in told.out
    assert f"varmenne service answers {row.id} --out DIR" in told.out
    (answer,) = stage.run("show", row.id, "--json").json["refused_answers"]
    assert answer["operation"] == "signNewCertificate"
