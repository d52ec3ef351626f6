"""The manifests for Kubernetes in ``docs/vault-distribution.md``: their form, and that a record has what they take."""

from __future__ import annotations

import copy
import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from varmenne.domain.identifiers import Channel, CustomerId, Environment
from varmenne.vault import Location, record_schema

TEXT = (Path(__file__).parents[2] / "docs" / "vault-distribution.md").read_text(encoding="utf-8")
SCHEMA = json.loads(Path(__file__).with_name("manifests.schema.json").read_text(encoding="utf-8"))
WHERE = Location(prefix="varmenne", environment=Environment.TEST, customer=CustomerId("1234567-8"), channel=Channel.WS)

yaml: Any = importlib.import_module("yaml")
jsonschema: Any = importlib.import_module("jsonschema")

MANIFESTS: dict[str, Any] = {
    one["kind"]: one
    for block in re.findall(r"^```yaml\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    for one in yaml.safe_load_all(block)
}
SCHEMAS = {kind: {**SCHEMA, "oneOf": [{"$ref": f"#/$defs/{kind}"}]} for kind in (*MANIFESTS, "objects")}


def refuse(kind: str, value: Any) -> None:
    """Hold a value against the schema of its kind."""
    jsonschema.Draft202012Validator(SCHEMAS[kind]).validate(value)


def objects() -> list[dict[str, Any]]:
    """What the CSI driver's provider is told to fetch, which is YAML in a text."""
    found: list[dict[str, Any]] = yaml.safe_load(MANIFESTS["SecretProviderClass"]["spec"]["parameters"]["objects"])
    return found


def test_all_kinds_are_there() -> None:
    """A manifest that is renamed or lost does not go unnoticed."""
    assert sorted(MANIFESTS) == ["ExternalSecret", "SecretProviderClass", "SecretStore"]


@pytest.mark.parametrize("kind", sorted(MANIFESTS))
def test_a_manifest_has_the_documented_form(kind: str) -> None:
    """Every field is one of the operator's, of its type, and those that it demands are there."""
    refuse(kind, MANIFESTS[kind])


def test_what_the_provider_fetches_has_the_documented_form() -> None:
    """Also inside of the text, where no tool of Kubernetes looks."""
    refuse("objects", objects())


@pytest.mark.parametrize("kind", sorted(MANIFESTS))
@pytest.mark.parametrize("change", [{"surprise": 1}, {"spec": {}}, {"apiVersion": "v0"}, {"metadata": {"name": "A B"}}])
def test_another_form_is_refused(kind: str, change: dict[str, Any]) -> None:
    """A schema that takes anything would prove nothing."""
    with pytest.raises(jsonschema.ValidationError):
        refuse(kind, {**copy.deepcopy(MANIFESTS[kind]), **change})


def test_they_take_what_a_record_has() -> None:
    """Paths are those of the layout, fields those of the record, and both ways give the same names."""
    data = MANIFESTS["ExternalSecret"]["spec"]["data"]
    store = MANIFESTS["SecretStore"]["spec"]["provider"]["vault"]
    assert {one["remoteRef"]["key"] for one in data} == {WHERE.path}
    assert {one["secretPath"] for one in objects()} == {f"{store['path']}/data/{WHERE.path}"}
    taken = {one["secretKey"]: one["remoteRef"]["property"] for one in data}
    assert taken == {one["objectName"]: one["secretKey"] for one in objects()}
    assert set(taken.values()) <= set(record_schema()["required"])
    assert MANIFESTS["ExternalSecret"]["spec"]["secretStoreRef"]["name"] == MANIFESTS["SecretStore"]["metadata"]["name"]
