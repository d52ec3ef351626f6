"""``docs/vault-setup.md`` says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from varmenne.vault.policies import POLICIES
from varmenne.vault.setup import AGENT_METADATA, MAX_VERSIONS, TERMS

TEXT = (Path(__file__).parents[2] / "docs" / "vault-setup.md").read_text(encoding="utf-8")


def test_the_opentofu_text_has_the_terms_of_setup() -> None:
    """Whoever sets Vault up by OpenTofu gets the same role and mount."""
    tofu = dict(re.findall(r"^  (\w+) += (\S+)$", TEXT, re.MULTILINE))
    assert {name: tofu[name] for name in TERMS} == {name: str(value).lower() for name, value in TERMS.items()}
    assert (tofu["cas_required"], tofu["max_versions"]) == ("true", str(MAX_VERSIONS))
    assert f'{{ {AGENT_METADATA} = "a1" }}' in TEXT


def test_every_policy_is_told_of() -> None:
    """An administrator finds each in the table."""
    assert set(re.findall(r"^\| `([\w-]+)`", TEXT, re.MULTILINE)) - {"--for"} == set(POLICIES)
