"""Proofs of single records, and passports: believed if a log that is trusted signed them, down to the byte."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from harness.evidence import SoftwareLogSigner, Story, told
from varmenne.audit import dsse, verifier
from varmenne.audit.proof import proof_text
from varmenne.audit.verifier import Refused

ENROLLMENT = "20261124-00000002"


@pytest.fixture(scope="module", params=["ed25519", "ecdsa-p256"])
def story(request: pytest.FixtureRequest) -> Story:
    """A log, signed with either kind of key."""
    return told(request.param)


def believed(raw: bytes, record: bytes, story: Story) -> None:
    """Verify as an auditor does."""
    verifier.parse_proof(raw).verify(record, [story.signer.key()])


def test_each_record_of_each_checkpoint_is_proven(story: Story) -> None:
    """And the proof tells which log said so, and of how many records."""
    for checkpoint in story.checkpoints:
        for index in range(checkpoint.size):
            proof = verifier.parse_proof(story.proof(index, checkpoint))
            found = proof.verify(story.records[index], [story.signer.key()])
            assert (found.origin, found.size, proof.index, proof.extra) == (story.origin, checkpoint.size, index, None)


def test_a_proof_of_a_record_with_its_bytes_in_it(story: Story) -> None:
    """The line ``extra`` holds the record for those who do not have it, and nothing is believed of it unproven."""
    proof = verifier.parse_proof(story.proof(3, story.checkpoints[0], with_record=True))
    assert proof.extra == story.records[3]
    proof.verify(proof.extra, [story.signer.key()])


def _lines(raw: bytes, place: int, *lines: bytes) -> bytes:
    """Replace a line by others, or by none."""
    split = raw.split(b"\n")
    return b"\n".join([*split[:place], *lines, *split[place + 1 :]])


PROOFS: dict[str, Callable[[bytes], bytes]] = {
    # What is done to the proof of record 3: line 0 is the format, 1 the index, 2 to 4 are hashes, 5 is empty.
    "another format": lambda raw: raw.replace(b"@v1", b"@v2"),
    "no format": lambda raw: _lines(raw, 0),
    "another index": lambda raw: raw.replace(b"index 3", b"index 2"),
    "an index beyond": lambda raw: raw.replace(b"index 3", b"index 8"),
    "an index with a zero": lambda raw: raw.replace(b"index 3", b"index 03"),
    "an index with a sign": lambda raw: raw.replace(b"index 3", b"index -3"),
    "no index": lambda raw: _lines(raw, 1),
    "two indexes": lambda raw: _lines(raw, 1, b"index 3", b"index 3"),
    "extra after the index": lambda raw: _lines(raw, 1, b"index 3", b"extra QQ=="),
    "extra that is not base64": lambda raw: _lines(raw, 1, b"extra ?", b"index 3"),
    "extra that is not canonical": lambda raw: _lines(raw, 1, b"extra QR==", b"index 3"),
    "two extras": lambda raw: _lines(raw, 1, b"extra QQ==", b"extra QQ==", b"index 3"),
    "a hash less": lambda raw: _lines(raw, 2),
    "a hash more": lambda raw: _lines(raw, 4, raw.split(b"\n")[4], raw.split(b"\n")[4]),
    "hashes swapped": lambda raw: _lines(_lines(raw, 2), 2, raw.split(b"\n")[3], raw.split(b"\n")[2]),
    "a hash of 31 bytes": lambda raw: _lines(raw, 2, base64.b64encode(b"\0" * 31)),
    "a hash of 33 bytes": lambda raw: _lines(raw, 2, base64.b64encode(b"\0" * 33)),
    "an empty hash": lambda raw: _lines(raw, 2, b""),
    "seventy hashes": lambda raw: _lines(raw, 2, *[raw.split(b"\n")[2]] * 70),
    "a changed hash": lambda raw: _lines(raw, 2, base64.b64encode(b"\0" * 32)),
    "no empty line": lambda raw: raw.replace(b"\n\n", b"\n", 1),
    "another size": lambda raw: raw.replace(b"\n8\n", b"\n9\n"),
    "an extension line": lambda raw: raw.replace(b"\n\n\xe2", b"\nmore\n\n\xe2"),
    "no checkpoint": lambda raw: raw.partition(b"\n\n")[0] + b"\n\n",
    "CRLF": lambda raw: raw.replace(b"\n", b"\r\n"),
    "trailing data": lambda raw: raw + b"more",
    "a trailing line": lambda raw: raw + b"\n",
    "a cut end": lambda raw: raw[:-2],
    "not UTF-8": lambda raw: b"\xff" + raw,
    "nothing": lambda _raw: b"",
}


@pytest.mark.parametrize("name", PROOFS)
def test_a_changed_proof_is_refused(name: str, story: Story) -> None:
    """Whatever is done to it, it proves nothing any more."""
    raw = story.proof(3, story.checkpoints[0])
    assert len(raw.partition(b"\n\n")[0].split(b"\n")) == 5
    changed = PROOFS[name](raw)
    assert changed != raw
    with pytest.raises(Refused):
        believed(changed, story.records[3], story)


def test_every_byte_of_a_proof_counts(story: Story) -> None:
    """One bit changed anywhere, in the proof or in the record, and it is refused.

    Only within names and IDs of signatures by strangers nothing would be noticed, and there are none here.
    """
    raw, record = story.proof(3, story.checkpoints[0]), story.records[3]
    believed(raw, record, story)
    for place in range(len(raw)):
        with pytest.raises(Refused):
            believed(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :], record, story)
    for place in range(len(record)):
        with pytest.raises(Refused):
            believed(raw, record[:place] + bytes([record[place] ^ 1]) + record[place + 1 :], story)


def test_a_proof_signed_by_somebody_else_is_refused(story: Story) -> None:
    """Anybody can make a tree."""
    with pytest.raises(Refused, match="trusted"):
        verifier.parse_proof(story.proof(3, story.checkpoints[0])).verify(story.records[3], [SoftwareLogSigner().key()])


# --- Envelopes and passports. -----------------------------------------------------------------------------------------


def test_the_signed_bytes_are_those_of_the_specification() -> None:
    """The example of DSSE's own specification of its *pre-authentication encoding*."""
    assert verifier.pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )
    assert verifier.pae("ö", b"\xff") == b"DSSEv1 2 \xc3\xb6 1 \xff"


def test_an_envelope_is_opened_by_its_key_alone(story: Story) -> None:
    """Type and content come out as they were put in."""
    raw = dsse.envelope(story.signer, story.origin, b'{"a":1}')
    assert verifier.open_envelope(raw, [story.signer.key()]) == (dsse.IN_TOTO, b'{"a":1}')
    with pytest.raises(Refused, match="trusted"):
        verifier.open_envelope(raw, [SoftwareLogSigner().key()])
    with pytest.raises(Refused, match="trusted"):
        verifier.open_envelope(raw, [])


ENVELOPES: dict[str, Callable[[str], str]] = {
    "another type": lambda text: text.replace("in-toto", "in-tata"),
    "another content": lambda text: text.replace('"payload":"', '"payload":"AAAA'),
    "content that is not canonical": lambda text: text.replace('"payload":"', '"payload":" '),
    "content that is not there": lambda text: text.replace('"payload":', '"payloads":'),
    "a key twice": lambda text: text.replace('{"payload"', '{"payloadType":"x","payload"'),
    "a key more": lambda text: text.replace('{"payload"', '{"more":1,"payload"'),
    "no signature": lambda text: text[: text.index('"signatures":')] + '"signatures":[]}',
    "a changed signature": lambda text: text.replace('"sig":"', '"sig":"AAAA'),
    "a signature without a type": lambda text: text.replace('"sig":', '"sig":null,"other":'),
    "two signatures": lambda text: text.replace('"signatures":[', '"signatures":[{"sig":"AAAA"},'),
    "more in a signature": lambda text: text.replace('"sig":', '"more":1,"sig":'),
    "trailing data": lambda text: f"{text}x",
    "another envelope after it": lambda text: text + text,
    "a fraction": lambda text: text.replace('"sig":', '"keyid":1.5,"sig":'),
    "a list": lambda text: f"[{text}]",
    "nothing": lambda _text: "",
}


@pytest.mark.parametrize("name", ENVELOPES)
def test_a_changed_envelope_is_refused(name: str, story: Story) -> None:
    """There is one signature, and it covers type and content."""
    raw = dsse.envelope(story.signer, story.origin, b'{"a":1}').decode()
    changed = ENVELOPES[name](raw)
    assert changed != raw
    with pytest.raises(Refused):
        verifier.open_envelope(changed.encode(), [story.signer.key()])


@dataclass(frozen=True)
class Passport:
    """A passport and its proof, to be verified."""

    envelope: bytes
    proof: bytes

    def ask(self, story: Story) -> dict[str, object]:
        """Verify as an auditor does."""
        return verifier.verify_passport(self.envelope, verifier.parse_proof(self.proof), [story.signer.key()])[0]


@pytest.fixture(scope="module")
def passport(story: Story) -> Passport:
    """The passport of the second enrollment's key."""
    return Passport(story.passports[0].envelope, story.passports[0].proof)


def test_a_passport_is_proven(story: Story, passport: Passport) -> None:
    """Signed, recorded in the log, and about the key that the record names."""
    assert passport.ask(story)["predicate"] == {"attributes": {"EXTRACTABLE": False}}


def test_every_byte_of_a_passport_counts(story: Story, passport: Passport) -> None:
    """One bit changed anywhere, and it is refused: the log names the SHA-256 of the whole file."""
    for place in range(len(passport.envelope)):
        data = bytearray(passport.envelope)
        data[place] ^= 1
        with pytest.raises(Refused):
            Passport(bytes(data), passport.proof).ask(story)
    for place in range(len(passport.proof)):
        data = bytearray(passport.proof)
        data[place] ^= 1
        with pytest.raises(Refused):
            Passport(passport.envelope, bytes(data)).ask(story)


def _signed(story: Story, statement: object, *, kind: str = dsse.IN_TOTO, **facts: str | None) -> Passport:
    """A passport with another statement, signed and recorded as if it were right."""
    story = story.copy()
    envelope = dsse.envelope(story.signer, story.origin, json.dumps(statement).encode(), kind=kind)
    detail = {"sha256": hashlib.sha256(envelope).hexdigest()}
    index = story.add(**{"act": "passport", "public_key": "ab" * 32, "detail": detail, **facts})  # type: ignore[arg-type]
    return Passport(envelope, story.proof(index, story.checkpoint(), with_record=True))


STATEMENT = {
    "_type": "https://in-toto.io/Statement/v1",
    "subject": [{"name": "key", "digest": {"sha256": "ab" * 32}}],
    "predicateType": "https://example.invalid/custody/v1",
    "predicate": {},
}


def test_a_passport_of_another_thing_is_refused_even_if_signed_and_recorded(story: Story) -> None:
    """What it is about is compared with its record, which others can look up."""
    assert _signed(story, STATEMENT).ask(story) == STATEMENT
    for wrong in (
        _signed(story, STATEMENT, act="tend"),
        _signed(story, STATEMENT, public_key="cd" * 32),
        _signed(story, STATEMENT, public_key=None),
        _signed(story, STATEMENT, kind="application/json"),
        _signed(story, STATEMENT | {"_type": "https://in-toto.io/Statement/v0.1"}),
        _signed(story, STATEMENT | {"subject": []}),
        _signed(story, STATEMENT | {"subject": [*STATEMENT["subject"], *STATEMENT["subject"]]}),
        _signed(story, []),
        _signed(story, "text"),
    ):
        with pytest.raises(Refused):
            wrong.ask(story)


def test_a_passport_without_its_record_in_the_proof_is_refused(story: Story, passport: Passport) -> None:
    """Its proof brings the record along; without it there is nothing to compare with."""
    index = verifier.parse_proof(passport.proof).index
    with pytest.raises(Refused, match="canonical form"):
        Passport(passport.envelope, story.proof(index, story.checkpoints[-1])).ask(story)


def test_a_proof_with_the_text_of_another_record_is_refused(story: Story) -> None:
    """``extra`` is believed because its hash is the leaf, and not because it is there."""
    raw = proof_text(
        3,
        verifier.parse_proof(story.proof(3, story.checkpoints[0])).hashes,
        story.checkpoints[0].note,
        record=story.records[4],
    )
    proof = verifier.parse_proof(raw)
    with pytest.raises(Refused):
        proof.verify(proof.extra or b"", [story.signer.key()])
