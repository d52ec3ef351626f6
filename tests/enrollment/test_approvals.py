"""Destroying keys takes two: by order for one key, and by a standing policy that two have approved."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from harness.approvals import OTHERS, approve
from harness.postgresql import PostgreSQL
from harness.scraping import series, value
from harness.stage import Listener, Stage
from harness.years import DAY, IN_THE_WINDOW, Years
from varmenne.audit import verifier
from varmenne.domain import approvals as domain
from varmenne.domain.approvals import LIFETIME, Purpose, told_days
from varmenne.domain.audit import AuditRecord, canonical, fingerprint
from varmenne.domain.concerns import Reason
from varmenne.domain.enrollment import Enrollment
from varmenne.domain.steps import State
from varmenne.enrollment.evidence import approvals
from varmenne.enrollment.renew import activate, retire
from varmenne.enrollment.standing import standing
from varmenne.errors import PersonNeeded, StateError
from varmenne.journal.owner import this_host, this_person

ME = approvals._me()
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def written(by: str = "maija@office", at: datetime = NOW, **facts: Any) -> bytes:
    """A record of an approval."""
    actor, host = by.split("@")
    detail = {"by": by} | facts.pop("detail", {"purpose": Purpose.KEY.value})
    defaults = {"act": domain.ACT, "enrollment": "20261124-00000001", "public_key": "ab", "environment": "test"}
    return AuditRecord(at=at, actor=actor, host=host, detail=detail, **(defaults | facts)).encoded()


BOTH = (written(), written("veikko@office"))
GIVEN: dict[str, tuple[tuple[bytes, ...], set[str]]] = {
    "two persons": (BOTH, {"maija@office", "veikko@office"}),
    "one person, twice": ((written(), written(at=NOW + DAY)), {"maija@office"}),
    "one name on two hosts": ((written(), written("maija@annex")), {"maija@office", "maija@annex"}),
    "of another key": ((written(public_key="cd"), written("veikko@office")), {"veikko@office"}),
    "of another purpose": ((written(detail={"purpose": Purpose.POLICY.value}), BOTH[1]), {"veikko@office"}),
    "another act": ((written(act="acknowledge"), BOTH[1]), {"veikko@office"}),
    "too old": ((written(at=NOW - LIFETIME), BOTH[1]), {"veikko@office"}),
    "old, and given again": ((written(at=NOW - LIFETIME), *BOTH), {"maija@office", "veikko@office"}),
    "used": ((*BOTH, written(act="destroy", target="destroyed")), set()),
    "used, and one is new": ((*BOTH, written(act="destroy", target="destroyed"), BOTH[0]), {"maija@office"}),
}


@pytest.mark.parametrize(("records", "who"), GIVEN.values(), ids=GIVEN)
def test_which_approvals_of_a_key_count(records: tuple[bytes, ...], who: set[str]) -> None:
    """Those of this key and purpose, not too old, not used, and one for each name on each host."""
    assert {one.by for one in domain.of_key(records, "ab", NOW)} == who


@pytest.mark.parametrize(
    "facts",
    [{"environment": "production"}, {"days": 30.0}, {"days": 90.00001}, {"purpose": Purpose.KEY}, {"act": "probe"}],
)
def test_which_approvals_of_the_policy_count(facts: dict[str, Any]) -> None:
    """Those of the very number of days that is in force, in this environment; they have no end."""

    def policy(days: float = 90.0, purpose: Purpose = Purpose.POLICY, **other: Any) -> bytes:
        detail = {"purpose": purpose.value, "destroy_after_days": told_days(days)}
        return written(at=NOW - 1000 * DAY, enrollment=None, public_key=None, detail=detail, **other)

    assert [one.by for one in domain.of_policy([policy()], "test", 90.0)] == ["maija@office"]
    assert domain.of_policy([policy(**facts)], "test", 90.0) == ()
    assert domain.of_policy([policy()], "test", None) == ()


@pytest.fixture
def years(stage: Stage) -> Years:
    """Return a stage whose time can be moved on."""
    return Years(stage)


def replaced(years: Years) -> Enrollment:
    """Return a certificate that was replaced."""
    first = years.first()
    years.pass_by(IN_THE_WINDOW)
    years.renewed(first)
    return years.get(first)


def records(years: Years, act: str) -> list[dict[str, Any]]:
    """Return the records of one act."""
    with years.parts() as parts:
        found = [json.loads(body) for _index, body in parts.journal.log.records()]
    return [record for record in found if record["act"] == act]


def test_one_person_destroys_nothing(years: Years) -> None:
    """However often they order it; the key is retired, and who has approved is recorded, told and counted."""
    first = replaced(years)
    for _ in range(3):
        with years.parts() as parts, pytest.raises(PersonNeeded, match="another person must approve") as caught:
            retire(parts, Listener(), parts.journal.get(first.id), destroy=True)
        assert f"approved by {ME}, until " in caught.value.why
    assert (years.get(first).state, years.stage.keys_of(first)) == (State.RETIRED, 1)
    (record,) = records(years, "approve")
    assert (record["enrollment"], record["detail"]) == (first.id, {"purpose": "destroy", "by": ME})
    assert record["public_key"] == fingerprint(first.public_key or b"")
    assert (record["actor"], record["host"]) == (this_person(), this_host())
    with years.parts() as parts:
        (concern,) = (one for one in standing(parts).needs if one.reason is Reason.APPROVAL)
        assert concern.enrollment == first.id
        assert ME in concern.told
        assert parts.journal.get(first.id).problem is None


def test_two_persons_destroy_and_a_tombstone_stays(years: Years) -> None:
    """The record of the destruction names both, and the row stays with the certificate and the key's hash."""
    first = replaced(years)
    with years.parts() as parts:
        approve(parts, first)
        destroyed = retire(parts, Listener(), parts.journal.get(first.id), destroy=True)
        assert approvals.told(parts, destroyed) == [
            {"by": by, "at": None, "until": None} for by in ("maija@office", ME)
        ]
        assert [one.reason for one in standing(parts).needs] == []
    assert (destroyed.state, years.stage.keys_of(first)) == (State.DESTROYED, 0)
    assert (destroyed.public_key, destroyed.certificate) == (first.public_key, first.certificate)
    (record,) = records(years, "destroy")
    assert record["detail"]["approvals"] == ["maija@office", ME]
    assert (record["public_key"], record["target"]) == (fingerprint(first.public_key or b""), "destroyed")


def test_an_approval_lapses(years: Years) -> None:
    """After thirty days it counts no more, and has to be given again."""
    first = replaced(years)
    with years.parts() as parts:
        approve(parts, first)
    years.pass_by(LIFETIME + timedelta(minutes=1))
    with years.parts() as parts, pytest.raises(PersonNeeded):
        retire(parts, Listener(), parts.journal.get(first.id), destroy=True)
    assert years.stage.keys_of(first) == 1


def test_the_key_in_use_is_not_approved_of(years: Years) -> None:
    """Nor is one that was put back to use: the approvals of before destroy nothing then."""
    first = replaced(years)
    with years.parts() as parts:
        approve(parts, first, people=OTHERS)
        activate(parts, Listener(), parts.journal.get(first.id))
        with pytest.raises(StateError, match="cannot be destroyed"):
            retire(parts, Listener(), parts.journal.get(first.id), destroy=True)
    said = years.stage.run("audit", "approve", first.id)
    assert said.code == StateError.exit_code
    assert years.stage.keys_of(first) == 1


def test_a_policy_waits_for_two(years: Years) -> None:
    """With one approval, or none, or those of another value, retired keys stay; nothing is noted as a problem."""
    years.stage.configure(renewal={"destroy_after_days": 30.0})
    with years.parts() as parts:
        approve(parts, people=OTHERS)
    first = years.first()
    years.pass_by(IN_THE_WINDOW)
    years.once()
    years.stage.configure(renewal={"destroy_after_days": 20.0})  # Not what was approved.
    with years.parts() as parts:
        approve(parts)
    years.pass_by(8 * DAY)
    years.once()
    for _ in range(3):
        years.pass_by(21 * DAY)
        agent = years.once()
        assert agent.tally.errors == []
    row = years.get(first)
    assert (row.state, row.problem, years.stage.keys_of(first)) == (State.RETIRED, None, 1)
    assert row.due_at is not None
    assert records(years, "destroy") == []
    with years.parts() as parts:
        (concern,) = (one for one in standing(parts).needs if one.reason is Reason.APPROVAL)
        assert "after 20 days, which two must approve; only maija@office has" in concern.told
        approve(parts, people=OTHERS)
    years.pass_by(1.1 * DAY)
    years.once()
    assert (years.get(first).state, years.stage.keys_of(first)) == (State.DESTROYED, 0)
    (record,) = records(years, "destroy")
    assert record["detail"]["approvals"] == [*OTHERS]


def test_a_policy_that_was_taken_back_destroys_nothing(years: Years) -> None:
    """A key that was due by a setting that is not there any more is kept, and is not due again."""
    years.stage.configure(renewal={"destroy_after_days": 30.0})
    with years.parts() as parts:
        approve(parts, people=OTHERS)
    first = years.first()
    years.pass_by(IN_THE_WINDOW)
    years.once()
    years.pass_by(8 * DAY)
    years.once()
    years.pass_by(40 * DAY)
    years.once(renewal={})
    row = years.get(first)
    assert (row.state, row.due_at, years.stage.keys_of(first)) == (State.RETIRED, None, 1)


def test_by_command(stage: Stage) -> None:
    """One approves without the token, `status` and `show` tell it, and the other destroys."""
    row = stage.aged(stage.order(), IN_THE_WINDOW)
    assert stage.run("renew", row.id).code == 0
    stage.configure(token={"module": "/nonexistent.so"})
    said = stage.run("audit", "approve", row.id, "--json")
    stage.configure()
    assert (said.code, said.json["enrollment"], said.json["needed"], said.json["enough"]) == (0, row.id, 2, False)
    (given,) = said.json["approvals"]
    assert given["by"] == ME
    assert f"destroying approved by  {ME}, until {given['until']}" in stage.run("show", row.id).out
    status = stage.run("status", "--json")
    assert (status.code, status.json["needs"][0]["reason"]) == (PersonNeeded.exit_code, "approval")
    destroy = ("retire", row.id, "--destroy", "--confirm", row.id, "--json")
    alone = stage.run(*destroy)
    assert (alone.code, alone.json["error"]["kind"]) == (PersonNeeded.exit_code, "PersonNeeded")
    with stage.parts() as parts:
        approve(parts, row)
    assert "to do it: varmenne retire" in stage.run("audit", "approve", row.id).out
    assert "it is still there" in stage.run("status").out
    gone = stage.run(*destroy)
    assert (gone.code, gone.json["state"]) == (0, "destroyed")
    assert [one["by"] for one in gone.json["approvals"]] == [ME, "maija@office"]
    assert stage.run("status").code == 0


def test_the_policy_by_command(stage: Stage) -> None:
    """It is approved with its value; without one there is nothing to approve; an ID and the policy are two commands."""
    assert stage.run("audit", "approve", "--policy").code == StateError.exit_code
    stage.configure(renewal={"destroy_after_days": 7.5})
    said = stage.run("audit", "approve", "--policy")
    assert said.out == f"Approved by {ME}: destroying retired keys after 7.5 days; another person must approve.\n"
    with stage.parts() as parts:
        approve(parts)
        (record,) = (one for one in map(json.loads, parts.journal.log.acts("approve")) if one["actor"] != "maija")
    assert record["detail"] == {"purpose": "destroy by policy", "destroy_after_days": "7.5", "by": ME}
    assert record["environment"] == "test"
    assert "the agent does it" in stage.run("audit", "approve", "--policy").out
    for wrong in ((), ("20261124-00000001", "--policy")):
        assert stage.run("audit", "approve", *wrong).code == 2


def test_two_hosts_of_one_journal(years: Years, postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch) -> None:
    """In PostgreSQL, somebody on another host approves, where the token is not."""
    years.stage.configure(journal={"url": postgresql.new_database()})
    first = replaced(years)
    elsewhere: Callable[[], str] = lambda: "annex"  # noqa: E731 - it stands for a function
    monkeypatch.setattr(approvals, "in_container", lambda: False)
    with monkeypatch.context() as there:
        there.setattr(approvals, "this_host", elsewhere)
        there.setattr("varmenne.journal.log.this_host", elsewhere)
        with years.parts() as parts:
            (given,) = approvals.approve_key(parts, first)
            assert given.by == f"{this_person()}@annex"
            assert not parts.has("token")
    with years.parts() as parts:
        assert [one.enrollment for one in approvals.awaited(parts)] == [first.id]
        assert retire(parts, Listener(), parts.journal.get(first.id), destroy=True).state is State.DESTROYED
        assert [*approvals.awaited(parts)] == []


def test_containers_are_one_host(years: Years, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever makes a container chooses its host's name, so the same login in another one is the same person."""
    first = replaced(years)
    monkeypatch.setattr(approvals, "in_container", lambda: True)
    for host in ("one", "two"):
        monkeypatch.setattr(approvals, "this_host", lambda host=host: host)
        with years.parts() as parts:
            (given,) = approvals.approve_key(parts, first)
            assert given.by == f"{this_person()}@container"


@pytest.mark.parametrize(
    ("before", "fine"),
    [
        ((written(), written("veikko@office")), True),
        ((written(), written()), False),
        ((written(), written("veikko@office", enrollment="20261124-00000002", public_key="cd")), False),
        ((), False),
    ],
    ids=["two", "one twice", "of another key", "none"],
)
def test_the_verifier_demands_them(before: tuple[bytes, ...], fine: bool) -> None:
    """A destruction in the log without the approval of two is an error, whatever the program believed."""
    walk, found = verifier.Walk(), list[str]()
    hashes = {"ab": "ab" * 32, "cd": "cd" * 32}
    for index, body in enumerate((*before, written(act="destroy", target="destroyed"))):
        said = json.loads(body)
        whole = canonical(said | {"public_key": hashes[said["public_key"]], "key_id": "00" * 16})
        found += walk.take(index, verifier.parse_record(whole))
    assert any("without the approval of two" in what for what in found) is not fine


def test_metrics_count_what_waits(stage: Stage) -> None:
    """One for each key, and one for the policy."""
    from prometheus_client import CollectorRegistry, generate_latest

    from varmenne.clock import system_clock
    from varmenne.journal import Journal
    from varmenne.monitoring.survey import SurveyCollector

    row = stage.aged(stage.order(), IN_THE_WINDOW)
    assert stage.run("renew", row.id).code == 0
    assert stage.run("audit", "approve", row.id).code == 0
    stage.configure(renewal={"destroy_after_days": 7.5})
    settings = stage.settings
    collector = SurveyCollector(settings, lambda: Journal(stage.state_dir), system_clock)
    registry = CollectorRegistry()
    registry.register(collector)
    found = series(generate_latest(registry).decode())
    collector.close()
    assert value(found, "varmenne_attention", environment="test", reason="approval") == 2.0
