"""The inventory as a CycloneDX 1.6 CBOM (ECMA-424): algorithms, keys by reference, certificates. No key material.

The same inventory always gives the same document: names of components come from key IDs, and the serial number from
the log's root and the moment of the inventory. The schema does not check that references lead somewhere;
:func:`refuse_dangling` does.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Iterator
from typing import Any, Final

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.bom_ref import BomRef
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.crypto import (
    AlgorithmProperties,
    CertificateProperties,
    CryptoAssetType,
    CryptoExecutionEnvironment,
    CryptoFunction,
    CryptoPadding,
    CryptoPrimitive,
    CryptoProperties,
    RelatedCryptoMaterialProperties,
    RelatedCryptoMaterialSecuredBy,
    RelatedCryptoMaterialState,
    RelatedCryptoMaterialType,
)
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema.schema import SchemaVersion1Dot6

from varmenne.audit.inventory import SECURITY_BITS, Certificate, Inventory, Key
from varmenne.audit.report.lines import document
from varmenne.domain.forms import iso
from varmenne.domain.key_states import KeyState

NAMESPACE: Final = uuid.UUID("6f1d2a4e-6b0a-4d0e-9d53-0d1f0c6c7a11")
"""Of the serial numbers (RFC 9562, 5.5)."""

STATES: Final = {
    KeyState.PRE_ACTIVATION: RelatedCryptoMaterialState.PRE_ACTIVATION,
    KeyState.ACTIVE: RelatedCryptoMaterialState.ACTIVE,
    KeyState.DEACTIVATED: RelatedCryptoMaterialState.DEACTIVATED,
    KeyState.DESTROYED: RelatedCryptoMaterialState.DESTROYED,
}
"""State of a key → the word of CycloneDX, which has those of NIST SP 800-57."""

SIGNATURE_REF: Final = "crypto/algorithm/rsa-sha256"


def cbom(inventory: Inventory) -> bytes:
    """Write the inventory as a CBOM."""
    bom = Bom()
    bom.serial_number = uuid.uuid5(NAMESPACE, f"{inventory.log.origin} {inventory.log.root} {iso(inventory.made_at)}")
    bom.metadata.timestamp = inventory.made_at
    tool = Component(type=ComponentType.APPLICATION, name="varmenne", version=inventory.version, bom_ref="varmenne")
    bom.metadata.tools.components.add(tool)
    named: list[str] = []
    wanted: set[str] = set()

    def checked() -> Iterator[dict[str, Any]]:
        """Yield the components one by one: within a Bom, the library compares each of them with every other."""
        for component in _components(inventory):
            found = _plain(component)
            named.append(found["bom-ref"])
            wanted.update(references(found))
            yield found

    text = document(json.loads(JsonV1Dot6(bom).output_as_string()), "components", checked())
    refuse_dangling(named, wanted)
    return text


def _components(inventory: Inventory) -> Iterator[Component]:
    """Yield algorithms, keys and certificates."""
    yield _signature_algorithm()
    yield from map(_key_algorithm, sorted({key.bits for key in inventory.keys if key.bits is not None}))
    software = {token.identity for token in inventory.tokens if token.software}
    for key in inventory.keys:
        if key.public_key is not None and key.bits is not None:
            yield from _of_key(key, is_software=key.custody is not None and key.custody.token in software)


def _plain(component: Component) -> Any:
    """Return a component as JSON has it. The method comes by the library's decorator, of which types do not tell."""
    return json.loads(component.as_json(view_=SchemaVersion1Dot6))  # type: ignore[attr-defined]


def _signature_algorithm() -> Component:
    """Return what keys sign with."""
    return Component(
        type=ComponentType.CRYPTOGRAPHIC_ASSET,
        name="RSASSA-PKCS1-v1_5 with SHA-256",
        bom_ref=SIGNATURE_REF,
        crypto_properties=CryptoProperties(
            asset_type=CryptoAssetType.ALGORITHM,
            oid="1.2.840.113549.1.1.11",
            algorithm_properties=AlgorithmProperties(
                primitive=CryptoPrimitive.SIGNATURE,
                padding=CryptoPadding.PKCS1V15,
                crypto_functions=[CryptoFunction.SIGN, CryptoFunction.VERIFY],
                nist_quantum_security_level=0,
            ),
        ),
    )


def _key_algorithm(bits: int) -> Component:
    """Return the kind of keys of a size."""
    return Component(
        type=ComponentType.CRYPTOGRAPHIC_ASSET,
        name=f"RSA-{bits}",
        bom_ref=_algorithm_ref(bits),
        crypto_properties=CryptoProperties(
            asset_type=CryptoAssetType.ALGORITHM,
            oid="1.2.840.113549.1.1.1",
            algorithm_properties=AlgorithmProperties(
                primitive=CryptoPrimitive.SIGNATURE,
                parameter_set_identifier=str(bits),
                execution_environment=CryptoExecutionEnvironment.UNKNOWN,
                crypto_functions=[CryptoFunction.KEYGEN, CryptoFunction.SIGN, CryptoFunction.VERIFY],
                classical_security_level=SECURITY_BITS.get(bits),
                nist_quantum_security_level=0,
            ),
        ),
    )


def _of_key(key: Key, *, is_software: bool) -> Iterator[Component]:
    """Yield a key's private half, by reference alone, its public half, and its certificate."""
    yield _half(key, RelatedCryptoMaterialType.PRIVATE_KEY, is_software=is_software)
    yield _half(key, RelatedCryptoMaterialType.PUBLIC_KEY, is_software=is_software)
    if key.certificate is not None:
        yield _certificate(key, key.certificate)


def _half(key: Key, half: RelatedCryptoMaterialType, *, is_software: bool) -> Component:
    """Return one half of a key pair."""
    is_private = half is RelatedCryptoMaterialType.PRIVATE_KEY
    secured_by = RelatedCryptoMaterialSecuredBy(mechanism="Software" if is_software else "HSM")
    return Component(
        type=ComponentType.CRYPTOGRAPHIC_ASSET,
        name=f"{half.value} of {key.label}",
        bom_ref=f"crypto/{half.value}/{key.key_id}",
        crypto_properties=CryptoProperties(
            asset_type=CryptoAssetType.RELATED_CRYPTO_MATERIAL,
            related_crypto_material_properties=RelatedCryptoMaterialProperties(
                type=half,
                id=key.key_id,
                state=STATES[key.key_state],
                algorithm_ref=BomRef(_algorithm_ref(key.bits or 0)),
                creation_date=key.created_at,
                expiration_date=None if key.certificate is None else key.certificate.not_after,
                size=key.bits,
                secured_by=secured_by if is_private else None,
            ),
        ),
        properties=_properties(key, is_software=is_software) if is_private else None,
    )


def _properties(key: Key, *, is_software: bool) -> list[Property]:
    """Return what CycloneDX has no field for."""
    values: dict[str, object] = {
        "enrollment": key.enrollment,
        "environment": key.environment,
        "customer": key.customer_id,
        "channel": key.channel,
        "public_key_sha256": key.public_key,
        "records": key.records,
        "last_record": key.last_record,
        "boundary": "software token, no hardware boundary" if is_software else "as the token claims",
    }
    if key.custody is not None:
        values["token"] = key.custody.token.label
        values |= {f"pkcs11:{name}": value for name, value in key.custody.attributes}
    return [
        Property(name=f"varmenne:{name}", value=str(value).lower() if isinstance(value, bool) else str(value))
        for name, value in values.items()
        if value is not None
    ]


def _certificate(key: Key, certificate: Certificate) -> Component:
    """Return a certificate, which leads to its public key."""
    return Component(
        type=ComponentType.CRYPTOGRAPHIC_ASSET,
        name=f"certificate of {key.label}",
        bom_ref=f"crypto/certificate/{certificate.sha256}/{key.key_id}",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=certificate.sha256)],
        crypto_properties=CryptoProperties(
            asset_type=CryptoAssetType.CERTIFICATE,
            certificate_properties=CertificateProperties(
                subject_name=certificate.subject,
                issuer_name=certificate.issuer,
                not_valid_before=certificate.not_before,
                not_valid_after=certificate.not_after,
                signature_algorithm_ref=BomRef(SIGNATURE_REF) if certificate.signature == "RSA SHA256" else None,
                subject_public_key_ref=BomRef(f"crypto/{RelatedCryptoMaterialType.PUBLIC_KEY.value}/{key.key_id}"),
                certificate_format="X.509",
            ),
        ),
        properties=[Property(name="varmenne:serial_number", value=certificate.serial)],
    )


def _algorithm_ref(bits: int) -> str:
    """Name the component of keys of a size."""
    return f"crypto/algorithm/rsa-{bits}"


def refuse_dangling(named: Collection[str], wanted: Collection[str]) -> None:
    """Refuse a CBOM with a reference that leads nowhere, or a name that two components bear.

    Args:
        named: the names of its components.
        wanted: what its components refer to.

    Raises:
        ValueError: it has one; that is a defect.
    """
    if len(named) != len(set(named)):
        raise ValueError("two components of the CBOM have the same name")
    if missing := sorted({*wanted} - {*named}):
        raise ValueError(f"the CBOM refers to what it does not have: {', '.join(missing[:5])}")


def references(value: Any) -> Iterator[str]:
    """Yield every reference in a part of a document."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name.endswith("Ref") and isinstance(inner, str):
                yield inner
            else:
                yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)
