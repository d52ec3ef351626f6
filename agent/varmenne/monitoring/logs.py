"""The agent's log on standard error: sentences for people, or one JSON object per line; to systemd with priorities.

A line is one line, whatever a stranger's message holds: what is not printable is escaped.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

from varmenne.monitoring.events import Event

PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
"""Levels of Python's logging → priorities of syslog, as sd-daemon(3) has them in front of a line."""


class _Formatter(logging.Formatter):
    """Writes a record as one line; in front of it, for systemd, its priority."""

    def __init__(self, *, to_systemd: bool) -> None:
        super().__init__()
        self._to_systemd = to_systemd

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = self.line(record, getattr(record, "event", Event.NOTE), getattr(record, "facts", {}))
        return f"<{PRIORITIES.get(record.levelno, 6)}>{line}" if self._to_systemd else line

    def line(self, record: logging.LogRecord, event: Event, facts: Mapping[str, Any]) -> str:
        """Write it."""
        raise NotImplementedError


class Text(_Formatter):
    """For people: what happened, of which enrollment, and the facts. systemd adds the time by itself."""

    def line(self, record: logging.LogRecord, event: Event, facts: Mapping[str, Any]) -> str:
        """Write ``[TIME ]LEVEL EVENT [ENROLLMENT]: MESSAGE (FACT VALUE, …)``."""
        about = f" {facts['enrollment']}" if "enrollment" in facts else ""
        more = ", ".join(f"{name} {value}" for name, value in facts.items() if name != "enrollment")
        time = "" if self._to_systemd else f"{_time(record)} "
        text = f"{time}{record.levelname.lower():<7} {event}{about}: {record.getMessage()}"
        return _escaped(f"{text} ({more})" if more else text)


class Lines(_Formatter):
    """For programs: one JSON object per line, with ``at``, ``level``, ``event`` and ``message`` always."""

    def line(self, record: logging.LogRecord, event: Event, facts: Mapping[str, Any]) -> str:
        """Write it. Letters stay as they are."""
        head = {"at": _time(record), "level": record.levelname.lower(), "event": event, "message": record.getMessage()}
        more = {} if event is not Event.NOTE else {"logger": record.name}
        return _escaped(json.dumps({**head, **more, **facts}, ensure_ascii=False))


def _escaped(text: str) -> str:
    """Escape what is not printable, as JSON does: a terminal shall obey nothing that a stranger has written."""
    if text.isprintable():  # Nearly every line is.
        return text
    return "".join(letter if letter.isprintable() else json.dumps(letter)[1:-1] for letter in text)


FORMATS: dict[str, type[_Formatter]] = {"text": Text, "json": Lines}
"""The words of ``agent.log_format``."""


def log_to_stderr(log_format: str, *, verbosity: int = 0) -> None:
    """Write the log of this package to standard error from now on, in the place of whatever wrote it before.

    Args:
        log_format: ``text`` or ``json``, as ``agent.log_format`` has it.
        verbosity: how often ``-v`` was given; two tell what only helps to find a defect.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(FORMATS[log_format](to_systemd=_is_journal(sys.stderr)))
    logger = logging.getLogger("varmenne")
    logger.handlers = [handler]
    logger.setLevel(logging.DEBUG if verbosity >= 2 else logging.INFO)
    logger.propagate = False


def _is_journal(stream: TextIO) -> bool:
    """Tell whether a stream goes to systemd's journal, by the device and inode that JOURNAL_STREAM names."""
    with contextlib.suppress(OSError, ValueError):
        found = os.fstat(stream.fileno())
        return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"
    return False


def _time(record: logging.LogRecord) -> str:
    """Return the record's time in UTC, to the millisecond."""
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
