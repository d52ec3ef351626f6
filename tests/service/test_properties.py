"""Properties of the verifier that hold for any bytes at all."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.forge import AT, Forge
from harness.fuzzing import target
from harness.mutations import mutations
from varmenne.errors import VerificationError
from varmenne.service.answers import Answer, verify_answer
from varmenne.service.certificates import read_certificate_file
from varmenne.service.doubt import printable
from varmenne.service.interface import Operation

SHORT = settings(
    max_examples=200, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def check(forge: Forge, genuine: tuple[bytes, ...]) -> Callable[[bytes], Answer | None]:
    """Return the fuzz target: it fails if anything but a genuine answer, or a refusal by a named check, comes out."""
    return target(forge, genuine)


@pytest.fixture(scope="module")
def genuine(forge: Forge) -> tuple[bytes, ...]:
    """Return one genuine answer to each operation."""
    return tuple(forge.answer(operation) for operation in Operation)


@SHORT
@given(data=st.data())
def test_one_changed_byte_changes_no_value(
    check: Callable[[bytes], Answer | None], genuine: tuple[bytes, ...], data: st.DataObject
) -> None:
    """Any one byte of a genuine answer put to any value: the same values, or a refusal."""
    body = bytearray(data.draw(st.sampled_from(genuine)))
    body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    check(bytes(body))


def test_every_single_bit_of_the_value(forge: Forge, check: Callable[[bytes], Answer | None]) -> None:
    """All bits of the value itself, of the digest and of a piece of the signature: never accepted as something else."""
    body = forge.answer()
    for mark, length in ((forge.retrieval.encode(), 20), (b"<ds:DigestValue>", 40), (b"<ds:SignatureValue>", 40)):
        begin = body.index(mark)
        for place in range(begin, begin + length):
            for bit in range(8):
                changed = bytearray(body)
                changed[place] ^= 1 << bit
                check(bytes(changed))


@SHORT
@given(data=st.data())
def test_pieces_moved_about_change_no_value(
    check: Callable[[bytes], Answer | None], genuine: tuple[bytes, ...], data: st.DataObject
) -> None:
    """Pieces cut out, doubled, moved and put in: the same values, or a refusal by a check that has a name."""
    check(data.draw(mutations(genuine)))


@SHORT
@given(
    body=st.one_of(st.binary(max_size=2000), st.text(max_size=500).map(lambda text: text.encode("utf-8", "replace")))
)
def test_any_bytes_are_refused_in_the_family(check: Callable[[bytes], Answer | None], body: bytes) -> None:
    """Nothing but a VerificationError ever comes out, whatever goes in."""
    assert check(body) is None


@SHORT
@given(junk=st.binary(max_size=800), where=st.sampled_from(["anchor", "certificate"]))
def test_garbled_certificates_are_refused_in_the_family(forge: Forge, junk: bytes, where: str) -> None:
    """Certificates that cannot be read, in the answer or as anchors, are refusals too."""
    certificates = [junk] if where == "certificate" else None
    anchors = (junk,) if where == "anchor" else forge.anchors
    with pytest.raises(VerificationError) as caught:
        verify_answer(forge.answer(certificates=certificates), Operation.SIGN_NEW, anchors, AT)
    assert caught.value.check in {"signer", "chain", "schema"}


@SHORT
@given(text=st.text(max_size=600))
def test_reasons_are_printable(text: str) -> None:
    """No text of a stranger reaches a terminal as anything but text, or is longer than a few lines."""
    shown = printable(text)
    assert shown.isprintable()
    assert len(shown) <= 301


@SHORT
@given(data=st.binary(max_size=600))
def test_reading_files_raises_only_our_errors(data: bytes) -> None:
    """A certificate file of any content: certificates, or an InputError."""
    from varmenne.errors import InputError

    try:
        read_certificate_file(data)
    except InputError:
        return
