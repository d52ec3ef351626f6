"""Whether a log only grew: what a witness has verified before it signs (RFC 9162, 2.1.4).

Auditors have all records, and need no such proof, so it is not in the verifier's file.
"""

from __future__ import annotations

from collections.abc import Iterable

from varmenne.audit.verifier import EMPTY_ROOT, Refused, hashes, node_hash


def verify_consistency(old: int, old_root: bytes, size: int, root: bytes, proof: Iterable[bytes]) -> None:
    """Verify that a tree begins with an older one (RFC 9162, 2.1.4.2). An empty one is the beginning of every tree.

    Raises:
        Refused: it is not proven.
    """
    path = hashes(*proof, old_root, root)[:-2]
    if not 0 <= old <= size:
        raise Refused(f"a tree of {size} records does not begin with {old}")
    if old in {0, size}:
        if path or old_root != (root if old else EMPTY_ROOT) or (size == 0 and root != EMPTY_ROOT):
            raise Refused("the proof does not lead from the old root to the new one")
        return
    place, last = old - 1, size - 1  # The place on a level, and the last place there.
    while place & 1:
        place, last = place >> 1, last >> 1
    # The complete subtree that the old tree ends with: a power of two is all of it.
    first, *rest = (old_root, *path) if old & (old - 1) == 0 else path or (b"",)
    was = now = first
    for sibling in rest:
        if last == 0:
            raise Refused("the proof is too long")
        if place & 1 or place == last:
            was, now = node_hash(sibling, was), node_hash(sibling, now)
            while not place & 1 and place:  # Levels on which it has no sibling, at the right edge.
                place, last = place >> 1, last >> 1
        else:
            now = node_hash(now, sibling)
        place, last = place >> 1, last >> 1
    if last or was != old_root or now != root:
        raise Refused("the proof does not lead from the old root to the new one")
