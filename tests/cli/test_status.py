"""`varmenne status` and the day to order: for a person, for programs, and for many certificates."""

from __future__ import annotations

from datetime import timedelta

from harness.stage import CUSTOMER, Stage
from harness.years import Years
from varmenne.domain.identifiers import Channel
from varmenne.errors import PersonNeeded

DAY = timedelta(days=1)


def test_a_fine_certificate_needs_nobody(stage: Stage) -> None:
    """It is told until when it is valid and when people would have to order; the exit code is 0."""
    row = Years(stage).first()
    said = stage.run("status")
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith("Nothing needs you.")
    assert row.not_after is not None
    assert f"{row.id}  {CUSTOMER} ws  until {row.not_after:%Y-%m-%d}" in said.out
    assert f"order anew by {row.not_after - 21 * DAY:%Y-%m-%d}" in said.out


def test_what_needs_a_person_comes_first_with_its_command(stage: Stage) -> None:
    """An uncertain order and a missing SFTP user ID are told before what is fine; the exit code says so too."""
    row = Years(stage).first(Channel.SFTP)
    stage.bench.state.fault("drop-after-receipt")
    order = stage.order("7017233-8")
    lost = stage.run("enroll", "--customer-id", "7017233-8", "--credentials", stage.credentials_file(order))
    assert lost.code == 9
    said = stage.run("status")
    assert said.code == PersonNeeded.exit_code
    assert said.out.index("varmenne resolve") < said.out.index(f"varmenne sftp set-user {row.id} USER")
    assert said.out.index("Needs you (2)") < said.out.index("In use (1)")
    told = stage.run("status", "--json").json
    assert [one["reason"] for one in told["needs"]] == ["uncertain", "sftp-user"]
    assert [one["enrollment"] for one in told["certificates"]] == [row.id]
    assert told["certificates"][0]["order_by"] is not None


def test_status_calls_nobody_and_changes_nothing(stage: Stage) -> None:
    """It works while token, service and Vault are away."""
    Years(stage).first()
    before = stage.world()
    stage.configure(
        token={"module": "/nonexistent.so"},
        vault={"address": "http://127.0.0.1:9"},
        service={"endpoint": "https://127.0.0.1:9"},
    )
    assert stage.run("status").code == 0
    stage.configure()
    assert stage.world() == before


def test_trust_anchors_that_are_gone_are_told(stage: Stage) -> None:
    """Without them no answer would be believed, so a person is needed before the renewal."""
    Years(stage).first()
    stage.configure(trust={"directory": str(stage.folder / "nowhere")})
    told = stage.run("status", "--json")
    assert (told.code, [one["reason"] for one in told.json["needs"]]) == (PersonNeeded.exit_code, ["trust"])


def test_the_list_and_show_tell_the_day_to_order(stage: Stage) -> None:
    """The same day as `status` has."""
    row = Years(stage).first()
    (certificate,) = stage.run("status", "--json").json["certificates"]
    (line,) = stage.run("list", "--json").json
    (page,) = stage.run("list", "--json", "--limit", "5").json
    shown = stage.run("show", row.id, "--json").json
    assert {line["order_by"], page["order_by"], shown["order_by"]} == {certificate["order_by"]}
    assert shown["renewal_due"] == certificate["renewal_due"]
    assert stage.run("list").out.splitlines()[0].endswith("ORDER BY")
    assert certificate["order_by"][:10] in stage.run("list").out
    assert f"order by  {certificate['order_by']}" in stage.run("show", row.id).out
