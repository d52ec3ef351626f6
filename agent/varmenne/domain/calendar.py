"""When what is due: renewal, rehearsal, activation, retirement, and the day by which people must order anew. No I/O.

The service accepts a renewal from 60 days before the certificate's end (:data:`RENEWAL_WINDOW`), a mail with new
one-time credentials takes people days or weeks, and a new SFTP certificate works within 24 hours of its retrieval.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta, tzinfo
from zoneinfo import ZoneInfo

from varmenne.domain.enrollment import Enrollment
from varmenne.domain.identifiers import Channel
from varmenne.errors import ConfigError

RENEWAL_WINDOW = timedelta(days=60)
"""A certificate can be renewed at the earliest this long before its end."""

SFTP_DELAY = timedelta(hours=24)
"""A new certificate of the SFTP channel works within this time of its retrieval; its first user ID comes as soon."""

PATIENCE = timedelta(days=14)
"""A renewal that has failed for so long is not expected to succeed by itself any more."""

LAST_MOMENT = timedelta(hours=1)
"""So long before the end of the certificate in use the new one takes its place, window or not."""

LONGEST_PAUSE = timedelta(days=7)
"""The longest wait between a renewal that was refused and the next one with another key."""

FIRST_DELAY = timedelta(minutes=5)
LONGEST_DELAY = timedelta(hours=6)
"""The first and the longest wait before something that failed is tried again; each is twice the one before."""

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_WINDOW = re.compile(r"(?:([a-z]{3})(?:-([a-z]{3}))? )?(\d\d):(\d\d)-(\d\d):(\d\d)")


def fraction(text: str) -> float:
    """Return a number from 0 to 1 that is the same for the same text, and spread evenly over different ones."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64


def renewal_opens(row: Enrollment, spread: timedelta) -> datetime | None:
    """Return when a certificate is renewed: within ``spread`` after the service accepts it, at a moment of its own.

    One that is valid for less than four months is renewed in the second half of its life.
    """
    if row.not_after is None:
        return None
    window = RENEWAL_WINDOW if row.not_before is None else min(RENEWAL_WINDOW, (row.not_after - row.not_before) / 2)
    return row.not_after - window + min(spread, window / 4) * fraction(row.id)


def order_by(row: Enrollment, renewal: Enrollment | None, lead: timedelta) -> datetime | None:
    """Return the day by which people must order new credentials, should the renewal not succeed.

    Args:
        row: the certificate in use.
        renewal: its renewal that is under way or was refused, if there is one.
        lead: how long people need, from the order to the certificate.
    """
    if row.not_after is None:
        return None
    last = row.not_after - lead
    failing = renewal is not None and renewal.problem is not None
    return min(last, renewal.created_at + PATIENCE) if renewal is not None and failing else last


def usable_from(channel: Channel, retrieved: datetime) -> datetime | None:
    """Return from when on the far end takes a certificate that was retrieved at a moment; ``None``: at once."""
    return retrieved + SFTP_DELAY if channel is Channel.SFTP else None


def back_off(tries: int, seed: str) -> timedelta:
    """Return the wait before the next try: growing, bounded, and different for each, so that a fleet spreads out."""
    wait = min(FIRST_DELAY * 2.0 ** min(tries, 20), LONGEST_DELAY)
    return wait * (0.8 + 0.4 * fraction(f"{seed} {tries}"))


@dataclass(frozen=True, slots=True)
class Window:
    """A weekly time in which certificates may be put to use: weekdays (0 is Monday), from, until (same day)."""

    days: frozenset[int]
    begin: time
    end: time


def windows(texts: Sequence[str]) -> tuple[Window, ...]:
    """Read windows such as ``Mon-Fri 08:00-15:00``, ``Sun 02:00-04:00`` or ``22:00-23:30``.

    Raises:
        ConfigError: one of them has another form, or ends before it begins.
    """
    return tuple(map(_window, texts))


def _window(text: str) -> Window:
    """Read one window."""
    match = _WINDOW.fullmatch(text.strip().lower())
    if match is None:
        raise _unreadable(text, "it looks like `Mon-Fri 08:00-15:00`")
    first, last, *clock = match.groups()
    try:
        begin, end = time(int(clock[0]), int(clock[1])), time(int(clock[2]), int(clock[3]))
        start = 0 if first is None else DAYS.index(first)
        stop = 6 if first is None else DAYS.index(last or first)
    except ValueError:
        raise _unreadable(text, "there is no such day or time") from None
    if end <= begin:
        raise _unreadable(text, "it must end later than it begins, on the same day")
    return Window(frozenset((start + step) % 7 for step in range((stop - start) % 7 + 1)), begin, end)


def _unreadable(text: str, why: str) -> ConfigError:
    """Make the error for a window that is none."""
    return ConfigError(f"The activation window {text!r} cannot be read", why=why)


def zone(name: str) -> tzinfo:
    """Return a time zone.

    Raises:
        ConfigError: there is none of this name.
    """
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError) as exc:
        raise ConfigError(
            f"There is no time zone {name!r}",
            why=str(exc),
            next_step="Set `renewal.time_zone` to a name such as Europe/Helsinki, and see that tzdata is installed",
        ) from None


def next_opening(found: Sequence[Window], zone: tzinfo, now: datetime) -> datetime:
    """Return the next moment that is within a window: ``now`` itself if it is, or if there are no windows."""
    if not found:
        return now
    local = now.astimezone(zone)
    moments = []
    for ahead in range(8):
        day = local.date() + timedelta(days=ahead)
        for window in found:
            if day.weekday() in window.days and (ahead or local.time() < window.end):
                begin = datetime.combine(day, window.begin, zone)
                moments.append(max(begin, local))
    return min(moments).astimezone(now.tzinfo)
