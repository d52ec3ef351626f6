"""Revocation of certificates and of the service's signer: unknown loses nothing, and revoked is never acted on."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from harness.stage import Listener, Stage, order_for
from varmenne.domain.enrollment import Enrollment
from varmenne.domain.steps import State
from varmenne.enrollment.enroll import enroll, go_on
from varmenne.enrollment.revoked import look_up
from varmenne.errors import NotFinished, OutcomeUncertain, VerificationError
from varmenne.service.answers import verify_answer
from varmenne.service.interface import Operation
from varmenne.testbench.family import der

WAIT = timedelta(seconds=20)
NO_TIME = {"revocation": "hard", "revocation_timeout_seconds": 0.00001}
"""No list can be fetched in that time."""


def forget_lists(stage: Stage) -> None:
    """Take away the lists that were kept."""
    for kept in (Path(stage.state_dir) / "crl").glob("*.crl"):
        kept.unlink()


def keep_lists_but_providers(stage: Stage) -> None:
    """Look the service's signer up, so that its lists are kept, and those of customers' certificates are not."""
    forget_lists(stage)
    family = stage.bench.state.family()
    signer = family.signer_at(stage.bench.state.now())
    path = [signer.certificate, *(family[name].certificate for name in ("services", "intermediate", "root"))]
    stage.configure(trust={"revocation": "hard"})
    with stage.parts() as parts:
        assert look_up(parts, [der(certificate) for certificate in path]) == ()


def issued_but_unknown(stage: Stage, customer: str) -> Enrollment:
    """Enroll while the list of customers' certificates cannot be had, with the hard policy."""
    keep_lists_but_providers(stage)
    stage.configure(trust=NO_TIME)
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
    assert any("whether the certificate is revoked" in sentence for sentence in listener.told("warns"))
    signer = [sentence for sentence in listener.told("warns") if "whether the certificate that signed" in sentence]
    assert len(signer) == 1, "once, though there were two answers"
    shared_stage.configure()


def test_answer_of_a_revoked_signer_is_kept_and_not_used(shared_stage: Stage) -> None:
    """It verifies, and is doubted all the same. The answer is there, with the check that it failed; nothing follows."""
    order = shared_stage.order("signer")
    shared_stage.bench.state.fault("revoked-signer", operation=Operation.SIGN_NEW)
    with shared_stage.parts() as parts, pytest.raises(OutcomeUncertain, match="uncertain whether"):
        enroll(parts, Listener(), order_for("signer"), shared_stage.credentials(order), wait=WAIT)
    (row,) = [row for row in shared_stage.rows() if row.customer_id == "signer"]
    assert (row.state, row.retrieval_id) == (State.UNCERTAIN, None)
    with shared_stage.parts() as parts:
        (stored,) = parts.journal.answers(row.id)
        trust = parts.trust()
        answer = verify_answer(stored.body, Operation.SIGN_NEW, trust.services, parts.now)
    assert stored.verdict == "refused: revoked"
    assert answer.ok, "its signature is genuine: the list alone tells"
    assert answer.signed_by == (der(shared_stage.bench.state.family().revoked_signer.certificate), *trust.services)
    assert shared_stage.sent(order.transfer_id) == 1


def test_certificate_from_a_revoked_signer_is_not_taken(shared_stage: Stage) -> None:
    """An answer to getCertificate is refused too; the next one, of the genuine signer, finishes the work."""
    order = shared_stage.order("fetched")
    shared_stage.bench.state.fault("revoked-signer", operation=Operation.GET)
    with shared_stage.parts() as parts, pytest.raises(VerificationError) as caught:
        enroll(parts, Listener(), order_for("fetched"), shared_stage.credentials(order), wait=WAIT)
    assert caught.value.check == "revoked"
    (row,) = [row for row in shared_stage.rows() if row.customer_id == "fetched"]
    assert (row.state, row.certificate) == (State.ACCEPTED, None)
    with shared_stage.parts() as parts:
        assert go_on(parts, Listener(), row, wait=WAIT).state is State.ACTIVE


def test_hard_policy_keeps_the_answer_until_its_signer_is_known(shared_stage: Stage) -> None:
    """Nothing is decided and nothing is sent twice: with lists at hand, the stored answer is read again."""
    shared_stage.configure(trust=NO_TIME)
    forget_lists(shared_stage)
    order = shared_stage.order("kept")
    with shared_stage.parts() as parts, pytest.raises(NotFinished) as caught:
        enroll(parts, Listener(), order_for("kept"), shared_stage.credentials(order), wait=WAIT)
    assert "that signed the answer" in caught.value.what
    (row,) = [row for row in shared_stage.rows() if row.customer_id == "kept"]
    assert (row.state, row.owner) == (State.SUBMITTING, None)
    shared_stage.configure()
    with shared_stage.parts() as parts:
        assert [stored.verdict for stored in parts.journal.answers(row.id)] == [None]
        assert go_on(parts, Listener(), row, wait=WAIT).state is State.ACTIVE
    assert shared_stage.sent(order.transfer_id) == 1


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
