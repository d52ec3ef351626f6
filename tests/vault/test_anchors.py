"""Checkpoints in Vault, with the agent's rights on a real server: written once, and none in the place of another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from varmenne.errors import EvidenceError, VaultDenied
from varmenne.vault.anchors import Anchor
from vault.test_checks import agent_policy, set_policy

if TYPE_CHECKING:
    from harness.openbao import Vault
    from varmenne.vault import CertificateStore

ORIGIN = "0123456789abcdef"
PATH = f"varmenne/audit/{ORIGIN}/{7:020}"


def test_a_checkpoint_is_written_once(vault: Vault, store: CertificateStore) -> None:
    """The same again, such as after a lost answer, changes nothing."""
    store.anchors.put(ORIGIN, 7, "seven")
    store.anchors.put(ORIGIN, 7, "seven")
    assert store.anchors.get(ORIGIN, 7) == Anchor(ORIGIN, 7, "seven")
    assert list(vault.versions(PATH)) == ["1"]


def test_another_checkpoint_of_that_size_is_refused(vault: Vault, store: CertificateStore) -> None:
    """What was anchored stays, and it is said that the log may have been rewritten."""
    store.anchors.put(ORIGIN, 7, "seven")
    with pytest.raises(EvidenceError, match="another checkpoint of 7 records"):
        store.anchors.put(ORIGIN, 7, "another seven")
    assert store.anchors.get(ORIGIN, 7) == Anchor(ORIGIN, 7, "seven")
    assert list(vault.versions(PATH)) == ["1"]


def test_a_policy_without_checkpoints_is_a_refusal(vault: Vault, store: CertificateStore) -> None:
    """It is not taken for a checkpoint that stands there already."""
    set_policy(vault, agent_policy(vault).replace('["create", "read"]', '["read"]'))
    with pytest.raises(VaultDenied):
        store.anchors.put(ORIGIN, 7, "seven")
    assert vault.versions(PATH) == {}


def test_the_newest_and_all(store: CertificateStore) -> None:
    """They are found by their number, of each log; nothing is found where nothing is."""
    assert store.anchors.newest(ORIGIN) is None
    assert list(store.anchors.every()) == []
    anchors = [Anchor(ORIGIN, 7, "seven"), Anchor(ORIGIN, 10, "ten"), Anchor("fedcba9876543210", 8, "eight")]
    for anchor in anchors:
        store.anchors.put(anchor.origin, anchor.size, anchor.note)
    assert store.anchors.newest(ORIGIN) == anchors[1]
    assert list(store.anchors.every()) == anchors
