"""Writing a bundle of evidence: one ZIP archive, record by record, the same bytes for the same log."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO

from varmenne.audit import verifier
from varmenne.audit.note import folder
from varmenne.domain.audit import moment

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The time that each file in it bears: ZIP knows none before, and none belongs there."""


@dataclass(frozen=True, slots=True)
class NoteFile:
    """A checkpoint to be put into a bundle."""

    origin: str
    size: int
    note: str

    @property
    def name(self) -> str:
        """Its name in a folder: names are in order of sizes."""
        return f"{self.size:020d}-{folder(self.origin)}.note"


@dataclass(frozen=True, slots=True)
class PassportFile:
    """A passport to be put into a bundle: its envelope, and the proof that it is in the log."""

    enrollment: str
    envelope: bytes
    proof: bytes


def write_bundle(
    file: BinaryIO,
    *,
    origin: str,
    exported_at: datetime,
    vkeys: Iterable[str],
    records: Iterable[bytes],
    rows: Iterable[bytes],
    checkpoints: Iterable[NoteFile],
    anchors: Iterable[NoteFile] = (),
    passports: Iterable[PassportFile] = (),
) -> int:
    """Write a bundle, and return how many records are in it. Only one record is in memory at a time.

    Args:
        file: where to, opened for writing.
        origin: the log's present name.
        exported_at: when, the only thing that differs between two exports of the same.
        vkeys: the log's keys, as in signed notes.
        records: the records' bytes, in order.
        rows: the canonical JSON of the journal's rows, in order of their IDs.
        checkpoints: all that the journal keeps, in any order.
        anchors: all that were read back from Vault.
        passports: custody passports.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        size = _lines(archive, "records.jsonl", records)
        _lines(archive, "rows.jsonl", rows)
        for folder, notes in (("checkpoints", checkpoints), ("anchors", anchors)):
            for note in notes:
                archive.writestr(_entry(f"{folder}/{note.name}"), note.note)
        for passport in passports:
            archive.writestr(_entry(f"passports/{passport.enrollment}.dsse.json"), passport.envelope)
            archive.writestr(_entry(f"passports/{passport.enrollment}.tlog-proof"), passport.proof)
        manifest = {
            "format": verifier.FORMAT,
            "origin": origin,
            "size": size,
            "exported_at": moment(exported_at),
            "vkeys": list(vkeys),
        }
        archive.writestr(_entry("manifest.json"), json.dumps(manifest, indent=2) + "\n")
    return size


def _lines(archive: zipfile.ZipFile, name: str, lines: Iterable[bytes]) -> int:
    """Write lines to a file of the archive, which may become larger than 4 GiB, and count them."""
    count = 0
    with archive.open(_entry(name), "w", force_zip64=True) as file:
        for line in lines:
            file.write(line + b"\n")
            count += 1
    return count


def _entry(name: str) -> zipfile.ZipInfo:
    """Return a file's entry: nothing in it depends on when and where the archive is written."""
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.create_system = 3
    entry.external_attr = 0o600 << 16
    return entry
