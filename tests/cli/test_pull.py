"""``varmenne pull``: files that change in one step, a reload only on change, and no belief in what stands in Vault."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from harness.softhsm import softhsm_module
from harness.stage import CUSTOMER, Result, Stage
from varmenne.clock import system_clock
from varmenne.domain.identifiers import Channel, CustomerId, Environment
from varmenne.enrollment import pull as use_case
from varmenne.token import create_softhsm_token
from varmenne.vault import CertificateStore
from varmenne.vault.record import DIGEST
from varmenne.vault.sealing import digest_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILES = ("certificate.pem", "chain.pem", "fullchain.pem", "key-ref")


def enroll(stage: Stage, *more: str) -> None:
    """Get a certificate and publish it."""
    source = stage.credentials_file(stage.order())
    assert stage.run("enroll", "--customer-id", CUSTOMER, "--credentials", source, *more).code == 0


def pull(stage: Stage, to: Path, *more: str) -> Result:
    """Pull the customer's certificate, with a reload command that leaves a mark each time."""
    reload = f"sh -c 'echo reloaded >> {stage.folder / 'reloads'}'"
    return stage.run("pull", "--customer-id", CUSTOMER, "--to", to, "--reload", reload, "--json", *more)


def reloads(stage: Stage) -> int:
    """Count the marks."""
    file = stage.folder / "reloads"
    return len(file.read_text().splitlines()) if file.exists() else 0


def contents(to: Path) -> dict[str, str]:
    """What a reader of the files sees."""
    return {name: (to / "current" / name).read_text() for name in FILES} if (to / "current").exists() else {}


def tamper(stage: Stage, **changes: Any) -> None:
    """Change the published record as somebody with rights in Vault could, with a digest that fits."""
    kv, mount = stage.vault.root.secrets.kv.v2, stage.vault.settings.mount
    path = f"varmenne/test/{CUSTOMER}/ws/current"
    found = kv.read_secret_version(path, mount_point=mount, raise_on_deleted_version=True)["data"]
    data = found["data"] | changes
    data[DIGEST] = digest_of(data)
    kv.create_or_update_secret(path, data, cas=found["metadata"]["version"], mount_point=mount)


def test_a_certificate_comes_to_its_files(stage: Stage, tmp_path: Path) -> None:
    """All files are there for everybody to read, openssl reads the chain, and the reload command was run once."""
    enroll(stage)
    done = pull(stage, tmp_path / "tls")
    assert (done.code, done.json["changed"], done.json["reloaded"]) == (0, True, True)
    found = contents(tmp_path / "tls")
    [row] = stage.rows()
    assert found["certificate.pem"] == row.certificate
    assert found["key-ref"].startswith("pkcs11:")
    shown = subprocess.run(
        ["openssl", "x509", "-in", tmp_path / "tls" / "current" / "fullchain.pem", "-noout", "-serial"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert shown.stdout.strip().lower() == f"serial={done.json['serial_number'].replace(':', '')}"
    assert {(tmp_path / "tls" / "current" / name).stat().st_mode & 0o777 for name in FILES} == {0o644}
    assert reloads(stage) == 1


def test_nothing_new_is_no_reload(stage: Stage, tmp_path: Path) -> None:
    """Also a new version of the same certificate changes no file and reloads nothing."""
    enroll(stage)
    pull(stage, tmp_path / "tls")
    link = (tmp_path / "tls" / "current").readlink()
    tamper(stage)
    done = pull(stage, tmp_path / "tls")
    assert (done.code, done.json["changed"], done.json["reloaded"], done.json["version"]) == (0, False, False, 2)
    assert (tmp_path / "tls" / "current").readlink() == link
    assert reloads(stage) == 1


def test_a_new_generation_changes_all_in_one_step(stage: Stage, tmp_path: Path) -> None:
    """The link leads to another folder, the one before stays for readers, and there is one reload."""
    enroll(stage)
    pull(stage, tmp_path / "tls")
    first = contents(tmp_path / "tls")
    [row] = stage.rows()
    enroll(stage, "--replaces", row.id)
    done = pull(stage, tmp_path / "tls")
    assert (done.code, done.json["changed"]) == (0, True)
    second = contents(tmp_path / "tls")
    assert all(first[name] != second[name] for name in ("certificate.pem", "fullchain.pem", "key-ref"))
    assert len(list((tmp_path / "tls").glob(".version-*"))) == 2
    assert reloads(stage) == 2


def test_a_reload_that_failed_is_run_again(stage: Stage, tmp_path: Path) -> None:
    """The files are in place and the exit code says that something waits; the next pull reloads without any change."""
    enroll(stage)
    done = stage.run("pull", "--customer-id", CUSTOMER, "--to", tmp_path / "tls", "--reload", "false")
    assert done.code == 14
    assert "ended with 1" in done.err
    assert contents(tmp_path / "tls")
    done = pull(stage, tmp_path / "tls")
    assert (done.code, done.json["changed"], done.json["reloaded"]) == (0, False, True)
    assert pull(stage, tmp_path / "tls").json["reloaded"] is False


def two_generations(stage: Stage) -> tuple[dict[str, Any], dict[str, Any]]:
    """Publish two certificates that begin in different seconds; return the records, the older one first."""
    enroll(stage)
    old = published(stage)
    [row] = stage.rows()
    # Certificates that begin in the same second are of one age: wait for the next.
    while True:
        enroll(stage, "--replaces", row.id)
        row = max(stage.rows(), key=lambda one: one.generation)
        if (new := published(stage))["not_before"] > old["not_before"]:
            return old, new


def published(stage: Stage) -> dict[str, Any]:
    """The customer's record in Vault."""
    path = f"varmenne/test/{CUSTOMER}/ws/current"
    found = stage.vault.root.secrets.kv.v2.read_secret_version(
        path, mount_point=stage.vault.settings.mount, raise_on_deleted_version=True
    )
    data: dict[str, Any] = found["data"]["data"]
    return data


@pytest.mark.parametrize("mark", [{}, {"_older_than": "2026-01-01T00:00:00Z"}])
def test_an_older_certificate_is_an_alarm(stage: Stage, tmp_path: Path, mark: dict[str, Any]) -> None:
    """A Vault that was restored from an old snapshot does not bring an old certificate back.

    Nor does an order to go back that was about an earlier certificate than the one here.
    """
    old, _new = two_generations(stage)
    assert pull(stage, tmp_path / "tls").code == 0
    before = contents(tmp_path / "tls")
    tamper(stage, **old, **mark)
    done = pull(stage, tmp_path / "tls")
    assert done.code == 10
    assert "older than the one that is here" in done.err
    assert contents(tmp_path / "tls") == before
    assert reloads(stage) == 1


def test_an_order_to_go_back_is_followed(stage: Stage, tmp_path: Path) -> None:
    """Where a person had the older certificate published again, files and server go back, and it is told."""
    old, new = two_generations(stage)
    assert pull(stage, tmp_path / "tls").code == 0
    with CertificateStore(stage.vault.settings, clock=system_clock) as store:
        where = store.location(Environment.TEST, CustomerId(CUSTOMER), Channel.WS)
        store.publish(where, old, operation="back", older=True)
    done = pull(stage, tmp_path / "tls")
    assert (done.code, done.json["changed"], done.json["reloaded"]) == (0, True, True)
    assert done.json["serial_number"] == old["serial_number"] != new["serial_number"]
    assert "as ordered" in done.err
    assert contents(tmp_path / "tls")["certificate.pem"] == f"{old['certificate']}\n"
    again = pull(stage, tmp_path / "tls")
    assert (again.json["changed"], "as ordered" in again.err, reloads(stage)) == (False, False, 2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"customer_id": "7654321-0"}, "another one's"),
        ({"serial_number": "01"}, "contradicts"),
        ({"key_id": "00" * 16}, "names another key"),
        ({"fullchain": "-----BEGIN CERTIFICATE-----"}, "contradicts"),
        ({"layout": 2}, "of layout 2"),
        ({"certificate": 7}, "not one of this layout"),
        ({"token": None}, "not one of this layout"),
        ({"_older_than": 7}, "not one of this layout"),
        ({"_older_than": "yesterday"}, "not one of this layout"),
    ],
)
def test_a_record_that_was_changed_in_vault_is_refused(
    stage: Stage, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    """Whoever may write in Vault can make digests; nothing is put into files for that."""
    enroll(stage)
    tamper(stage, **changes)
    done = pull(stage, tmp_path / "tls")
    assert done.code == 10
    assert words in done.err
    assert not (tmp_path / "tls").exists()
    assert reloads(stage) == 0


def test_a_certificate_whose_key_is_not_here_is_refused(stage: Stage, tmp_path: Path) -> None:
    """A host that serves by the token wants certificates of keys in it; one without the token says so."""
    enroll(stage)
    empty = stage.folder / "other-token"
    other = create_softhsm_token(empty, label="other", module=softhsm_module())
    stage.configure(token=msgspec.to_builtins(other.settings))
    done = pull(stage, tmp_path / "tls")
    assert done.code == 10
    assert "not in the local token" in done.err
    assert not (tmp_path / "tls").exists()
    assert pull(stage, tmp_path / "tls", "--no-key").code == 0


def test_a_revoked_certificate_is_not_put_into_files(stage: Stage, tmp_path: Path) -> None:
    """What was revoked after it was published is refused, and what is here stays as it was."""
    enroll(stage)
    assert pull(stage, tmp_path / "tls").code == 0
    before = contents(tmp_path / "tls")
    [row] = stage.rows()
    assert row.serial_number is not None
    stage.bench.state.revoke(int(row.serial_number.replace(":", ""), 16))
    for kept in (stage.state_dir / "crl").glob("*.crl"):
        kept.unlink()
    for to in (tmp_path / "tls", tmp_path / "other"):
        done = pull(stage, to)
        assert done.code == 10
        assert "revoked" in done.err
    assert contents(tmp_path / "tls") == before
    assert not (tmp_path / "other").exists()
    assert reloads(stage) == 1
    stage.configure(trust={"revocation": "off"})
    assert pull(stage, tmp_path / "other").code == 0


def test_a_subject_without_the_customer_is_refused_if_the_settings_say_so(stage: Stage, tmp_path: Path) -> None:
    """The rule of `enroll` holds here too: by default it is a warning."""
    stage.bench.state.fault("another-customer", count=1)
    enroll(stage)
    stage.configure(trust={"subject": "refuse"})
    done = pull(stage, tmp_path / "tls")
    assert done.code == 10
    assert "does not hold the customer ID" in done.err
    assert not (tmp_path / "tls").exists()
    stage.configure()
    done = pull(stage, tmp_path / "tls")
    assert done.code == 0
    assert "does not hold the customer ID" in done.err


def as_consumer(stage: Stage, name: str) -> None:
    """Have the settings log in with a consumer's role, made by `vault setup`."""
    root = stage.vault.root
    admin = stage.folder / "admin-token"
    admin.touch(0o600)
    admin.write_text(stage.vault.server.root_token.reveal())
    made = stage.run(
        *("vault", "setup", "--for", "consumer", "--customer-id", CUSTOMER, "--consumer", name),
        *("--admin-token", f"file:{admin}", "--role", f"varmenne-{name}-{stage.vault.settings.mount}", "--json"),
    )
    assert made.code == 0
    file = stage.folder / f"{name}-secret-id"
    file.touch(0o600)
    role = f"varmenne-{name}-{stage.vault.settings.mount}"
    file.write_text(root.auth.approle.generate_secret_id(role)["data"]["secret_id"])
    login = {"method": "approle", "role_id": made.json["role_id"], "secret_id": f"file:{file}"}
    stage.configure(vault={"login": login})


def served(stage: Stage) -> list[dict[str, Any]]:
    """What the agent sees of the consumers."""
    stage.configure()
    done = stage.run("vault", "served", "--customer-id", CUSTOMER, "--json")
    assert done.code == 0
    found: list[dict[str, Any]] = done.json
    return found


def test_consumers_tell_what_they_serve(stage: Stage, tmp_path: Path) -> None:
    """Each with a role of its own, after its reload; the agent sees who still serves the certificate before."""
    enroll(stage)
    assert served(stage) == []
    for name in ("web-1", "web-2"):
        as_consumer(stage, name)
        done = pull(stage, tmp_path / name, "--acknowledge", name)
        assert (done.code, done.json["acknowledged"]) == (0, True)
        assert pull(stage, tmp_path / name, "--acknowledge", name).json["acknowledged"] is False
    assert [(one["consumer"], one["current"]) for one in served(stage)] == [("web-1", True), ("web-2", True)]
    [row] = stage.rows()
    enroll(stage, "--replaces", row.id)
    as_consumer(stage, "web-2")
    assert pull(stage, tmp_path / "web-2", "--acknowledge", "web-2").json["acknowledged"] is True
    first, second = served(stage)
    assert (first["serial_number"], first["current"], first["generation"]) == (row.serial_number, False, 1)
    assert (second["current"], second["generation"], second["host"]) == (True, 2, socket.gethostname())
    shown = stage.run("vault", "served", "--customer-id", CUSTOMER).out.splitlines()
    assert [line.split()[:2] for line in shown] == [["web-1", "ANOTHER"], ["web-2", "current"]]


def test_what_is_not_reloaded_is_not_told(stage: Stage, tmp_path: Path) -> None:
    """A server that may still serve the certificate before has not acknowledged the new one."""
    enroll(stage)
    as_consumer(stage, "web-1")
    arguments = ("pull", "--customer-id", CUSTOMER, "--to", tmp_path / "tls", "--acknowledge", "web-1")
    assert stage.run(*arguments, "--reload", "false").code == 14
    assert served(stage) == []
    as_consumer(stage, "web-1")
    assert stage.run(*arguments, "--reload", "true").code == 0
    assert [one["consumer"] for one in served(stage)] == ["web-1"]


def test_a_consumer_cannot_tell_in_anothers_place(stage: Stage, tmp_path: Path) -> None:
    """The files are in place and reloaded; the exit code says that something waits."""
    enroll(stage)
    as_consumer(stage, "web-1")
    done = pull(stage, tmp_path / "tls", "--acknowledge", "web-2")
    assert done.code == 14
    assert "could not be told" in done.err
    assert "policies/consumer.hcl" in done.err
    assert f"varmenne vault setup --for consumer --customer-id {CUSTOMER} --channel ws --consumer web-2" in done.err
    assert (bool(contents(tmp_path / "tls")), reloads(stage)) == (True, 1)
    assert served(stage) == []


def test_a_consumers_name_is_looked_at_first(stage: Stage, tmp_path: Path) -> None:
    """One that cannot be part of a path is refused before anything is done."""
    enroll(stage)
    assert pull(stage, tmp_path / "tls", "--acknowledge", "web/1").code == 4
    assert not (tmp_path / "tls").exists()
    setup = ("vault", "setup", "--customer-id", CUSTOMER, "--print", "--for")
    assert stage.run(*setup, "consumer", "--consumer", "a b").code in {3, 4}
    assert stage.run(*setup, "publisher", "--consumer", "web-1").code == 4


def test_a_folder_is_of_one_customer_and_channel(stage: Stage, tmp_path: Path) -> None:
    """A certificate does not take the place of another channel's or customer's; it may when the link is removed."""
    enroll(stage)
    enroll(stage, "--channel", "sftp")
    assert pull(stage, tmp_path / "tls").code == 0
    before, link = contents(tmp_path / "tls"), (tmp_path / "tls" / "current").readlink()
    done = pull(stage, tmp_path / "tls", "--channel", "sftp")
    assert done.code == 4
    assert f"has the certificate of test/{CUSTOMER}/ws, not of test/{CUSTOMER}/sftp" in done.err
    assert (contents(tmp_path / "tls"), (tmp_path / "tls" / "current").readlink(), reloads(stage)) == (before, link, 1)
    (tmp_path / "tls" / "current").unlink()
    assert pull(stage, tmp_path / "tls", "--channel", "sftp").code == 0
    assert contents(tmp_path / "tls") != before
    assert pull(stage, tmp_path / "tls").code == 4


def test_nothing_published_is_told(stage: Stage, tmp_path: Path) -> None:
    """The path is named, and no folder is made."""
    done = pull(stage, tmp_path / "tls")
    assert done.code == 11
    assert f"{CUSTOMER}/ws/current" in done.err
    assert not (tmp_path / "tls").exists()


def test_pulls_at_the_same_time_leave_whole_files(stage: Stage, tmp_path: Path) -> None:
    """Two timers that fire at once wait for each other: the link leads to files, and one of them has reloaded."""
    enroll(stage)
    arguments = ("pull", "--customer-id", CUSTOMER, "--to", tmp_path / "tls", "--reload", "true", "--json")
    running = [stage.start(*arguments) for _ in range(3)]
    results = [json.loads(process.communicate(timeout=60)[0]) for process in running]
    assert sorted(result["changed"] for result in results) == [False, False, True]
    assert sum(result["reloaded"] for result in results) == 1
    assert set(contents(tmp_path / "tls")) == set(FILES)


def test_a_pull_that_had_to_wait_looks_again_at_what_is_here(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record that was read before a newer one came does not replace the files of that one."""
    enroll(stage)
    [row] = stage.rows()
    alone = use_case._alone
    pulled: list[dict[str, str]] = []

    @contextlib.contextmanager
    def later(folder: Path) -> Iterator[None]:
        monkeypatch.setattr(use_case, "_alone", alone)
        newest = row
        while newest.not_before == row.not_before:  # In another second.
            enroll(stage, "--replaces", newest.id)
            newest = max(stage.rows(), key=lambda one: one.generation)
        assert pull(stage, folder).code == 0
        pulled.append(contents(folder))
        with alone(folder):
            yield

    monkeypatch.setattr(use_case, "_alone", later)
    done = pull(stage, tmp_path / "tls")
    assert done.code == 10
    assert "older than the one that is here" in done.err
    assert [contents(tmp_path / "tls")] == pulled


def test_a_folder_that_cannot_be_written_is_told(stage: Stage, tmp_path: Path) -> None:
    """A file in the folder's place is no folder; nothing is reloaded."""
    enroll(stage)
    (tmp_path / "tls").mkdir()
    (tmp_path / "tls" / "inner").write_text("x")
    done = pull(stage, tmp_path / "tls" / "inner")
    assert done.code in {2, 4}
    assert reloads(stage) == 0
