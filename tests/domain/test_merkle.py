"""The hash tree against RFC 9162's own definitions, written down as they stand there."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest

from varmenne.domain import merkle

LONGEST = 34
LEAVES = [f"record {number}".encode() for number in range(LONGEST)]


def mth(leaves: Sequence[bytes]) -> bytes:
    """RFC 9162, 2.1.1."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    k = split(len(leaves))
    return hashlib.sha256(b"\1" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def path(m: int, leaves: Sequence[bytes]) -> list[bytes]:
    """RFC 9162, 2.1.3.1."""
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if m < k:
        return [*path(m, leaves[:k]), mth(leaves[k:])]
    return [*path(m - k, leaves[k:]), mth(leaves[:k])]


def subproof(m: int, leaves: Sequence[bytes], *, whole: bool) -> list[bytes]:
    """RFC 9162, 2.1.4.1."""
    if m == len(leaves):
        return [] if whole else [mth(leaves)]
    k = split(len(leaves))
    if m <= k:
        return [*subproof(m, leaves[:k], whole=whole), mth(leaves[k:])]
    return [*subproof(m - k, leaves[k:], whole=False), mth(leaves[:k])]


def split(size: int) -> int:
    """The largest power of two below a size."""
    k = 1
    while k * 2 < size:
        k *= 2
    return k


class Grown:
    """A tree of so many leaves, with the nodes that it left behind."""

    def __init__(self, size: int) -> None:
        self.tree, self.nodes = merkle.Tree(), dict[tuple[int, int], bytes]()
        for number in range(size):
            leaf = merkle.leaf_hash(LEAVES[number])
            self.nodes[0, number] = leaf
            self.tree, new = self.tree.grown(leaf)
            self.nodes |= {(node.level, node.index): node.hash for node in new}

    def __call__(self, level: int, index: int) -> bytes:
        return self.nodes[level, index]


ALL = Grown(LONGEST)


@pytest.mark.parametrize("size", range(LONGEST + 1))
def test_root(size: int) -> None:
    """The root of each size, grown leaf by leaf and looked up later, is that of the definition."""
    assert Grown(size).tree.root == merkle.root(size, ALL) == mth(LEAVES[:size])


def test_nodes_are_written_once() -> None:
    """A tree of n leaves leaves n minus as many nodes behind as its size has ones; none is ever changed."""
    for size in range(LONGEST + 1):
        assert len([level for level, _ in Grown(size).nodes if level]) == size - size.bit_count()


@pytest.mark.parametrize("size", range(1, LONGEST + 1))
def test_inclusion(size: int) -> None:
    """Every proof of inclusion is the one that the definition has."""
    for index in range(size):
        assert list(merkle.inclusion(index, size, ALL)) == path(index, LEAVES[:size])


@pytest.mark.parametrize("size", range(1, LONGEST + 1))
def test_consistency(size: int) -> None:
    """Every proof of consistency is the one that the definition has."""
    for old in range(1, size + 1):
        assert list(merkle.consistency(old, size, ALL)) == subproof(old, LEAVES[:size], whole=True)
    assert merkle.consistency(0, size, ALL) == ()


def test_what_cannot_be_proven() -> None:
    """A record beyond the size, and an older tree that is larger, have no proof; a frontier fits its size."""
    for index, size in ((0, 0), (3, 3), (-1, 3)):
        with pytest.raises(ValueError, match="has no record"):
            merkle.inclusion(index, size, ALL)
    for old in (-1, 4):
        with pytest.raises(ValueError, match="does not begin with"):
            merkle.consistency(old, 3, ALL)
    with pytest.raises(ValueError, match="does not have 1 subtrees"):
        merkle.Tree(3, (bytes(32),))
