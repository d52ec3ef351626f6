"""Paths of records: predictable, safe in a URL, and one per customer."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import pytest

from varmenne.clock import system_clock
from varmenne.domain.identifiers import Channel, CustomerId, Environment
from varmenne.errors import ConfigError
from varmenne.settings import LoginSettings, VaultSettings
from varmenne.vault import CertificateStore, Location
from varmenne.vault.location import customer_segment


def test_the_path() -> None:
    """Prefix, environment, customer, channel, and the record in use."""
    where = Location(
        prefix="team/varmenne", environment=Environment.TEST, customer=CustomerId("1234567-8"), channel=Channel.SFTP
    )
    assert where.path == "team/varmenne/test/1234567-8/sftp/current"


def test_the_path_of_a_generation() -> None:
    """Beside the record in use, each generation has one of its own; the place of one leads to that of another."""
    where = Location(
        prefix="varmenne", environment=Environment.TEST, customer=CustomerId("1234567-8"), channel=Channel.WS
    )
    assert where.generation(2).path == "varmenne/test/1234567-8/ws/generation-2"
    assert where.generation(2).generation(3) == where.generation(3) != where


@pytest.mark.parametrize("customer", ["1234567-8", "FI12345678", "a.b_c-d", "x" * 30])
def test_plain_customer_ids_stay(customer: str) -> None:
    """A person who looks for a customer finds them by their ID."""
    assert customer_segment(CustomerId(customer)) == customer


@pytest.mark.parametrize(
    "customer",
    [
        "SE 556677-8899",
        "a/b",
        "..",
        "a..b",
        ".a",
        "-a",
        "Åbo-1",
        "a%2fb",
        "a*",
        "+",
        "id-" + "0" * 32,
        "a#b",
        "a?b",
        "audit",
    ],
)
def test_other_customer_ids_are_hashed(customer: str) -> None:
    """What Vault, hvac or a URL would rewrite, and what is the path of something else, is replaced by its hash."""
    assert customer_segment(CustomerId(customer)) == f"id-{hashlib.sha256(customer.encode()).hexdigest()[:32]}"


def test_a_hash_cannot_be_claimed_by_another_customer() -> None:
    """An ID that is written like another's hash gets a path of its own."""
    taken = customer_segment(CustomerId("a/b"))
    assert customer_segment(CustomerId(taken)) != taken


@pytest.mark.parametrize("prefix", ["", "/a", "a/", "a//b", "a/../b", "a b", "å", "x" * 65, "a\n"])
@pytest.mark.parametrize("setting", ["prefix", "mount"])
def test_an_unsafe_prefix_or_mount_is_refused(setting: str, prefix: str) -> None:
    """Before anything is connected, and by the name of the setting."""
    good = VaultSettings(address="http://127.0.0.1:1", login=LoginSettings(token_file="/nowhere"))
    settings = msgspec.structs.replace(good, **{setting: prefix})
    with pytest.raises(ConfigError, match=f"vault.{setting}"):
        CertificateStore(settings, clock=system_clock)


def test_the_documented_example_is_true() -> None:
    """The page on the layout shows a customer ID and its hash."""
    text = (Path(__file__).parents[2] / "docs" / "vault-layout.md").read_text(encoding="utf-8")
    assert f"\n{customer_segment(CustomerId('SE 556677-8899'))}\n" in text
