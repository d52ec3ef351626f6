"""Revocation between issuing and publishing: nothing is lost while it is unknown, and nothing revoked is published."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from harness.stage import Listener, Stage, order_for
from varmenne.domain.enrollment import Enrollment
from varmenne.domain.steps import State
from varmenne.enrollment.enroll import enroll, go_on
from varmenne.errors import NotFinished, VerificationError

WAIT = timedelta(seconds=20)
NO_TIME = {"revocation": "hard", "revocation_timeout_seconds": 0.00001}
"""No list can be fetched in that time."""


def forget_lists(stage: Stage) -> None:
    """Take away the lists that were kept."""
    for kept in (Path(stage.state_dir) / "crl").glob("*.crl"):
        kept.unlink()


def issued_but_unknown(stage: Stage, customer: str) -> Enrollment:
    """Enroll while no list can be had, with the hard policy."""
    stage.configure(trust=NO_TIME)
    forget_lists(stage)
    order = stage.order(customer)
    with stage.parts() as parts, pytest.raises(NotFinished) as caught:
        enroll(parts, Listener(), order_for(customer), stage.credentials(order), wait=WAIT)
    assert "revoked" in caught.value.what
    (row,) = [row for row in stage.rows() if row.customer_id == customer]
    return row


def test_hard_policy_waits_in_issued_and_goes_on(shared_stage: Stage) -> None:
    """The certificate is safe, the row is due again, nothing is published; with a list at hand it goes on."""
    row = issued_but_unknown(shared_stage, "waits")
    assert (row.state, row.owner) == (State.ISSUED, None)
    assert row.certificate is not None
    assert row.due_at is not None
    assert row.vault_path is None
    shared_stage.configure(trust={"revocation": "hard"})
    with shared_stage.parts() as parts:
        assert go_on(parts, Listener(), row, wait=WAIT).state is State.ACTIVE
    shared_stage.configure()


def test_revoked_certificate_is_not_published(shared_stage: Stage) -> None:
    """The soft policy refuses it too; the enrollment stays where it is, with the reason."""
    row = issued_but_unknown(shared_stage, "revoked")
    assert row.serial_number is not None
    shared_stage.bench.state.revoke(int(row.serial_number.replace(":", ""), 16))
    shared_stage.configure()
    forget_lists(shared_stage)
    with shared_stage.parts() as parts, pytest.raises(VerificationError) as caught:
        go_on(parts, Listener(), row, wait=WAIT)
    assert caught.value.check == "revoked"
    (row,) = [row for row in shared_stage.rows() if row.customer_id == "revoked"]
    assert (row.state, row.vault_path) == (State.ISSUED, None)
    assert row.problem is not None
    assert "revoked" in row.problem["what"]


def test_soft_policy_warns_and_publishes(shared_stage: Stage) -> None:
    """Unknown is told, and is no obstacle."""
    shared_stage.configure(trust={**NO_TIME, "revocation": "soft"})
    forget_lists(shared_stage)
    order, listener = shared_stage.order("soft"), Listener()
    with shared_stage.parts() as parts:
        row = enroll(parts, listener, order_for("soft"), shared_stage.credentials(order), wait=WAIT)
    assert row.state is State.ACTIVE
    assert any("not known whether" in sentence for kind, sentence in listener.heard if kind == "warns")
    shared_stage.configure()


def test_answers_are_handed_out_as_evidence(shared_stage: Stage, tmp_path: Path) -> None:
    """Every answer, as it came and with its verdict, in files that only their owner reads and that verify offline."""
    order = shared_stage.order("evidence")
    with shared_stage.parts() as parts:
        row = enroll(parts, Listener(), order_for("evidence"), shared_stage.credentials(order), wait=WAIT)
    folder = tmp_path / "evidence"
    lines = shared_stage.run("service", "answers", row.id, "--out", folder, "--json").json
    assert {line["operation"] for line in lines} == {"signNewCertificate", "getCertificate"}
    assert {line["verdict"] for line in lines} == {"verified"}
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    files = [line["file"] for line in lines if line["operation"] == "getCertificate"]
    verified = shared_stage.run("service", "verify", "--operation", "getCertificate", "--json", *files)
    assert verified.code == 0
    assert [json.loads(line)["verified"] for line in verified.out.splitlines()] == [True] * len(files)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert shared_stage.run("service", "answers", row.id, "--out", folder).code == 4
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
