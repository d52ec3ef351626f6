"""Renewal at its edges: orders to go back that fail, other installations, short lives, a far end that never answers."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from harness.approvals import OTHERS, approve
from harness.softhsm import softhsm_module
from harness.stage import CUSTOMER, NAME, Listener, Stage, order_for
from harness.years import DAY, IN_THE_WINDOW, WAIT, Years
from varmenne.clock import system_clock
from varmenne.domain.steps import State
from varmenne.enrollment.enroll import enroll
from varmenne.enrollment.renew import activate
from varmenne.errors import HookFailed
from varmenne.service.interface import Operation
from varmenne.token import create_softhsm_token


@pytest.fixture
def years(stage: Stage) -> Years:
    """Return a stage whose time can be moved on."""
    return Years(stage)


def failing_hook(years: Years) -> Path:
    """Set up a hook that forbids every activation, and return it."""
    folder = years.stage.folder / "hooks"
    (folder / "pre-activate").mkdir(parents=True)
    hook = folder / "pre-activate" / "no"
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    years.stage.configure(hooks={"directory": str(folder)})
    return hook


def test_an_order_to_go_back_that_fails_has_lapsed(years: Years) -> None:
    """It is not carried out some other day, when the earlier certificate may be over."""
    first = years.first()
    years.pass_by(IN_THE_WINDOW)
    second = years.renewed(first)
    hook = failing_hook(years)
    with years.parts() as parts, pytest.raises(HookFailed):
        activate(parts, Listener(), second, generation=1)
    assert (years.get(first).state, years.get(second).state) == (State.SUPERSEDED, State.ACTIVE)
    hook.unlink()
    years.once()
    assert (years.get(first).state, years.get(second).state) == (State.SUPERSEDED, State.ACTIVE)


def test_an_expired_certificate_takes_no_place(years: Years) -> None:
    """One that was put back, and could not be published before its end, stays superseded."""
    first = years.first()
    years.pass_by(IN_THE_WINDOW)
    second = years.renewed(first)
    with years.parts() as parts:  # As if the process had died after the order, before anything was published.
        parts.journal.commit(years.get(first), parts.now, State.STORED, step="put back", changes={"due_at": parts.now})
    years.pass_by(51 * DAY)
    years.once()
    assert (years.get(first).state, years.get(second).state) == (State.SUPERSEDED, State.ACTIVE)
    assert years.record()["serial_number"] == second.serial_number


def test_going_back_is_not_undone_by_a_renewal(years: Years) -> None:
    """While the later generation can be put to use, a person's decision stands."""
    first = years.first()
    years.pass_by(IN_THE_WINDOW)
    second = years.renewed(first)
    with years.parts() as parts:
        activate(parts, Listener(), second, generation=1)
    for _ in range(3):
        years.once()
        years.pass_by(DAY)
    assert len(years.rows()) == 2
    assert years.get(first).state is State.ACTIVE
    with years.parts() as parts:
        assert activate(parts, Listener(), years.get(second)).state is State.ACTIVE


def test_forward_again_while_a_renewal_is_open(years: Years) -> None:
    """The open renewal of the earlier generation ends, and the later one takes its place again."""
    first = years.first()
    years.pass_by(IN_THE_WINDOW)
    second = years.renewed(first)
    with years.parts() as parts:
        back = activate(parts, Listener(), second, generation=1)
    years.stage.bench.state.fault("http-503", count=None, operation=Operation.GET)
    with years.parts() as parts:
        from varmenne.enrollment.upkeep import begin

        open_one = begin(parts, back)
        assert activate(parts, Listener(), years.get(second)).state is State.ACTIVE
        assert parts.journal.get(open_one.id).state is State.ABANDONED


def test_a_short_life_is_renewed_once(years: Years, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate of fifty days is renewed in the second half of them, not at once and not in a circle."""
    from varmenne.testbench import family

    monkeypatch.setattr(family, "years_later", lambda begin, _years: begin + timedelta(days=50))
    years.first()
    for _ in range(5):
        years.once()
        years.pass_by(DAY)
    assert len(years.rows()) == 1
    years.pass_by(27 * DAY)
    for _ in range(5):
        years.once()
        years.pass_by(DAY)
    assert [row.state for row in years.rows()] == [State.SUPERSEDED, State.ACTIVE]


def test_a_window_makes_no_gap(years: Years) -> None:
    """The certificate in use ends before the next window: then the new one does not wait for it."""
    first = years.first()
    years.pass_by(timedelta(days=728))
    day = (system_clock() + years.passed + 4 * DAY).strftime("%a")
    years.stage.configure(renewal={"activation_windows": [f"{day} 08:00-10:00"]})
    years.once()
    assert [row.state for row in years.rows()] == [State.ACTIVE, State.STORED]
    assert first.not_after is not None
    due = years.rows()[1].due_at
    assert due is not None
    assert due < first.not_after
    years.pass_by(first.not_after - timedelta(minutes=30) - (system_clock() + years.passed))
    years.once()
    assert [row.state for row in years.rows()] == [State.SUPERSEDED, State.ACTIVE]


def test_another_installation_is_not_pushed_aside(years: Years, tmp_path: Path) -> None:
    """What somebody else has put in our certificate's place on purpose is left there, and a person is told."""
    first = years.first()
    years.pass_by(timedelta(days=300))
    stage = years.stage
    other = create_softhsm_token(tmp_path / "other", label="another HSM", module=softhsm_module())
    stage.configure(token=msgspec.to_builtins(other.settings), state_dir=str(tmp_path / "state"))
    order = stage.order(CUSTOMER, name=NAME)
    with years.parts() as parts:
        wanted = order_for(CUSTOMER, name=NAME, replaces=first.id)
        theirs = enroll(parts, Listener(), wanted, stage.credentials(order), wait=WAIT)
    stage.configure()
    years.pass_by(timedelta(days=380))
    agent = years.once()
    assert any("another installation" in error.why for error in agent.tally.errors)
    assert years.record()["enrollment"] == theirs.id
    assert len(years.rows()) == 1


def test_what_never_comes_is_asked_for_seldom_and_told(years: Years) -> None:
    """A certificate that was promised and does not come: a few dozen questions in ten days, and an alarm after one."""
    years.first()
    years.pass_by(IN_THE_WINDOW)
    years.stage.bench.state.fault("never-ready", count=None, operation=Operation.GET)
    for _ in range(30):
        years.once()
        years.pass_by(timedelta(hours=8))
    _old, renewal = years.rows()
    assert renewal.state is State.ACCEPTED
    assert renewal.problem is not None
    assert "within a day" in renewal.problem["what"]
    assert years.operations().count("getCertificate") < 120


def test_tries_grow_while_nobody_listens(years: Years) -> None:
    """Each failure to connect makes the next wait longer."""
    years.first()
    years.pass_by(IN_THE_WINDOW)
    years.stage.configure(service={"endpoint": "https://127.0.0.1:9/"})
    for _ in range(32):
        years.once()
        years.pass_by(timedelta(minutes=15))
    _old, renewal = years.rows()
    assert (renewal.state, renewal.tries) in {(State.KEYED, number) for number in range(5, 9)}


def test_refused_again_and_again_is_tried_to_the_end_and_told(years: Years) -> None:
    """Every week another key, and an error each day once people should order."""
    first = years.first()
    years.pass_by(timedelta(days=730 - 55))
    assert first.certificate is not None
    from cryptography import x509

    serial = x509.load_pem_x509_certificate(first.certificate.encode()).serial_number
    years.stage.bench.state.revoke(serial)
    told: list[int] = []
    for day in range(0, 54, 2):
        agent = years.once()
        told += [day for error in agent.tally.errors if f"--replaces {first.id}" in error.next_step]
        years.pass_by(2 * DAY)
    refused = [row.created_at for row in years.rows()[1:]]
    assert 7 <= len(refused) <= 12
    assert max(refused) > first.created_at + timedelta(days=730 - 14)
    assert {*range(40, 54, 2)} <= set(told)


def test_a_clock_that_runs_ahead_destroys_nothing(years: Years) -> None:
    """Graces end early by such a clock, but a key is destroyed only if the service says that it is that late."""
    years.stage.configure(renewal={"destroy_after_days": 1.0})
    with years.parts() as parts:
        approve(parts, people=OTHERS)
    first = years.first()
    years.pass_by(IN_THE_WINDOW)
    years.once()
    years.passed += 40 * DAY  # Our clock alone.
    for _ in range(2):
        years.once()
        years.passed += 2 * DAY
    assert years.stage.keys_of(first) == 1
    assert years.get(first).state is State.RETIRED
    years.passed -= 44 * DAY
    years.pass_by(44 * DAY)
    years.once()
    assert (years.get(first).state, years.stage.keys_of(first)) == (State.DESTROYED, 0)


def test_a_clock_that_ran_ahead_for_a_moment_is_got_over(years: Years) -> None:
    """What was looked at while the clock was years ahead is looked at again, at the next start of the agent."""
    first = years.first()
    years.passed += 600 * DAY  # Our clock alone, and only for this look.
    years.once(service={"endpoint": "https://127.0.0.1:9/"})
    years.passed -= 600 * DAY
    years.stage.configure()
    years.pass_by(IN_THE_WINDOW - 300 * DAY)
    years.once()
    row = years.get(first)
    assert row.due_at is not None
    assert row.due_at < system_clock() + years.passed + 9 * DAY
