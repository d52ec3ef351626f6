"""The token fails in the middle of an enrollment: nothing is spent in vain, the row waits, and the work is finished."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from harness.shim import Shim
from harness.stage import Listener, Stage, Template, order_for
from varmenne.domain.steps import State
from varmenne.enrollment.enroll import enroll, go_on
from varmenne.enrollment.preflight import probe_name
from varmenne.errors import NotFinished, TokenUnavailable

WAIT = timedelta(seconds=20)

TROUBLES = {
    "session limit": ("fail {} b1", "CKR_SESSION_COUNT"),
    "login lost": ("fail {} 101", "CKR_USER_NOT_LOGGED_IN"),
    "removed": ("fail {} 32", "CKR_DEVICE_REMOVED"),
    "hangs": ("hang {}", "did not answer within"),
    "crashes": ("crash {}", "SIGABRT"),
}
"""What is ordered from the shim, and what a person reads of it."""

PLACES = {"C_GenerateKeyPair": State.PREPARED, "C_Sign": State.KEYED, "C_CreateObject": State.ISSUED}
"""Where the token is needed → the state that the enrollment is left in."""


@pytest.fixture
def shim(stage: Stage, shim_module: Path, token_template: Template) -> Shim:
    """The stage's token behind the shim; it has been probed there."""
    made = Shim(shim_module, stage.token, stage.folder)
    through(stage, made)
    at, fit, result = token_template.probe
    with stage.parts() as parts:
        parts.journal.save_probe(probe_name(parts, parts.token.identity()), at, fit=fit, result=result)
    return made


def through(stage: Stage, shim: Shim, **changes: float) -> None:
    """Let the stage's settings lead to the token through the shim."""
    stage.configure(token={"module": shim.settings.module, "environment": shim.settings.environment, **changes})


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("place", PLACES)
def test_in_the_middle(stage: Stage, shim: Shim, place: str, trouble: str) -> None:
    """The row says what the problem is and when it is due; once the token is well, going on finishes it."""
    control, words = TROUBLES[trouble]
    if trouble == "hangs":
        limit = "generate_timeout_seconds" if place == "C_GenerateKeyPair" else "call_timeout_seconds"
        through(stage, shim, **{limit: 1.5})
    order = stage.order()
    credentials = stage.credentials(order)
    shim.order(control.format(place))
    with stage.parts() as parts:
        with pytest.raises(TokenUnavailable, match=words) as caught:
            enroll(parts, Listener(), order_for(), credentials, wait=WAIT)
        (row,) = parts.journal.list()
    assert caught.value.next_step
    assert (row.state, row.owner) == (PLACES[place], None)
    assert row.due_at is not None
    assert row.problem is not None
    assert row.problem["kind"] == "TokenUnavailable"
    assert stage.sent() == (row.state is State.ISSUED)
    assert stage.versions() == {}
    shim.order()
    through(stage, shim)
    with stage.parts() as parts:
        done = go_on(parts, Listener(), row, credentials=credentials, wait=WAIT)
    assert (done.state, done.problem) == (State.ACTIVE, None)
    assert stage.keys_of(done) == stage.sent(order.transfer_id) == len(stage.versions()) == 1


def test_no_session_to_be_had(stage: Stage, shim: Shim) -> None:
    """A token whose sessions are all taken is told before anything is made or spent, and by the check-up."""
    order = stage.order()
    before = stage.world()
    shim.order("fail C_OpenSession b1")
    with stage.parts() as parts, pytest.raises(TokenUnavailable, match="CKR_SESSION_COUNT") as caught:
        enroll(parts, Listener(), order_for(), stage.credentials(order), wait=WAIT)
    assert "let it have more sessions" in caught.value.next_step
    assert "CKR_SESSION_COUNT" in stage.run("doctor").out
    assert stage.world() == before
    shim.order()
    with stage.parts() as parts:
        assert enroll(parts, Listener(), order_for(), stage.credentials(order), wait=WAIT).state is State.ACTIVE


@pytest.mark.parametrize("trouble", ["no sessions", "folder gone"])
def test_between_acceptance_and_storing(stage: Stage, shim: Shim, trouble: str) -> None:
    """A token that is gone when the certificate comes costs time, not the certificate."""
    order = stage.order()
    with stage.parts() as parts:
        with pytest.raises(NotFinished):
            enroll(parts, Listener(), order_for(), stage.credentials(order), wait=timedelta())
        (row,) = parts.journal.list()
    tokens, away = stage.token.directory / "tokens", stage.token.directory / "away"
    if trouble == "folder gone":
        tokens.rename(away)
    else:
        shim.order("fail C_OpenSession b1")
    with stage.parts() as parts:
        with pytest.raises(TokenUnavailable):
            go_on(parts, Listener(), row, wait=WAIT)
        row = parts.journal.get(row.id)
    assert (row.state, row.owner) == (State.ISSUED, None)
    assert row.certificate is not None
    assert stage.versions() == {}
    if trouble == "folder gone":
        away.rename(tokens)
    shim.order()
    assert stage.run("resume", "--all").code == 0
    (row,) = stage.rows()
    assert row.state is State.ACTIVE
    assert stage.sent(order.transfer_id) == len(stage.versions()) == 1
    with stage.parts() as parts:
        assert len(parts.token.certificates(row.key_id)) == 1


def test_a_folder_that_is_gone_is_told_before_anything_is_spent(stage: Stage) -> None:
    """A SoftHSM whose folder has vanished would answer that it is empty; it is not believed."""
    order = stage.order()
    tokens, away = stage.token.directory / "tokens", stage.token.directory / "away"
    tokens.rename(away)
    with stage.parts() as parts, pytest.raises(TokenUnavailable):
        enroll(parts, Listener(), order_for(), stage.credentials(order), wait=WAIT)
    assert (stage.rows(), stage.sent()) == ((), 0)
    away.rename(tokens)
    with stage.parts() as parts:
        assert enroll(parts, Listener(), order_for(), stage.credentials(order), wait=WAIT).state is State.ACTIVE
