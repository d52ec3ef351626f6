"""A small audit log of a whole life of a key, with a log key in software, for tests of what is done with evidence."""

from __future__ import annotations

import dataclasses
import functools
import io
import itertools
import json
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from varmenne.audit import dsse, note, verifier
from varmenne.audit.bundle import NoteFile, PassportFile, write_bundle
from varmenne.audit.proof import proof_text
from varmenne.domain import merkle
from varmenne.domain.audit import AuditRecord, canonical, fingerprint

ORIGIN = "varmenne/00112233445566aa"
AT = datetime(2026, 11, 24, 17, 0, tzinfo=UTC)
WAY = (
    # Act, and the state before and after.
    ("prepare", None, "prepared"),
    ("generate", "prepared", "keyed"),
    ("submit", "keyed", "accepted"),
    ("answer", None, None),
    ("retrieve", "accepted", "issued"),
    ("store", "issued", "stored"),
    ("activate", "stored", "active"),
)


class SoftwareLogSigner:
    """Implements :class:`varmenne.domain.keys.LogSigner` with a key made in this process."""

    def __init__(self, kind: str = "ed25519") -> None:
        self.kind = kind
        made = ed25519.Ed25519PrivateKey.generate() if kind == "ed25519" else ec.generate_private_key(ec.SECP256R1())
        self._key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey = made

    @property
    def public_key(self) -> bytes:
        """The public key as DER ``SubjectPublicKeyInfo``."""
        return self._key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def sign(self, data: bytes) -> bytes:
        """Sign as a token would."""
        if isinstance(self._key, ed25519.Ed25519PrivateKey):
            return self._key.sign(data)
        return self._key.sign(data, ec.ECDSA(hashes.SHA256()))

    def key(self, origin: str = ORIGIN) -> verifier.Key:
        """The public key under a log's name."""
        return note.key_of(origin, self.kind, self.public_key)


def subtrees(records: list[bytes]) -> merkle.Subtree:
    """Return how to get the hash of a complete subtree over records."""

    @functools.cache
    def look_up(level: int, index: int) -> bytes:
        if level == 0:
            return merkle.leaf_hash(records[index])
        return merkle.node_hash(look_up(level - 1, 2 * index), look_up(level - 1, 2 * index + 1))

    return look_up


def root(records: list[bytes]) -> bytes:
    """The root of the tree over records."""
    return merkle.root(len(records), subtrees(records))


@dataclass
class Story:
    """A log: its records as values, the journal's rows, checkpoints and what was anchored.

    A test changes what an insider would, and has it verified: as a bundle, or as it is.
    """

    signer: SoftwareLogSigner = field(default_factory=SoftwareLogSigner)
    origin: str = ORIGIN
    records: list[bytes] = field(default_factory=list)
    rows: dict[str, bytes] = field(default_factory=dict)
    checkpoints: list[NoteFile] = field(default_factory=list)
    anchors: list[NoteFile] = field(default_factory=list)
    passports: list[PassportFile] = field(default_factory=list)
    clock: itertools.count[int] = field(default_factory=itertools.count)

    def add(self, act: str, **facts: Any) -> int:
        """Append a record, a second after the one before, and return its index."""
        facts = {"at": AT + timedelta(seconds=next(self.clock)), "actor": "maija", "host": "hsm-1", **facts}
        self.records.append(AuditRecord(act=act, **facts).encoded())
        return len(self.records) - 1

    def live(self, enrollment: str, way: Iterable[tuple[str, str | None, str | None]] = WAY) -> None:
        """Append the records of an enrollment's way, each with the hash of the row that it left."""
        for act, source, target in way:
            if target is not None:
                self.rows[enrollment] = canonical({"id": enrollment, "state": target, "customer_name": "Öljy Oy"})
            has_key = target != "prepared"
            has_certificate = target in {"issued", "stored", "active"}
            self.add(
                act,
                enrollment=enrollment,
                environment="test",
                key_id=fingerprint(enrollment.encode())[:32],
                public_key=fingerprint(f"key of {enrollment}".encode()) if has_key else None,
                certificate=fingerprint(f"certificate of {enrollment}".encode()) if has_certificate else None,
                serial="44d64671" if has_certificate else None,
                source=source,
                target=target,
                detail={"answer": 7, "signer": "Vero", "ok": True} if act == "answer" else {},
                row=fingerprint(self.rows[enrollment]) if target is not None else None,
            )

    def signed(self, size: int | None = None, origin: str | None = None) -> NoteFile:
        """Return a checkpoint of the log as it is, or was at a size."""
        size, origin = len(self.records) if size is None else size, origin or self.origin
        return NoteFile(origin, size, note.checkpoint(origin, size, root(self.records[:size]), self.signer))

    def checkpoint(self, *, anchored: bool = True) -> NoteFile:
        """Sign the log as it is, and anchor that."""
        made = self.signed()
        self.checkpoints.append(made)
        if anchored:
            self.anchors.append(made)
        return made

    def passport(self, enrollment: str) -> PassportFile:
        """Make a passport of an enrollment's key, with its record and proof."""
        subject = fingerprint(f"key of {enrollment}".encode())
        statement = {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"name": enrollment, "digest": {"sha256": subject}}],
            "predicateType": "https://example.invalid/custody/v1",
            "predicate": {"attributes": {"EXTRACTABLE": False}},
        }
        envelope = dsse.envelope(self.signer, self.origin, json.dumps(statement).encode())
        last = json.loads(next(raw for raw in reversed(self.records) if json.loads(raw)["enrollment"] == enrollment))
        facts = {name: last[name] for name in ("enrollment", "environment", "key_id", "certificate", "serial")}
        index = self.add("passport", public_key=subject, detail={"sha256": fingerprint(envelope)}, **facts)
        checkpoint = self.checkpoint()
        return PassportFile(enrollment, envelope, self.proof(index, checkpoint, with_record=True))

    def proof(self, index: int, checkpoint: NoteFile, *, with_record: bool = False) -> bytes:
        """Prove that a record is in the log of a checkpoint."""
        hashes_ = merkle.inclusion(index, checkpoint.size, subtrees(self.records[: checkpoint.size]))
        return proof_text(index, hashes_, checkpoint.note, record=self.records[index] if with_record else None)

    def change(self, index: int, **facts: Any) -> None:
        """Change a record, as somebody who can write to the database would."""
        self.records[index] = canonical(json.loads(self.records[index]) | facts)

    def restore(self, size: int, origin: str, **known: list[str]) -> None:
        """Go back to an older size as a restore does: with a record of it, and a new name."""
        before, self.origin = self.origin, origin
        self.records = self.records[:size]
        self.checkpoints = [one for one in self.checkpoints if one.size <= size]
        self.add("restore", detail={"origin": before, **known})

    def copy(self) -> Story:
        """Return another of the same."""
        values = {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}
        lists = {name: list(value) for name, value in values.items() if isinstance(value, list)}
        return Story(**values | lists | {"rows": dict(self.rows)})

    @property
    def vkey(self) -> str:
        """The log's key as auditors are told it."""
        return self.signer.key(self.origin).vkey

    def bundle(self, at: datetime = AT) -> bytes:
        """Return the log as a bundle."""
        file = io.BytesIO()
        write_bundle(
            file,
            origin=self.origin,
            exported_at=at,
            vkeys=[self.vkey],
            records=self.records,
            rows=[self.rows[name] for name in sorted(self.rows)],
            checkpoints=self.checkpoints,
            anchors=self.anchors,
            passports=self.passports,
        )
        return file.getvalue()

    def verified(self, *, keys: Iterable[verifier.Key] | None = None, **trust: Any) -> verifier.Report:
        """Have the bundle verified; the log's key is trusted from outside unless other keys are given."""
        trusted = (self.signer.key(self.origin),) if keys is None else tuple(keys)
        return verifier.verify(verifier.Bundle(io.BytesIO(self.bundle())), verifier.Trust(trusted, **trust))


def told(kind: str = "ed25519") -> Story:
    """Return the log of two keys with three checkpoints, one of which is that of a passport."""
    story = Story(SoftwareLogSigner(kind))
    story.add("log_key", detail={"vkey": story.vkey})
    story.live("20261124-00000001")
    story.checkpoint()
    story.live("20261124-00000002")
    story.checkpoint()
    story.passports.append(story.passport("20261124-00000002"))
    return story


def rezipped(data: bytes, change: Callable[[str, bytes], bytes | None]) -> bytes:
    """Return an archive with each file changed; ``None`` leaves a file out."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            changed = change(name, old.read(name))
            if changed is not None:
                new.writestr(zipfile.ZipInfo(name), changed)
    return file.getvalue()
