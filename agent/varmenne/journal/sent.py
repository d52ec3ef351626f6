"""What was begun to be sent, remembered beside the database: so that a journal that went back in time is noticed.

One-time credentials may be sent once. The journal knows which ones were; an old copy of it does not, and would send
them again. Therefore each intent to send is also written to the file ``journal.sent`` in the state folder, after the
database has it and before a byte leaves: one line of JSON with the journal's epoch, the running number of the intent,
and the whole row. The number counts exactly the acts that must not be repeated, and nothing else, so that restoring a
backup is noticed if and only if something was sent since.

The file is append-only and holds no secret. It belongs to this host; another host on the same PostgreSQL has its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Any

from varmenne.domain.enrollment import Enrollment
from varmenne.journal import schema

SENT_NAME = "journal.sent"

KEPT_FOR = timedelta(days=60)
"""Lines older than this are dropped: one-time credentials are valid for 14 days, so nothing could be sent again."""

_TAIL_BYTES = 128 * 1024
"""More than the longest line."""


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a journal had come: its epoch, which changes when it is restored, and how many intents it had."""

    epoch: str
    sent: int


@dataclass(frozen=True, slots=True)
class Begun:
    """An intent to send, with the row's columns as the database had them."""

    at: datetime
    row: dict[str, Any]


class SentRecord:
    """The file ``journal.sent``."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / SENT_NAME

    def mark(self) -> Mark | None:
        """Return how far the journal was known to have come; ``None`` if nothing was ever written here."""
        try:
            with self.path.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
                lines = file.read().splitlines()
        except FileNotFoundError:
            return None
        for line in reversed(lines):
            with contextlib.suppress(ValueError):
                document = json.loads(line)
                return Mark(document["epoch"], document["sent"])
        return None

    def epochs(self) -> Iterator[str]:
        """Yield the epochs that the lines name, oldest first."""
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
            for line in file:
                with contextlib.suppress(ValueError):
                    yield str(json.loads(line)["epoch"])

    def begun(self) -> Iterator[Begun]:
        """Yield the intents, oldest first. A line that a power cut left torn is passed over: it was never acted on."""
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
            for line in file:
                with contextlib.suppress(ValueError):
                    document = json.loads(line)
                    if "row" in document:
                        yield Begun(datetime.fromisoformat(document["at"]), _from_json(document["row"]))

    def note(self, mark: Mark) -> None:
        """Write that the journal has come as far as this."""
        self._append(mark, {})

    def remember(self, mark: Mark, at: datetime, row: Enrollment) -> None:
        """Write an intent to send; when this returns, it is on the disk."""
        self._append(mark, {"at": at.isoformat(), "row": _to_json(dataclasses.asdict(row))})

    def forget_before(self, moment: datetime) -> None:
        """Drop the lines from before a moment. If the first one is younger, no other is looked at."""
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
            if _is_since(next(filter(bytes.strip, file), b""), moment):
                return
        with self._locked() as handle:
            lines = [line for line in os.pread(handle, os.fstat(handle).st_size, 0).splitlines() if line]
            kept = [line for line in lines[:-1] if _is_since(line, moment)] + lines[-1:]
            if len(kept) == len(lines):
                return
            new = self.path.with_name(f".{self.path.name}.new")
            new.unlink(missing_ok=True)
            fresh = os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            try:
                _write(fresh, b"".join(b"\n" + line for line in kept))
                new.replace(self.path)
            finally:
                os.close(fresh)

    def _append(self, mark: Mark, more: dict[str, Any]) -> None:
        """Add a line. Each begins with a line break, so that one that was torn by a power cut spoils no other."""
        with self._locked() as handle:
            last = self.mark()
            if last is not None and last.epoch == mark.epoch:
                # Two processes may come here in the other order than to the database; the last line is the furthest.
                mark = Mark(mark.epoch, max(mark.sent, last.sent))
            line = json.dumps({**dataclasses.asdict(mark), **more}, ensure_ascii=False)
            _write(handle, b"\n" + line.encode())

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        """Open the file for this process alone, as it is named now: another may have put a new one in its place."""
        while True:
            is_new = not self.path.exists()
            handle = os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                if os.fstat(handle).st_nlink == 0:
                    continue
                if is_new:
                    _folder_to_disk(self.path.parent)
                yield handle
                return
            finally:
                os.close(handle)


def _write(handle: int, data: bytes) -> None:
    """Write all of the data, to the disk."""
    while data:
        data = data[os.write(handle, data) :]
    os.fsync(handle)


def _folder_to_disk(path: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _is_since(line: bytes, moment: datetime) -> bool:
    """Tell whether a line is an intent of a moment or later."""
    try:
        return datetime.fromisoformat(json.loads(line)["at"]) >= moment
    except (ValueError, KeyError):
        return False


def _to_json(row: dict[str, Any]) -> dict[str, Any]:
    """Write a row's values as JSON has them: moments as ISO 8601, bytes as hexadecimal digits."""

    def plain(value: object) -> object:
        match value:
            case datetime():
                return value.isoformat()
            case bytes():
                return value.hex()
            case Enum():
                return value.value
        return value

    return {name: plain(value) for name, value in row.items() if value is not None}


def _from_json(row: dict[str, Any]) -> dict[str, Any]:
    """Read a row's values back by the types of their columns; a column that is no longer there is left out."""

    def rich(name: str, value: Any) -> object:
        kind = schema.enrollment.c[name].type
        if isinstance(kind, schema.UtcTime):
            return datetime.fromisoformat(value)
        return bytes.fromhex(value) if kind.python_type is bytes else value

    return {name: rich(name, value) for name, value in row.items() if name in schema.enrollment.c}
