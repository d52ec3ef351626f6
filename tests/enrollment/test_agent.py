"""The agent: what is due is done, by itself, once, and in time; what needs a person is left to one."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest

from harness.approvals import OTHERS, approve
from harness.stage import CUSTOMER, NAME, Listener, Stage, order_for
from harness.years import DAY, IN_THE_WINDOW, Years
from varmenne.clock import system_clock
from varmenne.domain.enrollment import Enrollment
from varmenne.domain.identifiers import Channel, CustomerId, Environment
from varmenne.domain.keys import new_key_id
from varmenne.domain.steps import Method, State
from varmenne.enrollment.engine import Engine
from varmenne.enrollment.enroll import enroll
from varmenne.enrollment.facts import sha256
from varmenne.enrollment.preflight import probe
from varmenne.enrollment.work import Work
from varmenne.errors import ConfigError, InputError, NotFinished, StateError, VarmenneError
from varmenne.journal import NewEnrollment
from varmenne.service.interface import Operation

MINUTE = timedelta(minutes=1)


@pytest.fixture
def years(stage: Stage) -> Years:
    """Return a stage whose time can be moved on."""
    return Years(stage)


def test_nothing_is_due(years: Years) -> None:
    """An agent that finds nothing to do does nothing, and ends."""
    years.first()
    before = years.stage.world()
    agent = years.once()
    assert (agent.tally.carried, agent.tally.errors) == (0, [])
    assert years.stage.world() == before


def test_an_unfinished_enrollment_is_finished(years: Years) -> None:
    """What a command has left to wait, the agent finishes."""
    order = years.stage.order(CUSTOMER, name=NAME)
    with years.parts() as parts, pytest.raises(NotFinished):
        enroll(parts, Listener(), order_for(CUSTOMER, name=NAME), years.stage.credentials(order), wait=timedelta())
    agent = years.once()
    (row,) = years.rows()
    assert row.state is State.ACTIVE
    assert agent.tally.errors == []


def test_a_week_later_the_renewal_is_rehearsed(years: Years) -> None:
    """Every certificate in use is looked at about once a week, and nothing is sent."""
    first = years.first()
    asked = len(years.operations())
    years.pass_by(8 * DAY)
    years.once()
    row = years.get(first)
    assert row.rehearsal is not None
    assert row.rehearsal["ok"] is True
    assert row.due_at is not None
    assert 6 * DAY < row.due_at - row.updated_at < 8 * DAY
    assert len(years.operations()) == asked


def test_it_renews_by_itself(years: Years) -> None:
    """In the window the renewal is begun at a moment of its own, done, and put to use; later the old key is retired."""
    first = years.first()
    years.pass_by(timedelta(days=730 - 61))
    years.once()
    assert len(years.rows()) == 1  # Not yet: the window opens sixty days before the end.
    years.pass_by(7 * DAY)
    years.once()
    old, new = years.rows()
    assert (new.method, new.state, new.generation, new.replaces) == (Method.RENEWAL, State.ACTIVE, 2, first.id)
    assert old.state is State.SUPERSEDED
    assert years.operations().count("renewCertificate") == 1
    years.pass_by(8 * DAY)
    years.once()
    old, new = years.rows()
    assert (old.state, new.state) == (State.RETIRED, State.ACTIVE)
    assert years.stage.keys_of(old) == 1  # It is kept: no setting says otherwise.
    assert years.operations().count("renewCertificate") == 1


def test_a_retired_key_is_destroyed_where_the_settings_say_so(years: Years) -> None:
    """After its grace and the delay that was set, and not before."""
    first = years.first()
    years.pass_by(IN_THE_WINDOW)
    years.stage.configure(renewal={"destroy_after_days": 30.0})
    with years.parts() as parts:
        approve(parts, people=OTHERS)
    years.once()
    years.pass_by(8 * DAY)
    years.once()
    assert (years.get(first).state, years.stage.keys_of(first)) == (State.RETIRED, 1)
    years.pass_by(29 * DAY)
    years.once()
    assert years.get(first).state is State.RETIRED
    years.pass_by(2 * DAY)
    years.once()
    assert (years.get(first).state, years.stage.keys_of(first)) == (State.DESTROYED, 0)


def test_renewal_by_hand_only(years: Years) -> None:
    """Where the settings leave renewal to people, the agent rehearses and does not renew."""
    first = years.first()
    years.pass_by(IN_THE_WINDOW)
    years.once(renewal={"automatic": False})
    row = years.get(first)
    assert row.rehearsal is not None
    assert len(years.rows()) == 1


def test_lost_answers_are_spaced(years: Years) -> None:
    """Of a far end that loses every answer, no more is asked than the settings allow a day."""
    years.first()
    years.pass_by(IN_THE_WINDOW)
    years.stage.bench.state.fault("drop-after-receipt", count=None, operation=Operation.RENEW)
    for _ in range(24):
        years.once()
        years.pass_by(timedelta(hours=1))
    assert 3 <= years.operations().count("renewCertificate") <= 4
    assert years.rows()[0].state is State.ACTIVE


def test_a_key_that_the_far_end_has_seen_is_replaced(years: Years) -> None:
    """A renewal whose answer was lost may be refused for ever; then another key is tried, a day later."""
    first = years.first()
    years.pass_by(IN_THE_WINDOW)
    years.stage.bench.state.fault("drop-after-receipt", operation=Operation.RENEW)
    for _ in range(6):
        years.once()
        years.pass_by(timedelta(hours=12))
    years.once()
    old, refused, new = years.rows()
    assert (old.id, old.state) == (first.id, State.SUPERSEDED)
    assert (refused.state, new.state) == (State.REJECTED, State.ACTIVE)
    assert new.generation == 2


def test_a_row_that_fails_does_not_keep_others(years: Years) -> None:
    """Each row is on its own; the failure is in its row, and it is looked at again."""
    order = years.stage.order(CUSTOMER, name=NAME)
    years.stage.bench.state.fault("another-key", count=None, operation=Operation.GET)
    with years.parts() as parts, pytest.raises(NotFinished):
        enroll(parts, Listener(), order_for(CUSTOMER, name=NAME), years.stage.credentials(order), wait=timedelta())
    agent = years.once()
    (row,) = years.rows()
    assert (row.state, row.owner) == (State.ACCEPTED, None)
    assert row.problem is not None
    assert [error.exit_code for error in agent.tally.errors] == [10]
    assert row.due_at is not None
    years.stage.bench.state.clear_faults()
    years.pass_by(timedelta(hours=7))
    years.once()
    assert years.rows()[0].state is State.ACTIVE


def test_what_needs_a_person_is_left_alone(years: Years) -> None:
    """An enrollment without its credentials, and one that is uncertain, are not touched at the service."""
    order = years.stage.order(CUSTOMER, name=NAME)
    years.stage.bench.state.fault("drop-after-receipt", operation=Operation.SIGN_NEW)
    with years.parts() as parts, pytest.raises(Exception, match="uncertain"):
        enroll(parts, Listener(), order_for(CUSTOMER, name=NAME), years.stage.credentials(order), wait=timedelta())
    for _ in range(5):
        years.pass_by(timedelta(hours=12))
        years.once()
    (row,) = years.rows()
    assert row.state is State.UNCERTAIN
    assert years.stage.sent() == 1


def test_an_expired_certificate_is_told_every_day(years: Years) -> None:
    """It stays what it is, with a problem that names the way on."""
    first = years.first()
    years.pass_by(timedelta(days=731))
    agent = years.once()
    row = years.get(first)
    assert (row.state, len(years.rows())) == (State.ACTIVE, 1)
    assert row.problem is not None
    assert f"--replaces {first.id}" in row.problem["next_step"]
    assert row.due_at is not None
    assert row.due_at - row.updated_at < 2 * DAY
    assert len(agent.tally.errors) == 1


def test_a_renewal_ends_with_the_certificate(years: Years) -> None:
    """A renewal that was never accepted ends when the key that signs it has no valid certificate any more."""
    years.first()
    years.pass_by(IN_THE_WINDOW)
    years.stage.bench.state.fault("http-503", count=None)
    years.once()
    years.pass_by(timedelta(days=51))
    years.once()
    old, renewal = years.rows()
    assert (old.state, renewal.state) == (State.ACTIVE, State.EXPIRED)


def test_a_certificate_that_is_due_when_it_comes_is_renewed_at_once(years: Years) -> None:
    """One that ends within sixty days when it is put to use does not wait a week for its first look."""
    years.stage.aged(years.stage.order(CUSTOMER), timedelta(days=700))
    agent = years.once()
    assert [row.state for row in years.rows()] == [State.SUPERSEDED, State.ACTIVE]
    assert agent.tally.errors == []


def test_people_are_called_while_there_is_time(years: Years) -> None:
    """A renewal that has failed for two weeks is told, with the order to place, six weeks before the end."""
    first = years.first()
    years.pass_by(timedelta(days=730 - 54))
    years.stage.bench.state.fault("http-503", count=None)
    told: list[int] = []
    for day in range(20):
        agent = years.once()
        told += [day for error in agent.tally.errors if f"--replaces {first.id}" in error.next_step]
        years.pass_by(DAY)
    assert told
    assert 13 <= min(told) <= 16
    row = years.get(first)
    assert row.problem is not None
    assert "Order a new one" in row.problem["next_step"]


def test_two_agents_share_the_work(years: Years) -> None:
    """Whoever comes first claims a row; each is renewed once."""
    years.stage.configure(
        service={"read_timeout_seconds": 30.0}
    )  # Four workers at once, on a machine that may be busy.
    rows = [_enrolled(years, f"000000{number}-1") for number in range(6)]
    years.pass_by(IN_THE_WINDOW)
    with years.parts() as parts:
        probe(parts)  # SoftHSM may fail under two that make and destroy throw-away keys at once; that is tried again.
    with years.agent() as one, years.agent() as two:
        threads = [threading.Thread(target=agent.once, args=(timedelta(seconds=10),)) for agent in (one, two)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert one.tally.carried
        assert two.tally.carried
        assert one.tally.errors == two.tally.errors == []
    assert years.operations().count("renewCertificate") == len(rows)
    states = [row.state for row in years.rows()]
    assert (states.count(State.ACTIVE), states.count(State.SUPERSEDED)) == (6, 6)


def _enrolled(years: Years, customer: str) -> Enrollment:
    """Enroll a customer."""
    order = years.stage.order(customer)
    with years.parts() as parts:
        return enroll(parts, Listener(), order_for(customer), years.stage.credentials(order), wait=MINUTE)


def test_settings_are_read_anew(years: Years) -> None:
    """Other settings hold from the next piece of work on; another journal takes a restart."""
    first = years.first()
    years.pass_by(IN_THE_WINDOW)
    with years.agent(renewal={"automatic": False}) as agent:
        agent.once()
        assert len(years.rows()) == 1
        years.stage.configure(renewal={"automatic": True}, agent={"workers": 1})
        agent.reload(years.stage.settings)
        years.pass_by(8 * DAY)
        agent.once(timedelta(seconds=10))
        assert years.get(first).state is State.SUPERSEDED
        years.stage.configure(state_dir=str(years.stage.folder / "elsewhere"))
        with pytest.raises(StateError, match="another journal"):
            agent.reload(years.stage.settings)


@pytest.mark.parametrize(
    "renewal", [{"activation_windows": ["Monday"]}, {"activation_windows": ["08:00-09:00"], "time_zone": "Nowhere"}]
)
def test_settings_that_cannot_be_used_are_refused_at_once(years: Years, renewal: dict[str, object]) -> None:
    """Not in two years, when the first renewed certificate is to be put to use."""
    with pytest.raises(ConfigError), years.agent(renewal=renewal):
        pass


def test_it_stops_between_two_steps(years: Years) -> None:
    """What is under way is parked after the present act, and the next start goes on from there."""
    years.first()
    years.pass_by(IN_THE_WINDOW)
    with years.agent() as agent:
        thread = threading.Thread(target=agent.run, args=(lambda: 10.0,))
        thread.start()
        _until(lambda: len(years.rows()) > 1)
        agent.stop()
        thread.join(30)
        assert not thread.is_alive()
    row = years.rows()[1]
    assert row.owner is None
    years.once()
    assert years.rows()[1].state is State.ACTIVE
    assert years.operations().count("renewCertificate") == 1


def _until(condition: object, seconds: float = 20) -> None:
    """Wait until something is so."""
    import time

    deadline = system_clock() + timedelta(seconds=seconds)
    while not condition():  # type: ignore[operator]  # it is a function
        assert system_clock() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("begun", [State.PREPARED, State.KEYED])
def test_credentials_that_nobody_brings_come_to_their_end(years: Years, begun: State) -> None:
    """After the 14 days an enrollment that never sent any is over, whoever looks; until then it waits in peace."""
    if begun is State.PREPARED:
        years.stage.configure(token={"pin": f"file:{years.stage.folder}/lost"})
    with years.parts() as parts:
        new = NewEnrollment(
            environment=Environment.TEST,
            channel=Channel.WS,
            customer_id=CustomerId(CUSTOMER),
            customer_name=None,
            method=Method.API,
            key_id=new_key_id(),
            transfer_hash=sha256(b"12345678903"),
            valid_until=parts.now + 14 * DAY,
        )
        row = parts.journal.add(new, parts.now, lease=MINUTE)
        with pytest.raises(VarmenneError):
            Engine(Work(parts), Listener()).walk(row, until=parts.now)
    years.stage.configure()
    (left,) = years.rows()
    assert (left.state, left.due_at) == (begun, row.valid_until)
    years.pass_by(13 * DAY)
    assert years.once().tally.carried == 0
    years.pass_by(2 * DAY)
    keys = years.stage.keys()
    agent = years.once()
    (ended,) = years.rows()
    assert (ended.state, ended.due_at, ended.owner) == (State.EXPIRED, None, None)
    assert ended.problem is not None
    assert "Order a new certificate" in ended.problem["next_step"]
    assert [type(error) for error in agent.tally.errors] == [InputError]
    assert (years.stage.keys(), years.stage.sent()) == (keys, 0)
