"""The clock: verification rests on it, so `doctor` compares it with the service's."""

from __future__ import annotations

from datetime import timedelta

import pytest

from harness.stage import Stage
from varmenne.clock import system_clock
from varmenne.enrollment.doctor import check_up


@pytest.mark.parametrize(("minutes", "verdict"), [(0, "ok"), (-10, "warn"), (10, "warn")])
def test_clock_is_compared_with_the_service(shared_stage: Stage, minutes: int, verdict: str) -> None:
    """A few minutes either way are a warning that says how far it is off; nothing is changed by looking."""
    before = shared_stage.world()
    with shared_stage.parts(clock=lambda: system_clock() + timedelta(minutes=minutes)) as parts:
        (found,) = [check for check in check_up(parts) if check.name == "clock"]
    assert found.verdict == verdict
    assert ("away from the service" in found.detail) == (verdict == "warn")
    assert shared_stage.world() == before
