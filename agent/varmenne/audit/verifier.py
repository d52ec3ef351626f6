"""Verify varmenne's evidence of key custody, with nothing of varmenne.

This is one file, to be read before it is believed. It needs Python 3.11 or later and the library ``cryptography``, no
network, no token and no database::

    python verifier.py BUNDLE.zip [--key VKEY] [--policy FILE] [--anchor NOTE] [--known INDEX] [--json]
    python verifier.py --proof FILE.tlog-proof RECORD      --key VKEY
    python verifier.py --proof FILE.tlog-proof --passport FILE.dsse.json --key VKEY

A bundle holds an audit log: one record per act on a key, each a line of JSON. The records are the leaves of a hash
tree (RFC 9162, 2.1). A *checkpoint* is a signed note of the log's name, its number of records and the root of its
tree. What is verified, and where in this file, which goes from the whole to its parts:

1. The whole log, in one pass: the tree over the records has, at the size of each checkpoint and anchor, the root that
   was signed there; times do not go back; the journal's rows are those that the last records about them name.
2. Records: each is JSON of the one form that it may have, to the byte. The acts on a key follow each other: it is born
   once, it and its certificate never change, and each act finds the state that the act before it left.
3. Proofs of one record, and passports of one key, which are signed by the log's key and recorded in the log.
4. The hash tree.
5. Checkpoints and other signed notes, and the keys that sign them.
6. The auditor's policy: which logs and witnesses are trusted, and how many witnesses must have signed.
7. Bytes and JSON, which can be read in one way only.
8. Bundles, and the command.

The tree and its signatures prove nothing against somebody who has the log key and rewrites everything. So keep, of
each audit, the newest checkpoint, and give it the next time with ``--anchor``; and give the log's key, as it was told
to you when the log began, with ``--key``. Without ``--key`` the keys in the bundle itself are taken, which proves that
the bundle fits together, and not whose it is.

Exit codes: 0 everything is proven; 1 something is not; 2 wrong usage.

Sources of the formats: C2SP signed-note, tlog-checkpoint, tlog-cosignature, tlog-proof and tlog-policy; DSSE v1.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import functools
import hashlib
import io
import itertools
import json
import re
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key


class Refused(ValueError):
    """Something is not of its format, or is not proven: the text says in one sentence what. All functions raise it."""


# --- 1. The whole log. ------------------------------------------------------------------------------------------------

Named = tuple[str, bytes]
"""What people know something by, such as its name in the bundle, and its bytes."""

CLOCKS_DIFFER = timedelta(minutes=1)
"""Hosts of one journal may differ by so much, and transactions wait for each other."""

MAX_FINDINGS = 100


class Evidence(Protocol):
    """Where evidence comes from: a :class:`Bundle`, or anything that has the same to give."""

    def manifest(self) -> dict[str, Any]:
        """Return the manifest: ``origin``, ``size`` and ``vkeys`` are used."""

    def records(self) -> Iterable[bytes]:
        """Yield each record."""

    def rows(self) -> Iterable[bytes]:
        """Yield the canonical JSON of each row of the journal, in order of their IDs."""

    def checkpoints(self) -> Iterable[Named]:
        """Yield the checkpoints of the journal."""

    def anchors(self) -> Iterable[Named]:
        """Yield the checkpoints that were kept in Vault."""

    def passports(self) -> Iterable[tuple[str, bytes, bytes]]:
        """Yield name, envelope and proof of each passport."""


@dataclass(frozen=True, slots=True)
class Trust:
    """Whom and what an auditor trusts.

    Attributes:
        keys: keys of the log.
        policy: keys of logs and witnesses, and how many of these must have signed.
        anchors: checkpoints kept from before.
        known: indexes of records that a restore, or a clock that was set back, is known to be behind.
    """

    keys: tuple[Key, ...] = ()
    policy: Policy | None = None
    anchors: tuple[Named, ...] = ()
    known: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found: an ``error`` means that something is not proven, a ``notice`` what to know about a proof."""

    severity: str
    where: str
    what: str
    index: int | None = None


@dataclass(slots=True)
class Report:
    """The outcome. Findings beyond the first hundred errors are counted only."""

    origin: str | None = None
    size: int = 0
    root: str = ""
    checkpoints: int = 0
    signed: int = 0
    witnessed: int = 0
    rows: int = 0
    passports: int = 0
    errors: int = 0
    first_bad_record: int | None = None
    findings: list[Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether all is proven."""
        return not self.errors

    def error(self, where: str, what: str, index: int | None = None) -> None:
        """Note what is not proven."""
        self.errors += 1
        if self.first_bad_record is None:
            self.first_bad_record = index
        if self.errors <= MAX_FINDINGS:
            self.findings.append(Finding("error", where, what, index))

    def notice(self, where: str, what: str) -> None:
        """Note what is to be known."""
        self.findings.append(Finding("notice", where, what))


def verify(evidence: Evidence, trust: Trust) -> Report:
    """Verify a log in one pass. Memory grows with the number of keys and of checkpoints, not with that of records."""
    one = _Verification(evidence, trust)
    try:
        one.trusted_keys()
        one.signatures()
        one.records()
        one.rows()
    except Refused as exc:
        one.report.error("evidence", str(exc))
    return one.report


class _Verification:
    """One pass over a log: the methods are called in their order."""

    def __init__(self, evidence: Evidence, trust: Trust) -> None:
        self.evidence, self.trust = evidence, trust
        self.report, self.walk, self.tree = Report(), Walk(), Tree()
        self.policy = trust.policy or Policy()
        self.keys = [*trust.keys, *self.policy.logs]
        self.manifest: dict[str, Any] = {}
        self.notes: list[tuple[Checkpoint, Key, bool, str]] = []  # With who signed, if witnesses did, and where it was.
        self.latest = datetime.min.replace(tzinfo=UTC)
        self.lost: dict[str, tuple[int, str]] = {}  # Name before a restore → largest size signed under it, and where.
        self.others: list[tuple[Checkpoint, str, str]] = []  # Of other names and not of this log, where, and why not.
        self.unborn: set[Key] = set()

    def trusted_keys(self) -> None:
        """Take the evidence's own keys where none are trusted from outside."""
        self.manifest = self.evidence.manifest()
        self.report.origin = self.manifest["origin"]
        if not self.keys:
            self.keys = [parse_vkey(vkey) for vkey in self.manifest["vkeys"]]
            self.report.notice(
                "manifest",
                "THE LOG'S KEY WAS TAKEN FROM THE EVIDENCE ITSELF, and is not trusted from outside: anybody can make "
                "evidence that is like this. Give the key as you know it, with --key or --policy",
            )

    def signatures(self) -> None:
        """Verify the signatures of all checkpoints and passports, before any record is read."""
        evidence, witnesses = self.evidence, self.policy.witnesses.values()
        notes = (evidence.checkpoints(), evidence.anchors(), self.trust.anchors, self._passports())
        for where, raw in itertools.chain(*notes):
            try:
                found = parse_checkpoint(raw)
                key, cosigned = signed_by_log(found, self.keys), found.note.signers(witnesses)
            except Refused as exc:
                self.report.error(where, str(exc))
            else:
                self.notes.append((found, key, bool(cosigned) and self.policy.reached(cosigned), where))
        self.notes.sort(key=lambda note: note[0].size, reverse=True)

    def _passports(self) -> Iterator[Named]:
        """Verify the passports, and yield the checkpoint of each, to be compared with the log like the others."""
        for name, envelope, raw in self.evidence.passports():
            try:
                proof = parse_proof(raw)
                verify_passport(envelope, proof, self.keys)
            except Refused as exc:
                self.report.error(name, str(exc))
            else:
                self.report.passports += 1
                yield name, proof.checkpoint

    def records(self) -> None:
        """Take record by record, and at the size of each checkpoint compare the tree's root."""
        next_size = self._compare()
        for index, raw in enumerate(self.evidence.records()):
            self.tree.append(leaf_hash(raw))
            try:
                record = parse_record(raw)
                self._time(index, record.at)
                wrong = self.walk.take(index, record)
            except Refused as exc:
                wrong = [str(exc)]
            for what in wrong:
                self.report.error(f"record {index}", what, index)
            if self.tree.size == next_size:
                next_size = self._compare()
        self._compare(end=True)
        self._restores()
        self._unsigned()

    def _compare(self, *, end: bool = False) -> int:
        """Compare the checkpoints of the tree's size, at the end all that are left, and return the next one's size."""
        while self.notes and (end or self.notes[-1][0].size == self.tree.size):
            checkpoint, key, witnessed, where = self.notes.pop()
            try:
                self._checkpoint(checkpoint, key, where, witnessed=witnessed)
            except Refused as exc:
                if checkpoint.origin == self.manifest["origin"]:
                    self.report.error(where, str(exc))
                else:
                    self.others.append((checkpoint, where, str(exc)))
        return self.notes[-1][0].size if self.notes else 0

    def _checkpoint(self, checkpoint: Checkpoint, key: Key, where: str, *, witnessed: bool) -> None:
        """Compare one checkpoint: size, root, the log's name, and the birth of the key that signed it."""
        origin, size, walk, report = checkpoint.origin, checkpoint.size, self.walk, self.report
        if origin in walk.former:
            self.lost[origin] = (size, where)
            return
        if size > self.tree.size:
            raise Refused(f"it is of {size} records, and there are {self.tree.size}: the end is missing")
        if checkpoint.root != self.tree.root():
            which = f"of its records {report.signed} to {size - 1}, one or more were changed, added or taken away"
            if report.signed == size:
                which = f"two logs of {size} records were signed, and this one is elsewhere"
            raise Refused(f"the log is not the one that was signed: {which}")
        if walk.origin not in {None, origin}:
            raise Refused(f"the log was {walk.origin}, and is {origin} without a record of a restore")
        if size and key.material not in walk.log_keys and key not in self.unborn:
            self.unborn.add(key)
            report.notice(where, f"no record before it tells of the birth of the key that signed it, {key.vkey}")
        walk.origin, report.signed, report.checkpoints = origin, size, report.checkpoints + 1
        if witnessed:
            report.witnessed = size

    def _time(self, index: int, text: str) -> None:
        """Compare a record's time with the times before it."""
        try:
            at = datetime.fromisoformat(text)
        except ValueError:
            raise Refused(f"there is no time {text}") from None
        if at < self.latest and self.latest - at <= CLOCKS_DIFFER:
            return
        if at < self.latest:
            what = f"the clock went back: its time {at} is before {self.latest}, that of an earlier record"
            self._unless_known(index, f"record {index}", what, index)
        self.latest = at

    def _unless_known(self, index: int, where: str, what: str, bad: int | None = None) -> None:
        """Tell what happened at a record: an error, or a notice if the auditor knows of it from elsewhere."""
        if index in self.trust.known:
            self.report.notice(where, what)
        else:
            told = f"{what}; ask who did that, and why, before you accept it with --known {index}"
            self.report.error(where, told, bad)

    def _restores(self) -> None:
        """Tell of records that a restore took away. It must be signed, and somebody must know of it from elsewhere."""
        for other, where, why in self.others:
            if other.origin in self.walk.unseen:  # All of that name is gone, also what is older than the restore.
                self.lost.setdefault(other.origin, (other.size, where))
            else:
                self.report.error(where, why)
        for origin, (size, where) in self.lost.items():
            index = self.walk.former[origin]
            gone = f"the {size} records" if origin in self.walk.unseen else f"the records {index} to {size - 1}"
            what = f"{gone} of {origin} are gone: a restore, record {index}, took them away"
            if self.report.signed > index:
                self._unless_known(index, where, what)
            else:
                self.report.error(where, f"{what}; and no checkpoint is signed after it")

    def _unsigned(self) -> None:
        """Tell how much of the log is not signed or not witnessed, and compare it with the manifest."""
        report, size, said = self.report, self.tree.size, self.manifest
        report.size, report.root = size, self.tree.root().hex()
        if said["size"] != size:
            report.error("manifest", f"it counts {said['size']} records, and there are {size}")
        if self.walk.origin not in {None, said["origin"]}:
            report.error("manifest", f"it is of the log {said['origin']}, and the checkpoints of {self.walk.origin}")
        if size and not report.signed:
            report.error("log", "no checkpoint is proven, so no record is")
        elif size > report.signed:
            what = f"no checkpoint covers the records from {report.signed} on: who can write them can change them"
            report.notice("log", what)
        if size and self.policy.quorum is not None:
            if not report.witnessed:
                report.error("log", "no checkpoint has the signatures of as many witnesses as the policy demands")
            elif size > report.witnessed:
                report.notice("log", f"the records from {report.witnessed} on are not witnessed yet")

    def rows(self) -> None:
        """Compare each row of the journal with what the last record about it names."""
        expected = {name: life.row for name, life in self.walk.lives.items() if life.row is not None}
        before = ""
        for line, raw in enumerate(self.evidence.rows(), 1):
            where = f"rows.jsonl, line {line}"
            try:
                name = str(canonical_object(utf8(raw)).get("id"))
            except Refused as exc:
                self.report.error(where, str(exc))
                continue
            if name <= before:
                self.report.error(where, f"the row of {name} is there twice, or not in its place")
            before = max(name, before)
            if expected.pop(name, None) != hashlib.sha256(raw).hexdigest():
                self.report.error(where, f"the row of {name} is not the one that the last record about it names")
            self.report.rows += 1
        for name in expected:
            self.report.error("rows.jsonl", f"the row of {name} is missing")


# --- 2. Records. ------------------------------------------------------------------------------------------------------

_PLAIN = r'[^"\\\x00-\x1f]*+'
_TEXT = rf'{_PLAIN}(?:\\(?:["\\bfnrt]|u00(?:0[0-7be-f]|1[0-9a-f])){_PLAIN})*+'
_WORD, _HEX, _SHA256 = "[a-z0-9_-]+", "[0-9a-f]+", "[0-9a-f]{64}"

FIELDS = {
    # Name → what its value looks like, in JSON. Names stand in this order, without spaces between; no other form is
    # accepted, so nothing is there twice, and there are no two ways to write one record. What is in ( ) is used below.
    "act": '"([a-z][a-z0-9_ -]*)"',
    "actor": f'"{_TEXT}"',
    "at": r'"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z)"',
    "certificate": f'null|"({_SHA256})"',
    "detail": r"(\{.*?\})",
    "enrollment": f'null|"({_TEXT})"',
    "environment": f'null|"{_WORD}"',
    "host": f'"{_TEXT}"',
    "key_id": f'null|"({_HEX})"',
    "outcome": '"done"|"failed"',
    "public_key": f'null|"({_SHA256})"',
    "reason": f'null|"{_TEXT}"',
    "row": f'null|"({_SHA256})"',
    "serial": f'null|"{_TEXT}"',
    "source": f'null|"({_WORD})"',
    "target": f'null|"({_WORD})"',
    "v": "1",
}
_RECORD = re.compile(r"\{" + ",".join(f'"{name}":(?:{value})' for name, value in FIELDS.items()) + r"\}")

BIRTHS = frozenset({"generate", "adopt"})
"""The acts that may be the first to name a public key: its making, or the beginning of the log after it."""


class Record(NamedTuple):
    """What is used of a record. Its detail is JSON."""

    act: str
    at: str
    certificate: str | None
    detail: str
    enrollment: str | None
    key_id: str | None
    public_key: str | None
    row: str | None
    source: str | None
    target: str | None


def parse_record(raw: bytes) -> Record:
    """Read a record that has the one form it may have, to the byte."""
    match = _RECORD.fullmatch(utf8(raw))
    if match is None:
        raise Refused("it is not a record in its one canonical form")
    record = Record(*match.groups())
    _verified_detail(record.detail)
    return record


class Life(NamedTuple):
    """What the records said of an enrollment so far."""

    state: str | None = None
    key_id: str | None = None
    public_key: str | None = None
    certificate: str | None = None
    row: str | None = None


_UNBORN = Life()


class Walk:
    """What the records said so far. Those that come after are compared with it, one by one."""

    def __init__(self) -> None:
        self.lives: dict[str, Life] = {}
        self.owners: dict[str, str] = {}  # Public key → its enrollment.
        self.origin: str | None = None  # What checkpoints since the last restore call the log.
        self.former: dict[str, int] = {}  # Names that a restore ended → the restore's index.
        self.unseen: set[str] = set()  # Those of them that it had since restores whose records this restore took away.
        self.log_keys: set[bytes] = set()
        self.approved: dict[tuple[str | None, object], set[str]] = {}  # Enrollment, or a policy's days → by whom.

    def take(self, index: int, record: Record) -> list[str]:
        """Take the next record, and return what is wrong with it: a sentence each."""
        if record.act == "approve":
            detail = canonical_object(record.detail)
            what = record.enrollment, detail.get("destroy_after_days")
            self.approved.setdefault(what, set()).add(str(detail.get("by")))
        if record.enrollment is not None:
            return self._live(record.enrollment, record)
        if record.act == "log_key":
            self.log_keys.add(parse_vkey(str(canonical_object(record.detail).get("vkey"))).material)
        elif record.act == "restore":
            detail = canonical_object(record.detail)
            before, others = detail.get("origin"), detail.get("known")
            if not isinstance(before, str) or self.origin not in {None, before}:
                return [f"it says that the log was called {before!r}, and the checkpoints say {self.origin!r}"]
            self.origin, self.former[before] = None, index
            for name in map(str, others if isinstance(others, list) else ()):
                if name not in self.former:
                    self.former[name] = index
                    self.unseen.add(name)
        return []

    def _live(self, name: str, record: Record) -> list[str]:
        """Go on with an enrollment's life."""
        wrong = []
        state, key_id, public_key, certificate, row = self.lives.get(name, _UNBORN)
        act, _, new_certificate, _, _, new_key_id, new_public_key, new_row, source, target = record
        if source != state and (source is not None or (target and state)):
            wrong.append(f"{name} was {state or 'unknown'}, and this act begins with {source or 'nothing'}")
        if new_public_key != public_key:
            if public_key is not None:
                wrong.append(f"the public key of {name} is another one than before")
            elif act not in BIRTHS:
                wrong.append(f"the key of {name} is there without having been born")
            owner = self.owners.setdefault(new_public_key or "", name)
            if owner != name and new_public_key:
                wrong.append(f"the key of {name} was born before, for {owner}")
        if key_id != new_key_id and key_id is not None:
            wrong.append(f"the key ID of {name} is another one than before")
        if target == "destroyed" and not any(
            len(by) > 1 for (of, _), by in self.approved.items() if of in {None, name}
        ):
            wrong.append(f"the key of {name} is destroyed without the approval of two")
        if certificate != new_certificate and certificate is not None:
            wrong.append(f"the certificate of {name} is another one than before")
        self.lives[name] = Life(target or state, new_key_id, new_public_key, new_certificate, new_row or row)
        return wrong


# --- 3. One record by itself (C2SP tlog-proof), and the passport of a key (DSSE v1, in-toto). -------------------------

PROOF = "c2sp.org/tlog-proof@v1"


@dataclass(frozen=True, slots=True)
class Proof:
    """The proof that a record is in a log. ``extra`` holds the record, or nothing; it is believed if it is proven."""

    extra: bytes | None
    index: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes

    def verify(self, record: bytes, keys: Iterable[Key]) -> Checkpoint:
        """Verify that a record is in the log, and return the signed checkpoint that says so."""
        checkpoint = parse_checkpoint(self.checkpoint)
        signed_by_log(checkpoint, keys)
        verify_inclusion(leaf_hash(record), self.index, checkpoint.size, self.hashes, checkpoint.root)
        return checkpoint


def parse_proof(raw: bytes) -> Proof:
    """Read a ``.tlog-proof``."""
    head, blank, checkpoint = utf8(raw).partition("\n\n")
    first, *lines = head.split("\n")
    extra = unbase64(lines.pop(0)[6:]) if lines and lines[0].startswith("extra ") else None
    if first != PROOF or not blank or not lines or not lines[0].startswith("index ") or len(lines) > 64:
        raise Refused("it is not a proof as C2SP tlog-proof has it")
    return Proof(extra, number(lines[0][6:]), tuple(map(hash_of, lines[1:])), checkpoint.encode())


def verify_passport(envelope: bytes, proof: Proof, keys: Iterable[Key]) -> tuple[dict[str, Any], Checkpoint]:
    """Verify a custody passport: signed by the log's key, and recorded in the log. Return its statement."""
    keys = list(keys)
    kind, content = open_envelope(envelope, keys)
    record = parse_record(proof.extra or b"")
    checkpoint = proof.verify(proof.extra or b"", keys)
    named = canonical_object(record.detail).get("sha256")
    if record.act != "passport" or named != hashlib.sha256(envelope).hexdigest():
        raise Refused("the record that is proven is not that of this passport")
    statement = json_object(utf8(content))
    match statement:
        case {"_type": "https://in-toto.io/Statement/v1", "subject": [{"digest": {"sha256": str(subject)}}]}:
            if kind != "application/vnd.in-toto+json" or subject != record.public_key:
                raise Refused("the passport is not about the key that its record names")
        case _:
            raise Refused("the passport is not an in-toto statement about one key")
    return statement, checkpoint


def open_envelope(raw: bytes, keys: Iterable[Key]) -> tuple[str, bytes]:
    """Return type and content of a DSSE envelope with one signature, by the key of a log."""
    match json_object(utf8(raw)):
        case {"payloadType": str(kind), "payload": str(payload), "signatures": [{"sig": str(sig), **more}], **rest}:
            if rest or more.keys() - {"keyid"}:
                raise Refused("the envelope has more in it than it may have")
        case _:
            raise Refused("it is not a DSSE envelope with one signature")
    content, signature = unbase64(payload), unbase64(sig)
    for key in keys:
        if key.kind != COSIGNATURE:
            with contextlib.suppress(Refused):
                key.verify(pae(kind, content), signature)
                return kind, content
    raise Refused("the envelope is not signed by a key that is trusted")


def pae(kind: str, content: bytes) -> bytes:
    """Return the bytes that an envelope's signature is over (DSSE v1, *pre-authentication encoding*)."""
    return b"DSSEv1 %d %b %d %b" % (len(kind.encode()), kind.encode(), len(content), content)


# --- 4. The hash tree (RFC 9162, 2.1). --------------------------------------------------------------------------------

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256().digest()


def leaf_hash(record: bytes) -> bytes:
    """Hash a record."""
    return hashlib.sha256(b"\0" + record).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash two subtrees that stand beside each other."""
    return hashlib.sha256(b"\1" + left + right).digest()


class Tree:
    """A tree that grows leaf by leaf. It keeps the hashes of its largest complete subtrees only, from left to right."""

    def __init__(self) -> None:
        self.size = 0
        self._subtrees: list[bytes] = []

    def append(self, found: bytes) -> None:
        """Add a leaf's hash: as often as the size is odd, two complete subtrees become one."""
        rest = self.size
        while rest & 1:
            found = node_hash(self._subtrees.pop(), found)
            rest >>= 1
        self._subtrees.append(found)
        self.size += 1

    def root(self) -> bytes:
        """Return the root of the tree as it is now."""
        if not self._subtrees:
            return EMPTY_ROOT
        *others, found = self._subtrees
        for left in reversed(others):
            found = node_hash(left, found)
        return found


def hashes(*found: bytes) -> tuple[bytes, ...]:
    """Return hashes, if all are as long as one."""
    if any(len(one) != HASH_BYTES for one in found):
        raise Refused(f"a hash has {HASH_BYTES} bytes, and not all of these have")
    return found


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Iterable[bytes], root: bytes) -> None:
    """Verify that a leaf's hash is in a tree (RFC 9162, 2.1.3.2): climb from its place to the root."""
    path = hashes(*proof, leaf, root)[:-2]
    if not 0 <= index < size:
        raise Refused(f"a tree of {size} records has no record {index}")
    found, place, last = leaf, index, size - 1  # The place on a level, and the last place there.
    for sibling in path:
        if last == 0:
            raise Refused("the proof is too long")
        if place & 1 or place == last:
            found = node_hash(sibling, found)
            while not place & 1 and place:  # Levels on which it has no sibling, at the right edge.
                place, last = place >> 1, last >> 1
        else:
            found = node_hash(found, sibling)
        place, last = place >> 1, last >> 1
    if last or found != root:
        raise Refused("the proof does not lead from the record to the root")


# --- 5. Checkpoints and other signed notes, and their keys (C2SP signed-note, tlog-checkpoint, tlog-cosignature). -----


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint says: its log's name had so many records, and the tree over them this root."""

    origin: str
    size: int
    root: bytes
    note: Note


def parse_checkpoint(raw: bytes) -> Checkpoint:
    """Read a checkpoint of three lines: extension lines are not ours, and nobody audits them."""
    note = parse_note(raw)
    lines = note.text.decode().split("\n")
    if len(lines) != 4 or not NAME.fullmatch(lines[0]):
        raise Refused("it is not a checkpoint of three lines")
    size, root = number(lines[1]), hash_of(lines[2])
    if size == 0 and root != EMPTY_ROOT:
        raise Refused("a log without records has another root")
    return Checkpoint(lines[0], size, root, note)


def signed_by_log(checkpoint: Checkpoint, keys: Iterable[Key]) -> Key:
    """Return the key that signed a checkpoint, the first if several did.

    A key is trusted for itself, under whatever name the log has: a restore renames it.
    """
    logs = [Key(checkpoint.origin, key.kind, key.material) for key in keys if key.kind != COSIGNATURE]
    for key in checkpoint.note.signers(logs):
        return key
    raise Refused("it is not signed by a key that is trusted")


NAME = re.compile(r"[^\s+\x00-\x1f\x7f]+")
SIGNATURE = re.compile("\u2014 ([^\\s+]+) ([A-Za-z0-9+/=]+)")
NOTE = re.compile("([^\\x00-\\x09\\x0b-\\x1f]+\n)\n((?:\u2014 [^\n]+\n){1,64})")
MAX_NOTE = 65_536


@dataclass(frozen=True, slots=True)
class Note:
    """A signed note: a text, and lines of signatures that are believed only as :meth:`signers` finds."""

    text: bytes
    lines: tuple[tuple[str, bytes, bytes], ...]
    """Of each signature: the key's name, its ID, and the signature."""

    def signers(self, keys: Iterable[Key]) -> dict[Key, bytes]:
        """Return which of the keys signed, with their signatures; signatures by others are passed over."""
        known = {(key.name, key.id): key for key in keys}
        found: dict[Key, bytes] = {}
        for name, id_, signature in self.lines:
            if key := known.get((name, id_)):
                if key in found:
                    raise Refused(f"there are two signatures by {name}")
                key.verify(self.text, signature)
                found[key] = signature
        return found


def parse_note(raw: bytes) -> Note:
    """Read a signed note, whose last empty line stands between text and signatures."""
    match = NOTE.fullmatch(utf8(raw)) if len(raw) <= MAX_NOTE else None
    if match is None:
        raise Refused("it is not a signed note of a text, an empty line, and up to 64 signatures, in plain lines")
    return Note(match[1].encode(), tuple(map(parse_signature, match[2][:-1].split("\n"))))


def parse_signature(line: str) -> tuple[str, bytes, bytes]:
    """Read a line of a signature: the name of its key, its ID, and the signature."""
    match = SIGNATURE.fullmatch(line)
    raw = unbase64(match[2]) if match else b""
    if not match or not NAME.fullmatch(match[1]) or len(raw) < 5:
        raise Refused(f"{line[:80]!r} is not a line of a signature")
    return match[1], raw[:4], raw[4:]


@dataclass(frozen=True, slots=True)
class Key:
    """A public key under the name by which notes call it: 32 bytes for Ed25519, DER SubjectPublicKeyInfo for ECDSA."""

    name: str
    kind: int
    material: bytes

    @property
    def id(self) -> bytes:
        """The four bytes by which signature lines call it."""
        named = b"" if self.kind == ECDSA else self.name.encode() + bytes([10, self.kind])
        return hashlib.sha256(named + self.material).digest()[:4]

    @property
    def vkey(self) -> str:
        """The key as people hand it on."""
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(bytes([self.kind]) + self.material).decode()}"

    def verify(self, data: bytes, signature: bytes) -> None:
        """Verify a signature by this key over data."""
        try:
            VERIFY[self.kind](self.material, signature, data)
        except InvalidSignature:
            raise Refused(f"a signature by {self.name} does not verify") from None
        except ValueError as exc:
            raise Refused(f"{self.name} has no key of its type: {exc}") from None


def parse_vkey(text: str) -> Key:
    """Read a key as people hand it on: ``name+id+base64``."""
    name, id_, coded = (*text.split("+", 2), "", "")[:3]
    raw = unbase64(coded)
    if not NAME.fullmatch(name) or not raw:
        raise Refused(f"{text[:80]!r} is not a name, an ID and a key with + between them")
    key = Key(name, raw[0], raw[1:])
    if key.kind not in VERIFY:
        raise Refused(f"{name} is a key of type {key.kind:02x}, which is not known here")
    if key.id.hex() != id_:
        raise Refused(f"the ID of the key {name} is {key.id.hex()}, and not {id_[:16]}")
    return key


def _ed25519(material: bytes, signature: bytes, data: bytes) -> None:
    ed25519.Ed25519PublicKey.from_public_bytes(material).verify(signature, data)


def _ecdsa(material: bytes, signature: bytes, data: bytes) -> None:
    key = load_der_public_key(material)
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("it is not a key on the curve P-256")  # noqa: TRY004 - what was read is wrong, not the type
    key.verify(signature, data, ec.ECDSA(SHA256()))


def _cosignature(material: bytes, signature: bytes, data: bytes) -> None:
    time = int.from_bytes(signature[:8])
    _ed25519(material, signature[8:], b"cosignature/v1\ntime %d\n" % time + data)


ED25519, ECDSA, COSIGNATURE = 0x01, 0x02, 0x04
VERIFY: dict[int, Callable[[bytes, bytes, bytes], None]] = {ED25519: _ed25519, ECDSA: _ecdsa, COSIGNATURE: _cosignature}
"""Type of a key → what verifies its signatures. A new type of signature is a line here."""


# --- 6. Whom to trust (C2SP tlog-policy). -----------------------------------------------------------------------------


@dataclass(slots=True)
class Policy:
    """An auditor's policy: the logs and witnesses that are known, and how many of these must have signed."""

    logs: list[Key] = field(default_factory=list)
    witnesses: dict[str, Key] = field(default_factory=dict)
    groups: dict[str, tuple[int, list[str]]] = field(default_factory=dict)
    quorum: str | None = None

    def reached(self, signers: Iterable[Key], name: str | None = None) -> bool:
        """Tell whether these witnesses are enough: for the quorum, or for a witness or group by its name."""
        signers, name = list(signers), name or self.quorum
        if name is None or name in self.witnesses:
            return name is None or self.witnesses[name] in signers
        least, members = self.groups[name]
        return sum(self.reached(signers, member) for member in members) >= least


def parse_policy(raw: bytes) -> Policy:
    """Read a policy: lines of ``log``, ``witness``, ``group`` and one ``quorum``; names before they are used."""
    policy, quorums = Policy(), 0
    for line in utf8(raw).split("\n"):
        words = [] if line.startswith("#") else line.split()
        named = {*policy.witnesses, *policy.groups, "none"}
        match words:
            case []:
                continue
            case ["log", vkey]:
                policy.logs.append(_typed(vkey, ED25519, ECDSA))
            case ["witness", name, vkey] if name not in named:
                policy.witnesses[name] = _typed(vkey, COSIGNATURE)
            case ["group", name, least, *members] if name not in named and {*members} <= named - {"none"}:
                count = {"any": 1, "all": len(members)}.get(least) or number(least)
                if not 1 <= count <= len({*members}) == len(members):
                    raise Refused(f"the group {name} cannot have {count} of its members, or has one twice")
                policy.groups[name] = count, members
            case ["quorum", name] if name in named:
                policy.quorum, quorums = (None if name == "none" else name), quorums + 1
            case _:
                raise Refused(f"{line[:80]!r} is not a line of a policy, or names what is not known or known already")
    if quorums != 1 or len({key.material for key in policy.witnesses.values()}) < len(policy.witnesses):
        raise Refused("a policy has one quorum, and each witness a key of its own")
    return policy


def _typed(vkey: str, *kinds: int) -> Key:
    """Read a key that is to be of certain types."""
    key = parse_vkey(vkey)
    if key.kind not in kinds:
        raise Refused(f"the key {key.name} is not of a type for this")
    return key


# --- 7. Bytes and JSON, which can be read in one way only. ------------------------------------------------------------


def utf8(raw: bytes) -> str:
    """Decode UTF-8, strictly."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise Refused("it is not UTF-8") from None


def unbase64(text: str) -> bytes:
    """Decode base64 (RFC 4648, 4) that is written in the one canonical way."""
    with contextlib.suppress(ValueError):
        data = base64.b64decode(text, validate=True)
        if base64.b64encode(data).decode() == text:
            return data
    raise Refused(f"{text[:60]!r} is not canonical base64")


def number(text: str) -> int:
    """Read a number of records: decimal, without sign or leading zeros."""
    if not re.fullmatch(r"0|[1-9][0-9]{0,18}", text) or int(text) >= 2**63:
        raise Refused(f"{text[:60]!r} is not a number as it is to be written")
    return int(text)


def hash_of(text: str) -> bytes:
    """Read a hash in base64."""
    return hashes(unbase64(text))[0]


def json_object(text: str) -> dict[str, Any]:
    """Read a JSON object without duplicate keys, fractions, and numbers that not everybody reads alike."""
    try:
        value = _READER.decode(text)
    except (json.JSONDecodeError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise Refused("it is not a JSON object")
    return value


def canonical_object(text: str) -> dict[str, Any]:
    """Read a JSON object that is written in the one canonical way (RFC 8785, without fractions)."""
    value = json_object(text)
    try:
        same = _WRITER.encode(value) == text
    except RecursionError:
        same = False
    if not same:
        raise Refused("its JSON is not written in the one canonical way")
    return value


_verified_detail = functools.lru_cache(maxsize=64)(canonical_object)
"""Most records have one of a few details, which are not to be verified a million times."""


def _no_number(found: str) -> Any:
    raise Refused(f"{found[:60]} is not a number that it may have")


def _whole(found: str) -> int:
    # From 2**53 on, numbers of JSON are not the same for everybody (RFC 8259, 6).
    return int(found) if len(found) < 18 and abs(int(found)) < 2**53 else _no_number(found)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Refused("a key of its JSON is there twice")
    return found


_READER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_float=_no_number, parse_int=_whole, parse_constant=_no_number
)
_WRITER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


# --- 8. A bundle, and the command. ------------------------------------------------------------------------------------

FORMAT = "varmenne.evidence/1"
MAX_LINE = 4 * 1024 * 1024
MAX_FILE = 16 * 1024 * 1024
_ENTRY = re.compile(
    r"manifest\.json|records\.jsonl|rows\.jsonl|(?:checkpoints|anchors)/[0-9]{20}-[0-9a-f]{16}\.note"
    r"|passports/[0-9A-Za-z-]+\.(?:dsse\.json|tlog-proof)"
)
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError, UnicodeDecodeError)
"""What a broken archive makes the library raise."""


class Bundle:
    """A bundle: a ZIP archive of files with fixed names. Nothing is unpacked to the disk."""

    def __init__(self, file: BinaryIO) -> None:
        try:
            self._zip = zipfile.ZipFile(file)
            file.seek(-22, io.SEEK_END)  # The end of an archive without a comment.
            is_all = file.read(4) == b"PK\5\6" and not min(one.header_offset for one in self._zip.infolist())
        except (*_ZIP_ERRORS, ValueError) as exc:
            raise Refused(f"it is not a ZIP archive that can be read: {exc}") from None
        self.names = sorted(self._zip.namelist())
        strange = [name for name in self.names if not _ENTRY.fullmatch(name)]
        if not is_all or strange or len(self.names) != len({*self.names}):
            raise Refused(f"something is there twice, or does not belong here: {', '.join(strange[:3])}")
        if missing := {"manifest.json", "records.jsonl", "rows.jsonl"} - {*self.names}:
            raise Refused(f"it has no {' and no '.join(sorted(missing))}")

    def manifest(self) -> dict[str, Any]:
        """Return what the bundle says of itself."""
        manifest = json_object(utf8(self._whole("manifest.json")))
        match manifest:
            case {"format": str(), "origin": str(), "size": int(), "exported_at": str(), "vkeys": [*vkeys], **rest}:
                if manifest["format"] == FORMAT and not rest and all(isinstance(one, str) for one in vkeys):
                    return manifest
        raise Refused(f"its manifest is not of the format {FORMAT!r}")

    def records(self) -> Iterator[bytes]:
        """Yield each record."""
        return self._lines("records.jsonl")

    def rows(self) -> Iterator[bytes]:
        """Yield each row of the journal."""
        return self._lines("rows.jsonl")

    def checkpoints(self) -> Iterator[Named]:
        """Yield the checkpoints of the journal."""
        return self._notes("checkpoints/")

    def anchors(self) -> Iterator[Named]:
        """Yield the checkpoints as they were read back from Vault."""
        return self._notes("anchors/")

    def passports(self) -> Iterator[tuple[str, bytes, bytes]]:
        """Yield the passports; each has a proof beside it."""
        for name in self.names:
            stem, is_passport, _ = name.partition(".dsse.json")
            if is_passport:
                if f"{stem}.tlog-proof" not in self.names:
                    raise Refused(f"{name} has no proof beside it")
                yield name, self._whole(name), self._whole(f"{stem}.tlog-proof")

    def _notes(self, folder: str) -> Iterator[Named]:
        """Yield the files of a folder."""
        return ((name, self._whole(name)) for name in self.names if name.startswith(folder))

    @contextlib.contextmanager
    def _open(self, name: str) -> Iterator[IO[bytes]]:
        """Open a file of the archive."""
        try:
            with self._zip.open(name) as file:
                yield file
        except _ZIP_ERRORS as exc:
            raise Refused(f"{name} cannot be read: {exc}") from None

    def _whole(self, name: str) -> bytes:
        """Return a small file."""
        with self._open(name) as file:
            data = file.read(MAX_FILE + 1)
        if len(data) > MAX_FILE:
            raise Refused(f"{name} is too large")
        return data

    def _lines(self, name: str) -> Iterator[bytes]:
        """Yield the lines of a large file, without their line feeds."""
        with self._open(name) as raw, io.BufferedReader(raw, 1 << 20) as file:  # type: ignore[type-var]
            while line := file.readline(MAX_LINE):
                if line[-1] != 10:
                    raise Refused(f"a line of {name} is too long, or the last one is cut off")
                yield line[:-1]


def main(arguments: list[str] | None = None) -> int:
    """Run as a program, and return its exit code."""
    parser = argparse.ArgumentParser(description="Verify varmenne's evidence of key custody.")
    many: dict[str, Any] = {"action": "append", "default": []}
    parser.add_argument("file", nargs="?", type=Path, help="a bundle; with --proof, a record")
    parser.add_argument("--key", **many, metavar="VKEY", help="a key of the log that you trust")
    parser.add_argument("--policy", type=Path, help="logs and witnesses that you trust, as C2SP tlog-policy")
    parser.add_argument("--anchor", **many, type=Path, help="a checkpoint that you kept")
    parser.add_argument(
        "--known", **many, type=int, metavar="INDEX",
        help="the record of a restore, or of a clock that was set back, that you know of",
    )  # fmt: skip
    parser.add_argument("--proof", type=Path, help="verify one record: its .tlog-proof")
    parser.add_argument("--passport", type=Path, help="verify a passport: its .dsse.json")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")
    given = parser.parse_args(arguments)
    if (given.file is None) == (given.passport is None) or (given.passport and not given.proof):
        parser.error("give a bundle, or --proof and a record, or --proof and --passport")
    try:
        policy = parse_policy(given.policy.read_bytes()) if given.policy else None
        anchors = tuple((str(path), path.read_bytes()) for path in given.anchor)
        trust = Trust(tuple(map(parse_vkey, given.key)), policy, anchors, frozenset(given.known))
        if given.proof:
            report = _one(given, trust)
        else:
            with given.file.open("rb") as file:
                report = verify(Bundle(file), trust)
    except OSError as exc:
        parser.error(f"{exc.filename}: {exc.strerror}")
    except Refused as exc:
        report = Report()
        report.error(str(given.proof or given.file), str(exc))
    print(json.dumps({"ok": report.ok, **asdict(report)}, indent=2) if given.json else told(report))
    return 0 if report.ok else 1


def _one(given: argparse.Namespace, trust: Trust) -> Report:
    """Verify one record, or one passport."""
    policy, proof = trust.policy or Policy(), parse_proof(given.proof.read_bytes())
    keys = [*trust.keys, *policy.logs]
    if given.passport:
        checkpoint = verify_passport(given.passport.read_bytes(), proof, keys)[1]
    else:
        checkpoint = proof.verify(given.file.read_bytes().removesuffix(b"\n"), keys)
    if not policy.reached(checkpoint.note.signers(policy.witnesses.values())):
        raise Refused("the checkpoint does not have the signatures of as many witnesses as the policy demands")
    size, root = checkpoint.size, checkpoint.root.hex()
    return Report(checkpoint.origin, size, root, checkpoints=1, signed=size, passports=bool(given.passport))


def told(report: Report) -> str:
    """Tell the outcome to people."""
    lines = [f"{found.severity.upper()}  {found.where}: {found.what}" for found in report.findings]
    if report.errors > MAX_FINDINGS:
        lines.append(f"ERROR  … and {report.errors - MAX_FINDINGS} more")
    if report.ok:
        lines.append(
            f"PROVEN  {report.origin}: {report.size} records, root {report.root}, {report.checkpoints} checkpoints, "
            f"signed up to record {report.signed}, witnessed up to {report.witnessed}"
        )
    else:
        bad = report.first_bad_record
        lines.append("NOT PROVEN" + ("" if bad is None else f"; the first bad record is {bad}"))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
