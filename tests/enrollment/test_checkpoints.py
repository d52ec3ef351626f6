"""Checkpoints: the log is signed after every act on a key, anchored in Vault, and never signed if it was rewritten."""

from __future__ import annotations

import json

from harness.stage import CUSTOMER, Stage
from varmenne.audit import verifier
from varmenne.enrollment.evidence.live import LiveEvidence, vkeys
from varmenne.enrollment.parts import Parts


def enrolled(stage: Stage) -> None:
    """Enroll at the command line."""
    file = stage.credentials_file(stage.order(CUSTOMER))
    done = stage.run("enroll", "--customer-id", CUSTOMER, "--credentials", str(file), "-vv")
    assert (done.code, "could not" in done.err, "not in Vault" in done.err) == (0, False, False), done.err


def verified(stage: Stage) -> verifier.Report:
    """Verify all that journal and Vault have."""
    with Parts(stage.settings) as parts:
        return verifier.verify(LiveEvidence(parts), verifier.Trust())


def test_an_enrollment_is_signed_and_anchored(stage: Stage) -> None:
    """After the command, one checkpoint covers all its records; the log key's birth is among them."""
    enrolled(stage)
    with Parts(stage.settings) as parts:
        last, head = parts.journal.log.latest(), parts.journal.log.head()
        assert last is not None
        assert (last.size, last.root, last.origin) == (head.size, head.root, head.origin)
        assert last.anchored_at is not None
        anchor = parts.store.anchors.newest(head.origin.rpartition("/")[2])
        assert anchor is not None
        assert (anchor.size, anchor.note) == (head.size, last.note)
        acts = [json.loads(body)["act"] for _index, body in parts.journal.log.records()]
        assert acts.count("log_key") == 1
        assert {"prepare", "generate", "submit", "answer", "retrieve", "store", "activate", "probe"} <= {*acts}
        (vkey,) = vkeys(parts)
        checked = verifier.signed_by_log(verifier.parse_checkpoint(last.note.encode()), [verifier.parse_vkey(vkey)])
    assert checked.name == head.origin
    report = verified(stage)
    assert (report.ok, report.size, report.checkpoints) == (True, head.size, 2), report
