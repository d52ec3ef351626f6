"""The hash tree: the verifier accepts what is proven, and agrees with three implementations that are not ours."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from pymerkle import InmemoryTree
from scitt_cose import merkle as scitt

from harness.evidence import root, subtrees
from varmenne.audit import verifier
from varmenne.audit.growth import verify_consistency
from varmenne.audit.verifier import Refused
from varmenne.domain import merkle

RECORDS = [f"record {index}".encode() for index in range(40)]
SIZES = range(len(RECORDS) + 1)
OTHER = b"\x55" * 32


@dataclass(frozen=True)
class Inclusion:
    """The question whether a record is in a tree."""

    leaf: bytes
    index: int
    size: int
    proof: tuple[bytes, ...]
    root: bytes

    def ask(self) -> None:
        """Let the verifier answer."""
        verifier.verify_inclusion(self.leaf, self.index, self.size, self.proof, self.root)


@dataclass(frozen=True)
class Consistency:
    """The question whether a tree begins with another."""

    old: int
    old_root: bytes
    size: int
    root: bytes
    proof: tuple[bytes, ...]

    def ask(self) -> None:
        """Let the verifier answer."""
        verify_consistency(self.old, self.old_root, self.size, self.root, self.proof)


def inclusion(index: int, size: int) -> Inclusion:
    """The question with its right answer."""
    records = RECORDS[:size]
    proof = merkle.inclusion(index, size, subtrees(records))
    return Inclusion(merkle.leaf_hash(records[index]), index, size, proof, root(records))


def consistency(old: int, size: int) -> Consistency:
    """The question with its right answer."""
    proof = merkle.consistency(old, size, subtrees(RECORDS[:size]))
    return Consistency(old, root(RECORDS[:old]), size, root(RECORDS[:size]), proof)


INCLUSIONS = [inclusion(index, size) for size in SIZES for index in range(size)]
CONSISTENCIES = [consistency(old, size) for size in SIZES for old in range(size + 1)]
QUESTIONS: list[Inclusion | Consistency] = [*INCLUSIONS, *CONSISTENCIES]

Change = Callable[[tuple[bytes, ...]], tuple[bytes, ...]]
PROOFS: dict[str, Change] = {
    # What is done to a proof; where it changes nothing, or the proof is empty, there is no case.
    "without its first": lambda proof: proof[1:],
    "without its last": lambda proof: proof[:-1],
    "with one more at its beginning": lambda proof: (OTHER, *proof),
    "with one more at its end": lambda proof: (*proof, OTHER),
    "with an empty one more": lambda proof: (*proof, b""),
    "with its last twice": lambda proof: (*proof, *proof[-1:]),
    "turned round": lambda proof: proof[::-1],
    "with its first changed": lambda proof: (OTHER, *proof[1:]),
    "with its last changed": lambda proof: (*proof[:-1], OTHER),
    "with one bit changed": lambda proof: (*(bytes([part[0] ^ 1]) + part[1:] for part in proof[:1]), *proof[1:]),
    "with 31 bytes": lambda proof: (*proof[:-1], *(part[:31] for part in proof[-1:])),
    "with 33 bytes": lambda proof: (*proof[:-1], *(part + b"\0" for part in proof[-1:])),
    "empty": lambda _proof: (),
}
INCLUSION_CHANGES: dict[str, Callable[[Inclusion], Inclusion]] = {
    "another leaf": lambda case: replace(case, leaf=OTHER),
    "an empty leaf": lambda case: replace(case, leaf=b""),
    "a leaf of 31 bytes": lambda case: replace(case, leaf=case.leaf[:31]),
    "another root": lambda case: replace(case, root=OTHER),
    "an empty root": lambda case: replace(case, root=b""),
    "leaf and root empty": lambda case: replace(case, leaf=b"", root=b""),
    "the root of nothing": lambda case: replace(case, root=verifier.EMPTY_ROOT),
    "the index before": lambda case: replace(case, index=case.index - 1),
    "the index after": lambda case: replace(case, index=case.index + 1),
    "an index of another half": lambda case: replace(case, index=case.index ^ 2),
    "an index at the end": lambda case: replace(case, index=case.size),
    "a negative index": lambda case: replace(case, index=-1 - case.index),
    "twice the size": lambda case: replace(case, size=2 * case.size),
    "half the size": lambda case: replace(case, size=case.size // 2),
    "size 0": lambda case: replace(case, size=0),
    "a negative size": lambda case: replace(case, size=-case.size),
    "a node for a leaf": lambda case: replace(case, leaf=case.root, proof=(), index=0, size=2),
}
CONSISTENCY_CHANGES: dict[str, Callable[[Consistency], Consistency]] = {
    "another old root": lambda case: replace(case, old_root=OTHER),
    "another root": lambda case: replace(case, root=OTHER),
    "roots changed round": lambda case: replace(case, old_root=case.root, root=case.old_root),
    "an empty old root": lambda case: replace(case, old_root=b""),
    "an empty root": lambda case: replace(case, root=b""),
    "the same root twice": lambda case: replace(case, old_root=case.root),
    "old size and size changed round": lambda case: replace(case, old=case.size, size=case.old),
    "old size 0": lambda case: replace(case, old=0),
    "a negative old size": lambda case: replace(case, old=-case.old),
    "an old size one less": lambda case: replace(case, old=case.old - 1),
    "an old size one more": lambda case: replace(case, old=case.old + 1),
    "twice the size": lambda case: replace(case, size=2 * case.size),
    "size 0": lambda case: replace(case, size=0),
}


def accepted(case: Inclusion | Consistency) -> bool:
    """Whether the verifier takes a case for proven; it refuses in no way but its own."""
    with contextlib.suppress(Refused):
        case.ask()
        return True
    return False


def with_proof(case: Inclusion | Consistency, change: Change) -> Inclusion | Consistency:
    """A case with its proof changed."""
    return replace(case, proof=change(case.proof))


@pytest.mark.parametrize("size", SIZES)
def test_every_proof_of_every_size_is_accepted(size: int) -> None:
    """All 820 inclusions and 861 consistencies up to 40 records are proven; the tree grown by leaves has the root."""
    grown = verifier.Tree()
    for record in RECORDS[:size]:
        grown.append(verifier.leaf_hash(record))
    assert (grown.size, grown.root()) == (size, root(RECORDS[:size]))
    assert all(accepted(case) for case in QUESTIONS if case.size == size)


@pytest.mark.parametrize("name", PROOFS)
def test_a_changed_proof_is_refused(name: str) -> None:
    """Whatever is done to a proof, of an inclusion or a consistency, nothing is proven by it any more."""
    changed = [(case, with_proof(case, PROOFS[name])) for case in QUESTIONS]
    cases = [after for before, after in changed if after != before]
    assert len(cases) > 700
    assert [case for case in cases if accepted(case)] == []


@pytest.mark.parametrize("name", INCLUSION_CHANGES)
def test_a_changed_question_of_inclusion_is_refused(name: str) -> None:
    """Another leaf, index, size or root than those that the proof is for is refused, in trees of every size."""
    cases = [INCLUSION_CHANGES[name](case) for case in INCLUSIONS]
    assert [after for before, after in zip(INCLUSIONS, cases, strict=True) if after != before and accepted(after)] == []


@pytest.mark.parametrize("name", CONSISTENCY_CHANGES)
def test_a_changed_question_of_consistency_is_refused(name: str) -> None:
    """Other sizes or roots than those that the proof is for are refused."""
    cases = [(case, CONSISTENCY_CHANGES[name](case)) for case in CONSISTENCIES if case.old]
    right = {*CONSISTENCIES}
    assert [after for before, after in cases if after != before and after not in right and accepted(after)] == []


def test_an_empty_log_is_the_beginning_of_every_log_and_of_nothing_is_anything_in() -> None:
    """As C2SP tlog-witness has it: from size 0 the proof is empty, and the old root that of nothing, to the byte."""
    full = root(RECORDS)
    assert accepted(Consistency(0, verifier.EMPTY_ROOT, 40, full, ()))
    assert accepted(Consistency(0, verifier.EMPTY_ROOT, 0, verifier.EMPTY_ROOT, ()))
    for case in (
        Consistency(0, OTHER, 40, full, ()),
        Consistency(0, full, 40, full, ()),
        Consistency(0, verifier.EMPTY_ROOT, 40, full, (full,)),
        Consistency(0, verifier.EMPTY_ROOT, 0, full, ()),
        Consistency(0, verifier.EMPTY_ROOT, 40, b"", ()),
        Inclusion(merkle.leaf_hash(b""), 0, 0, (), verifier.EMPTY_ROOT),
        Inclusion(verifier.EMPTY_ROOT, 0, 0, (), verifier.EMPTY_ROOT),
    ):
        assert not accepted(case), case


def test_scitt_cose_makes_the_same_proofs_and_accepts_them() -> None:
    """An implementation of COSE receipts has the same roots, and the same proofs byte for byte."""
    entries = [record.hex() for record in RECORDS]
    for size in range(1, len(RECORDS) + 1):
        assert scitt.merkle_root(entries[:size]) == root(RECORDS[:size]).hex()
    for case in INCLUSIONS:
        proof = [part.hex() for part in case.proof]
        assert scitt.inclusion_proof(entries[: case.size], case.index) == proof
        assert scitt.verify_inclusion(entries[case.index], case.index, case.size, proof, case.root.hex())
    for question in CONSISTENCIES:
        if question.old:
            proof = [part.hex() for part in question.proof]
            roots = question.old_root.hex(), question.root.hex()
            assert scitt.consistency_proof(entries, question.old, question.size) == proof
            assert scitt.verify_consistency(*roots, question.old, question.size, proof)


def test_pymerkle_has_the_same_roots_and_paths() -> None:
    """Another implementation: its indexes begin with 1, its paths with the leaf."""
    tree = InmemoryTree(algorithm="sha256")
    for size, record in enumerate(RECORDS, 1):
        tree.append_entry(record)
        assert tree.get_root() == root(RECORDS[:size])
    for case in INCLUSIONS:
        path = tree.prove_inclusion(case.index + 1, case.size).path
        assert (path[0], tuple(path[1:])) == (case.leaf, case.proof)
