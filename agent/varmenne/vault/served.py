"""What consumers tell of the certificate that they serve: one small record each, at ``served/NAME`` beside ``current``.

Telling is optional. It lets an agent wait with taking an old certificate and its key away until nobody serves it any
more. A consumer may write its own record only, and whoever can may lie in it: nothing is trusted because of it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from varmenne.domain.forms import colon_hex, iso

if TYPE_CHECKING:
    from collections.abc import Mapping

AGAIN = timedelta(days=1)
"""A consumer that still serves the same certificate says so again after that time, so that one that is gone shows."""

_SERIAL = re.compile(r"[0-9A-Fa-f]{2}(:?[0-9A-Fa-f]{2})*")


@dataclass(frozen=True, slots=True)
class Served:
    """What a consumer says.

    Attributes:
        consumer: its name.
        serial_number: of the certificate that it serves, as in records; ``None`` if what it wrote cannot be read, so
            that it may be any.
        at: when it said so last; ``None`` likewise.
        host: where it runs; empty if it does not tell.
        generation: of the certificate; ``None`` if it does not tell.
    """

    consumer: str
    serial_number: str | None
    at: datetime | None
    host: str = ""
    generation: int | None = None

    def needs_telling(self, record: Mapping[str, Any], host: str, now: datetime) -> bool:
        """Tell whether a consumer that has said this, and serves ``record`` now, has something new to say."""
        same = (self.serial_number, self.host) == (record["serial_number"], host)
        return not same or self.at is None or now - self.at >= AGAIN


def acknowledgement(consumer: str, record: Mapping[str, Any], host: str, now: datetime) -> dict[str, object]:
    """Return the record by which a consumer says that it serves the certificate of ``record``."""
    taken = {name: record[name] for name in ("serial_number", "fingerprint_sha256", "generation")}
    return {"consumer": consumer, **taken, "host": host, "at": iso(now)}


def read_acknowledgement(consumer: str, data: Mapping[str, Any]) -> Served:
    """Read what stands at a consumer's path; it may have been written by hand, with a number as text."""
    serial, generation = str(data.get("serial_number", "")), str(data.get("generation", ""))
    if not _SERIAL.fullmatch(serial):
        return Served(consumer, None, None)
    return Served(
        consumer,
        colon_hex(int(serial.replace(":", ""), 16)),
        _moment(data.get("at")),
        str(data.get("host", "")),
        int(generation) if generation.isdecimal() else None,
    )


@cache
def served_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of an acknowledgement, shipped as ``served.schema.json``."""
    text = resources.files("varmenne.vault").joinpath("served.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def _moment(value: object) -> datetime | None:
    """Read a moment; one without a time zone is taken as UTC."""
    try:
        found = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
