"""Whatever bytes come, the readers of evidence return what was signed or refuse in their own words."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.evidence import SoftwareLogSigner, Story, told
from varmenne.audit import note, verifier
from varmenne.audit.verifier import Bundle, Refused, Trust
from varmenne.audit.witness import add_cosignatures, make_request, parse_request
from varmenne.domain import merkle
from varmenne.domain.audit import canonical
from varmenne.errors import EvidenceError

STORY = told()
KEYS = [STORY.signer.key()]
PIECES = (
    b"\n", b"\r\n", b"\n\n", "\N{EM DASH} ".encode(), b" ", b"+", b"=", b"AAAA", b"0", b"-1", b"99999999999999999999",
    b"\0", b"\xff", b"\xe2\x80", b"{", b"}", b"[", b'"', b"\\u0000", b":null,", b"1e9", b"NaN", b"index ", b"extra ",
    b"old ", STORY.origin.encode(), b"\xed\xa0\x80", "\N{LINE SEPARATOR}\N{ARABIC-INDIC DIGIT ONE}".encode(),
)  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, good: bytes) -> bytes:
    """Good bytes with some pieces of them replaced, left out, doubled or swapped, or any bytes at all."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=300))
    data = good
    for _change in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + draw(st.sampled_from((0, 1, 4, 50))))))
        piece = draw(
            st.one_of(st.sampled_from(PIECES), st.binary(max_size=4), st.just(b""), st.just(data[start:end] * 2))
        )
        data = data[:start] + piece + data[end:]
    return data


CHECKPOINT = STORY.checkpoints[0]
PROOF = STORY.proof(3, CHECKPOINT, with_record=True)
ENVELOPE = STORY.passports[0].envelope
POLICY = (
    f"log {STORY.vkey}\nwitness w {verifier.Key('w.example', 4, SoftwareLogSigner().key().material).vkey}\n"
    "group g any w\nquorum g\n"
).encode()
REQUEST = make_request(8, merkle.consistency(8, 15, lambda _level, _index: b"\0" * 32), STORY.checkpoints[1].note)


def read_note(data: bytes) -> object:
    """Read a checkpoint, and find who signed it: then it is the signed text."""
    found = verifier.parse_checkpoint(data)
    verifier.signed_by_log(found, KEYS)
    assert found.note.text == verifier.parse_note(CHECKPOINT.note.encode()).text
    return found


def read_proof(data: bytes) -> object:
    """Read a proof and verify it: then it proves a record that is in the log."""
    proof = verifier.parse_proof(data)
    proof.verify(proof.extra or b"", KEYS)
    assert proof.extra == STORY.records[proof.index]
    return proof


def read_envelope(data: bytes) -> object:
    """Open an envelope: then its content is what was signed."""
    found = verifier.open_envelope(data, KEYS)
    assert found == verifier.open_envelope(ENVELOPE, KEYS)
    return found


def read_record(data: bytes) -> object:
    """Read a record: then it is what our own encoder makes of what it says."""
    found = verifier.parse_record(data)
    assert canonical(verifier.json_object(data.decode())) == data
    return found


READERS: dict[str, tuple[bytes, Callable[[bytes], object]]] = {
    # What is read → good bytes, and the reader.
    "note": (CHECKPOINT.note.encode(), read_note),
    "proof": (PROOF, read_proof),
    "envelope": (ENVELOPE, read_envelope),
    "record": (STORY.records[4], read_record),
    "nested record": (
        canonical(verifier.json_object(STORY.records[4].decode()) | {"detail": {"a": [{}]}}),
        read_record,
    ),
    "policy": (POLICY, verifier.parse_policy),
    "key": (STORY.vkey.encode(), lambda data: verifier.parse_vkey(data.decode("latin-1"))),
    "request": (REQUEST, parse_request),
    "JSON": (b'{"a":[1,{"b":null}]}', lambda data: verifier.json_object(verifier.utf8(data))),
}


@pytest.mark.parametrize("name", READERS)
def test_readers_return_what_was_signed_or_refuse(name: str) -> None:
    """Good bytes are read; damaged ones are refused with our error, and what is accepted is what was signed."""
    good, read = READERS[name]
    assert read(good)

    @settings(max_examples=300, deadline=None, database=None)
    @given(damaged(good))
    def fuzz(data: bytes) -> None:
        with contextlib.suppress(Refused):
            read(data)

    fuzz()


@settings(max_examples=150, deadline=None, database=None)
@given(st.data())
def test_a_damaged_bundle_is_refused_or_not_proven(data: st.DataObject) -> None:
    """Bytes of the archive itself are damaged; what is proven in spite of that is the log as it was."""
    raw = data.draw(damaged(STORY.bundle()))
    with contextlib.suppress(Refused):
        report = verifier.verify(Bundle(io.BytesIO(raw)), Trust(tuple(KEYS)))
        assert not report.ok or report.root == merkle_root(STORY)
        assert verifier.told(report)


def merkle_root(story: Story) -> str:
    """The root of a log, in hexadecimal."""
    return note.read_checkpoint(story.checkpoints[-1].note).root.hex()


@settings(max_examples=100, deadline=None, database=None)
@given(damaged(b"\xe2\x80\x94 w.example AAAAAAAA\n"))
def test_a_damaged_reply_of_a_witness_is_refused(reply: bytes) -> None:
    """The log's side turns all refusals into one error."""
    witness = verifier.Key("w.example", verifier.COSIGNATURE, b"\0" * 32)
    with pytest.raises(EvidenceError):
        add_cosignatures(CHECKPOINT.note, reply, [witness])


def test_the_fuzzers_find_what_is_there_to_find() -> None:
    """A test of the test: a reader without its signature check is caught."""

    @settings(max_examples=300, deadline=None, database=None)
    @given(damaged(CHECKPOINT.note.encode()))
    def fuzz(data: bytes) -> None:
        with contextlib.suppress(Refused):
            assert verifier.parse_checkpoint(data).note.text == verifier.parse_note(CHECKPOINT.note.encode()).text

    with pytest.raises(AssertionError):
        fuzz()
