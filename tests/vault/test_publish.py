"""Publishing and reading on a real server: each operation once, nothing overwritten, nothing lost."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import msgspec
import pytest

from varmenne.clock import system_clock
from varmenne.errors import InputError, VaultConflict, VaultError
from varmenne.testbench.openbao import make_role
from varmenne.vault import CertificateStore, Location, MetadataNotWritten, policy_text
from varmenne.vault.record import OLDER_THAN
from varmenne.vault.sealing import MAX_RECORD_BYTES, digest_of
from vault.conftest import IMPATIENT

if TYPE_CHECKING:
    from harness.openbao import Vault
    from vault.conftest import Meddler

RECORD = {"certificate": "one", "enrollment": "20261124-00000001", "not_before": "2026-11-24T00:00:00Z"}
NEXT = {"certificate": "two", "enrollment": "20261124-00000002", "not_before": "2026-11-25T00:00:00Z"}
WRITERS = 50


def test_what_was_published_is_read(vault: Vault, store: CertificateStore, where: Location) -> None:
    """The record comes back with its version, its custom metadata, and the two fields that the store adds."""
    version = store.publish(where, RECORD, operation="op-1", custom_metadata={"serial_number": "01"})
    found = store.read(where)
    assert version == 1
    assert found is not None
    assert (found.version, found.operation, found.custom_metadata) == (1, "op-1", {"serial_number": "01"})
    assert found.data == {**RECORD, "_operation": "op-1", "_digest": digest_of(found.data)}
    assert list(vault.versions(where.path)) == ["1"]


def test_nothing_published_reads_as_none(store: CertificateStore, where: Location) -> None:
    """A path that was never written is no error."""
    assert store.read(where) is None


def test_next_record_becomes_the_next_version(vault: Vault, store: CertificateStore, where: Location) -> None:
    """A renewal is published over its predecessor, which stays in the history."""
    store.publish(where, RECORD, operation="op-1")
    assert store.publish(where, NEXT, operation="op-2") == 2
    old = vault.root.secrets.kv.v2.read_secret_version(
        where.path, version=1, mount_point=vault.settings.mount, raise_on_deleted_version=True
    )
    assert old["data"]["data"]["certificate"] == "one"


def test_repeating_an_operation_writes_nothing(vault: Vault, store: CertificateStore, where: Location) -> None:
    """After a crash the same operation finds its own version, also from a new session."""
    store.publish(where, RECORD, operation="op-1", custom_metadata={"k": "v"})
    before = vault.root.secrets.kv.v2.read_secret_metadata(where.path, mount_point=vault.settings.mount)["data"]
    with CertificateStore(vault.settings, clock=system_clock) as another:
        assert another.publish(where, RECORD, operation="op-1", custom_metadata={"k": "v"}) == 1
    after = vault.root.secrets.kv.v2.read_secret_metadata(where.path, mount_point=vault.settings.mount)["data"]
    assert after == before


def test_repeating_after_a_crash_before_the_metadata_sets_it(store: CertificateStore, where: Location) -> None:
    """Custom metadata comes after the record; a crash between the two is made good by the repetition."""
    store.publish(where, RECORD, operation="op-1")
    assert store.publish(where, RECORD, operation="op-1", custom_metadata={"k": "v"}) == 1
    found = store.read(where)
    assert found is not None
    assert found.custom_metadata == {"k": "v"}


def test_one_operation_never_publishes_two_records(vault: Vault, store: CertificateStore, where: Location) -> None:
    """The same operation with another content is a mistake of the caller, not a new version."""
    store.publish(where, RECORD, operation="op-1")
    with pytest.raises(VaultConflict) as caught:
        store.publish(where, NEXT, operation="op-1")
    assert caught.value.facts["their_enrollment"] == RECORD["enrollment"]
    assert list(vault.versions(where.path)) == ["1"]


def test_a_newer_varmenne_finds_what_an_older_one_published(
    vault: Vault, store: CertificateStore, where: Location
) -> None:
    """Same operation, same certificate, other words around it: that is the same act, and nothing is written."""
    store.publish(where, {**RECORD, "fingerprint_sha256": "ab"}, operation="op-1")
    assert store.publish(where, {**RECORD, "fingerprint_sha256": "ab", "layout": 9}, operation="op-1") == 1
    assert list(vault.versions(where.path)) == ["1"]


def test_an_older_certificate_does_not_replace_a_newer(vault: Vault, store: CertificateStore, where: Location) -> None:
    """A run that is resumed after a later one has published finds that out and changes nothing."""
    store.publish(where, NEXT, operation="op-2")
    with pytest.raises(VaultConflict, match="begins later") as caught:
        store.publish(where, RECORD, operation="op-1")
    assert (caught.value.facts["version"], caught.value.facts["their_operation"]) == (1, "op-2")
    assert list(vault.versions(where.path)) == ["1"]


def test_a_write_in_between_is_a_conflict(
    vault: Vault, store: CertificateStore, where: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever wrote between our reading and our writing keeps their version; we learn whose it is."""
    read = store._state

    def read_then_lose(path: str, version: int | None = None) -> object:
        found = read(path, version)
        if version is None:
            vault.root.secrets.kv.v2.create_or_update_secret(
                path, {"enrollment": "20261124-ffffffff"}, cas=found.version, mount_point=vault.settings.mount
            )
        return found

    monkeypatch.setattr(store, "_state", read_then_lose)
    with pytest.raises(VaultConflict, match="in between") as caught:
        store.publish(where, RECORD, operation="op-1")
    monkeypatch.undo()
    assert caught.value.facts["version"] == 1
    assert caught.value.facts["their_enrollment"] == "20261124-ffffffff"
    found = store.read(where)
    assert found is not None
    assert found.data == {"enrollment": "20261124-ffffffff"}


@pytest.mark.parametrize("act", ["delete_latest_version_of_secret", "destroy_secret_versions"])
def test_a_removed_version_is_followed_by_the_next(
    vault: Vault, store: CertificateStore, where: Location, act: str
) -> None:
    """A deleted or destroyed latest version reads as nothing, and its number is not used again."""
    store.publish(where, RECORD, operation="op-1")
    more = {"versions": [1]} if act == "destroy_secret_versions" else {}
    getattr(vault.root.secrets.kv.v2, act)(path=where.path, mount_point=vault.settings.mount, **more)
    assert store.read(where) is None
    assert store.publish(where, RECORD, operation="op-1") == 2


def test_fifty_writers_make_each_version_once(vault: Vault, where: Location) -> None:
    """Of writers that start together, exactly one makes each version; the others know that they have lost."""

    def write(number: int) -> int | None:
        with CertificateStore(vault.settings, clock=system_clock) as store:
            try:
                return store.publish(where, {"certificate": number}, operation=f"op-{number}")
            except VaultConflict:
                return None

    with ThreadPoolExecutor(16) as pool:
        versions = [version for version in pool.map(write, range(WRITERS)) if version is not None]
    assert sorted(versions) == list(range(1, len(versions) + 1))
    assert len(vault.versions(where.path)) == min(len(versions), 20)
    assert vault.root.secrets.kv.v2.read_secret_metadata(where.path, mount_point=vault.settings.mount)["data"][
        "current_version"
    ] == len(versions)


def test_kv_version_1_is_refused(vault: Vault, where: Location) -> None:
    """A version 1 mount would take the write and keep no version: nothing is written to it."""
    name = f"{vault.settings.mount}-old"
    vault.root.sys.enable_secrets_engine("kv", path=name, options={"version": "1"})
    role_id, secret_id = make_role(vault.root, name, policy_text("agent", mount=name))
    login = msgspec.structs.replace(vault.settings.login, role_id=role_id, secret_id="env:VARMENNE_TEST_SECRET_ID")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VARMENNE_TEST_SECRET_ID", secret_id.reveal())
        settings = msgspec.structs.replace(vault.settings, mount=name, login=login)
        with (
            pytest.warns(UserWarning, match="comes from the environment"),
            CertificateStore(settings, clock=system_clock) as store,
            pytest.raises(VaultError, match="version 1") as caught,
        ):
            store.publish(where, RECORD, operation="op-1")
    assert caught.value.facts["mount"] == name
    assert vault.root.adapter.get(f"/v1/{name}/?list=true", raise_exception=False).status_code == 404
    vault.root.sys.disable_secrets_engine(name)


def test_a_mount_without_cas_required_is_written_with_check_and_set_too(
    vault: Vault, store: CertificateStore, where: Location
) -> None:
    """Check-and-set is ours to ask for; the mount's own demand is only the second lock."""
    vault.root.secrets.kv.v2.configure(cas_required=False, mount_point=vault.settings.mount)
    assert store.publish(where, RECORD, operation="op-1") == 1
    with pytest.raises(VaultConflict):
        store._write(where.path, {"_operation": "op-2", "_digest": "x"}, 0)
    assert list(vault.versions(where.path)) == ["1"]


def test_a_record_that_is_too_large_is_not_sent(vault: Vault, store: CertificateStore, where: Location) -> None:
    """The limit is ours: Vault's storage would answer an internal error, which looks as if it might pass."""
    with pytest.raises(VaultError, match="too large") as caught:
        store.publish(where, {"certificate": "x" * MAX_RECORD_BYTES}, operation="op-1")
    assert "size_bytes" in caught.value.facts
    assert vault.versions(where.path) == {}


@pytest.mark.parametrize(
    ("record", "operation", "metadata"),
    [
        ({"x": float("nan")}, "op", {}),
        ({"x": {1, 2}}, "op", {}),
        (RECORD, "", {}),
        (RECORD, "op", {"empty": ""}),
        (RECORD, "op", {"long": "x" * 513}),
        (RECORD, "op", {"": "x"}),
        (RECORD, "op", {"number": 7}),
        (RECORD, "op", {f"k{number}": "v" for number in range(65)}),
    ],
)
def test_what_vault_could_not_hold_is_refused_before_it_is_sent(
    vault: Vault, where: Location, record: dict[str, object], operation: str, metadata: dict[str, str]
) -> None:
    """Values that are not JSON and metadata beyond Vault's limits leave no half-published record."""
    with CertificateStore(vault.settings, clock=system_clock) as store, pytest.raises(InputError):
        store.publish(where, record, operation=operation, custom_metadata=metadata)
    assert vault.versions(where.path) == {}


def test_custom_metadata_is_merged_and_the_paths_settings_stay(
    vault: Vault, store: CertificateStore, where: Location
) -> None:
    """Hvac's own call would reset delete_version_after; ours touches nothing but our own strings."""
    vault.root.secrets.kv.v2.update_metadata(
        where.path,
        max_versions=7,
        delete_version_after="100h",
        custom_metadata={"owner": "ops"},
        mount_point=vault.settings.mount,
    )
    store.publish(where, RECORD, operation="op-1", custom_metadata={"serial_number": "01"})
    after = vault.root.secrets.kv.v2.read_secret_metadata(where.path, mount_point=vault.settings.mount)["data"]
    assert after["custom_metadata"] == {"owner": "ops", "serial_number": "01"}
    assert (after["max_versions"], after["delete_version_after"]) == (7, "100h0m0s")


def test_metadata_that_may_not_be_set_is_a_warning(vault: Vault, where: Location) -> None:
    """The record is what matters; without the right to set metadata it is published all the same."""
    policy = policy_text("agent", mount=vault.settings.mount).replace('"create", "update", "patch", "read"', '"read"')
    vault.root.sys.create_or_update_policy(f"varmenne-agent-{vault.settings.mount}", policy)
    with CertificateStore(vault.settings, clock=system_clock) as store:
        with pytest.warns(MetadataNotWritten, match="policy does not allow"):
            assert store.publish(where, RECORD, operation="op-1", custom_metadata={"k": "v"}) == 1
        found = store.read(where)
    assert found is not None
    assert found.custom_metadata == {}


def test_a_version_that_is_as_expected_costs_one_write(vault: Vault, meddler: Meddler, where: Location) -> None:
    """Whoever keeps books of versions needs no reading before the write."""
    with CertificateStore(meddler.settings(vault.settings), clock=system_clock, patience=IMPATIENT) as store:
        assert store.publish(where, RECORD, operation="op-1", expected_version=0) == 1
        meddler.seen.clear()
        assert store.publish(where, RECORD, operation="op-2", expected_version=1) == 2
        assert [method for method, _path in meddler.seen] == ["POST"]


def test_a_version_that_is_not_as_expected_is_read_and_decided(store: CertificateStore, where: Location) -> None:
    """The same operation again finds its own version, and another one follows what is there."""
    assert store.publish(where, RECORD, operation="op-1", expected_version=0) == 1
    assert store.publish(where, RECORD, operation="op-1", expected_version=0) == 1
    assert store.publish(where, RECORD, operation="op-2", expected_version=0) == 2
    assert store.publish(where, RECORD, operation="op-3", expected_version=7) == 3


def test_an_expectation_overwrites_no_later_certificate(vault: Vault, store: CertificateStore, where: Location) -> None:
    """A wrong expectation never writes: an old run that is resumed does not replace what came after it."""
    store.publish(where, RECORD | {"not_before": "2027-01-01T00:00:00Z"}, operation="op-2", expected_version=0)
    with pytest.raises(VaultConflict, match="begins later"):
        store.publish(where, RECORD | {"not_before": "2026-01-01T00:00:00Z"}, operation="op-1", expected_version=0)
    assert set(vault.versions(where.path)) == {"1"}


def begin(year: int) -> dict[str, str]:
    """A certificate that begins in a year."""
    return {"certificate": str(year), "fingerprint_sha256": f"{year}", "not_before": f"{year}-01-01T00:00:00Z"}


def test_an_older_certificate_is_published_if_a_person_orders_it(
    vault: Vault, store: CertificateStore, where: Location
) -> None:
    """Going back is one more version, which says how late the certificate begins that it takes the place of."""
    store.publish(where, begin(2026), operation="op-1")
    store.publish(where, begin(2028), operation="op-2", expected_version=1)
    assert store.publish(where, begin(2026), operation="op-1", expected_version=2, older=True) == 3
    found = store.read(where)
    assert found is not None
    assert (found.data["certificate"], found.data[OLDER_THAN]) == ("2026", "2028-01-01T00:00:00Z")
    assert found.data["_digest"] == digest_of(found.data)
    assert store.publish(where, begin(2026), operation="op-1", expected_version=2, older=True) == 3
    assert set(vault.versions(where.path)) == {"1", "2", "3"}


def test_going_back_twice_tells_of_the_latest(store: CertificateStore, where: Location) -> None:
    """A consumer that slept through the first step back follows the second as well; the way forward leaves no mark."""
    for year in (2026, 2028, 2030):
        store.publish(where, begin(year), operation=f"op-{year}")
    for year in (2028, 2026):
        store.publish(where, begin(year), operation=f"op-{year}", older=True)
        found = store.read(where)
        assert found is not None
        assert found.data[OLDER_THAN] == "2030-01-01T00:00:00Z"
    store.publish(where, begin(2032), operation="op-2032")
    found = store.read(where)
    assert found is not None
    assert OLDER_THAN not in found.data


def test_an_order_to_go_back_loses_to_somebody_elses_write(
    vault: Vault, store: CertificateStore, where: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It overwrites an older or a newer certificate, but never one that it has not seen."""
    store.publish(where, begin(2028), operation="op-2")
    read = store._state

    def read_then_lose(path: str, version: int | None = None) -> object:
        found = read(path, version)
        if version is None:
            vault.root.secrets.kv.v2.create_or_update_secret(
                path, begin(2030), cas=found.version, mount_point=vault.settings.mount
            )
        return found

    monkeypatch.setattr(store, "_state", read_then_lose)
    with pytest.raises(VaultConflict, match="in between"):
        store.publish(where, begin(2026), operation="op-1", older=True)
    monkeypatch.undo()
    found = store.read(where)
    assert found is not None
    assert found.data == begin(2030)


def test_a_generation_has_a_record_of_its_own(vault: Vault, store: CertificateStore, where: Location) -> None:
    """It is published before it becomes the current one, and stays when another one has; by the agent's own policy."""
    for number, year in ((1, 2026), (2, 2028)):
        for place in (where.generation(number), where):
            tags = {"generation": str(number)}
            store.publish(place, begin(year), operation=f"op-{number}", expected_version=None, custom_metadata=tags)
    for number, year in ((1, 2026), (2, 2028)):
        found = store.read(where.generation(number))
        assert found is not None
        assert (found.version, found.data["certificate"]) == (1, str(year))
        assert found.custom_metadata == {"generation": str(number)}
    assert len(vault.versions(where.path)) == 2
