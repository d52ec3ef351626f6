"""Verify varmenne's evidence of key custody, with nothing of varmenne.

This is one file, to be read before it is believed. It needs Python 3.11 or later and the library ``cryptography``, no
network, no token and no database::

    python verifier.py BUNDLE.zip [--key VKEY] [--policy FILE] [--anchor NOTE] [--json]
    python verifier.py --proof FILE.tlog-proof RECORD      --key VKEY
    python verifier.py --proof FILE.tlog-proof --passport FILE.dsse.json --key VKEY

A bundle holds an audit log: one record per act on a key, each a line of JSON. The records are the leaves of a hash
tree (RFC 9162, 2.1). A *checkpoint* is a signed note of the log's name, its number of records and the root of its
tree. What is verified of a bundle, in this order and in one pass:

1. each record is JSON of the one form that it may have, to the byte, and times do not go back;
2. the acts on a key follow each other: it is born once, its public key and certificate never change, and each act finds
   the state that the act before it left;
3. the tree over the records has, at the size of each checkpoint and anchor, the root that was signed there;
4. each checkpoint is signed by a key that is trusted, and by witnesses as the policy demands;
5. the journal's rows are those that the last records about them name.

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
import binascii
import hashlib
import heapq
import io
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
from typing import Any, BinaryIO, NamedTuple, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key


class Refused(ValueError):
    """Something is not of its format, or is not proven. The text says in one sentence what."""


# --- Bytes and words. -------------------------------------------------------------------------------------------------

HASH_BYTES = 32
MAX_SIZE = 2**63 - 1
"""More records than a log can have."""
EXACT = 2**53
"""From here on, numbers of JSON are not the same for everybody (RFC 8259, 6)."""
_JSON = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def unbase64(text: str) -> bytes:
    """Decode base64 (RFC 4648, 4) that is written in the one canonical way."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refused(f"{text[:60]!r} is not base64") from None
    if base64.b64encode(data).decode() != text:
        raise Refused(f"{text[:60]!r} is not canonical base64")
    return data


def number(text: str) -> int:
    """Read a number of records: decimal, without sign or leading zeros."""
    if not re.fullmatch(r"0|[1-9][0-9]{0,18}", text, re.ASCII) or int(text) > MAX_SIZE:
        raise Refused(f"{text[:60]!r} is not a number as it is to be written")
    return int(text)


def hash_of(text: str) -> bytes:
    """Read a hash in base64."""
    data = unbase64(text)
    if len(data) != HASH_BYTES:
        raise Refused(f"a hash has {HASH_BYTES} bytes, and this one {len(data)}")
    return data


def utf8(raw: bytes) -> str:
    """Decode UTF-8, strictly."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise Refused("it is not UTF-8") from None


def json_object(text: str) -> dict[str, Any]:
    """Read a JSON object without duplicate keys, fractions, and numbers that not everybody reads alike."""

    def refuse(found: str) -> Any:
        raise Refused(f"{found[:60]} is not a number that it may have")

    def whole(found: str) -> int:
        return int(found) if len(found) < 18 and abs(int(found)) < EXACT else refuse(found)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise Refused("a key of its JSON is there twice")
        return found

    try:
        value = json.loads(text, object_pairs_hook=unique, parse_float=refuse, parse_int=whole, parse_constant=refuse)
    except (json.JSONDecodeError, RecursionError):
        raise Refused("it is not JSON") from None
    if not isinstance(value, dict):
        raise Refused("it is not a JSON object")
    return value


def canonical_object(text: str) -> dict[str, Any]:
    """Read a JSON object that is written in the one canonical way (RFC 8785, without fractions)."""
    value = json_object(text)
    try:
        if _JSON.encode(value) == text:
            return value
    except RecursionError:
        pass
    raise Refused("its JSON is not written in the one canonical way")


# --- The hash tree (RFC 9162, 2.1). -----------------------------------------------------------------------------------


def leaf_hash(record: bytes) -> bytes:
    """Hash a record."""
    return hashlib.sha256(b"\0" + record).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash two subtrees that stand beside each other."""
    return hashlib.sha256(b"\1" + left + right).digest()


EMPTY_ROOT = hashlib.sha256().digest()


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
        found = EMPTY_ROOT
        for place, left in enumerate(reversed(self._subtrees)):
            found = node_hash(left, found) if place else left
        return found


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Iterable[bytes], root: bytes) -> None:
    """Verify that a leaf's hash is in a tree (RFC 9162, 2.1.3.2).

    Raises:
        Refused: it is not proven.
    """
    path = _hashes(*proof, leaf, root)[:-2]
    if not 0 <= index < size:
        raise Refused(f"a tree of {size} records has no record {index}")
    found = leaf
    for sibling, is_left in _climb(index, size - 1, path):
        found = node_hash(sibling, found) if is_left else node_hash(found, sibling)
    if found != root:
        raise Refused("the proof does not lead from the record to the root")


def verify_consistency(old: int, old_root: bytes, size: int, root: bytes, proof: Iterable[bytes]) -> None:
    """Verify that a tree begins with an older one (RFC 9162, 2.1.4.2). An empty one is the beginning of every tree.

    Raises:
        Refused: it is not proven.
    """
    path = _hashes(*proof, old_root, root)[:-2]
    if not 0 <= old <= size:
        raise Refused(f"a tree of {size} records does not begin with {old}")
    if old in {0, size}:
        if path or (old == 0 and old_root != EMPTY_ROOT) or (old == size and old_root != root):
            raise Refused("the proof does not lead from the old root to the new one")
        return
    place, last = old - 1, size - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    # The complete subtree that the old tree ends with: a power of two is all of it.
    first, *rest = (old_root, *path) if old & (old - 1) == 0 else path or (b"",)
    was = now = first
    for sibling, is_left in _climb(place, last, rest):
        was, now = (node_hash(sibling, was), node_hash(sibling, now)) if is_left else (was, node_hash(now, sibling))
    if was != old_root or now != root:
        raise Refused("the proof does not lead from the old root to the new one")


def _climb(place: int, last: int, path: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Climb from a place on a level, whose last place is given, to the root: yield each sibling, and if it is left."""
    for sibling in path:
        if last == 0:
            raise Refused("the proof is too long")
        is_left = bool(place & 1) or place == last
        yield sibling, is_left
        while is_left and not place & 1 and place:
            place, last = place >> 1, last >> 1
        place, last = place >> 1, last >> 1
    if last:
        raise Refused("the proof is too short")


def _hashes(*hashes: bytes) -> tuple[bytes, ...]:
    """Refuse what is not as long as a hash."""
    if any(len(found) != HASH_BYTES for found in hashes):
        raise Refused(f"a hash has {HASH_BYTES} bytes, and not all of these have")
    return hashes


# --- Keys and signed notes (C2SP signed-note, tlog-cosignature). ------------------------------------------------------

ED25519, ECDSA, COSIGNATURE = 0x01, 0x02, 0x04


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


VERIFY: dict[int, Callable[[bytes, bytes, bytes], None]] = {ED25519: _ed25519, ECDSA: _ecdsa, COSIGNATURE: _cosignature}
"""Type of a key → what verifies its signatures. A new type of signature is a line here."""

NAME = re.compile(r"[^\s+\x00-\x1f\x7f]+")


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
        """Verify a signature by this key over data.

        Raises:
            Refused: it is not one, or the key is none of its type.
        """
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


@dataclass(frozen=True, slots=True)
class Note:
    """A signed note: a text, and lines of signatures that are believed only as :meth:`signers` finds."""

    text: bytes
    lines: tuple[tuple[str, bytes, bytes], ...]
    """Of each signature: the key's name, its ID, and the signature."""

    def signers(self, keys: Iterable[Key]) -> dict[Key, bytes]:
        """Return which of the keys signed, with their signatures; signatures by others are passed over.

        Raises:
            Refused: a signature by one of the keys does not verify, or is there twice.
        """
        known = {(key.name, key.id): key for key in keys}
        found: dict[Key, bytes] = {}
        for name, id_, signature in self.lines:
            if key := known.get((name, id_)):
                if key in found:
                    raise Refused(f"there are two signatures by {name}")
                key.verify(self.text, signature)
                found[key] = signature
        return found


MAX_NOTE = 65_536
MAX_LINES = 64
SIGNATURE = re.compile("\u2014 ([^\\s+]+) ([A-Za-z0-9+/=]+)")


def parse_note(raw: bytes) -> Note:
    """Read a signed note, whose last empty line stands between text and signatures."""
    text = utf8(raw)
    if len(raw) > MAX_NOTE or not text.endswith("\n") or re.search(r"[\x00-\x09\x0b-\x1f]", text):
        raise Refused("it is not a signed note: too long, not ended by a line feed, or with control characters")
    body, blank, signed = text.rpartition("\n\n")
    if not blank or not body or not signed:
        raise Refused("it is not a signed note: it has no text, or no signatures after its last empty line")
    if len(found := signed[:-1].split("\n")) > MAX_LINES:
        raise Refused(f"it has more than {MAX_LINES} signatures")
    return Note(f"{body}\n".encode(), tuple(map(parse_signature, found)))


def parse_signature(line: str) -> tuple[str, bytes, bytes]:
    """Read a line of a signature: the name of its key, its ID, and the signature."""
    match = SIGNATURE.fullmatch(line)
    raw = unbase64(match[2]) if match else b""
    if not match or not NAME.fullmatch(match[1]) or len(raw) < 5:
        raise Refused(f"{line[:80]!r} is not a line of a signature")
    return match[1], raw[:4], raw[4:]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint says (C2SP tlog-checkpoint): its log's name had so many records, and the tree this root."""

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


# --- Whom to trust (C2SP tlog-policy). --------------------------------------------------------------------------------


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


def log_keys(keys: Iterable[Key], origin: str) -> list[Key]:
    """Return the keys of logs under a log's name: a key is trusted for itself, and a restore renames the log."""
    return [Key(origin, key.kind, key.material) for key in keys if key.kind != COSIGNATURE]


def signed_by_log(checkpoint: Checkpoint, keys: Iterable[Key]) -> Key:
    """Return the key of a log that signed a checkpoint; where several did, the first of them."""
    for key in checkpoint.note.signers(log_keys(keys, checkpoint.origin)):
        return key
    raise Refused("it is not signed by a key that is trusted")


# --- One record by itself (C2SP tlog-proof), and what else the log's key signed (DSSE v1). ----------------------------

PROOF = "c2sp.org/tlog-proof@v1"


@dataclass(frozen=True, slots=True)
class Proof:
    """The proof that a record is in a log. ``extra`` holds the record, or nothing; it is believed if it is proven."""

    extra: bytes | None
    index: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes

    def verify(self, record: bytes, keys: Iterable[Key]) -> Checkpoint:
        """Verify that a record is in the log, and return the signed checkpoint that says so.

        Raises:
            Refused: it is not proven.
        """
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


def open_envelope(raw: bytes, keys: Iterable[Key]) -> tuple[str, bytes]:
    """Return type and content of a DSSE envelope with one signature, by the key of a log.

    Raises:
        Refused: it is no such envelope, or its signature is by no key that is trusted.
    """
    envelope = json_object(utf8(raw))
    match envelope:
        case {"payloadType": str(kind), "payload": str(payload), "signatures": [{"sig": str(sig), **more}], **rest}:
            if rest or more.keys() - {"keyid"}:
                raise Refused("the envelope has more in it than it may have")
        case _:
            raise Refused("it is not a DSSE envelope with one signature")
    content, signature = unbase64(payload), unbase64(sig)
    signed = pae(kind, content)
    for key in keys:
        try:
            if key.kind != COSIGNATURE:
                key.verify(signed, signature)
                return kind, content
        except Refused:
            continue
    raise Refused("the envelope is not signed by a key that is trusted")


def pae(kind: str, content: bytes) -> bytes:
    """Return the bytes that an envelope's signature is over (DSSE v1, *pre-authentication encoding*)."""
    return b"DSSEv1 %d %b %d %b" % (len(kind.encode()), kind.encode(), len(content), content)


def verify_passport(envelope: bytes, proof: Proof, keys: Iterable[Key]) -> tuple[dict[str, Any], Checkpoint]:
    """Verify a custody passport: signed by the log's key, and recorded in the log. Return its statement.

    Raises:
        Refused: it is not proven, or its record is that of another passport or key.
    """
    keys = list(keys)
    kind, content = open_envelope(envelope, keys)
    record = parse_record(proof.extra or b"")
    checkpoint = proof.verify(proof.extra or b"", keys)
    if record.act != "passport" or record.detail().get("sha256") != hashlib.sha256(envelope).hexdigest():
        raise Refused("the record that is proven is not that of this passport")
    statement = json_object(utf8(content))
    match statement:
        case {"_type": "https://in-toto.io/Statement/v1", "subject": [{"digest": {"sha256": str(subject)}}]}:
            if kind != "application/vnd.in-toto+json" or subject != record.public_key:
                raise Refused("the passport is not about the key that its record names")
        case _:
            raise Refused("the passport is not an in-toto statement about one key")
    return statement, checkpoint


# --- The records. -----------------------------------------------------------------------------------------------------

_PLAIN = r'[^"\\\x00-\x1f]*+'
_TEXT = rf'{_PLAIN}(?:\\(?:["\\bfnrt]|u00(?:0[0-7be-f]|1[0-9a-f])){_PLAIN})*+'
_WORD, _HEX, _SHA256 = "[a-z0-9_-]+", "[0-9a-f]+", "[0-9a-f]{64}"
_MEMBER = rf'"[a-z0-9_]+":(?:"{_TEXT}"|null|true|false|0|-?[1-9][0-9]{{0,14}})'

FIELDS = {
    # Name → what its value looks like, in JSON. Names stand in this order, without spaces between; no other form is
    # accepted, so nothing is there twice, and there are no two ways to write one record. What is in ( ) is used below.
    "act": '"([a-z][a-z0-9_ -]*)"',
    "actor": f'"{_TEXT}"',
    "at": r'"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z)"',
    "certificate": f'null|"({_SHA256})"',
    "detail": rf"\{{\}}|(\{{{_MEMBER}\}})|(\{{.*?\}})",
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
_FLAT = re.compile(rf"\{{{_MEMBER}(?:,{_MEMBER})*+\}}")
_KEYS = re.compile(r'[{,]"([a-z0-9_]+)":')


class Record(NamedTuple):
    """What is used of a record. Its detail is JSON, in ``single`` if it has one plain member, in ``many`` if more."""

    act: str
    at: str
    certificate: str | None
    single: str | None
    many: str | None
    enrollment: str | None
    key_id: str | None
    public_key: str | None
    row: str | None
    source: str | None
    target: str | None

    def detail(self) -> dict[str, Any]:
        """Return its detail."""
        return canonical_object(self.single or self.many or "{}")


def parse_record(raw: bytes) -> Record:
    """Read a record that has the one form it may have, to the byte."""
    match = _RECORD.fullmatch(utf8(raw))
    if match is None:
        raise Refused("it is not a record in its one canonical form")
    record = Record._make(match.groups())
    if record.many and not (_FLAT.fullmatch(record.many) and _in_order(_KEYS.findall(record.many))):
        record.detail()
    return record


def _in_order(keys: list[str]) -> bool:
    """Tell whether keys are in order, and each is there once."""
    return keys == sorted({*keys})


BIRTHS = frozenset({"generate", "adopt"})
"""The acts that may be the first to name a public key: its making, or the beginning of the log after it."""
CLOCKS_DIFFER = timedelta(minutes=1)
"""Hosts of one journal may differ by so much, and transactions wait for each other."""


class Walk:
    """What the records said so far. Those that come after are compared with it, one by one."""

    def __init__(self) -> None:
        self.lives: dict[str, _Life] = {}
        self.owners: dict[str, str] = {}  # Public key → its enrollment.
        self.latest = datetime.min.replace(tzinfo=UTC)
        self.origin: str | None = None  # What checkpoints since the last restore call the log.
        self.former: dict[str, int] = {}  # Names that a restore ended → the restore's index.
        self.log_keys: set[bytes] = set()

    def take(self, index: int, record: Record) -> list[str]:
        """Take the next record, and return what is wrong with it: a sentence each."""
        wrong = []
        at = _moment(record.at)
        if at >= self.latest:
            self.latest = at
        elif self.latest - at > CLOCKS_DIFFER:
            wrong.append(f"the clock went back: its time {at} is before {self.latest}, that of an earlier record")
            self.latest = at
        if record.enrollment is not None:
            self._live(record.enrollment, record, wrong)
        elif record.act == "restore":
            before = record.detail().get("origin")
            if not isinstance(before, str) or self.origin not in {None, before}:
                wrong.append(f"it says that the log was called {before!r}, and the checkpoints say {self.origin!r}")
            else:
                self.origin, self.former[before] = None, index
        elif record.act == "log_key":
            self.log_keys.add(parse_vkey(str(record.detail().get("vkey"))).material)
        return wrong

    def _live(self, name: str, record: Record, wrong: list[str]) -> None:
        """Go on with an enrollment's life."""
        state, key_id, public_key, certificate, row = self.lives.get(name) or _UNBORN
        _act, _at, new_certificate, _, _, _, new_key_id, new_public_key, new_row, source, target = record
        if source != state and (source is not None or (target and state)):
            wrong.append(f"{name} was {state or 'unknown'}, and this act begins with {source or 'nothing'}")
        if new_public_key != public_key:
            if public_key is not None:
                wrong.append(f"the public key of {name} is another one than before")
            elif record.act not in BIRTHS:
                wrong.append(f"the key of {name} is there without having been born")
            owner = self.owners.setdefault(new_public_key or "", name)
            if owner != name and new_public_key:
                wrong.append(f"the key of {name} was born before, for {owner}")
        if key_id not in {None, new_key_id}:
            wrong.append(f"the key ID of {name} is another one than before")
        if certificate not in {None, new_certificate}:
            wrong.append(f"the certificate of {name} is another one than before")
        self.lives[name] = (target or state, new_key_id, new_public_key, new_certificate, new_row or row)


_Life = tuple[str | None, str | None, str | None, str | None, str | None]
"""What the records said of an enrollment: its state, key ID, public key, certificate, and journal's row."""
_UNBORN: _Life = (None, None, None, None, None)


def _moment(at: str) -> datetime:
    """Read a record's time."""
    try:
        return datetime.fromisoformat(at)
    except ValueError:
        raise Refused(f"there is no time {at}") from None


# --- The whole log. ---------------------------------------------------------------------------------------------------

Named = tuple[str, bytes]
"""What people know something by, such as its name in the bundle, and its bytes."""


class Evidence(Protocol):
    """Where evidence comes from: a bundle, or anything that has the same to give. Any method may raise Refused."""

    def manifest(self) -> dict[str, Any]:
        """Return the manifest: ``origin``, ``size`` and ``vkeys`` are used."""

    def records(self) -> Iterable[tuple[bytes, bytes | None]]:
        """Yield each record, with its leaf hash where one was kept beside it."""

    def rows(self) -> Iterable[bytes]:
        """Yield the canonical JSON of each row of the journal, in order of their IDs."""

    def checkpoints(self) -> Iterable[Named]:
        """Yield the checkpoints, smallest first."""

    def anchors(self) -> Iterable[Named]:
        """Yield the checkpoints that were kept elsewhere, smallest first."""

    def passports(self) -> Iterable[tuple[str, bytes, bytes]]:
        """Yield name, envelope and proof of each passport."""


@dataclass(frozen=True, slots=True)
class Trust:
    """Whom and what an auditor trusts.

    Attributes:
        keys: keys of the log.
        policy: keys of logs and witnesses, and how many of these must have signed.
        anchors: checkpoints kept from before.
        restores: the indexes of restores that are known to have taken records away.
    """

    keys: tuple[Key, ...] = ()
    policy: Policy | None = None
    anchors: tuple[Named, ...] = ()
    restores: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found: an ``error`` means that something is not proven, a ``notice`` what to know about a proof."""

    severity: str
    where: str
    what: str
    index: int | None = None


MAX_FINDINGS = 100


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
    """Verify a log in one pass, in memory that does not grow with the number of records."""
    return _Verification(evidence, trust).run()


class _Verification:
    """One pass over a log."""

    def __init__(self, evidence: Evidence, trust: Trust) -> None:
        self.evidence, self.trust = evidence, trust
        self.report, self.walk, self.tree = Report(), Walk(), Tree()
        self.keys = [*trust.keys, *(trust.policy.logs if trust.policy else ())]
        self.notes: Iterator[tuple[str, Checkpoint]] = iter(())
        self.passports: list[Named] = []
        self.lost: dict[str, tuple[int, str]] = {}  # Name before a restore → largest size signed under it, and where.
        self.unborn: set[Key] = set()

    def run(self) -> Report:
        """Verify one part after the other; what cannot be read ends a part, and the others go on."""
        for part in (self._manifest, self._passports, self._log, self._rows):
            try:
                part()
            except Refused as exc:
                self.report.error(part.__name__[1:], str(exc))
        return self.report

    def _manifest(self) -> None:
        """Take the manifest, and the bundle's own keys where none are trusted from outside."""
        manifest = self.evidence.manifest()
        self.report.origin = str(manifest.get("origin"))
        if not self.keys:
            self.keys = [parse_vkey(str(vkey)) for vkey in manifest.get("vkeys") or ()]
            self.report.notice(
                "manifest",
                "THE LOG'S KEY WAS TAKEN FROM THE EVIDENCE ITSELF, and is not trusted from outside: anybody can make "
                "evidence that is like this. Give the key as you know it, with --key or --policy",
            )

    def _passports(self) -> None:
        """Verify the passports; their checkpoints are compared with the log like the others."""
        for name, envelope, raw in self.evidence.passports():
            try:
                proof = parse_proof(raw)
                verify_passport(envelope, proof, self.keys)
                self.passports.append((name, proof.checkpoint))
                self.report.passports += 1
            except Refused as exc:
                self.report.error(name, str(exc))

    def _log(self) -> None:
        """Take record by record, and at the size of each checkpoint compare the tree's root."""
        kept = sorted(self._parsed((*self.trust.anchors, *self.passports)), key=_size)
        self.notes = heapq.merge(
            self._parsed(self.evidence.checkpoints()), self._parsed(self.evidence.anchors()), kept, key=_size
        )
        note = self._compare(next(self.notes, None))
        for index, (raw, stored) in enumerate(self.evidence.records()):
            leaf = leaf_hash(raw)
            self.tree.append(leaf)
            try:
                wrong = self.walk.take(index, parse_record(raw))
            except Refused as exc:
                wrong = [str(exc)]
            if stored is not None and stored != leaf:
                wrong.append("the hash that was kept beside it is that of another record")
            for what in wrong:
                self.report.error(f"record {index}", what, index)
            if note is not None and note[1].size <= self.tree.size:
                note = self._compare(note)
        while note is not None:
            self._beyond(*note)
            note = next(self.notes, None)
        self._restores()
        self._tail()

    def _parsed(self, notes: Iterable[Named]) -> Iterator[tuple[str, Checkpoint]]:
        """Read checkpoints; those that are none are findings."""
        for name, raw in notes:
            try:
                yield name, parse_checkpoint(raw)
            except Refused as exc:
                self.report.error(name, str(exc))

    def _compare(self, note: tuple[str, Checkpoint] | None) -> tuple[str, Checkpoint] | None:
        """Compare the checkpoints of the tree's size with it, and return the next one, of a larger size."""
        while note is not None and note[1].size <= self.tree.size:
            try:
                self._checkpoint(*note)
            except Refused as exc:
                self.report.error(note[0], str(exc))
            note = next(self.notes, None)
        return note

    def _checkpoint(self, where: str, checkpoint: Checkpoint) -> None:
        """Verify one checkpoint: signatures, the log's name, and the root."""
        key = signed_by_log(checkpoint, self.keys)
        policy = self.trust.policy or Policy()
        witnesses = checkpoint.note.signers(policy.witnesses.values())
        size, walk = checkpoint.size, self.walk
        if size < self.tree.size:
            raise Refused(f"the checkpoints are not in order of their sizes: this one is of {size}")
        if checkpoint.origin in walk.former:
            self.lost[checkpoint.origin] = (size, where)
            return
        if checkpoint.root != self.tree.root():
            which = f"of its records {self.report.signed} to {size - 1}, one or more were changed, added or taken away"
            if self.report.signed == size:
                which = f"two logs of {size} records were signed, and this one is elsewhere"
            raise Refused(f"the log is not the one that was signed: {which}")
        if walk.origin not in {None, checkpoint.origin}:
            raise Refused(f"the log was {walk.origin}, and is {checkpoint.origin} without a record of a restore")
        if size and key.material not in walk.log_keys and key not in self.unborn:
            self.unborn.add(key)
            self.report.notice(where, f"no record before it tells of the birth of the key that signed it, {key.vkey}")
        walk.origin, self.report.signed = checkpoint.origin, size
        self.report.checkpoints += 1
        if witnesses and policy.reached(witnesses):
            self.report.witnessed = size

    def _beyond(self, where: str, checkpoint: Checkpoint) -> None:
        """Judge a checkpoint of more records than there are."""
        try:
            signed_by_log(checkpoint, self.keys)
        except Refused as exc:
            self.report.error(where, str(exc))
            return
        if checkpoint.origin in self.walk.former:
            self.lost[checkpoint.origin] = (checkpoint.size, where)
        else:
            count = self.tree.size
            self.report.error(where, f"it is of {checkpoint.size} records, and there are {count}: the end is missing")

    def _restores(self) -> None:
        """Tell of records that a restore took away. It must be signed, and somebody must know of it from elsewhere."""
        for origin, (size, where) in self.lost.items():
            index = self.walk.former[origin]
            what = f"the records {index} to {size - 1} of {origin} are gone: a restore, record {index}, took them away"
            if index in self.trust.restores and self.report.signed > index:
                self.report.notice(where, what)
            else:
                self.report.error(where, f"{what}; ask who restored what, and why, before you accept it (--restore)")

    def _tail(self) -> None:
        """Tell how much of the log is not signed or not witnessed."""
        report, size = self.report, self.tree.size
        report.size, report.root = size, self.tree.root().hex()
        try:
            manifest = self.evidence.manifest()
        except Refused:
            manifest = {"size": size}
        if manifest.get("size") != size:
            report.error("manifest", f"it counts {manifest.get('size')} records, and there are {size}")
        if self.walk.origin not in {None, manifest.get("origin", self.walk.origin)}:
            report.error("manifest", f"it is of the log {manifest.get('origin')}, and the checkpoints of another")
        if size and not report.signed:
            report.error("log", "no checkpoint is proven, so no record is")
        elif size > report.signed:
            report.notice(
                "log", f"no checkpoint covers the records from {report.signed} on: who can write them can change them"
            )
        if self.trust.policy and self.trust.policy.quorum is not None:
            if not report.witnessed and size:
                report.error("log", "no checkpoint has the signatures of as many witnesses as the policy demands")
            elif size > report.witnessed:
                report.notice("log", f"the records from {report.witnessed} on are not witnessed yet")

    def _rows(self) -> None:
        """Compare each row of the journal with what the last record about it names."""
        expected = {name: life[4] for name, life in self.walk.lives.items() if life[4] is not None}
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


def _size(note: tuple[str, Checkpoint]) -> int:
    """Order checkpoints by their sizes."""
    return note[1].size


# --- A bundle. --------------------------------------------------------------------------------------------------------

FORMAT = "varmenne.evidence/1"
MAX_LINE = 4 * 1024 * 1024
MAX_FILE = 16 * 1024 * 1024
_ENTRY = re.compile(
    r"manifest\.json|records\.jsonl|rows\.jsonl|(?:checkpoints|anchors)/[0-9]{20}-[0-9a-f]{16}\.note"
    r"|passports/[0-9A-Za-z-]+\.(?:dsse\.json|tlog-proof)"
)
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, struct.error, OSError)


class Bundle:
    """A bundle: a ZIP archive of files with fixed names. Nothing is unpacked to the disk.

    Raises:
        Refused: it is no bundle; any method may raise it.
    """

    def __init__(self, file: BinaryIO) -> None:
        try:
            self._zip = zipfile.ZipFile(file)
            end = file.seek(-22, io.SEEK_END)
            if file.read(4) != b"PK\5\6" or min((one.header_offset for one in self._zip.infolist()), default=1):
                raise Refused(f"there is something before or after the archive, which ends at {end}")
        except _ZIP_ERRORS as exc:
            raise Refused(f"it is not a ZIP archive that can be read: {exc}") from None
        self.names = sorted(self._zip.namelist())
        strange = [name for name in self.names if not _ENTRY.fullmatch(name)]
        if strange or len(self.names) != len({*self.names}):
            raise Refused(f"a file is there twice, or does not belong here: {', '.join(strange[:3])}")
        if missing := {"manifest.json", "records.jsonl", "rows.jsonl"} - {*self.names}:
            raise Refused(f"it has no {' and no '.join(sorted(missing))}")

    def manifest(self) -> dict[str, Any]:
        """Return what the bundle says of itself."""
        manifest = json_object(utf8(self._whole("manifest.json")))
        if manifest.get("format") != FORMAT:
            raise Refused(f"its format is {str(manifest.get('format'))[:60]!r}, and not {FORMAT!r}")
        if manifest.keys() != {"format", "origin", "size", "exported_at", "vkeys"}:
            raise Refused("the manifest does not have the keys that it has to have")
        return manifest

    def records(self) -> Iterator[tuple[bytes, None]]:
        """Yield each record."""
        for line in self._lines("records.jsonl"):
            yield line, None

    def rows(self) -> Iterator[bytes]:
        """Yield each row of the journal."""
        return self._lines("rows.jsonl")

    def checkpoints(self) -> Iterator[Named]:
        """Yield the checkpoints, smallest first, as their names are."""
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

    def _whole(self, name: str) -> bytes:
        """Return a small file."""
        try:
            with self._zip.open(name) as file:
                data = file.read(MAX_FILE + 1)
        except _ZIP_ERRORS as exc:
            raise Refused(f"{name} cannot be read: {exc}") from None
        if len(data) > MAX_FILE:
            raise Refused(f"{name} is too large")
        return data

    def _lines(self, name: str) -> Iterator[bytes]:
        """Yield the lines of a large file, without their line feeds."""
        try:
            with self._zip.open(name) as raw, io.BufferedReader(raw, 1 << 20) as file:  # type: ignore[type-var]
                while line := file.readline(MAX_LINE):
                    if line[-1] != 10:
                        raise Refused(f"a line of {name} is too long, or the last one is cut off")
                    yield line[:-1]
        except _ZIP_ERRORS as exc:
            raise Refused(f"{name} cannot be read: {exc}") from None


# --- The command. -----------------------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    """Run as a program, and return its exit code."""
    parser = argparse.ArgumentParser(description="Verify varmenne's evidence of key custody.")
    parser.add_argument("file", nargs="?", type=Path, help="a bundle; with --proof, a record")
    parser.add_argument("--key", action="append", default=[], metavar="VKEY", help="a key of the log that you trust")
    parser.add_argument("--policy", type=Path, help="logs and witnesses that you trust, as C2SP tlog-policy")
    parser.add_argument("--anchor", action="append", default=[], type=Path, help="a checkpoint that you kept")
    parser.add_argument(
        "--restore", action="append", default=[], type=int, metavar="INDEX", help="a restore you know of"
    )
    parser.add_argument("--proof", type=Path, help="verify one record: its .tlog-proof")
    parser.add_argument("--passport", type=Path, help="verify a passport: its .dsse.json")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")
    given = parser.parse_args(arguments)
    if (given.file is None) == (given.passport is None) or (given.passport and not given.proof):
        parser.error("give a bundle, or --proof and a record, or --proof and --passport")
    try:
        policy = parse_policy(given.policy.read_bytes()) if given.policy else None
        anchors = tuple((str(path), path.read_bytes()) for path in given.anchor)
        trust = Trust(tuple(map(parse_vkey, given.key)), policy, anchors, frozenset(given.restore))
        report = _one(given, trust) if given.proof else _bundle(given.file, trust)
    except OSError as exc:
        parser.error(f"{exc.filename}: {exc.strerror}")
    except Refused as exc:
        report = Report()
        report.error(str(given.proof or given.file), str(exc))
    print(json.dumps({"ok": report.ok, **asdict(report)}, indent=2) if given.json else told(report))
    return 0 if report.ok else 1


def _bundle(path: Path, trust: Trust) -> Report:
    """Verify a bundle."""
    with path.open("rb") as file:
        return verify(Bundle(file), trust)


def _one(given: argparse.Namespace, trust: Trust) -> Report:
    """Verify one record, or one passport."""
    keys = [*trust.keys, *(trust.policy.logs if trust.policy else ())]
    proof = parse_proof(given.proof.read_bytes())
    if given.passport:
        checkpoint = verify_passport(given.passport.read_bytes(), proof, keys)[1]
    else:
        checkpoint = proof.verify(given.file.read_bytes().removesuffix(b"\n"), keys)
    witnesses = checkpoint.note.signers(trust.policy.witnesses.values()) if trust.policy else {}
    if trust.policy and not trust.policy.reached(witnesses):
        raise Refused("the checkpoint does not have the signatures of as many witnesses as the policy demands")
    size = checkpoint.size
    return Report(
        checkpoint.origin, size, checkpoint.root.hex(), checkpoints=1, signed=size, passports=bool(given.passport)
    )


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
