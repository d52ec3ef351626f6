"""A clock that was ahead for a moment ends credentials too early; nothing was sent, so they may begin anew."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from harness.stage import CUSTOMER, NAME, Listener, Stage, order_for
from harness.years import DAY, WAIT, Years
from varmenne.domain.steps import State
from varmenne.enrollment.enroll import enroll
from varmenne.errors import InputError, VarmenneError


def test_credentials_that_a_wrong_clock_ended_are_taken_again(stage: Stage) -> None:
    """The same command gets a certificate, once the clock is right; while it is wrong, nothing is sent."""
    years = Years(stage)
    order = order_for(CUSTOMER, name=NAME)
    credentials = stage.credentials(stage.order(CUSTOMER, name=NAME))
    credentials = replace(credentials, valid_until=years.agent().now + 13 * DAY)
    stage.configure(service={"endpoint": "https://127.0.0.1:9/"})
    with pytest.MonkeyPatch.context() as patch, years.parts() as parts:
        patch.setattr(type(parts.service.endpoint), "greet", lambda _endpoint: None)
        with pytest.raises(VarmenneError):
            enroll(parts, Listener(), order, credentials, wait=WAIT)
    stage.configure()
    assert [row.state for row in years.rows()] == [State.KEYED]
    years.passed += 14 * DAY
    years.once(timedelta())
    with years.parts() as parts, pytest.raises(InputError, match="have expired"):
        enroll(parts, Listener(), order, credentials, wait=WAIT)
    assert [row.state for row in years.rows()] == [State.EXPIRED]
    years.passed -= 14 * DAY
    with years.parts() as parts:
        assert enroll(parts, Listener(), order, credentials, wait=WAIT).state is State.ACTIVE
    assert [(row.state, row.transfer_hash is None) for row in years.rows()] == [
        (State.EXPIRED, True),
        (State.ACTIVE, False),
    ]
    assert stage.sent() == 1
