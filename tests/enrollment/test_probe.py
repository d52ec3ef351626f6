"""Custody is tried on the token and on the live keys, recorded, and a key that gives way stops what is new."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

import pytest

from harness.hooks import Hooks
from harness.objects import DECRYPT, EXTRACTABLE, private_rsa_keys, set_flag
from harness.stage import Listener, Stage, order_for
from harness.years import IN_THE_WINDOW, WAIT, Years
from varmenne.clock import system_clock
from varmenne.domain.audit import fingerprint
from varmenne.domain.check import Verdict
from varmenne.domain.enrollment import Enrollment
from varmenne.domain.hooks import HookEvent
from varmenne.domain.steps import State
from varmenne.enrollment.doctor import check_up
from varmenne.enrollment.enroll import enroll
from varmenne.enrollment.evidence.custody import live, probe_all
from varmenne.enrollment.parts import Parts
from varmenne.enrollment.preflight import probe, probe_name, prove_token, tried, unfit
from varmenne.enrollment.renew import rehearse, renew
from varmenne.errors import KeyNotFound, TokenUnfit


@pytest.fixture
def years(stage: Stage) -> Years:
    """Time that can be moved on."""
    return Years(stage)


def records(stage: Stage, act: str = "probe") -> list[dict[str, Any]]:
    """Return the records of an act, oldest first."""
    with stage.parts() as parts:
        found = [json.loads(body) for _index, body in parts.journal.log.records()]
    return [record for record in found if record["act"] == act]


def of_key(stage: Stage, row: Enrollment) -> list[dict[str, Any]]:
    """Return the records of probes of a live key."""
    return [record for record in records(stage) if record["enrollment"] == row.id]


def test_each_refusal_is_recorded_with_its_key(years: Years) -> None:
    """Throw-away keys and the live key are tried; return codes are recorded, for the live key together with the key."""
    row = years.first()
    with years.parts() as parts:
        token, key = probe_all(parts, Listener(), live(parts))
        kept = parts.journal.latest_probe(probe_name(parts, parts.token.identity()))
    assert (token.row, token.error, key.error) == (None, None, None)
    (record,) = of_key(years.stage, row)
    assert (record["key_id"], record["outcome"]) == (row.key_id.hex(), "done")
    assert record["public_key"] == fingerprint(row.public_key or b"")
    tries = {name: (outcome, detail) for outcome, detail, names in record["detail"]["tries"] for name in names}
    assert tries["read PRIVATE_EXPONENT"] == ("refused", "CKR_ATTRIBUTE_SENSITIVE")
    assert tries["decrypt RSA_PKCS"] == ("refused", "CKR_KEY_FUNCTION_NOT_PERMITTED")
    assert tries["attributes as at birth"] == ("refused", "they read as at the key's birth")
    scratch = records(years.stage)[-2]
    assert kept is not None
    assert kept[1]
    assert {line["name"]: [line["outcome"], line["detail"]] for line in kept[2]["results"]} == {
        name: [outcome, detail] for outcome, detail, names in scratch["detail"]["tries"] for name in names
    }
    assert (scratch["enrollment"], scratch["outcome"]) == (None, "done")
    assert {"copy with EXTRACTABLE true", "set EXTRACTABLE true", "set DECRYPT true"} <= {
        name for _outcome, _detail, names in scratch["detail"]["tries"] for name in names
    }


def test_a_probe_is_dated_by_its_end(stage: Stage) -> None:
    """It may take minutes: what others record meanwhile must not seem to be from before it."""
    moments = iter(system_clock() + timedelta(minutes=number) for number in range(1_000))
    last: list[datetime] = []

    def clock() -> datetime:
        last.append(next(moments))
        return last[-1]

    with Parts(stage.settings, clock=clock) as parts:
        probed = parts.token.probe()
    assert probed.at == last[-1] > last[0]


@pytest.mark.parametrize(
    ("flag", "word"),
    [(EXTRACTABLE, "EXTRACTABLE is true"), (DECRYPT, "DECRYPT was false and is true")],
    ids=["extractable", "decrypt"],
)
def test_a_live_key_that_was_changed_stops_renewals_until_it_passes(years: Years, flag: int, word: str) -> None:
    """A flag is set in the token's files: that is an alarm, and nothing is renewed until the key is as before."""
    row = years.first()
    years.pass_by(IN_THE_WINDOW)
    set_flag(years.stage.token.directory, flag, value=True)
    with years.parts() as parts, pytest.raises(TokenUnfit) as caught:
        probe(parts, row)
    assert word in caught.value.why
    before = years.stage.world()
    with years.parts() as parts, pytest.raises(TokenUnfit, match=row.id):
        renew(parts, Listener(), row, wait=WAIT)
    with years.parts() as parts:
        custody = [check for check in check_up(parts) if check.name == "custody" and check.verdict is Verdict.FAIL]
    assert [check.detail for check in custody] == [f"the key of {row.id} was found unfit"]
    agent = years.once()
    assert [type(error) for error in agent.tally.errors] == [TokenUnfit]
    assert years.stage.world().keys == before.keys
    assert [one.state for one in years.rows()] == [State.ACTIVE]
    assert all(record["outcome"] == "failed" for record in of_key(years.stage, row))
    set_flag(years.stage.token.directory, flag, value=False)
    assert years.renewed(years.get(row)).state is State.ACTIVE
    assert of_key(years.stage, row)[-1]["outcome"] == "done"


def test_a_key_in_another_token_does_not_hold_up_this_one(years: Years) -> None:
    """What was found unfit in one token says nothing about another, nor does a key that is destroyed."""
    row = years.first()
    set_flag(years.stage.token.directory, EXTRACTABLE, value=True)
    with years.parts() as parts:
        assert unfit(tried(parts, row), row) is not None
        parts.journal.commit(row, parts.now, State.SUPERSEDED, step="supersede")
        with pytest.raises(TokenUnfit):
            prove_token(parts, Listener())
        for target in (State.RETIRED, State.DESTROYED):
            row = parts.journal.commit(parts.journal.get(row.id), parts.now, target, step=target.value)
        prove_token(parts, Listener())


def test_the_rehearsal_tries_the_live_key(years: Years) -> None:
    """Every week, with no timer of its own: the rehearsal probes the live key, and fails if it gives way."""
    row = years.first()
    with years.parts() as parts:
        found = {check.name: check for check in rehearse(parts, Listener(), row)}
    assert found["live key"].verdict is Verdict.OK
    assert row.key_id.hex() in found["live key"].detail
    assert [record["outcome"] for record in of_key(years.stage, row)] == ["done"]
    set_flag(years.stage.token.directory, DECRYPT, value=True)
    with years.parts() as parts:
        found = {check.name: check for check in rehearse(parts, Listener(), years.get(row))}
    assert found["live key"].verdict is Verdict.FAIL
    assert "DECRYPT was false and is true" in found["live key"].detail


def test_an_alarm_runs_the_hooks_that_call_people(hooks: Hooks, caplog: pytest.LogCaptureFixture) -> None:
    """A probe by order that fails runs the hooks of `attention`, and is an event of the log."""
    hooks.write(HookEvent.ATTENTION, "page-somebody")
    row = hooks.enrolled()
    set_flag(hooks.stage.token.directory, EXTRACTABLE, value=True)
    result = hooks.stage.run("audit", "probe", row.id, "--json")
    assert result.code == TokenUnfit.exit_code
    assert [one["fit"] for one in result.json] == [True, False]
    assert hooks.runs() == ["attention page-somebody"]
    assert "custody-failed" in [getattr(record, "event", None) for record in caplog.records]


def test_a_live_key_that_is_gone_is_told(stage: Stage) -> None:
    """A key that is needed and not in the token fails the command; the others are tried all the same."""
    rows = []
    for customer in ("0123456-7", "7654321-2"):
        with stage.parts() as parts:
            given = stage.credentials(stage.order(customer))
            rows.append(enroll(parts, Listener(), order_for(customer), given, wait=WAIT))
        if len(rows) == 1:
            (first,) = private_rsa_keys(stage.token.directory)
    first.unlink()
    with stage.parts() as parts:
        _token, gone, there = probe_all(parts, Listener(), rows)
    assert isinstance(gone.error, KeyNotFound)
    assert there.error is None
    assert of_key(stage, rows[0]) == []


def test_people_see_one_line_for_each_key(years: Years) -> None:
    """The command tells numbers where all is well, and sentences where it is not."""
    row = years.first()
    fine = years.stage.run("audit", "probe")
    assert fine.code == 0
    assert f"fit    {row.id}  key {row.key_id.hex()}: 13 tries, all refused" in fine.out
    set_flag(years.stage.token.directory, EXTRACTABLE, value=True)
    bad = years.stage.run("audit", "probe", row.id)
    assert bad.code == TokenUnfit.exit_code
    assert f"ALARM  {row.id}  key {row.key_id.hex()}: " in bad.out
    assert "EXTRACTABLE is true" in bad.out
    assert f"varmenne audit probe {row.id}" in bad.out
