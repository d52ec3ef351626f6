"""What ``doctor`` and the preflight find, before one-time credentials are spent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from varmenne.clock import system_clock
from varmenne.domain.check import Verdict
from varmenne.errors import VaultDenied, VaultError
from varmenne.vault import CertificateStore, Location, policy_text
from varmenne.vault.checks import CHECKS

if TYPE_CHECKING:
    from pathlib import Path

    from harness.openbao import Vault
    from varmenne.settings import VaultSettings

NAMES = [name for name, _ in CHECKS]


def set_policy(vault: Vault, text: str) -> None:
    """Give the test's role another policy."""
    vault.root.sys.create_or_update_policy(f"varmenne-agent-{vault.settings.mount}", text)


def agent_policy(vault: Vault) -> str:
    """The policy that the test's role has."""
    return policy_text("agent", mount=vault.settings.mount)


def as_root(vault: Vault, tmp_path: Path) -> VaultSettings:
    """Settings that log in with the root token."""
    file = tmp_path / "token"
    file.touch(0o600)
    file.write_text(vault.server.root_token.reveal())
    login = msgspec.structs.replace(vault.settings.login, method="token-file", token_file=str(file))
    return msgspec.structs.replace(vault.settings, login=login)


def test_all_is_well_with_the_agents_policy(vault: Vault, store: CertificateStore, where: Location) -> None:
    """The policy that we ship passes every check without a warning, and checking writes nothing."""
    found = store.check(where)
    assert [(check.name, check.verdict) for check in found] == [(name, Verdict.OK) for name in NAMES]
    store.preflight(where)
    assert vault.versions(where.path) == {}


@pytest.mark.parametrize("right", ["create", "update", "read"])
def test_a_missing_right_is_found_before_it_is_needed(
    vault: Vault, store: CertificateStore, where: Location, right: str
) -> None:
    """The right and the path that lack it are named."""
    rights = [name for name in ("create", "update", "read") if name != right]
    wanted = ", ".join(f'"{name}"' for name in rights)
    set_policy(vault, agent_policy(vault).replace('["create", "update", "read"]', f"[{wanted}]", 1))
    with pytest.raises(VaultDenied) as caught:
        store.preflight(where)
    assert caught.value.facts["lacking"] == [right]
    last = store.check(where)[-1]
    assert (last.name, last.verdict) == ("rights", Verdict.FAIL)
    assert "policies/agent.hcl" in last.next_step


def test_a_missing_right_at_the_generations_is_found(vault: Vault, store: CertificateStore, where: Location) -> None:
    """A role that may only write the current record could not stage the next one beside it."""
    text = agent_policy(vault).replace("/+/+/+/+", "/+/+/+/current")
    set_policy(vault, text)
    with pytest.raises(VaultDenied, match="generation-1") as caught:
        store.preflight(where)
    assert caught.value.facts["lacking"] == ["create", "read", "update"]


def test_missing_rights_on_metadata_are_a_warning(vault: Vault, store: CertificateStore, where: Location) -> None:
    """Records are sound without custom metadata."""
    set_policy(vault, agent_policy(vault).replace('"patch", ', ""))
    store.preflight(where)
    assert {check.name: check.verdict for check in store.check(where)}["rights"] is Verdict.WARN


def test_a_root_token_works_with_a_warning(vault: Vault, where: Location, tmp_path: Path) -> None:
    """It can publish, but also destroy everything."""
    with CertificateStore(as_root(vault, tmp_path), clock=system_clock) as store:
        store.preflight(where)
        found = {check.name: check for check in store.check(where)}
    assert found["rights"].verdict is Verdict.OK
    assert found["login"].verdict is Verdict.WARN
    assert found["no dangerous rights"].verdict is Verdict.WARN
    assert "more" in found["no dangerous rights"].detail


@pytest.mark.parametrize(
    ("rule", "named"),
    [
        ('path "MOUNT/destroy/*" { capabilities = ["update"] }', "update at MOUNT/destroy"),
        ('path "MOUNT/delete/*" { capabilities = ["update"] }', "update at MOUNT/delete"),
        ('path "MOUNT/metadata/varmenne/test/*" { capabilities = ["delete"] }', "delete at MOUNT/metadata"),
        ('path "sys/policies/*" { capabilities = ["update"] }', "update at sys/policies"),
        ('path "MOUNT/config" { capabilities = ["update"] }', "update at MOUNT/config"),
        ('path "MOUNT/data/varmenne/audit/+/+" { capabilities = ["update"] }', "update at MOUNT/data/varmenne/audit/"),
        ('path "MOUNT/data/varmenne/audit/+/+" { capabilities = ["delete"] }', "delete at MOUNT/data/varmenne/audit/"),
        ('path "MOUNT/metadata/varmenne/audit/+/+" { capabilities = ["create"] }', "create at MOUNT/metadata/varmenne"),
        ('path "MOUNT/destroy/varmenne/audit/+/+" { capabilities = ["update"] }', "update at MOUNT/destroy/varmenne"),
    ],
)
def test_a_dangerous_right_is_named(
    vault: Vault, store: CertificateStore, where: Location, rule: str, named: str
) -> None:
    """Rights that publishing never uses are a warning with their path."""
    set_policy(vault, agent_policy(vault) + "\n" + rule.replace("MOUNT", vault.settings.mount))
    last = store.check(where)[-1]
    assert (last.name, last.verdict) == ("no dangerous rights", Verdict.WARN)
    assert named.replace("MOUNT", vault.settings.mount) in last.detail


def test_a_mount_of_another_kind_is_refused(vault: Vault, where: Location, tmp_path: Path) -> None:
    """A mount that is no KV engine is named with its kind."""
    settings = msgspec.structs.replace(as_root(vault, tmp_path), mount="cubbyhole")
    with CertificateStore(settings, clock=system_clock) as store, pytest.raises(VaultError, match="cubbyhole engine"):
        store.preflight(where)


def test_a_token_about_to_end_is_a_warning(vault: Vault, where: Location, tmp_path: Path) -> None:
    """A token that cannot be renewed and ends before a certificate is issued would fail at the worst moment."""
    settings = as_root(vault, tmp_path)
    policy = f"varmenne-agent-{vault.settings.mount}"
    made = vault.root.auth.token.create(policies=[policy], no_default_policy=True, ttl="60s", renewable=False)
    (tmp_path / "token").write_text(made["auth"]["client_token"])
    with CertificateStore(settings, clock=system_clock) as store:
        login = store.check(where)[1]
    assert (login.name, login.verdict) == ("login", Verdict.WARN)
    assert "renewable" in login.next_step


@pytest.mark.parametrize(("rule", "lacks"), [("data", "create"), ("metadata", "list")])
def test_a_policy_of_before_checkpoints_is_a_warning(
    vault: Vault, store: CertificateStore, where: Location, rule: str, lacks: str
) -> None:
    """Certificates can be published, but the audit log is not anchored."""
    set_policy(vault, agent_policy(vault).replace(f"{rule}/varmenne/audit", f"{rule}/varmenne/elsewhere"))
    store.preflight(where)
    found = {check.name: check for check in store.check(where)}["rights"]
    assert found.verdict is Verdict.WARN
    assert f"not {lacks} at {vault.settings.mount}/{rule}/varmenne/audit/" in found.detail
    assert "policies/agent.hcl" in found.next_step
