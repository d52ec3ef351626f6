"""The evidence as journal and Vault have it at present, for verifying it here and for exporting it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

from varmenne.audit import verifier
from varmenne.audit.bundle import NoteFile, write_bundle
from varmenne.domain.audit import moment, row_document
from varmenne.enrollment.evidence.checkpoints import folder

if TYPE_CHECKING:
    from varmenne.audit.verifier import Named, Report, Trust
    from varmenne.enrollment.parts import Parts


class LiveEvidence:
    """What :class:`varmenne.audit.verifier.Evidence` asks for. The log's size is taken once, so that it fits together.

    Args:
        parts: the parts.
        vault: whether Vault is asked for its checkpoints.

    Raises:
        JournalError, VaultError: they cannot be read; any method may raise it.
    """

    def __init__(self, parts: Parts, *, vault: bool = True) -> None:
        self._parts = parts
        self._vault = vault
        self._head = parts.journal.log.head()

    def manifest(self) -> dict[str, Any]:
        """Return what the evidence says of itself."""
        return {
            "format": verifier.FORMAT,
            "origin": self._head.origin,
            "size": self._head.size,
            "exported_at": moment(self._parts.now),
            "vkeys": list(vkeys(self._parts)),
        }

    def records(self) -> Iterator[tuple[bytes, bytes | None]]:
        """Yield each record as it is kept."""
        for _index, body in self._parts.journal.log.records(0, self._head.size):
            yield body, None

    def rows(self) -> Iterator[bytes]:
        """Yield what each row of the journal is."""
        return map(row_document, self._parts.journal.every())

    def checkpoints(self) -> Iterator[Named]:
        """Yield the checkpoints that the journal has, smallest first."""
        return ((f"checkpoints/{one.name}", one.note.encode()) for one in self._checkpoints())

    def anchors(self) -> Iterator[Named]:
        """Yield the checkpoints that stand in Vault, smallest first."""
        return ((f"anchors/{one.name}", one.note.encode()) for one in self._anchors())

    def passports(self) -> Iterator[tuple[str, bytes, bytes]]:
        """Yield none: passports are files, and the journal keeps only their hashes."""
        return iter(())

    def export(self, file: BinaryIO) -> int:
        """Write all of it to a bundle, and return how many records are in it."""
        said = self.manifest()
        return write_bundle(
            file,
            origin=said["origin"],
            exported_at=self._parts.now,
            vkeys=said["vkeys"],
            records=(body for body, _leaf in self.records()),
            rows=self.rows(),
            checkpoints=self._checkpoints(),
            anchors=self._anchors(),
        )

    def _checkpoints(self) -> list[NoteFile]:
        """Return the checkpoints of the journal; one that was made since we began would be beyond our records."""
        found = sorted(self._parts.journal.log.checkpoints(), key=lambda one: one.size)
        return [
            NoteFile(one.origin, one.size, one.note)
            for one in found
            if one.size <= self._head.size or one.origin != self._head.origin
        ]

    def _anchors(self) -> list[NoteFile]:
        """Return the checkpoints in Vault, if it is to be asked."""
        found = sorted(self._parts.store.anchors.every(), key=lambda one: one.size) if self._vault else []
        return [NoteFile(one.origin, one.size, one.note) for one in found]


def proven(parts: Parts, trust: Trust, *, vault: bool = True) -> Report:
    """Verify what is here, as an auditor does it elsewhere, and that no checkpoint has vanished from Vault.

    Args:
        parts: the parts.
        trust: whom to trust.
        vault: whether Vault is asked.

    Raises:
        JournalError, VaultError: they cannot be read.
    """
    report = verifier.verify(LiveEvidence(parts, vault=vault), trust)
    if vault:
        there = {(one.origin, one.size) for one in parts.store.anchors.every()}
        for one in parts.journal.log.checkpoints():
            if one.anchored_at is not None and (folder(one.origin), one.size) not in there:
                told = f"the checkpoint of {one.size} records was put there at {moment(one.anchored_at)}, and is gone"
                report.error("Vault", told)
    return report


def vkeys(parts: Parts) -> tuple[str, ...]:
    """Return the verification keys that the log tells of, of its present name first; they prove nothing by themselves.

    An auditor compares them with what was noted when the log began.
    """
    found = [json.loads(body)["detail"]["vkey"] for body in parts.journal.log.acts("log_key")]
    present = parts.journal.log.head().origin
    return tuple(sorted(dict.fromkeys(found), key=lambda one: not one.startswith(f"{present}+")))
