"""Status and metrics on both databases, with hooks that fail, and without reading what is long."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest

from harness.postgresql import PostgreSQL
from harness.scraping import scrape, series, value
from harness.stage import Stage, Template
from harness.years import Years
from varmenne.clock import system_clock
from varmenne.domain.hooks import HookEvent, HookOutcome, NewHook
from varmenne.journal import Journal
from varmenne.journal.rows import DOCUMENTS
from varmenne.monitoring import exposed


@pytest.fixture(params=["sqlite", "postgresql"])
def either(
    request: pytest.FixtureRequest, stage: Stage, postgresql: PostgreSQL, token_template: Template
) -> Iterator[tuple[Stage, Journal]]:
    """Return a stage with its journal in each database."""
    if request.param == "postgresql":
        stage.configure(journal={"url": postgresql.new_database()})
    at, fit, result = token_template.probe
    with Journal(stage.state_dir, stage.settings.journal) as journal:
        journal.save_probe(token_template.name, at, fit=fit, result=result)
        yield stage, journal


def test_both_databases_tell_the_same(either: tuple[Stage, Journal]) -> None:
    """A certificate in use, a lost answer, and a hook that fails: first it is tried again, then it needs a person."""
    stage, journal = either
    row = Years(stage).first()
    stage.bench.state.fault("drop-after-receipt")
    order = stage.order("7017233-8")
    stage.run("enroll", "--customer-id", "7017233-8", "--credentials", stage.credentials_file(order))
    now = system_clock()
    run = journal.hooks.begin(
        NewHook(enrollment_id=row.id, event=HookEvent.POST_ACTIVATE, name="reload", at=now, facts={}, due_at=now)
    )
    place = f"unix:{stage.folder / 'metrics.sock'}"
    stage.configure(metrics={"listen": place}, journal={"url": stage.settings.journal.url})
    with exposed(stage.settings, lambda: Journal(stage.state_dir, stage.settings.journal), system_clock):
        journal.hooks.settle(run, HookOutcome.FAILING, "ended with code 1", due_at=now)
        found = series(scrape(place))
        assert value(found, "varmenne_journal_up") == 1
        assert value(found, "varmenne_enrollments", state="active") == 1
        assert value(found, "varmenne_unfinished_since_timestamp_seconds", state="uncertain") <= now.timestamp()
        assert value(found, "varmenne_hooks", outcome="failing") == 1
        assert value(found, "varmenne_attention", reason="hooks") == 0
        assert [one["reason"] for one in stage.run("status", "--json").json["needs"]] == ["uncertain"]
        journal.hooks.settle(run, HookOutcome.FAILED, "ended with code 1")
        assert value(series(scrape(place)), "varmenne_attention", reason="hooks") == 1
    told = stage.run("status", "--json").json["needs"]
    assert [one["reason"] for one in told] == ["uncertain", "hooks"]
    assert told[1]["next_step"].endswith(f"varmenne hooks retry {row.id}")
    assert "ended with code 1" in told[1]["told"]


def test_looking_from_afar_reads_nothing_long(either: tuple[Stage, Journal]) -> None:
    """Of ten thousand certificates, chains and CSRs would be a hundred megabytes; all else of a row is the same."""
    stage, journal = either
    row = Years(stage).first()
    (near,), (far,) = journal.list(), journal.list(documents=False)
    assert near.id == row.id
    assert all(getattr(near, name) for name in DOCUMENTS)
    nothing: dict[str, Any] = dict.fromkeys(DOCUMENTS)
    assert far == dataclasses.replace(near, **nothing)
