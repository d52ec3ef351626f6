"""An insider: whoever may write to journal, files, token and Vault, and lacks the log key's PIN, is found.

Each manipulation says by what: by `audit verify` as it is, by the log's key as it was noted, by `audit reconcile`, by a
passport, or by a checkpoint that somebody kept elsewhere, where nothing else can.
"""

from __future__ import annotations

import base64
import json
import shutil
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from harness.objects import EXTRACTABLE, private_rsa_keys, set_flag
from harness.stage import Listener, Stage, order_for
from varmenne.audit import note, verifier
from varmenne.clock import system_clock
from varmenne.domain import merkle
from varmenne.domain.audit import AuditRecord, canonical
from varmenne.domain.check import Verdict
from varmenne.domain.enrollment import Enrollment
from varmenne.domain.keys import KeyId
from varmenne.enrollment.enroll import enroll
from varmenne.enrollment.evidence.checkpoints import checkpoint
from varmenne.enrollment.evidence.live import proven, vkeys
from varmenne.enrollment.evidence.passport import issue
from varmenne.enrollment.evidence.reconciliation import differences
from varmenne.enrollment.facts import pem_to_der
from varmenne.enrollment.parts import Parts
from varmenne.enrollment.reconcile import Kind
from varmenne.errors import EvidenceError, JournalError
from varmenne.journal import Journal, schema
from varmenne.token import create_softhsm_token

WAIT = timedelta(seconds=20)


class By(Enum):
    """What finds a manipulation, each only what those before it do not."""

    VERIFY = "audit verify"
    KEY = "audit verify with the log's key, as it was noted"
    KEPT = "audit verify with a checkpoint that somebody kept"
    RECONCILE = "audit reconcile"
    CHECK = "journal check"
    PASSPORT = "audit passport"


@dataclass
class Scene:
    """A stage with a certificate in use, two checkpoints in Vault, and what an auditor has noted of it."""

    stage: Stage
    row: Enrollment
    vkey: str
    kept: str
    older: Path
    """A copy of the state folder from before the last checkpoint."""

    @property
    def folder(self) -> str:
        """Where its checkpoints are in Vault."""
        origin = self.vkey.partition("+")[0].rpartition("/")[2]
        return f"{self.stage.vault.settings.prefix}/audit/{origin}"

    def execute(self, *changes: sa.Executable) -> None:
        """Change the journal behind varmenne's back."""
        with Journal(self.stage.state_dir) as journal, journal._transaction() as connection:
            for change in changes:
                connection.execute(change)

    def bodies(self) -> list[bytes]:
        """Return all records."""
        with Journal(self.stage.state_dir) as journal:
            return [body for _index, body in journal.log.records()]

    def rewrite(self, bodies: list[bytes]) -> None:
        """Put other records in the place of those that are there, with a tree that fits them."""
        tree, nodes = merkle.Tree(), list[merkle.Node]()
        for body in bodies:
            tree, new = tree.grown(merkle.leaf_hash(body))
            nodes += new
        self.execute(
            sa.delete(schema.log),
            sa.delete(schema.node),
            *(
                sa.insert(schema.log).values(seq=at, body=body, enrollment_id=json.loads(body)["enrollment"])
                for at, body in enumerate(bodies)
            ),
            *(sa.insert(schema.node).values(level=n.level, index=n.index, hash=n.hash) for n in nodes),
            sa.update(schema.head).values(size=tree.size, frontier=b"".join(tree.frontier)),
        )

    def vault(self, name: str, *arguments: Any, **more: Any) -> Any:
        """Do something in Vault as its administrator."""
        call = getattr(self.stage.vault.root.secrets.kv.v2, name)
        return call(*arguments, mount_point=self.stage.vault.settings.mount, **more)

    def anchors(self) -> list[str]:
        """Return the paths of the checkpoints in Vault, smallest first."""
        return [f"{self.folder}/{name}" for name in sorted(self.vault("list_secrets", self.folder)["data"]["keys"])]

    def current(self) -> str:
        """Return the path of the record of the certificate in use."""
        return f"{self.stage.vault.settings.prefix}/test/{self.row.customer_id}/ws/current"


@pytest.fixture
def scene(stage: Stage, tmp_path: Path) -> Scene:
    """Enroll, and sign twice."""
    with stage.parts() as parts:
        order = stage.order("0123456-7")
        row = enroll(parts, Listener(), order_for("0123456-7"), stage.credentials(order), wait=WAIT)
        first = checkpoint(parts)
        assert first is not None
        parts.journal.log.record("test", parts.now)
    shutil.copytree(stage.state_dir, tmp_path / "older")
    with stage.parts() as parts:
        parts.journal.log.record("test", parts.now)
        kept = checkpoint(parts)
        assert kept is not None
        (vkey,) = vkeys(parts)
    return Scene(stage, row, vkey, kept.note, tmp_path / "older")


def changed(body: bytes, **values: object) -> bytes:
    """Return a record that says something else, in its canonical form."""
    return canonical(json.loads(body) | values)


def edit(scene: Scene) -> None:
    """Edit a record, and nothing else."""
    body = scene.bodies()[2]
    scene.execute(sa.update(schema.log).where(schema.log.c.seq == 2).values(body=changed(body, actor="nobody")))


def text(scene: Scene) -> None:
    """Put a text that is no record in the place of the one that tells the log's key."""
    (at,) = [at for at, body in enumerate(scene.bodies()) if json.loads(body)["act"] == "log_key"]
    scene.execute(sa.text("UPDATE log SET body = 'nothing' WHERE seq = :at").bindparams(at=at))


def edit_and_regrow(scene: Scene) -> None:
    """Edit a record, and make the tree fit."""
    bodies = scene.bodies()
    scene.rewrite([*bodies[:2], changed(bodies[2], actor="nobody"), *bodies[3:]])


def delete(scene: Scene) -> None:
    """Take a record out of the middle."""
    bodies = scene.bodies()
    scene.rewrite([*bodies[:3], *bodies[4:]])


def insert(scene: Scene) -> None:
    """Put a record in."""
    bodies = scene.bodies()
    forged = AuditRecord(at=system_clock(), actor="me", host="here", act="test").encoded()
    scene.rewrite([*bodies[:3], forged, *bodies[3:]])


def reorder(scene: Scene) -> None:
    """Change the order of two."""
    bodies = scene.bodies()
    scene.rewrite([*bodies[:-2], bodies[-1], bodies[-2]])


def truncate(scene: Scene) -> None:
    """Cut the end off."""
    scene.rewrite(scene.bodies()[:-1])


def truncate_with_checkpoints(scene: Scene) -> None:
    """Cut the end off, with the checkpoints that the journal has of it; Vault still has one."""
    size = len(scene.bodies()) - 1
    scene.rewrite(scene.bodies()[:-1])
    scene.execute(sa.delete(schema.checkpoint).where(schema.checkpoint.c.size > size))


def older_database(scene: Scene) -> None:
    """Put an older state folder back."""
    shutil.rmtree(scene.stage.state_dir)
    shutil.copytree(scene.older, scene.stage.state_dir)


def older_database_and_vault(scene: Scene) -> None:
    """Put an older state folder back, and take the newer checkpoints out of Vault."""
    older_database(scene)
    scene.vault("delete_metadata_and_all_versions", scene.anchors()[-1])


def append_duplicate(scene: Scene) -> None:
    """Replay the last act of the key at the end of the log."""
    bodies = scene.bodies()
    acts = [body for body in bodies if json.loads(body)["act"] == "activate"]
    scene.rewrite([*bodies, acts[-1]])


def clock(scene: Scene) -> None:
    """Set the clock back, and work on."""
    with Parts(scene.stage.settings, clock=lambda: system_clock() - timedelta(days=2)) as parts:
        parts.journal.log.record("test", parts.now)
        checkpoint(parts)


def nodes_deleted(scene: Scene) -> None:
    """Take the tree's nodes away, so that nothing can be signed any more."""
    scene.execute(sa.delete(schema.node))


def node_changed(scene: Scene) -> None:
    """Change one of the tree's nodes."""
    scene.execute(
        sa.update(schema.node).where(schema.node.c.level == 2, schema.node.c.index == 0).values(hash=bytes(32))
    )


def probe_hidden(scene: Scene) -> None:
    """Hide from the stop on renewals, and from passports, that the key did not pass its newest probe."""
    with Parts(scene.stage.settings) as parts:
        parts.journal.save_probe("key", parts.now, fit=False, result={}, row=scene.row)
        token = parts.token.identity().digest
        assert parts.journal.unfit_keys(token) == (scene.row.id,)
        checkpoint(parts)
        last = parts.journal.log.head().size - 1
        scene.execute(sa.update(schema.log).where(schema.log.c.seq == last).values(enrollment_id=None))
        assert parts.journal.unfit_keys(token) == ()


def row_edited(scene: Scene) -> None:
    """Change what the journal says of the key's custody."""
    custody = {**(scene.row.custody or {}), "deviations": ["nothing to see here"]}
    scene.execute(sa.update(schema.enrollment).values(custody=custody))


def row_state(scene: Scene) -> None:
    """Say that the key is retired."""
    scene.execute(sa.update(schema.enrollment).values(state="retired"))


def certificate_swapped(scene: Scene) -> None:
    """Put another certificate into the row."""
    scene.execute(sa.update(schema.enrollment).values(certificate=scene.row.chain))


def row_deleted(scene: Scene) -> None:
    """Take the row away, with its history and answers."""
    tables = (schema.event, schema.answer, schema.hook, schema.enrollment)
    scene.execute(*map(sa.delete, tables))


def row_inserted(scene: Scene) -> None:
    """Put a row in that nobody enrolled for."""
    with Journal(scene.stage.state_dir) as journal, journal._transaction() as connection:
        found = connection.execute(sa.select(schema.enrollment)).one()._mapping
        other = {"id": "20261124-00000000", "key_id": bytes(16), "transfer_hash": None}
        connection.execute(sa.insert(schema.enrollment).values(**{**found, **other}))


def checkpoint_forged(scene: Scene) -> None:
    """Replace the journal's last checkpoint by one that another key signed under the same name."""
    with Journal(scene.stage.state_dir) as journal:
        head = journal.log.head()
    forged = note.checkpoint(head.origin, head.size, head.root, Forger())
    scene.execute(sa.update(schema.checkpoint).where(schema.checkpoint.c.size == head.size).values(note=forged))


def checkpoint_of_another_tree(scene: Scene) -> None:
    """Change the root in the last checkpoint, and leave its signature."""
    text = scene.kept.splitlines()
    text[2] = base64.b64encode(bytes(32)).decode()
    scene.execute(
        sa.update(schema.checkpoint).where(schema.checkpoint.c.note == scene.kept).values(note="\n".join(text) + "\n")
    )


def checkpoint_renamed(scene: Scene) -> None:
    """Let the log go on under another name without a restore."""
    scene.execute(sa.update(schema.meta).where(schema.meta.c.name == "epoch").values(value="0" * 16))


def anchor_deleted(scene: Scene) -> None:
    """Take a checkpoint out of Vault."""
    scene.vault("delete_metadata_and_all_versions", scene.anchors()[0])


def anchor_edited(scene: Scene) -> None:
    """Change a checkpoint in Vault."""
    path = scene.anchors()[0]
    scene.vault("create_or_update_secret", path, {"note": scene.kept.replace("\n", "0\n", 1)}, cas=1)


def everything_rewritten(scene: Scene) -> None:
    """Write all of it anew, signed by a key of one's own, here and in Vault."""
    forger = Forger()
    origin = scene.vkey.partition("+")[0]
    bodies = []
    for body in scene.bodies():
        said = json.loads(body)
        if said["act"] == "log_key":
            said["detail"]["vkey"] = note.vkey(origin, forger.kind, forger.public_key)
        bodies.append(canonical(said | {"actor": "somebody"}))
    scene.rewrite(bodies)
    with Journal(scene.stage.state_dir) as journal:
        head = journal.log.head()
        forged = note.checkpoint(origin, head.size, head.root, forger)
    *others, last = scene.anchors()
    for path in (*others, last):
        scene.vault("delete_metadata_and_all_versions", path)
    scene.vault("create_or_update_secret", last, {"note": forged}, cas=0)
    scene.execute(
        sa.delete(schema.checkpoint).where(schema.checkpoint.c.size < head.size),
        sa.update(schema.checkpoint).values(note=forged, root=head.root),
    )


def everything_rewritten_by_the_log_key(scene: Scene) -> None:
    """The same by somebody who has the PIN as well: the log's own key signs."""
    scene.rewrite([changed(body, actor="somebody") for body in scene.bodies()])
    for path in scene.anchors():
        scene.vault("delete_metadata_and_all_versions", path)
    scene.execute(sa.delete(schema.checkpoint))
    with Parts(scene.stage.settings) as parts:
        checkpoint(parts)


def key_deleted(scene: Scene) -> None:
    """Take the key out of the token."""
    for path in private_rsa_keys(scene.stage.token.directory):
        path.unlink()


def stranger(scene: Scene) -> None:
    """Make a key with the enrollment's label beside its own."""
    with scene.stage.token_client() as token:
        token.generate(KeyId(bytes(range(16))), scene.row.key_label)


def unlogged(scene: Scene) -> None:
    """Make a key that the log knows nothing of, labelled as an enrollment's."""
    with scene.stage.token_client() as token:
        token.generate(KeyId(bytes(range(16))), "varmenne-20261124-00000000")


def certificate_removed(scene: Scene) -> None:
    """Take the certificate away from beside its key."""
    for path in scene.stage.token.directory.glob("tokens/*/*.object"):
        if pem_to_der(scene.row.certificate or "") in path.read_bytes():
            path.unlink()


def extractable(scene: Scene) -> None:
    """Set the key's flags in the token's files."""
    (path,) = private_rsa_keys(scene.stage.token.directory)
    set_flag(path, EXTRACTABLE, value=True)


def vault_back(scene: Scene) -> None:
    """Put another record in the place of the published one."""
    data = scene.vault("read_secret_version", scene.current(), raise_on_deleted_version=True)["data"]
    scene.vault(
        "create_or_update_secret",
        scene.current(),
        {**data["data"], "serial_number": "00:01"},
        cas=data["metadata"]["version"],
    )


def vault_deleted(scene: Scene) -> None:
    """Delete the published record."""
    scene.vault("delete_metadata_and_all_versions", scene.current())


def answer_swapped(scene: Scene) -> None:
    """Put another answer of the service in the place of the one that came."""
    scene.execute(sa.update(schema.answer).values(body=zlib.compress(b"<nothing/>")))


class Forger:
    """A key of one's own, outside any token."""

    kind = "ed25519"

    def __init__(self) -> None:
        self._private = Ed25519PrivateKey.generate()

    @property
    def public_key(self) -> bytes:
        """The public half."""
        return self._private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def sign(self, data: bytes) -> bytes:
        """Sign."""
        return self._private.sign(data)


MANIPULATIONS: tuple[tuple[Callable[[Scene], None], By], ...] = (
    (edit, By.VERIFY),
    (text, By.VERIFY),
    (edit_and_regrow, By.VERIFY),
    (delete, By.VERIFY),
    (insert, By.VERIFY),
    (reorder, By.VERIFY),
    (truncate, By.VERIFY),
    (truncate_with_checkpoints, By.VERIFY),
    (older_database, By.VERIFY),
    (older_database_and_vault, By.KEPT),
    (append_duplicate, By.VERIFY),
    (clock, By.VERIFY),
    (row_edited, By.VERIFY),
    (row_state, By.VERIFY),
    (certificate_swapped, By.VERIFY),
    (row_deleted, By.VERIFY),
    (row_inserted, By.VERIFY),
    (checkpoint_forged, By.VERIFY),
    (checkpoint_of_another_tree, By.VERIFY),
    (checkpoint_renamed, By.VERIFY),
    (anchor_deleted, By.VERIFY),
    (anchor_edited, By.VERIFY),
    (everything_rewritten, By.KEY),
    (everything_rewritten_by_the_log_key, By.KEPT),
    (key_deleted, By.RECONCILE),
    (stranger, By.RECONCILE),
    (unlogged, By.RECONCILE),
    (certificate_removed, By.RECONCILE),
    (extractable, By.RECONCILE),
    (vault_back, By.RECONCILE),
    (vault_deleted, By.RECONCILE),
    (nodes_deleted, By.CHECK),
    (node_changed, By.CHECK),
    (probe_hidden, By.CHECK),
    (answer_swapped, By.PASSPORT),
)


def proven_by(scene: Scene, by: By) -> bool:
    """Tell whether all is well by one way of looking."""
    with scene.stage.parts() as parts:
        if by is By.RECONCILE:
            return not [one for one in differences(parts, Listener()) if one.kind.matters]
        if by is By.CHECK:
            return not [check for check in parts.journal.inspect() if check.verdict is Verdict.FAIL]
        if by is By.PASSPORT:
            try:
                issue(parts, Listener(), scene.row.id)
            except EvidenceError:
                return False
            return True
        keys = () if by is By.VERIFY else (verifier.parse_vkey(scene.vkey),)
        anchors = (("kept", scene.kept.encode()),) if by is By.KEPT else ()
        try:
            return proven(parts, verifier.Trust(keys=keys, anchors=anchors)).ok
        except JournalError:  # It does not even open, and says why.
            return False


def test_all_is_well_before(scene: Scene) -> None:
    """Without a manipulation every way of looking says so."""
    assert [by for by in By if not proven_by(scene, by)] == []


@pytest.mark.parametrize(("change", "by"), MANIPULATIONS, ids=[change.__name__ for change, _by in MANIPULATIONS])
def test_a_manipulation_is_found(scene: Scene, change: Callable[[Scene], None], by: By) -> None:
    """It is found by what is said, and by nothing that is asked before it: so the documentation tells no more."""
    change(scene)
    before = [one for one in By if list(By).index(one) < list(By).index(by)]
    assert [one for one in before if not proven_by(scene, one)] == []
    assert not proven_by(scene, by)


def test_a_swapped_token_is_found(scene: Scene, tmp_path: Path) -> None:
    """Another token of the same label holds none of our keys."""
    other = create_softhsm_token(tmp_path / "other", label="varmenne stage", module=scene.stage.token.module)
    scene.stage.configure(token=msgspec.to_builtins(other.settings))
    with scene.stage.parts() as parts:
        found = [one for one in differences(parts, Listener()) if one.kind.matters]
    assert [(one.kind, one.enrollment) for one in found] == [(Kind.NO_KEY, scene.row.id)]
