"""Feeds the audit log to others, such as a SIEM: every record at least once, in order, and from where it stopped.

The position is kept after the receiver has taken the records before it, so a crash in between sends some of them
again. Each message has the record's number, by which a receiver knows what it has already. The position also has the
log's name and the root of its hash tree up to there: a log that was restored goes on, with a message that says so, and
one that was rewritten is refused, with a message as well.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from varmenne.domain.audit import canonical, fingerprint, moment
from varmenne.enrollment.evidence.receivers import Receiver
from varmenne.errors import EvidenceError, FeedFailed, InputError
from varmenne.journal.copies import to_disk
from varmenne.journal.log import Head, Log
from varmenne.journal.owner import this_host

BATCH = 500
"""So many records are sent before the position is kept."""

LOOK_SECONDS = 1.0
"""How often a feed that follows looks for new records."""
LONGEST_PAUSE_SECONDS = 60.0
"""How long it waits, at most, after a receiver took nothing."""

FACILITY = 13
"""``log audit`` (RFC 5424, table 1)."""
NOTICE, WARNING, CRITICAL = 5, 4, 2
"""Severities (RFC 5424, table 2): of what was done, of what failed, and of a log that was rewritten."""
_UNPRINTABLE = re.compile(r"[^\x21-\x7e]")


class Form(StrEnum):
    """How messages are written."""

    JSON = "json"
    """``{"index": …, "origin": …, "record": …}``, where the record is the log's exact bytes."""
    SYSLOG = "syslog"
    """The same as the text of a syslog message (RFC 5424)."""


class Position(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far a receiver has taken the log.

    Attributes:
        origin: the log's name then.
        next: the number of the first record that was not taken.
        root: root of the hash tree over the records before it, in hexadecimal.
        first: SHA-256 of the first record, in hexadecimal; empty while there was none.
    """

    origin: str
    next: int
    root: str
    first: str


@dataclass(frozen=True, slots=True)
class Happening:
    """What is told between records.

    Attributes:
        event: ``log-restored`` or ``log-rewritten``.
        severity: of RFC 5424.
        facts: for programs.
    """

    event: str
    severity: int
    facts: dict[str, Any]


class Feed:
    """Sends the records that a receiver has not taken yet.

    Args:
        log: the audit log.
        send: the receiver.
        form: how messages are written.
        path: where the position is kept; ``None``: nowhere, so all is sent from the first record on.
        now: tells the time.

    Raises:
        InputError: the file of the position cannot be used.
    """

    def __init__(self, log: Log, send: Receiver, form: Form, path: Path | None, now: Callable[[], datetime]) -> None:
        self._log = log
        self._send = send
        self._form = form
        self._path = path
        self._now = now
        self._position = None if path is None else _read(path)

    def drain(self) -> int:
        """Send what was not taken yet, some hundred records at a time, and return how many records that was.

        Raises:
            FeedFailed: the receiver may not have taken what was sent last.
            EvidenceError: the log is not any more what was sent from it; the receiver was told.
            JournalError: the log cannot be read.
        """
        head = self._log.head()
        start, taken = self._start(head), 0
        while batch := tuple(self._log.records(start, start + BATCH)):
            self._send([self._of_record(head.origin, index, body) for index, body in batch])
            start = batch[-1][0] + 1
            taken += len(batch)
            self._keep(head.origin, start)
        return taken

    def _start(self, head: Head) -> int:
        """Return the number of the first record to send, after telling what became of the log."""
        position = self._position
        if position is None:
            return 0
        same = position.origin == head.origin
        start = position.next if same else _after_restore(self._log, position)
        intact = start < position.next or (
            head.size >= position.next and self._log.root(position.next).hex() == position.root
        )
        facts = {"origin": head.origin, "size": head.size, "before": position.origin, "next": position.next}
        if not intact:
            self._send([self._of_happening(Happening("log-rewritten", CRITICAL, facts))])
            raise EvidenceError(
                "The audit log is not any more what was fed from it",
                why=f"of {position.next} records that were taken, {head.size} are left"
                if head.size < position.next
                else f"its first {position.next} records are others",
                next_step="Find out what happened before anything else: varmenne audit verify",
            )
        if not same:
            self._send([self._of_happening(Happening("log-restored", WARNING, facts | {"from": start}))])
        return start

    def _keep(self, origin: str, start: int) -> None:
        """Keep the position, durably and whole."""
        first = self._position.first if self._position is not None and self._position.origin == origin else ""
        first = first or _first(self._log)
        self._position = Position(origin=origin, next=start, root=self._log.root(start).hex(), first=first)
        if self._path is not None:
            _write(self._path, self._position)

    def _of_record(self, origin: str, index: int, body: bytes) -> bytes:
        """Write the message of a record."""
        line = b'{"index":%d,"origin":%s,"record":%s}' % (index, json.dumps(origin).encode(), body)
        if self._form is Form.JSON:
            return line
        record = json.loads(body)
        severity = NOTICE if record["outcome"] == "done" else WARNING
        return _syslog(severity, record["at"], record["host"], record["act"], line)

    def _of_happening(self, happening: Happening) -> bytes:
        """Write the message of what is no record."""
        at = moment(self._now())
        line = canonical({"event": happening.event, "at": at, **happening.facts})
        return line if self._form is Form.JSON else _syslog(happening.severity, at, this_host(), happening.event, line)


def follow(feed: Feed, failed: Callable[[FeedFailed], None], sleep: Callable[[float], None] = time.sleep) -> NoReturn:
    """Send what there is and what comes, until the process is ended.

    Args:
        feed: the feed.
        failed: hears of a receiver that took nothing; it is tried again, after a growing pause.
        sleep: waits.

    Raises:
        EvidenceError: the log is not any more what was sent from it.
        JournalError: the log cannot be read.
    """
    pause = LOOK_SECONDS
    while True:
        try:
            feed.drain()
            pause = LOOK_SECONDS
        except FeedFailed as exc:
            failed(exc)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        sleep(pause)


def _after_restore(log: Log, position: Position) -> int:
    """Return the first record that a receiver may not have, in a log that has another name than when it took records.

    The backup begins with what it has. Its log goes on with what the restore wrote, from the size that the restore's
    record tells. Where that is not known, all is sent again.
    """
    if _first(log) != position.first:
        return 0
    details = (json.loads(body)["detail"] for body in log.acts("restore"))
    sizes = (detail.get("size", 0) for detail in details if detail["origin"] == position.origin)
    return min(position.next, next(sizes, 0))


def _first(log: Log) -> str:
    """Return the hash of the log's first record; empty if there is none."""
    return next((fingerprint(body) for _index, body in log.records(0, 1)), "")


def _syslog(severity: int, at: str, host: str, name: str, text: bytes) -> bytes:
    """Write a message of RFC 5424. Its text has no byte order mark, which readers of JSON do not expect."""
    header = f"<{FACILITY * 8 + severity}>1 {at} {_plain(host, 255)} varmenne - {_plain(name, 32)} - "
    return header.encode("ascii") + text


def _plain(text: str, longest: int) -> str:
    """Make a name fit for a header."""
    return _UNPRINTABLE.sub("_", text)[:longest] or "-"


def _read(path: Path) -> Position | None:
    """Read a position; ``None`` if it was never kept.

    Raises:
        InputError: the file is something else.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Position)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as exc:
        raise InputError(
            f"{path} is no position of a feed",
            why=str(exc),
            next_step="Name another file. A new one begins with the first record",
        ) from exc


def _write(path: Path, position: Position) -> None:
    """Put a position in the place of the one before.

    Raises:
        FeedFailed: it cannot be written.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(msgspec.json.encode(position) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        to_disk(path.parent)
    except OSError as exc:
        draft.unlink(missing_ok=True)
        raise FeedFailed(
            f"The position of the feed could not be kept in {path}",
            why=exc.strerror or str(exc),
            next_step="Nothing is lost: what was sent since the last position is sent again",
        ) from exc
