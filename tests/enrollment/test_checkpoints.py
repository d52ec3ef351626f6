"""Checkpoints: the log is signed after every act on a key, anchored in Vault, and never signed if it was rewritten."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from harness.stage import CUSTOMER, Stage
from varmenne.audit import verifier
from varmenne.clock import system_clock
from varmenne.domain import merkle
from varmenne.enrollment.evidence.checkpoints import checkpoint, log_signer
from varmenne.enrollment.evidence.duty import QUIET, TOGETHER, LogDuty
from varmenne.enrollment.evidence.live import proven, vkeys
from varmenne.enrollment.parts import Parts
from varmenne.errors import EvidenceError, InputError, TokenUnavailable, VaultDenied, VaultError
from varmenne.journal import Journal, schema


def enrolled(stage: Stage) -> None:
    """Enroll at the command line."""
    file = stage.credentials_file(stage.order(CUSTOMER))
    done = stage.run("enroll", "--customer-id", CUSTOMER, "--credentials", str(file), "-vv")
    assert (done.code, "could not" in done.err, "not in Vault" in done.err) == (0, False, False), done.err


def verified(stage: Stage) -> verifier.Report:
    """Verify all that journal and Vault have."""
    with Parts(stage.settings) as parts:
        return proven(parts, verifier.Trust())


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


def test_nothing_new_is_not_signed_again(stage: Stage) -> None:
    """Without a new record there is nothing to sign, and the token is not asked."""
    enrolled(stage)
    with Parts(stage.settings) as parts:
        before = parts.journal.log.checkpoints()
        assert checkpoint(parts) == before[-1]
        assert parts.journal.log.checkpoints() == before
        assert not parts.has("token")


def test_a_command_that_acts_on_no_key_does_not_sign(stage: Stage) -> None:
    """Looking, and noting what a person tells, need no token; the next act signs what was noted."""
    enrolled(stage)
    row = stage.rows()[0]
    assert stage.run("contact", "set", row.id, "Maija").code == 0
    assert stage.run("show", row.id).code == 0
    with Parts(stage.settings) as parts:
        assert parts.journal.log.unsigned()
        assert len(parts.journal.log.checkpoints()) == 1
    assert stage.run("audit", "checkpoint").code == 0
    with Parts(stage.settings) as parts:
        assert not parts.journal.log.unsigned()


def test_vault_that_is_away_delays_the_anchor(stage: Stage) -> None:
    """The log is signed all the same, and the next checkpoint that reaches Vault covers it."""
    enrolled(stage)
    stage.configure(vault={"address": "http://127.0.0.1:9"})
    with Parts(stage.settings) as parts:
        parts.journal.log.record("test", parts.now)
        with pytest.raises(VaultError):
            checkpoint(parts)
        signed = parts.journal.log.latest()
        assert signed is not None
        assert (signed.size, signed.anchored_at) == (parts.journal.log.head().size, None)
    stage.configure()
    with Parts(stage.settings) as parts:
        again = checkpoint(parts)
        assert again is not None
        assert (again.size, again.note) == (signed.size, signed.note)
        assert not parts.journal.log.unsigned()


def test_an_anchor_cannot_be_changed(stage: Stage) -> None:
    """The policy lets the agent create a checkpoint, and neither change nor delete it."""
    enrolled(stage)
    with Parts(stage.settings) as parts:
        last = parts.journal.log.latest()
        assert last is not None
        folder = last.origin.rpartition("/")[2]
        anchors = parts.store.anchors
        anchors.put(folder, last.size, last.note)
        with pytest.raises(EvidenceError, match="another checkpoint"):
            anchors.put(folder, last.size, last.note.replace("\n", "\nx", 1))
        path = f"{stage.vault.settings.prefix}/audit/{folder}/{last.size:020}"
        mount = stage.vault.settings.mount
        changes: tuple[Callable[[Any], object], ...] = (
            lambda client: client.secrets.kv.v2.create_or_update_secret(path, {"note": "x"}, cas=1, mount_point=mount),
            lambda client: client.secrets.kv.v2.delete_latest_version_of_secret(path, mount_point=mount),
            lambda client: client.secrets.kv.v2.delete_metadata_and_all_versions(path, mount_point=mount),
            lambda client: client.secrets.kv.v2.destroy_secret_versions(path, [1], mount_point=mount),
        )
        for change in changes:
            with pytest.raises(VaultDenied):
                parts.store._connection.call("changing it", change)
        anchor = anchors.newest(folder)
        assert anchor is not None
        assert anchor.note == last.note


def _edit(stage: Stage) -> None:
    """Change the body of an early record."""
    _execute(stage, sa.update(schema.log).where(schema.log.c.seq == 1).values(body=b'{"act":"nothing"}'))


def _rewrite(stage: Stage) -> None:
    """Change it, and grow the tree anew over it, as somebody would who reads the source."""
    _edit(stage)
    _regrow(stage)


def _cut(stage: Stage) -> None:
    """Take the newest records away, with all that they left behind."""
    _execute(stage, sa.delete(schema.log).where(schema.log.c.seq >= 3))
    _regrow(stage)


def _forget(stage: Stage) -> None:
    """Rewrite, and remove the journal's own checkpoints as well: what is left is the one in Vault."""
    _rewrite(stage)
    _execute(stage, sa.delete(schema.checkpoint))


def _execute(stage: Stage, change: sa.Executable) -> None:
    """Change the journal behind varmenne's back."""
    with Journal(stage.state_dir) as journal, journal._transaction() as connection:
        connection.execute(change)


def _regrow(stage: Stage) -> None:
    """Make nodes and head fit the records that are there."""
    with Journal(stage.state_dir) as journal, journal._transaction() as connection:
        connection.execute(sa.delete(schema.node))
        tree = merkle.Tree()
        for body in connection.execute(sa.select(schema.log.c.body).order_by(schema.log.c.seq)).scalars().all():
            tree, nodes = tree.grown(merkle.leaf_hash(body))
            for node in nodes:
                connection.execute(sa.insert(schema.node).values(level=node.level, index=node.index, hash=node.hash))
        connection.execute(sa.update(schema.head).values(size=tree.size, frontier=b"".join(tree.frontier)))


@pytest.mark.parametrize("change", [_rewrite, _cut, _forget])
def test_a_log_that_was_tampered_with_is_not_signed(stage: Stage, change: Callable[[Stage], None]) -> None:
    """A checkpoint would vouch for it: it is refused, and `audit verify` names what is wrong."""
    enrolled(stage)
    change(stage)
    with Parts(stage.settings) as parts:
        count = len(parts.journal.log.checkpoints())
        parts.journal.log.record("test", parts.now)
        with pytest.raises(EvidenceError, match=r"rewritten|shorter"):
            checkpoint(parts)
        assert len(parts.journal.log.checkpoints()) == count
    done = stage.run("audit", "verify")
    assert done.code == EvidenceError.exit_code, done.out + done.err
    assert stage.run("audit", "checkpoint").code == EvidenceError.exit_code


def test_an_older_copy_is_not_signed(stage: Stage, tmp_path: Path) -> None:
    """A state folder that was put back as a whole lacks records that Vault has a checkpoint of."""
    enrolled(stage)
    shutil.copytree(stage.state_dir, tmp_path / "old")
    assert stage.run("rehearse", stage.rows()[0].id).code == 0
    shutil.rmtree(stage.state_dir)
    shutil.copytree(tmp_path / "old", stage.state_dir)
    with Parts(stage.settings) as parts:
        parts.journal.log.record("test", parts.now)
        with pytest.raises(EvidenceError, match=r"rewritten|shorter"):
            checkpoint(parts)


def test_a_restore_goes_on_under_a_new_name(stage: Stage, tmp_path: Path) -> None:
    """What the restore lost is an error until somebody knows of it; what comes after is signed under a new name."""
    enrolled(stage)
    assert stage.run("journal", "backup", str(tmp_path / "backup.sqlite")).code == 0
    assert stage.run("rehearse", stage.rows()[0].id).code == 0
    done = stage.run("journal", "restore", str(tmp_path / "backup.sqlite"), "--confirm", "1")
    assert done.code == 0, done.err
    assert stage.run("audit", "checkpoint").code == 0
    with Parts(stage.settings) as parts:
        origins = [one.origin for one in parts.journal.log.checkpoints()]
        assert len(set(origins)) == 2
        assert len(vkeys(parts)) == 2
    report = verified(stage)
    (lost,) = [found for found in report.findings if "took them away" in found.what]
    assert (lost.severity, report.ok) == ("error", False), report
    index = re.search(r"a restore, record ([0-9]+),", lost.what)
    assert index is not None
    assert stage.run("audit", "verify").code == EvidenceError.exit_code
    assert stage.run("audit", "verify", "--known", index[1]).code == 0


def test_the_same_backup_can_be_restored_more_than_once(stage: Stage, tmp_path: Path) -> None:
    """Each restore takes the record of the one before away; the last one tells of all names that this host knew."""
    enrolled(stage)
    backup = str(tmp_path / "backup.sqlite")
    assert stage.run("journal", "backup", backup).code == 0
    for _time in range(3):
        assert stage.run("rehearse", stage.rows()[0].id).code == 0
        assert stage.run("journal", "restore", backup, "--confirm", "1").code == 0
        assert stage.run("audit", "checkpoint").code == 0
    lost = [found for found in verified(stage).findings if found.severity == "error"]
    known = {index for found in lost for index in re.findall(r"--known ([0-9]+)", found.what)}
    assert (len(lost), len(known)) == (3, 1), lost
    done = stage.run("audit", "verify", "--known", known.pop())
    assert done.code == 0, done.out + done.err


def test_the_command_line(stage: Stage, tmp_path: Path) -> None:
    """Key, verification, export and the stand-alone verifier work together."""
    enrolled(stage)
    vkey = stage.run("audit", "key").out.strip()
    assert stage.run("audit", "verify", "--key", vkey).code == 0
    bundle = tmp_path / "evidence.zip"
    done = stage.run("audit", "export", "--out", str(bundle))
    assert (done.code, bundle.stat().st_mode & 0o777) == (0, 0o600), done.err
    assert stage.run("audit", "export", "--out", str(bundle)).code == InputError.exit_code
    (tmp_path / "verifier.py").write_text(stage.run("audit", "verifier").out)
    alone = [sys.executable, "-I", str(tmp_path / "verifier.py"), str(bundle), "--key", vkey]
    assert subprocess.run(alone, check=False, capture_output=True).returncode == 0
    assert stage.run("audit", "verify", "--bundle", str(bundle), "--key", vkey).code == 0
    note = tmp_path / "kept.note"
    assert stage.run("audit", "checkpoint", "--out", str(note)).code == 0
    assert stage.run("rehearse", stage.rows()[0].id).code == 0
    assert stage.run("audit", "verify", "--anchor", str(note)).code == 0
    for arguments in (
        ("--key", "nonsense"),
        ("--policy", str(note)),
        ("--bundle", str(note)),
    ):
        done = stage.run("audit", "verify", *arguments)
        assert (done.code, "Traceback" in done.err) == (InputError.exit_code, False), done.err


def test_the_agent_signs_what_it_did(stage: Stage) -> None:
    """`run --once` ends with a checkpoint of what it did; with nothing done there is none."""
    enrolled(stage)
    with Parts(stage.settings) as parts:
        parts.journal.log.record("test", parts.now)
    assert stage.run("run", "--once").code == 0
    with Parts(stage.settings) as parts:
        assert not parts.journal.log.unsigned()
        count = len(parts.journal.log.checkpoints())
    assert stage.run("run", "--once").code == 0
    with Parts(stage.settings) as parts:
        assert len(parts.journal.log.checkpoints()) == count


def test_a_witness(stage: Stage, tmp_path: Path) -> None:
    """A witness signs growth only; its signature is part of what is verified, and shows what no one else can."""
    enrolled(stage)
    key = tmp_path / "witness.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(key)], check=True, capture_output=True)
    key.chmod(0o600)
    who = ("--name", "w.example.org", "--key", str(key))
    vkey, witness = stage.run("audit", "key").out.strip(), stage.run("audit", "witness", "key", *who).out.strip()
    cosign = ("audit", "witness", "cosign", "-", *who, "--log", vkey, "--state", str(tmp_path / "seen"))

    def witnessed() -> int:
        request = stage.run("audit", "witness", "request").out
        reply = stage.run(*cosign, given=request.encode())
        assert reply.code == 0, reply.err
        return stage.run("audit", "witness", "add", "-", "--witness", witness, given=reply.out.encode()).code

    assert witnessed() == 0
    assert stage.run("rehearse", stage.rows()[0].id).code == 0
    first_again = stage.run(*cosign, given=stage.run("audit", "witness", "request", "--old", "0").out.encode())
    assert (first_again.code, "--old" in first_again.err) == (EvidenceError.exit_code, True)
    assert witnessed() == 0
    policy = tmp_path / "policy"
    policy.write_text(f"log {vkey}\nwitness w {witness}\nquorum w\n")
    done = stage.run("audit", "verify", "--policy", str(policy), "--json")
    assert (done.code, done.json["witnessed"]) == (0, done.json["size"]), done.out

    # The log is rewritten whole, signed anew by its own key, and Vault with it: only the witness knows better.
    _rewrite(stage)
    _execute(stage, sa.delete(schema.checkpoint))
    with Parts(stage.settings) as parts:
        folder = parts.journal.log.head().origin.rpartition("/")[2]
    for size in stage.vault.root.secrets.kv.v2.list_secrets(
        f"{stage.vault.settings.prefix}/audit/{folder}", mount_point=stage.vault.settings.mount
    )["data"]["keys"]:
        stage.vault.root.secrets.kv.v2.delete_metadata_and_all_versions(
            f"{stage.vault.settings.prefix}/audit/{folder}/{size}", mount_point=stage.vault.settings.mount
        )
    assert stage.run("audit", "checkpoint").code == 0
    refused = stage.run(*cosign, given=stage.run("audit", "witness", "request", "--old", "0").out.encode())
    assert refused.code == EvidenceError.exit_code
    seen = int(refused.err.split("is of ")[1].split()[0])
    refused = stage.run(*cosign, given=stage.run("audit", "witness", "request", "--old", str(seen)).out.encode())
    assert (refused.code, "not signed" in refused.err) == (EvidenceError.exit_code, True), refused.err
    assert stage.run("audit", "verify", "--policy", str(policy)).code == EvidenceError.exit_code


def test_the_log_has_one_key(stage: Stage) -> None:
    """Several that need it first at the same moment make one key, and record its birth once."""
    signers: list[bytes] = []

    def sign() -> None:
        with Parts(stage.settings) as parts:
            parts.journal.log.record("test", parts.now)
            while True:
                # SoftHSM fails at times while others log in, which passes; whoever signs tries again later.
                with contextlib.suppress(TokenUnavailable):
                    signers.append(log_signer(parts).public_key)
                    return

    threads = [threading.Thread(target=sign) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(signers) == 4
    assert len(set(signers)) == 1
    with stage.token_client() as token:
        assert len(token.keys()) == 1
    with Parts(stage.settings) as parts:
        assert len(vkeys(parts)) == len(parts.journal.log.acts("log_key")) == 1


def test_a_process_remembers_what_it_signed(stage: Stage) -> None:
    """A log that is rewritten under a running process is not signed, whatever else was taken away."""
    enrolled(stage)
    with Parts(stage.settings) as parts:
        parts.journal.log.record("test", parts.now)
        assert checkpoint(parts) is not None
        _forget(stage)
        parts.journal.log.record("test", parts.now)
        with pytest.raises(EvidenceError, match="rewritten"):
            checkpoint(parts)


def test_another_name_needs_a_restore(stage: Stage) -> None:
    """A journal and its record that were given another epoch by hand would begin a log that nothing compares with."""
    enrolled(stage)
    with Parts(stage.settings) as parts:
        old = parts.journal.log.head().origin.rpartition("/")[2]
        parts.journal.log.record("test", parts.now)
    _execute(stage, sa.update(schema.meta).where(schema.meta.c.name == "epoch").values(value="0" * 16))
    for path in stage.state_dir.glob("journal.sent*"):
        path.write_text(path.read_text().replace(old, "0" * 16))
    with Parts(stage.settings) as parts, pytest.raises(EvidenceError, match="another name"):
        checkpoint(parts)


def test_one_checkpoint_of_a_size(stage: Stage) -> None:
    """Of two that sign the same log at once, such as by two tokens, the first stays; its anchor is no conflict."""
    enrolled(stage)
    with Parts(stage.settings) as parts:
        last = parts.journal.log.latest()
        assert last is not None
        other = dataclasses.replace(last, note=last.note.rstrip("\n") + "x\n", anchored_at=None)
        assert parts.journal.log.save(other) == last
        parts.store.anchors.put(last.origin.rpartition("/")[2], last.size, other.note)
        assert parts.journal.log.cosigned(last, other.note)
        assert not parts.journal.log.cosigned(last, other.note)
        again = parts.journal.log.latest()
        assert again is not None
        assert (again.note, again.anchored_at) == (other.note, last.anchored_at)


@pytest.mark.parametrize(
    "change",
    [
        sa.update(schema.head).values(frontier=b""),
        sa.update(schema.head).values(size=-1),
        sa.delete(schema.node),
    ],
    ids=["frontier", "size", "nodes"],
)
def test_a_head_or_tree_that_was_changed_is_told(stage: Stage, change: sa.Executable) -> None:
    """It is no defect of varmenne's, and no full disk."""
    enrolled(stage)
    with Parts(stage.settings) as parts:
        parts.journal.log.record("test", parts.now)
    _execute(stage, change)
    done = stage.run("audit", "checkpoint")
    assert (done.code, "not as it was written" in done.err) == (EvidenceError.exit_code, True), done.err


def test_what_is_no_checkpoint_in_vault_is_named(stage: Stage) -> None:
    """Whoever has the agent's rights can put something there that the agent cannot take away."""
    enrolled(stage)
    with Parts(stage.settings) as parts:
        folder = parts.journal.log.head().origin.rpartition("/")[2]
        parts.store.anchors.put(folder, 10**19, "nothing")
        parts.journal.log.record("test", parts.now)
    done = stage.run("audit", "checkpoint")
    assert done.code == EvidenceError.exit_code
    assert f"{folder}/{10**19:020}" in done.err
    assert "administrator" in done.err


def test_the_agent_signs_acts_soon_and_the_rest_within_an_hour(stage: Stage) -> None:
    """A fleet that is only looked after has a checkpoint an hour, and a key that changes its state one at once."""
    enrolled(stage)
    now = system_clock()
    with Parts(stage.settings) as parts:
        duty = LogDuty(parts.journal, lambda _error: None)
        assert duty.due(now) is None
        parts.journal.log.record("test", parts.now)
        assert duty.due(now) == QUIET
        assert duty.due(now + QUIET / 2) == QUIET / 2
        parts.journal.log.record("approve", parts.now)
        assert duty.due(now) == TOGETHER
        assert duty.due(now + TOGETHER) == timedelta()
        duty.sign(parts)
        assert duty.due(now) is None
        parts.journal.log.record("approve", parts.now)
        assert duty.due(now) == TOGETHER


def test_each_day_has_a_record(stage: Stage) -> None:
    """So a log in which nothing happens goes on, and one that was cut off does not."""
    enrolled(stage)
    with Parts(stage.settings) as parts:
        assert len(parts.journal.log.acts("day")) == 1
        parts.journal.prune(parts.now)
        parts.journal.prune(parts.now + timedelta(days=1))
        assert len(parts.journal.log.acts("day")) == 2
