"""Vault fails when the certificate is to be published: the row waits and finishes, with no version lost or doubled."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from harness.openbao import vault
from harness.stage import CUSTOMER, Listener, Stage, Template, open_stage, order_for
from varmenne.clock import system_clock
from varmenne.domain.enrollment import Enrollment
from varmenne.domain.identifiers import Channel
from varmenne.domain.steps import State
from varmenne.enrollment import facts
from varmenne.enrollment.enroll import enroll, go_on
from varmenne.enrollment.parts import Parts
from varmenne.errors import NotFinished, VaultDenied, VaultUnavailable
from varmenne.testbench.openbao import OpenBaoServer
from varmenne.vault import CertificateStore, Patience
from vault.conftest import IMPATIENT, Fault, Meddler, meddler

__all__ = ["meddler", "vault"]

WAIT = timedelta(seconds=20)


def accepted(stage: Stage) -> Enrollment:
    """Take an enrollment to where the certificate is awaited."""
    order = stage.order()
    with stage.parts() as parts:
        with pytest.raises(NotFinished):
            enroll(parts, Listener(), order_for(), stage.credentials(order), wait=timedelta())
        (row,) = parts.journal.list()
    return row


@contextlib.contextmanager
def impatient(stage: Stage, patience: Patience = IMPATIENT) -> Iterator[Parts]:
    """Open the parts with a store of little patience, which has logged in and looked at the mount."""
    with stage.parts() as parts:
        store = CertificateStore(parts.settings.vault, clock=system_clock, patience=patience)
        parts.__dict__["store"] = store
        store.preflight(facts.place(parts.settings, CUSTOMER, Channel.WS))
        yield parts


def waits(parts: Parts, row: Enrollment, *, due: bool = True) -> None:
    """Check that the certificate is durable, and that the row tells its problem and is nobody's."""
    row = parts.journal.get(row.id)
    assert row.state in {State.ISSUED, State.STORED}  # The second if the first record was written in time.
    assert (row.owner, row.due_at is not None) == (None, due)
    assert row.certificate is not None
    assert row.problem is not None


def finishes(stage: Stage, row: Enrollment) -> None:
    """Resume, and check that one version of each record was made."""
    result = stage.run("resume", "--all")
    (row,) = stage.rows()
    assert (row.state, row.vault_version, row.problem) == (State.ACTIVE, 1, None), result
    assert list(stage.versions()) == ["1"]
    assert all(list(stage.vault.versions(path)) == ["1"] for path in stage.world().records)
    assert stage.sent() == 1


@pytest.mark.parametrize(("how", "executed"), [("drop", True), (500, True), (500, False), (503, False)])
def test_every_answer_to_the_write_is_lost(stage: Stage, meddler: Meddler, how: str | int, executed: bool) -> None:
    """Whether the version was stored or not, such as with a full disk, the next run finds out and there is one."""
    row = accepted(stage)
    stage.configure(vault={"address": meddler.address})
    with impatient(stage) as parts:
        meddler.faults += [Fault("POST", how, executed=executed)] * IMPATIENT.attempts
        with pytest.raises(VaultUnavailable):
            go_on(parts, Listener(), row, wait=WAIT)
        waits(parts, row)
    assert len(stage.world().records) == executed
    meddler.faults.clear()
    finishes(stage, row)


def test_a_token_that_was_revoked_in_between(stage: Stage) -> None:
    """Another login is made by itself, and nobody notices."""
    row = accepted(stage)
    with impatient(stage) as parts:
        stage.vault.root.sys.revoke_prefix("auth/approle/login")
        done = go_on(parts, Listener(), row, wait=WAIT)
    assert (done.state, list(stage.versions())) == (State.ACTIVE, ["1"])


def test_rights_that_were_taken_in_between(stage: Stage) -> None:
    """The row says what was denied and waits for a person; with the rights back, it finishes."""
    row = accepted(stage)
    name = f"varmenne-agent-{stage.vault.settings.mount}"
    rights = stage.vault.root.sys.read_policy(name)["data"]["rules"]
    with impatient(stage) as parts:
        stage.vault.root.sys.create_or_update_policy(name, 'path "sys/nothing" { capabilities = ["read"] }')
        with pytest.raises(VaultDenied):
            go_on(parts, Listener(), row, wait=WAIT)
        waits(parts, row, due=False)
    assert stage.versions() == {}
    stage.vault.root.sys.create_or_update_policy(name, rights)
    finishes(stage, row)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBaoServer]:
    """A server of this module's own, which keeps what it has through a restart."""
    with OpenBaoServer(tmp_path_factory.mktemp("vault-outage"), persistent=True) as made:
        yield made


@pytest.fixture
def fragile(
    tmp_path: Path, token_template: Template, server: OpenBaoServer, bench_keys: Path
) -> Iterator[tuple[Stage, OpenBaoServer]]:
    """A stage whose Vault may be sealed and killed."""
    with open_stage(tmp_path / "stage", token_template, server, bench_keys) as made:
        yield made, server


def at_the_write(parts: Parts, act: Callable[[], object]) -> None:
    """Let something happen once, just before the first record is written."""
    real = parts.store._connection.call
    acts = [act]

    def call(doing: str, function: object) -> object:
        if doing.startswith("writing") and acts:
            acts.pop()()
        return real(doing, function)  # type: ignore[arg-type]  # passed on as it came

    parts.store._connection.call = call  # type: ignore[method-assign,assignment]


def test_sealed_in_between(fragile: tuple[Stage, OpenBaoServer]) -> None:
    """A sealed Vault is waited for. This server is on its way back by itself at once, and may be faster than we are."""
    stage, server = fragile
    row = accepted(stage)
    with impatient(stage, Patience(attempts=1)) as parts:
        at_the_write(parts, server.client().sys.seal)
        try:
            go_on(parts, Listener(), row, wait=WAIT)
        except VaultUnavailable:
            waits(parts, row)
    server.stop()
    server.start()
    finishes(stage, row)


@pytest.mark.filterwarnings("default::varmenne.vault.MetadataNotWritten")  # That is told, and no harm.
@pytest.mark.parametrize("after_seconds", [0.0, 0.002, 0.006])
def test_killed_in_the_middle_of_a_write(fragile: tuple[Stage, OpenBaoServer], after_seconds: float) -> None:
    """Whatever reached its disk, there is one version in the end."""
    stage, server = fragile
    row = accepted(stage)
    killer = threading.Timer(after_seconds, _kill, [server])
    with impatient(stage) as parts:
        at_the_write(parts, killer.start)
        try:
            go_on(parts, Listener(), row, wait=WAIT)
        except VaultUnavailable:
            waits(parts, row)
        finally:
            killer.join()
            server.stop()
            server.start()
    finishes(stage, row)


def _kill(server: OpenBaoServer) -> None:
    """End the server as a power cut would."""
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
