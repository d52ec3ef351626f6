"""A Vault that went back in time: the alarm in ``doctor``, and publishing again what was lost."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from harness.stage import CUSTOMER
from varmenne.testbench.openbao import OpenBaoServer, provision
from varmenne.vault.record import DIGEST
from varmenne.vault.sealing import digest_of

if TYPE_CHECKING:
    from pathlib import Path

    from harness.stage import Stage

PATH = f"varmenne/test/{CUSTOMER}/ws/current"


def enroll(stage: Stage, *more: str) -> None:
    """Get a certificate and publish it."""
    source = stage.credentials_file(stage.order())
    assert stage.run("enroll", "--customer-id", CUSTOMER, "--credentials", source, *more).code == 0


def renewed(stage: Stage) -> dict[str, Any]:
    """Publish two generations, the second of which begins later; return the first record."""
    enroll(stage)
    first = data_of(stage)
    while data_of(stage)["not_before"] == first["not_before"]:
        row = max(stage.rows(), key=lambda one: one.generation)
        enroll(stage, "--replaces", row.id)
    return first


def data_of(stage: Stage) -> dict[str, Any]:
    """The record as it stands."""
    kv, mount = stage.vault.root.secrets.kv.v2, stage.vault.settings.mount
    answer = kv.read_secret_version(PATH, mount_point=mount, raise_on_deleted_version=True)
    data: dict[str, Any] = answer["data"]["data"]
    return data


def restore(stage: Stage, *records: dict[str, Any]) -> None:
    """Do to the record what the restoring of an old snapshot does: only these versions are there."""
    kv, mount = stage.vault.root.secrets.kv.v2, stage.vault.settings.mount
    kv.delete_metadata_and_all_versions(PATH, mount_point=mount)
    for version, data in enumerate(records):
        kv.create_or_update_secret(PATH, data, cas=version, mount_point=mount)


def verdict(stage: Stage) -> tuple[str, str]:
    """What doctor says of the published records."""
    [line] = [one for one in stage.run("doctor", "--json").json if one["name"] == "published records"]
    return line["verdict"], line["detail"]


def test_a_vault_that_has_what_was_published_is_ok(stage: Stage) -> None:
    """Nothing to be told, and nothing to be done."""
    enroll(stage)
    assert verdict(stage)[0] == "ok"
    before = stage.versions()
    done = stage.run("vault", "republish", "--json")
    assert (done.code, done.json) == (0, [])
    assert stage.versions() == before


def test_a_generation_that_is_gone_comes_back_with_its_certificate(stage: Stage) -> None:
    """A snapshot from before a renewal has neither the present record nor that of its generation."""
    first = renewed(stage)
    row = max(stage.rows(), key=lambda one: one.generation)
    kv, mount = stage.vault.root.secrets.kv.v2, stage.vault.settings.mount
    generation = PATH.replace("current", f"generation-{row.generation}")
    restore(stage, first)
    kv.delete_metadata_and_all_versions(generation, mount_point=mount)
    assert stage.run("vault", "republish").code == 0
    answer = kv.read_secret_version(generation, mount_point=mount, raise_on_deleted_version=True)
    assert answer["data"]["data"] == data_of(stage)
    assert answer["data"]["data"]["enrollment"] == row.id


def test_an_older_record_is_an_alarm_and_is_repaired(stage: Stage) -> None:
    """The certificate of the generation before has come back; the present one is published again."""
    first = renewed(stage)
    present = data_of(stage)
    restore(stage, first)
    found = verdict(stage)
    assert found[0] == "fail"
    assert "ALARM" in found[1]
    assert "begins earlier" in found[1]
    done = stage.run("vault", "republish", "--json")
    assert (done.code, [line["vault_version"] for line in done.json]) == (0, [2])
    assert data_of(stage)["serial_number"] == present["serial_number"]
    assert verdict(stage)[0] == "ok"


def test_a_version_that_went_down_is_an_alarm(stage: Stage) -> None:
    """The same record under a lower number means that the history was lost, which the journal then takes note of."""
    renewed(stage)
    restore(stage, data_of(stage))
    assert "went down" in verdict(stage)[1]
    assert stage.run("vault", "republish").code == 0
    assert verdict(stage)[0] == "ok"
    assert len(stage.versions()) == 1


def test_a_record_that_is_gone_is_an_alarm_and_is_repaired(stage: Stage) -> None:
    """A snapshot from before the enrollment has nothing at all of it."""
    enroll(stage)
    present = data_of(stage)
    restore(stage)
    assert "its record is gone" in verdict(stage)[1]
    assert stage.run("vault", "republish").code == 0
    assert data_of(stage) == present


def test_a_later_certificate_of_somebody_else_is_left_alone(stage: Stage) -> None:
    """Another installation's newer record is an alarm, and is not overwritten."""
    enroll(stage)
    theirs = data_of(stage) | {
        "enrollment": "20301124-00000001",
        "not_before": "2030-11-24T12:00:00Z",
        "_operation": "x",
    }
    theirs[DIGEST] = digest_of(theirs)
    restore(stage, data_of(stage), theirs)
    assert "begins later" in verdict(stage)[1]
    done = stage.run("vault", "republish", "--json")
    assert (done.code, done.json) == (0, [])
    assert "left alone" in done.err
    assert data_of(stage) == theirs


@pytest.mark.long
def test_a_real_snapshot_that_is_restored(stage: Stage, tmp_path: Path) -> None:
    """A raft snapshot from before the renewal is put back: the alarm is raised, and the repair holds."""
    with OpenBaoServer(tmp_path / "server", persistent=True) as server:
        settings = provision(server, secret_id_file=tmp_path / "secret-id")
        stage.configure(vault=msgspec.to_builtins(settings))
        enroll(stage)
        client = server.client()
        with contextlib.closing(client.adapter):
            snapshot = client.sys.take_raft_snapshot().content
            [row] = stage.rows()
            time.sleep(1.1)
            enroll(stage, "--replaces", row.id)
            assert verdict(stage)[0] == "ok"
            client.sys.force_restore_raft_snapshot(snapshot)
            found = verdict(stage)
            assert found[0] == "fail"
            assert "begins earlier" in found[1]
            assert stage.run("vault", "republish").code == 0
            assert verdict(stage)[0] == "ok"
