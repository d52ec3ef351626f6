"""Agents of several hosts on one PostgreSQL: each works with its own token, and no row is done twice."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from harness.postgresql import PostgreSQL
from harness.softhsm import softhsm_module
from harness.stage import CUSTOMER, Stage
from varmenne.domain.steps import State
from varmenne.enrollment.agent import Agent
from varmenne.errors import HookFailed, StateError
from varmenne.token import create_softhsm_token

AGE = timedelta(days=730 - 40)
PATIENCE = timedelta(seconds=10)


@pytest.fixture
def fleet(stage: Stage, postgresql: PostgreSQL) -> Stage:
    """Return a stage whose journal is in PostgreSQL."""
    stage.configure(journal={"url": postgresql.new_database()}, service={"read_timeout_seconds": 30.0})
    return stage


def test_two_hosts_with_one_token(fleet: Stage) -> None:
    """A network HSM that both reach: the rows are shared out, and each certificate is renewed once."""
    for number in range(6):
        fleet.aged(fleet.order(f"{number:07d}-4"), AGE)
    with Agent(fleet.settings) as one, Agent(fleet.settings) as two:
        threads = [threading.Thread(target=agent.once, args=(PATIENCE,)) for agent in (one, two)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert one.tally.errors == two.tally.errors == []
        assert one.tally.carried
        assert two.tally.carried
    states = [row.state for row in fleet.rows()]
    assert (states.count(State.ACTIVE), states.count(State.SUPERSEDED), len(states)) == (6, 6, 12)
    operations = [line.as_json()["operation"] for line in fleet.bench.state.log()]
    assert operations.count("renewCertificate") == 6


def test_each_host_tends_the_keys_of_its_token(fleet: Stage, tmp_path: Path) -> None:
    """A host whose token does not hold a key leaves the certificate to the one whose does."""
    fleet.aged(fleet.order("0000001-4"), AGE)
    token = create_softhsm_token(tmp_path / "second", label="second host", module=softhsm_module())
    with Agent(msgspec.structs.replace(fleet.settings, token=token.settings)) as stranger:
        stranger.once(PATIENCE)
        assert (stranger.tally.carried, stranger.tally.errors) == (0, [])
    with Agent(fleet.settings) as owner:
        owner.once(PATIENCE)
        assert owner.tally.errors == []
    assert sorted(row.state for row in fleet.rows()) == [State.ACTIVE, State.SUPERSEDED]


def test_each_host_runs_the_hooks_of_its_keys(fleet: Stage, tmp_path: Path) -> None:
    """A person on another host neither runs nor drops what is in the folders of this one, and is told where it is."""
    folders = {host: tmp_path / host for host in ("owner", "stranger")}
    hooks = {host: folder / "post-activate" / "reload" for host, folder in folders.items()}
    for path in hooks.values():
        path.parent.mkdir(parents=True)
    hooks["owner"].write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    hooks["owner"].chmod(0o755)
    journal = {"url": fleet.settings.journal.url}
    fleet.configure(journal=journal, hooks={"directory": str(folders["owner"])})
    enroll = ("enroll", "--customer-id", CUSTOMER, "--credentials", fleet.credentials_file(fleet.order()))
    assert fleet.run(*enroll).code == HookFailed.exit_code
    (row,) = fleet.rows()
    ours = fleet.settings.token
    token = create_softhsm_token(tmp_path / "second", label="second host", module=softhsm_module())
    elsewhere = {"journal": journal, "hooks": {"directory": str(folders["stranger"])}}
    fleet.configure(**elsewhere, token=msgspec.to_builtins(token.settings))
    assert fleet.run("hooks", "retry", "--json").json == []
    refused = fleet.run("hooks", "retry", row.id)
    assert refused.code == StateError.exit_code
    assert "its key is in another token" in refused.err
    assert fleet.run("resume", row.id).code == 0
    fleet.configure(
        **elsewhere, token=msgspec.to_builtins(ours)
    )  # Both hosts reach one token: folders may differ still.
    assert "it is not in its folder on this host" in fleet.run("hooks", "retry").err
    fleet.configure(journal=journal, hooks={"directory": str(folders["owner"])}, token=msgspec.to_builtins(ours))
    hooks["owner"].write_text("#!/bin/sh\n", encoding="utf-8")
    assert [run["outcome"] for run in fleet.run("hooks", "retry", row.id, "--json").json] == ["ok"]


def test_a_person_at_the_wrong_host_changes_nothing(fleet: Stage, tmp_path: Path) -> None:
    """`renew`, `rehearse` and `resume` there say where to go, and leave the row as the right host needs it."""
    first = fleet.aged(fleet.order("0000001-4"), AGE)
    token = create_softhsm_token(tmp_path / "second", label="second host", module=softhsm_module())
    before = fleet.world()
    fleet.configure(journal={"url": fleet.settings.journal.url}, token=msgspec.to_builtins(token.settings))
    for command in ("renew", "rehearse"):
        result = fleet.run(command, first.id)
        assert (result.code, "in another token" in result.err) == (13, True), result
    fleet.configure(journal={"url": fleet.settings.journal.url})
    assert fleet.world() == before
    assert fleet.run("renew", first.id, "--wait", "0").code == 14
    (renewal,) = (row for row in fleet.rows() if row.replaces == first.id)
    before = fleet.world()
    fleet.configure(journal={"url": fleet.settings.journal.url}, token=msgspec.to_builtins(token.settings))
    result = fleet.run("resume", renewal.id)
    assert (result.code, "in another token" in result.err) == (13, True), result
    fleet.configure(journal={"url": fleet.settings.journal.url})
    assert fleet.world() == before
