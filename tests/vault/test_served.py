"""What consumers tell of the certificate that they serve: once per change and day, and also by hand."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from varmenne.errors import InputError, VaultConflict, VaultDenied
from varmenne.testbench.openbao import find_binary
from varmenne.vault import CertificateStore, Location, Served, policy_text, served_schema

if TYPE_CHECKING:
    from harness.openbao import Vault

NOW = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)
FIRST = {"serial_number": "ab:01", "fingerprint_sha256": "0" * 64, "generation": 1}
SECOND = {"serial_number": "0c:02", "fingerprint_sha256": "1" * 64, "generation": 2}
DOCUMENTED = Path(__file__).parents[2] / "docs" / "vault-distribution.md"


@pytest.fixture
def telling(vault: Vault, where: Location, store: CertificateStore) -> CertificateStore:
    """A store whose role may also tell what the consumers `web-1` and `web-2` serve."""
    text = policy_text("agent", mount=vault.settings.mount)
    for name in ("web-1", "web-2"):
        path = f"{vault.settings.mount}/data/{where.served_by(name).path}"
        text += f'\npath "{path}" {{ capabilities = ["create", "update", "read"] }}\n'
    vault.root.sys.create_or_update_policy(f"varmenne-agent-{vault.settings.mount}", text)
    return store


def put(vault: Vault, where: Location, consumer: str, data: dict[str, Any]) -> None:
    """Write something at a consumer's path as an administrator could."""
    vault.root.secrets.kv.v2.create_or_update_secret(
        where.served_by(consumer).path, data, cas=0, mount_point=vault.settings.mount
    )


def test_nobody_has_told_anything(store: CertificateStore, where: Location) -> None:
    """An empty folder is no error, and the agent's policy is enough to look."""
    assert store.served(where) == ()


def test_what_consumers_serve(vault: Vault, telling: CertificateStore, where: Location) -> None:
    """Each consumer has one record, which fits the schema; what it serves next is its next version."""
    assert telling.acknowledge(where, "web-2", FIRST, host="two.example", now=NOW)
    assert telling.acknowledge(where, "web-1", FIRST, host="one.example", now=NOW)
    assert telling.acknowledge(where, "web-1", SECOND, host="one.example", now=NOW)
    assert telling.served(where) == (
        Served("web-1", "0c:02", NOW, "one.example", 2),
        Served("web-2", "ab:01", NOW, "two.example", 1),
    )
    written = vault.root.secrets.kv.v2.read_secret_version(
        where.served_by("web-1").path, mount_point=vault.settings.mount, raise_on_deleted_version=True
    )["data"]
    importlib.import_module("jsonschema").Draft202012Validator(served_schema()).validate(written["data"])
    assert written["metadata"]["version"] == 2


def test_the_same_is_told_once_a_day(vault: Vault, telling: CertificateStore, where: Location) -> None:
    """A timer that fires every five minutes does not fill Vault with versions; another host is news."""

    def tell(host: str, now: datetime) -> bool:
        return telling.acknowledge(where, "web-1", FIRST, host=host, now=now)

    assert tell("one", NOW)
    assert not tell("one", NOW + timedelta(hours=23))
    assert tell("one", NOW + timedelta(hours=24))
    assert tell("two", NOW + timedelta(hours=25))
    assert len(vault.versions(where.served_by("web-1").path)) == 3


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"serial_number": "AB01", "at": "2026-11-24T12:00:00Z"}, Served("c", "ab:01", NOW)),
        ({"serial_number": "00AB01", "at": "2026-11-24T12:00:00", "generation": "3"}, Served("c", "ab:01", NOW, "", 3)),
        ({"serial_number": "ab:01", "at": "yesterday", "generation": -1}, Served("c", "ab:01", None)),
        ({"serial_number": "none"}, Served("c", None, None)),
        ({"serial_number": 7}, Served("c", None, None)),
        ({}, Served("c", None, None)),
    ],
)
def test_what_was_written_by_hand(
    vault: Vault, store: CertificateStore, where: Location, data: dict[str, Any], expected: Served
) -> None:
    """Serial numbers as openssl writes them are understood; what is not is not taken for anything else."""
    put(vault, where, "c", data)
    assert store.served(where) == (expected,)


def test_a_consumer_that_was_removed_is_not_there(vault: Vault, store: CertificateStore, where: Location) -> None:
    """An administrator deletes what a consumer said that is gone; an odd name is told of, and not put into a URL."""
    put(vault, where, "gone", dict(FIRST))
    vault.root.secrets.kv.v2.delete_latest_version_of_secret(
        where.served_by("gone").path, mount_point=vault.settings.mount
    )
    assert store.served(where) == ()
    vault.root.secrets.kv.v2.create_or_update_secret(
        f"{where.served().path}/odd name", dict(FIRST), cas=0, mount_point=vault.settings.mount
    )
    assert store.served(where) == (Served("odd name", None, None),)


def test_two_consumers_of_one_name_do_not_overwrite_each_other_unseen(
    telling: CertificateStore, where: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that comes second in the same moment learns that it was."""
    read = telling._state

    def read_late(path: str, version: int | None = None) -> object:
        found = read(path, version)
        if version is None:
            monkeypatch.setattr(telling, "_state", read)
            telling.acknowledge(where, "web-1", SECOND, host="other", now=NOW)
        return found

    monkeypatch.setattr(telling, "_state", read_late)
    with pytest.raises(VaultConflict, match="in between"):
        telling.acknowledge(where, "web-1", FIRST, host="one", now=NOW)
    assert telling.served(where) == (Served("web-1", "0c:02", NOW, "other", 2),)


def test_who_may_not_look_or_tell_is_told_so(vault: Vault, store: CertificateStore, where: Location) -> None:
    """The agent cannot tell in a consumer's place, and a role that may not list is not told that nobody serves."""
    with pytest.raises(VaultDenied):
        store.acknowledge(where, "web-1", FIRST, host="one", now=NOW)
    text = policy_text("agent", mount=vault.settings.mount).replace('["list"]', '["deny"]')
    vault.root.sys.create_or_update_policy(f"varmenne-agent-{vault.settings.mount}", text)
    with pytest.raises(VaultDenied):
        store.served(where)


@pytest.mark.parametrize("name", ["", "a/b", "..", "a b", "-a", "x" * 65])
def test_a_name_that_is_no_segment_is_refused(store: CertificateStore, where: Location, name: str) -> None:
    """Before anything is sent."""
    with pytest.raises(InputError, match="consumer"):
        store.acknowledge(where, name, FIRST, host="one", now=NOW)


@pytest.mark.parametrize("version", [1, 2])
def test_the_documented_script_tells_it(
    vault: Vault, telling: CertificateStore, where: Location, tmp_path: Path, version: int
) -> None:
    """Whoever serves without varmenne uses a few words of shell, for the first time and for the next."""
    [script] = re.findall(r"^```sh\n(.*?)^```$", DOCUMENTED.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    for documented, here in {
        "varmenne/test/1234567-8/ws": where.served().path.removesuffix("/served"),
        "-mount=secret": f"-mount={vault.settings.mount}",
        "secret/metadata/": f"{vault.settings.mount}/metadata/",
        "/etc/varmenne-consumer/fullchain.pem": str(tmp_path / "fullchain.pem"),
    }.items():
        assert documented in script
        script = script.replace(documented, here)
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=a -set_serial 0x0ab1"
    files = ["-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "fullchain.pem")]
    subprocess.run([*make.split(), *files], check=True, capture_output=True)
    vault.root.sys.create_or_update_policy(
        "web", policy_text("consumer", mount=vault.settings.mount, location=where, consumer="web-1")
    )
    made = vault.root.auth.token.create(policies=["web"], no_default_policy=True, ttl="5m")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "bao").symlink_to(find_binary())
    environment = {
        "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "BAO_ADDR": vault.server.address,
        "BAO_TOKEN": made["auth"]["client_token"],
    }
    for _ in range(version):
        subprocess.run(["sh", "-eu"], input=script, text=True, check=True, capture_output=True, env=environment)
    [said] = telling.served(where)
    assert (said.consumer, said.serial_number) == ("web-1", "0a:b1")
    assert said.at is not None
    assert abs(said.at - datetime.now(UTC)) < timedelta(minutes=5)
    written = vault.root.secrets.kv.v2.read_secret_version(
        where.served_by("web-1").path, mount_point=vault.settings.mount, raise_on_deleted_version=True
    )["data"]
    importlib.import_module("jsonschema").Draft202012Validator(served_schema()).validate(written["data"])
    assert written["metadata"]["version"] == version
