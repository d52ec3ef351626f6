"""Token and journal are compared: each kind of difference is told, with the next step, and nothing is deleted."""

from __future__ import annotations

from datetime import timedelta

from harness.approvals import approve
from harness.stage import Listener, Stage, order_for
from harness.years import IN_THE_WINDOW, Years
from varmenne.domain.check import Verdict
from varmenne.domain.keys import new_key_id
from varmenne.domain.steps import State
from varmenne.enrollment.enroll import enroll
from varmenne.enrollment.preflight import prove_token
from varmenne.enrollment.reconcile import reconcile
from varmenne.enrollment.renew import activate, retire

WAIT = timedelta(seconds=20)


def test_agreement_is_one_line(stage: Stage) -> None:
    """After an enrollment, token and journal agree."""
    with stage.parts() as parts:
        enroll(parts, Listener(), order_for(), stage.credentials(stage.order()), wait=WAIT)
        (check,) = reconcile(parts)
    assert (check.verdict, check.detail) == (Verdict.OK, "1 in the token; token and journal agree")


def test_differences_are_told_and_left_alone(stage: Stage) -> None:
    """A key without a row, and a stranger that bears an enrollment's label, are named; both stay where they are."""
    with stage.parts() as parts:
        row = enroll(parts, Listener(), order_for(), stage.credentials(stage.order()), wait=WAIT)
        parts.token.generate(new_key_id(), "varmenne-20200101-00000000")
        parts.token.generate(new_key_id(), row.key_label)
        found = {check.name: check.detail for check in reconcile(parts)}
    assert "20200101-00000000: the journal is older" in found["journal and token"]
    assert row.id not in found["journal and token"]
    assert found["strangers with our labels"] == row.key_label
    assert len(stage.keys()) == 3


def test_lost_key_is_told(stage: Stage) -> None:
    """A row whose key is not in the token any more is named."""
    with stage.parts() as parts:
        row = enroll(parts, Listener(), order_for(), stage.credentials(stage.order()), wait=WAIT)
    for path in stage.token.directory.glob("tokens/*/*.object"):
        if path.name != "token.object":
            path.unlink()
    with stage.parts() as parts:
        found = {check.name: check.detail for check in reconcile(parts)}
    assert found["rows without a key"] == row.id


def test_a_destroyed_key_is_no_loss(stage: Stage) -> None:
    """A person has gone back and had the newest key destroyed: what is in use goes on, and no loss is told."""
    years = Years(stage)
    first = years.first()
    years.pass_by(IN_THE_WINDOW)
    second = years.renewed(first)
    with years.parts() as parts:
        activate(parts, Listener(), second, generation=1)
        approve(parts, second)
        destroyed = retire(parts, Listener(), parts.journal.get(second.id), destroy=True)
        assert destroyed.state is State.DESTROYED
    with years.parts() as parts:
        assert prove_token(parts, Listener()) == parts.token.identity()
        (check,) = reconcile(parts)
    assert check.verdict is Verdict.OK
