"""The evidence as journal and Vault have it at present, for verifying it here and for exporting it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, BinaryIO

from varmenne.audit import verifier
from varmenne.audit.bundle import NoteFile, write_bundle
from varmenne.audit.note import folder
from varmenne.domain.audit import moment
from varmenne.enrollment.evidence.checkpoints import details

if TYPE_CHECKING:
    from varmenne.audit.verifier import Named, Report, Trust
    from varmenne.enrollment.parts import Parts
    from varmenne.journal.log import Checkpoint, Snapshot


class LiveEvidence:
    """What :class:`varmenne.audit.verifier.Evidence` asks for.

    Args:
        seen: the journal, as it is at one moment.
        anchored: the checkpoints in Vault, read before that: one that is beyond the log was there when the log was not.
        now: the present moment.

    Raises:
        JournalError: the journal cannot be read; any method may raise it.
    """

    def __init__(self, seen: Snapshot, anchored: tuple[NoteFile, ...], now: datetime) -> None:
        self._seen = seen
        self._anchored = anchored
        self._now = now

    def manifest(self) -> dict[str, Any]:
        """Return what the evidence says of itself."""
        return {
            "format": verifier.FORMAT,
            "origin": self._seen.head.origin,
            "size": self._seen.head.size,
            "exported_at": moment(self._now),
            "vkeys": list(_vkeys(self._seen.acts("log_key"), self._seen.head.origin)),
        }

    def records(self) -> Iterator[bytes]:
        """Yield each record as it is kept."""
        return self._seen.records()

    def rows(self) -> Iterator[bytes]:
        """Yield what each row of the journal is."""
        return self._seen.rows()

    def checkpoints(self) -> Iterator[Named]:
        """Yield the checkpoints that the journal has, smallest first."""
        return ((f"checkpoints/{one.name}", one.note.encode()) for one in self._checkpoints())

    def anchors(self) -> Iterator[Named]:
        """Yield the checkpoints that stand in Vault, smallest first."""
        return ((f"anchors/{one.name}", one.note.encode()) for one in self._anchored)

    def passports(self) -> Iterator[tuple[str, bytes, bytes]]:
        """Yield none: passports are files, and the journal keeps only their hashes."""
        return iter(())

    def vanished(self) -> Iterator[Checkpoint]:
        """Yield the checkpoints that were put into Vault and are not there any more."""
        there = {(one.origin, one.size) for one in self._anchored}
        for one in self._seen.checkpoints():
            if one.anchored_at is not None and (folder(one.origin), one.size) not in there:
                yield one

    def export(self, file: BinaryIO) -> int:
        """Write all of it to a bundle, and return how many records are in it."""
        said = self.manifest()
        return write_bundle(
            file,
            origin=said["origin"],
            exported_at=self._now,
            vkeys=said["vkeys"],
            records=self._seen.records(),
            rows=self._seen.rows(),
            checkpoints=self._checkpoints(),
            anchors=self._anchored,
        )

    def _checkpoints(self) -> list[NoteFile]:
        """Return the checkpoints of the journal, smallest first."""
        found = sorted(self._seen.checkpoints(), key=lambda one: one.size)
        return [NoteFile(one.origin, one.size, one.note) for one in found]


@contextlib.contextmanager
def live(parts: Parts, *, vault: bool = True) -> Iterator[LiveEvidence]:
    """Give the evidence as journal and Vault have it now, whoever is at work meanwhile.

    Args:
        parts: the parts.
        vault: whether Vault is asked for its checkpoints.

    Raises:
        JournalError, VaultError: they cannot be read.
    """
    found = sorted(parts.store.anchors.every(), key=lambda one: one.size) if vault else []
    with parts.journal.log.snapshot() as seen:
        yield LiveEvidence(seen, tuple(NoteFile(one.origin, one.size, one.note) for one in found), parts.now)


def proven(parts: Parts, trust: Trust, *, vault: bool = True) -> Report:
    """Verify what is here, as an auditor does it elsewhere, and that no checkpoint has vanished from Vault.

    Args:
        parts: the parts.
        trust: whom to trust.
        vault: whether Vault is asked.

    Raises:
        JournalError, VaultError: they cannot be read.
    """
    with live(parts, vault=vault) as evidence:
        report = verifier.verify(evidence, trust)
        for one in evidence.vanished() if vault else ():
            report.error("Vault", f"the checkpoint of {one.size} records was put there, and is gone")
    return report


def vkeys(parts: Parts) -> tuple[str, ...]:
    """Return the verification keys that the log tells of, of its present name first; they prove nothing by themselves.

    An auditor compares them with what was noted when the log began.
    """
    return _vkeys(parts.journal.log.acts("log_key"), parts.journal.log.head().origin)


def _vkeys(records: Iterable[bytes], origin: str) -> tuple[str, ...]:
    """Return the verification keys that records of their birth tell of, those of a name first."""
    found = [str(detail["vkey"]) for detail in details(records) if "vkey" in detail]
    return tuple(sorted(dict.fromkeys(found), key=lambda one: not one.startswith(f"{origin}+")))
