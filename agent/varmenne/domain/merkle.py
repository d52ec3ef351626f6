"""The hash tree of the audit log (RFC 9162, 2.1, with SHA-256): how it grows, and what proves a part of it.

Kept are the records, the hashes of the complete subtrees above them, and the *frontier*: the hashes of the complete
subtrees that the tree consists of, from left to right. A subtree has a level (0 for a single record) and an index.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

HASH_BYTES = 32

Subtree = Callable[[int, int], bytes]
"""Returns the hash of a complete subtree, by level and index."""


def leaf_hash(record: bytes) -> bytes:
    """Hash one record."""
    return hashlib.sha256(b"\0" + record).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash two subtrees that stand beside each other."""
    return hashlib.sha256(b"\1" + left + right).digest()


@dataclass(frozen=True, slots=True)
class Node:
    """A complete subtree of more than one record."""

    level: int
    index: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class Tree:
    """A tree of so many records, by its frontier: largest subtree first."""

    size: int = 0
    frontier: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if self.size < 0 or len(self.frontier) != self.size.bit_count():
            raise ValueError(f"a tree of {self.size} records does not have {len(self.frontier)} subtrees")

    @property
    def root(self) -> bytes:
        """The hash of the whole tree; that of nothing is the hash of an empty string."""
        if not self.frontier:
            return hashlib.sha256().digest()
        *others, found = self.frontier
        for left in reversed(others):
            found = node_hash(left, found)
        return found

    def grown(self, leaf: bytes) -> tuple[Tree, tuple[Node, ...]]:
        """Return the tree with one leaf hash more, and the subtrees that became complete by it."""
        frontier, new, level, index = [*self.frontier], [], 0, self.size
        while index & 1:
            leaf, level, index = node_hash(frontier.pop(), leaf), level + 1, index >> 1
            new.append(Node(level, index, leaf))
        return Tree(self.size + 1, (*frontier, leaf)), tuple(new)


def root(size: int, subtree: Subtree) -> bytes:
    """Return the root that the tree had when it was of the given size."""
    return _range(0, size, subtree) if size else Tree().root


def inclusion(index: int, size: int, subtree: Subtree) -> tuple[bytes, ...]:
    """Return the proof that a record is in the tree of a size, from the leaf upwards (RFC 9162, 2.1.3.1).

    Raises:
        ValueError: the tree has no such record.
    """
    if not 0 <= index < size:
        raise ValueError(f"a tree of {size} records has no record {index}")
    proof, start, end = [], 0, size
    while end - start > 1:
        middle = start + _left(end - start)
        if index < middle:
            proof.append(_range(middle, end, subtree))
            end = middle
        else:
            proof.append(_range(start, middle, subtree))
            start = middle
    return tuple(reversed(proof))


def consistency(old: int, size: int, subtree: Subtree) -> tuple[bytes, ...]:
    """Return the proof that the tree of a size begins with that of an older one (RFC 9162, 2.1.4.1).

    Raises:
        ValueError: the older tree is not the smaller one.
    """
    if not 0 <= old <= size:
        raise ValueError(f"a tree of {size} records does not begin with {old}")
    if old in {0, size}:
        return ()
    proof, start, end = [], 0, size
    while end != old:
        middle = start + _left(end - start)
        if old <= middle:
            proof.append(_range(middle, end, subtree))
            end = middle
        else:
            proof.append(_range(start, middle, subtree))
            start = middle
    if start:
        proof.append(_range(start, end, subtree))
    return tuple(reversed(proof))


def _left(size: int) -> int:
    """Return how many of a tree's records are in its left half: the largest power of two below its size."""
    return 1 << (size - 1).bit_length() - 1


def _range(start: int, end: int, subtree: Subtree) -> bytes:
    """Return the hash of the records from ``start`` to before ``end``, which begin at a multiple of their number."""
    size = end - start
    if size & (size - 1) == 0:
        return subtree(size.bit_length() - 1, start // size)
    middle = start + _left(size)
    return node_hash(_range(start, middle, subtree), _range(middle, end, subtree))
