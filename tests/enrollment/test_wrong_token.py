"""A key that is in another token is neither renewed nor destroyed here, and nothing is written as if it were."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness.approvals import approve
from harness.postgresql import PostgreSQL
from harness.softhsm import softhsm_module
from harness.stage import CUSTOMER, NAME, Listener, Stage, order_for
from harness.years import DAY, IN_THE_WINDOW, WAIT, Years
from varmenne.domain.steps import State
from varmenne.enrollment.enroll import enroll, go_on
from varmenne.enrollment.renew import renew, retire
from varmenne.errors import StateError, VarmenneError
from varmenne.token import create_softhsm_token


@pytest.fixture
def years(stage: Stage) -> Years:
    """Return a stage whose time can be moved on."""
    return Years(stage)


@pytest.fixture
def other(tmp_path: Path) -> dict[str, Any]:
    """Return the settings of another token, such as another host has."""
    made = create_softhsm_token(tmp_path / "other", label="another host", module=softhsm_module())
    return {"token": msgspec.to_builtins(made.settings), "state_dir": str(tmp_path / "other-state")}


def test_a_key_in_another_token_is_not_called_destroyed(years: Years, other: dict[str, Any]) -> None:
    """It lives on where it is, and the journal says so; where its token is, it is destroyed."""
    first = years.first()
    years.pass_by(IN_THE_WINDOW)
    years.renewed(first)
    with years.parts() as parts:
        retired = retire(parts, Listener(), parts.journal.get(first.id))
    years.stage.configure(token=other["token"])
    with years.parts() as parts, pytest.raises(StateError, match="is in another token") as caught:
        retire(parts, Listener(), retired, destroy=True)
    assert "another host" in caught.value.why
    assert years.get(first).state is State.RETIRED
    years.stage.configure()
    assert years.stage.keys_of(first) == 1
    with years.parts() as parts:
        approve(parts, first)
        assert retire(parts, Listener(), parts.journal.get(first.id), destroy=True).state is State.DESTROYED
    assert years.stage.keys_of(first) == 0


def test_a_key_that_was_gone_already_is_told(years: Years) -> None:
    """Somebody has destroyed it by other means: the history does not say that it was varmenne."""
    first = years.first()
    years.pass_by(IN_THE_WINDOW)
    years.renewed(first)
    assert first.public_key is not None
    with years.stage.token_client() as token:
        token.destroy(first.key_id, first.public_key)
    listener = Listener()
    with years.parts() as parts:
        approve(parts, first)
        assert retire(parts, listener, parts.journal.get(first.id), destroy=True).state is State.DESTROYED
        assert parts.journal.history(first.id)[-1].detail["was_there"] is False
    assert "nothing of the key" in listener.told("done")[-1]


def test_no_renewal_is_begun_for_a_key_elsewhere(years: Years, postgresql: PostgreSQL, other: dict[str, Any]) -> None:
    """A person on the wrong host changes nothing, so that the right one renews."""
    journal = {"url": postgresql.new_database()}
    years.stage.configure(journal=journal)
    first = years.first()
    years.pass_by(IN_THE_WINDOW)
    before = years.rows()
    years.stage.configure(journal=journal, **other)
    with years.parts() as parts, pytest.raises(StateError, match="is in another token"):
        renew(parts, Listener(), first, wait=WAIT)
    years.stage.configure(journal=journal)
    assert years.rows() == before
    assert years.renewed(first).state is State.ACTIVE


def test_an_enrollment_without_a_key_waits_for_the_host_that_began_it(
    years: Years, postgresql: PostgreSQL, other: dict[str, Any]
) -> None:
    """Its key is to be made in the token that was proven when it began, not in that of whichever agent is first."""
    journal = {"url": postgresql.new_database()}
    years.stage.configure(journal=journal)
    credentials = years.stage.credentials(years.stage.order(CUSTOMER, name=NAME))
    with pytest.MonkeyPatch.context() as patch, years.parts() as parts:
        patch.setattr(type(parts.token), "generate", _fails)
        with pytest.raises(VarmenneError, match="the token is away"):
            enroll(parts, Listener(), order_for(CUSTOMER, name=NAME), credentials, wait=WAIT)
        (row,) = parts.journal.list()
        parts.journal.release(row, parts.now, due_at=parts.now)
    years.pass_by(DAY)
    years.stage.configure(journal=journal, **other)
    assert years.once(timedelta(), journal=journal, **other).tally.carried == 0
    years.stage.configure(journal=journal)
    (row,) = years.rows()
    assert (row.state, row.public_key) == (State.PREPARED, None)
    with years.parts() as parts:
        assert go_on(parts, Listener(), row, credentials=credentials, wait=WAIT).state is State.ACTIVE


def _fails(*_arguments: object) -> None:
    """Fail as a token does that was pulled out between two calls."""
    raise VarmenneError("the token is away")
