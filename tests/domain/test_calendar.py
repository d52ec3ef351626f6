"""When what is due, by the calendar alone."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from varmenne.domain import calendar
from varmenne.domain.enrollment import Enrollment
from varmenne.domain.identifiers import Channel, CustomerId, EnrollmentId, Environment
from varmenne.domain.keys import KeyId
from varmenne.domain.steps import Method, State
from varmenne.errors import ConfigError

END = datetime(2028, 11, 24, 12, tzinfo=UTC)
HELSINKI = ZoneInfo("Europe/Helsinki")
ROW = Enrollment(
    id=EnrollmentId("20261124-7f3a9c21"),
    environment=Environment.TEST,
    channel=Channel.WS,
    customer_id=CustomerId("0123456-7"),
    customer_name=None,
    method=Method.API,
    state=State.ACTIVE,
    version=1,
    created_at=END - timedelta(days=730),
    updated_at=END - timedelta(days=730),
    key_id=KeyId(bytes(16)),
    key_label="varmenne-20261124-7f3a9c21",
    not_after=END,
)


@given(st.integers(0, 2**32 - 1), st.floats(0, 30))
def test_renewal_opens_within_the_first_days(number: int, days: float) -> None:
    """Never before the service accepts it, never later than the spread allows, always the same for one certificate."""
    row = replace(ROW, id=EnrollmentId(f"20261124-{number:08x}"))
    opens = calendar.renewal_opens(row, timedelta(days=days))
    assert opens is not None
    assert END - timedelta(days=60) <= opens <= END - timedelta(days=60) + timedelta(days=days)
    assert opens == calendar.renewal_opens(row, timedelta(days=days))


def test_a_fleet_spreads_out() -> None:
    """A thousand certificates that end at one moment are renewed over all of the days, about evenly."""
    rows = [replace(ROW, id=EnrollmentId(f"20261124-{number:08x}")) for number in range(1000)]
    opens = [calendar.renewal_opens(row, timedelta(days=5)) for row in rows]
    days = [(moment - (END - timedelta(days=60))).days for moment in opens if moment is not None]
    assert all(150 < days.count(day) < 250 for day in range(5))


def test_people_order_in_time() -> None:
    """The day to order comes a lead before the end; a renewal that keeps failing brings it forward, never back."""
    lead = timedelta(days=21)
    assert calendar.order_by(ROW, None, lead) == END - lead
    begun = replace(ROW, method=Method.RENEWAL, state=State.KEYED, created_at=END - timedelta(days=58))
    assert calendar.order_by(ROW, begun, lead) == END - lead
    failing = replace(begun, problem={"what": "refused"})
    assert calendar.order_by(ROW, failing, lead) == END - timedelta(days=44)
    late = replace(failing, created_at=END - timedelta(days=22))
    assert calendar.order_by(ROW, late, lead) == END - lead
    assert calendar.order_by(replace(ROW, not_after=None), None, lead) is None


def test_an_sftp_certificate_needs_a_day() -> None:
    """The Web Service takes a certificate at once, SFTP within 24 hours."""
    assert calendar.usable_from(Channel.WS, END) is None
    assert calendar.usable_from(Channel.SFTP, END) == END + timedelta(hours=24)


def test_waits_grow_and_are_bounded() -> None:
    """The tenth try waits hours, the hundredth no longer, and two rows do not wait the same."""
    waits = [calendar.back_off(tries, "a") for tries in range(100)]
    assert timedelta(minutes=4) <= waits[0] <= timedelta(minutes=6)
    assert all(earlier < later for earlier, later in itertools.pairwise(waits[:7]))
    assert timedelta(hours=4.8) <= min(waits[8:]) <= max(waits) <= timedelta(hours=7.2)
    assert calendar.back_off(3, "a") != calendar.back_off(3, "b")


@pytest.mark.parametrize(
    ("texts", "now", "opens"),
    [
        ([], "2026-11-28 03:00", "2026-11-28 03:00"),
        (["Mon-Fri 08:00-15:00"], "2026-11-24 09:30", "2026-11-24 09:30"),  # A Tuesday, within.
        (["Mon-Fri 08:00-15:00"], "2026-11-24 07:00", "2026-11-24 08:00"),
        (["Mon-Fri 08:00-15:00"], "2026-11-24 15:00", "2026-11-25 08:00"),  # The end is not within.
        (["Mon-Fri 08:00-15:00"], "2026-11-27 16:00", "2026-11-30 08:00"),  # Over the weekend.
        (["Sat-Mon 01:00-02:00"], "2026-11-24 12:00", "2026-11-28 01:00"),  # Days may go over the week's end.
        (["Tue 10:00-11:00"], "2026-11-24 12:00", "2026-12-01 10:00"),  # The same day a week later.
        (["Sun 02:00-04:00", "22:00-23:30"], "2026-11-24 12:00", "2026-11-24 22:00"),  # The first of several.
        (["MON 08:00-09:00"], "2027-03-28 12:00", "2027-03-29 08:00"),  # The clocks have gone forward.
    ],
)
def test_windows(texts: list[str], now: str, opens: str) -> None:
    """The next opening, in local time."""
    moment = datetime.fromisoformat(now).replace(tzinfo=HELSINKI)
    found = calendar.next_opening(calendar.windows(texts), HELSINKI, moment.astimezone(UTC))
    assert found == datetime.fromisoformat(opens).replace(tzinfo=HELSINKI)
    assert found.tzinfo is UTC


@pytest.mark.parametrize(
    "text", ["", "Mon", "8:00-15:00", "Mon-Fri", "Foo 08:00-15:00", "25:00-26:00", "15:00-08:00", "08:00-08:00"]
)
def test_what_is_no_window(text: str) -> None:
    """It is refused by name."""
    with pytest.raises(ConfigError, match="activation window"):
        calendar.windows([text])
