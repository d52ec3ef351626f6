"""The log's side of witnessing: what is brought to a witness, and what it signed beside us."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from varmenne.audit import verifier
from varmenne.audit.witness import add_cosignatures, make_request
from varmenne.errors import EvidenceError, StateError

if TYPE_CHECKING:
    from varmenne.enrollment.parts import Parts
    from varmenne.journal.log import Checkpoint


def request(parts: Parts, old: int | None = None) -> bytes:
    """Return the newest checkpoint, with the proof that it begins with what the witness signed last.

    Args:
        parts: the parts.
        old: the size that the witness signed last; by default that of the newest checkpoint with a second signature.

    Raises:
        StateError: there is no checkpoint, or none so large.
    """
    log = parts.journal.log
    last = log.latest()
    if last is None:
        raise StateError("The audit log has no checkpoint yet", next_step="varmenne audit checkpoint")
    if old is None:
        old = max((one.size for one in log.checkpoints() if one.origin == last.origin and _cosigned(one)), default=0)
    if not 0 <= old <= last.size:
        raise StateError(f"The newest checkpoint is of {last.size} records, and does not begin with {old}")
    return make_request(old, log.consistency(old, last.size), last.note)


def add(parts: Parts, reply: bytes, witnesses: tuple[verifier.Key, ...]) -> Checkpoint:
    """Put a witness's signature beside ours, on the checkpoint that it signed, and return that.

    Raises:
        EvidenceError: no checkpoint that we have is signed by one of these witnesses in this reply.
    """
    refused: EvidenceError | None = None
    for one in reversed(parts.journal.log.checkpoints()):
        try:
            signed = add_cosignatures(one.note, reply, witnesses)
        except EvidenceError as exc:
            refused = refused or exc
        else:
            if not parts.journal.log.cosigned(one, signed):
                raise StateError("Another signature was put there at the same moment", next_step="Run it again")
            return dataclasses.replace(one, note=signed)
    raise refused or StateError("The audit log has no checkpoint yet", next_step="varmenne audit checkpoint")


def _cosigned(checkpoint: Checkpoint) -> bool:
    """Tell whether somebody else has signed it as well."""
    return len(verifier.parse_note(checkpoint.note.encode()).lines) > 1
