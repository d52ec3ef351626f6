"""Answers that are lost, cut or wrong on the way: whatever happens, one operation makes one version."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from varmenne.clock import system_clock
from varmenne.domain.identifiers import Channel, CustomerId, Environment
from varmenne.errors import VaultConflict, VaultError, VaultUnavailable
from varmenne.testbench.openbao import OpenBaoServer, provision
from varmenne.vault import CertificateStore, Location
from vault.conftest import IMPATIENT, Fault, Meddler

if TYPE_CHECKING:
    from pathlib import Path

    from harness.openbao import Vault

RECORD = {"certificate": "one", "enrollment": "20261124-00000001"}

EXECUTED = [Fault("POST", how, executed=True) for how in ("drop", 500, 502, 503, 504, 429, 412, 473)]
NOT_EXECUTED = [Fault("POST", how, executed=False) for how in ("drop", 500, 502, 503, 504, 429, 412, 473)]


def through(meddler: Meddler, vault: Vault) -> CertificateStore:
    """A store that is logged in and has looked at the mount, so that the next POST is the write."""
    settings = meddler.settings(vault.settings, read_timeout_seconds=0.5)
    return CertificateStore(settings, clock=system_clock, patience=IMPATIENT)


@pytest.mark.parametrize("fault", EXECUTED + NOT_EXECUTED, ids=lambda fault: f"{fault.how}-{fault.executed}")
def test_a_write_whose_answer_is_lost_is_made_once(
    vault: Vault, meddler: Meddler, where: Location, fault: Fault
) -> None:
    """Whether the server had stored it or not, the caller gets version 1 and there is no second."""
    with through(meddler, vault) as store:
        store.preflight(where)
        meddler.faults.append(fault)
        assert store.publish(where, RECORD, operation="op-1") == 1
    assert meddler.faults == []
    assert list(vault.versions(where.path)) == ["1"]


def test_a_write_that_is_answered_too_late_is_made_once(vault: Vault, meddler: Meddler, where: Location) -> None:
    """The time limit ends the waiting, and reading decides."""
    with through(meddler, vault) as store:
        store.preflight(where)
        meddler.faults.append(Fault("POST", "stall", executed=True))
        assert store.publish(where, RECORD, operation="op-1") == 1
    assert list(vault.versions(where.path)) == ["1"]


def test_a_lost_answer_and_a_foreign_write_are_a_conflict(vault: Vault, meddler: Meddler, where: Location) -> None:
    """If our write did not get through and somebody else took the version, we do not claim it."""
    with through(meddler, vault) as store:
        store.preflight(where)
        meddler.faults += [Fault("POST", "drop", executed=False)]
        real = store._connection.call

        def write_first(doing: str, function: object) -> object:
            if doing.startswith("writing") and not vault.versions(where.path):
                vault.root.secrets.kv.v2.create_or_update_secret(
                    where.path, {"enrollment": "theirs"}, cas=0, mount_point=vault.settings.mount
                )
            return real(doing, function)  # type: ignore[arg-type]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(store._connection, "call", write_first)
            with pytest.raises(VaultConflict) as caught:
                store.publish(where, RECORD, operation="op-1")
    assert caught.value.facts["their_enrollment"] == "theirs"
    assert list(vault.versions(where.path)) == ["1"]


def test_when_patience_ends_the_outcome_is_called_unknown_and_the_next_run_finds_it(
    vault: Vault, meddler: Meddler, where: Location
) -> None:
    """The version was stored, every answer was lost: the error says so, and repeating returns that version."""
    with through(meddler, vault) as store:
        store.preflight(where)
        meddler.faults += [Fault("POST", "drop", executed=True)] * IMPATIENT.attempts
        with pytest.raises(VaultUnavailable) as caught:
            store.publish(where, RECORD, operation="op-1")
        assert caught.value.transient
        assert caught.value.facts["executed"] == "unknown"
        meddler.faults.clear()
        assert store.publish(where, RECORD, operation="op-1") == 1
    assert list(vault.versions(where.path)) == ["1"]


def test_a_redirect_loop_ends(vault: Vault, meddler: Meddler, where: Location) -> None:
    """Two nodes that each take the other for the leader send us round; that is an outage, and nothing was written."""
    with through(meddler, vault) as store:
        store.preflight(where)
        meddler.faults.append(Fault("POST", "redirect", executed=False))
        with pytest.raises(VaultUnavailable, match="no active node"):
            store.publish(where, RECORD, operation="op-1")
        meddler.faults.clear()
    assert vault.versions(where.path) == {}


@pytest.mark.parametrize("how", ["drop", 500, 503, 429])
def test_a_read_is_tried_again(vault: Vault, meddler: Meddler, where: Location, how: str | int) -> None:
    """One spoiled answer to a read is not noticed by the caller."""
    with through(meddler, vault) as store:
        store.preflight(where)
        meddler.faults.append(Fault("GET", how, executed=False))
        assert store.read(where) is None
    assert meddler.faults == []


@pytest.mark.parametrize("how", ["drop", 500])
def test_a_login_that_may_have_been_carried_out_is_not_repeated(
    vault: Vault, meddler: Meddler, where: Location, how: str | int
) -> None:
    """A secret ID may be good for one login only: repeating would turn an outage into a refusal."""
    with through(meddler, vault) as store:
        meddler.faults.append(Fault("POST", how, executed=True))
        with pytest.raises(VaultUnavailable):
            store.read(where)
    assert [path for _, path in meddler.seen].count("/v1/auth/approle/login") == 1


def test_a_login_that_was_not_carried_out_is_repeated(vault: Vault, meddler: Meddler, where: Location) -> None:
    """A sealed or overloaded server has not used up the secret ID."""
    with through(meddler, vault) as store:
        meddler.faults.append(Fault("POST", 503, executed=False))
        assert store.read(where) is None
    assert [path for _, path in meddler.seen].count("/v1/auth/approle/login") == 2


def test_something_else_than_vault_answers(vault: Vault, meddler: Meddler, where: Location) -> None:
    """An answer that is not Vault's is an error in our words, not a KeyError."""
    with through(meddler, vault) as store:
        store.preflight(where)
        meddler.faults.append(Fault("GET", 204, executed=False))
        with pytest.raises(VaultError, match="does not answer as a KV engine"):
            store.read(where)


def test_a_404_from_something_else_does_not_mean_that_nothing_was_published(
    vault: Vault, meddler: Meddler, where: Location
) -> None:
    """Only Vault's own "never written" does; else a stray answer would hide the record, and its version."""
    with through(meddler, vault) as store:
        store.publish(where, RECORD, operation="op-1")
        meddler.faults.append(Fault("GET", 404, executed=False))
        with pytest.raises(VaultError, match="nothing at this path"):
            store.read(where)
        assert store.read(where) is not None


def test_sealing_in_between(tmp_path: Path) -> None:
    """A sealed server is an outage that may pass; after unsealing the same operation publishes, once."""
    with OpenBaoServer(tmp_path / "bao", persistent=True) as server:
        settings = provision(server, secret_id_file=tmp_path / "secret-id")
        with CertificateStore(settings, clock=system_clock, patience=IMPATIENT) as store:
            where = store.location(Environment.TEST, CustomerId("1234567-8"), Channel.WS)
            store.preflight(where)
            server.client().sys.seal()
            with pytest.raises(VaultUnavailable, match="sealed") as caught:
                store.publish(where, RECORD, operation="op-1")
            assert caught.value.transient
            assert store.check(where)[0].detail == "Vault is sealed"
            server.stop()
            with pytest.raises(VaultUnavailable, match="cannot be reached"):
                store.publish(where, RECORD, operation="op-1")
            server.start()
            assert store.publish(where, RECORD, operation="op-1") == 1
            assert store.publish(where, RECORD, operation="op-1") == 1
