"""The record: what it says, that it fits its schema, and that it never carries a PIN."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from varmenne.domain.identifiers import Channel, CustomerId, EnrollmentId, Environment
from varmenne.domain.keys import KeyId, TokenIdentity
from varmenne.domain.pkcs11_uri import pkcs11_uri
from varmenne.errors import InputError, VerificationError
from varmenne.vault import CertificateStore, Location, build_record, index_strings, record_schema

if TYPE_CHECKING:
    from harness.openbao import Vault

KEY_ID = KeyId(bytes(range(16)))
TOKEN = TokenIdentity("varmenne", "1d3f", "SoftHSM v2", "SoftHSM project", "2.6", "2.6")
BEGIN = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)
CUSTODY: dict[str, Any] = {
    "attributes": {"EXTRACTABLE": False, "SENSITIVE": True, "MODULUS_BITS": 2048, "COPYABLE": None},
    "deviations": ["the token does not know ALLOWED_MECHANISMS"],
    "probe": {"at": "2026-11-24T11:00:00Z", "fit": True, "tries": {"wrap AES_KEY_WRAP_PAD": "refused"}},
}


def chain_of(*names: str, serial: int = 0x00AB01) -> list[str]:
    """PEM certificates, the last a root, each issued by the next."""
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in names]
    subjects = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in names]
    made = []
    for place, key in enumerate(keys):
        above = min(place + 1, len(names) - 1)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subjects[place])
            .issuer_name(subjects[above])
            .public_key(key.public_key())
            .serial_number(serial + place)
            .not_valid_before(BEGIN)
            .not_valid_after(BEGIN + timedelta(days=730))
        )
        made.append(builder.sign(keys[above], hashes.SHA256()).public_bytes(Encoding.PEM).decode())
    return made


def build(certificates: list[str], **changes: Any) -> dict[str, object]:
    """Build a record of a leaf and its chain."""
    values: dict[str, Any] = {
        "certificate": certificates[0],
        "chain": certificates[1:],
        "key_ref": pkcs11_uri(TOKEN, KEY_ID, "varmenne-1"),
        "key_id": KEY_ID,
        "token": TOKEN,
        "custody": CUSTODY,
        "enrollment": EnrollmentId("20261124-7f3a9c21"),
        "generation": 1,
        "environment": Environment.TEST,
        "customer": CustomerId("1234567-8"),
        "channel": Channel.WS,
    } | changes
    return build_record(**values)


def valid(record: object) -> bool:
    """Ask the schema."""
    jsonschema: Any = importlib.import_module("jsonschema")
    return bool(jsonschema.Draft202012Validator(record_schema()).is_valid(record))


def test_the_facts_come_from_the_certificate() -> None:
    """Serial number as Vault's PKI writes it, validity, fingerprints, and the key's place."""
    pem = chain_of("leaf", "issuing", "root")
    record = build(pem)
    leaf = x509.load_pem_x509_certificate(pem[0].encode())
    assert record["serial_number"] == "ab:01"
    assert (record["not_before"], record["not_after"]) == ("2026-11-24T12:00:00Z", "2028-11-23T12:00:00Z")
    assert record["fingerprint_sha256"] == leaf.fingerprint(hashes.SHA256()).hex()
    assert record["key_id"] == "000102030405060708090a0b0c0d0e0f"
    assert record["token"] == {
        "label": "varmenne",
        "serial": "1d3f",
        "model": "SoftHSM v2",
        "manufacturer": "SoftHSM project",
    }


def test_the_chain_in_its_three_forms() -> None:
    """The issuer alone; all CAs; and what a TLS server sends, without the root."""
    leaf, issuing, root = (pem.strip() for pem in chain_of("leaf", "issuing", "root"))
    record = build([leaf, issuing, root])
    assert record["issuing_ca"] == issuing
    assert record["ca_chain"] == f"{issuing}\n{root}"
    assert record["fullchain"] == f"{leaf}\n{issuing}"


def test_openssl_reads_the_full_chain(tmp_path: Path) -> None:
    """Certificates are stored without the last line break; joined and written they parse."""
    record = build(chain_of("leaf", "issuing", "root"))
    file = tmp_path / "fullchain.pem"
    file.write_text(f"{record['fullchain']}\n")
    shown = subprocess.run(
        ["openssl", "crl2pkcs7", "-nocrl", "-certfile", file], check=True, capture_output=True, text=True
    )
    listed = subprocess.run(
        ["openssl", "pkcs7", "-print_certs"], input=shown.stdout, check=True, capture_output=True, text=True
    )
    assert listed.stdout.count("subject=") == 2


def test_a_published_record_fits_the_schema(vault: Vault, store: CertificateStore, where: Location) -> None:
    """What really stands in Vault, with all that the store adds, is what the documentation promises."""
    record = build(chain_of("leaf", "issuing"))
    store.publish(where, record, operation="op-1", custom_metadata=index_strings(record))
    data = vault.root.secrets.kv.v2.read_secret_version(
        where.path, mount_point=vault.settings.mount, raise_on_deleted_version=True
    )["data"]
    importlib.import_module("jsonschema").Draft202012Validator(record_schema()).validate(data["data"])
    assert data["metadata"]["custom_metadata"] == {
        "serial_number": "ab:01",
        "not_after": "2028-11-23T12:00:00Z",
        "fingerprint_sha256": record["fingerprint_sha256"],
        "enrollment": "20261124-7f3a9c21",
        "environment": "test",
        "channel": "ws",
        "generation": "1",
    }


@pytest.mark.parametrize(
    "change",
    [
        {"surprise": 1},
        {"key_ref": "pkcs11:token=t?pin-value=1234"},
        {"key_ref": "https://example"},
        {"certificate": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"},
        {"serial_number": "AB:01"},
        {"not_after": "2028-11-23 12:00"},
        {"custody": {"attributes": {}, "deviations": []}},
        {"custody": CUSTODY | {"pin": "1234"}},
        {"generation": 0},
        {"layout": 2},
        {"_older_than": "yesterday"},
    ],
)
def test_the_schema_refuses_what_the_layout_does_not_have(change: dict[str, Any]) -> None:
    """A schema that takes anything would prove nothing."""
    record = build(chain_of("leaf", "issuing")) | {"_operation": "op-1", "_digest": "0" * 64}
    assert valid(record)
    assert not valid(record | change)


@pytest.mark.parametrize("name", record_schema()["required"])
def test_every_field_is_required_and_documented(name: str) -> None:
    """The schema demands each field, and the documentation tells of each."""
    record = build(chain_of("leaf", "issuing")) | {"_operation": "op-1", "_digest": "0" * 64}
    assert not valid({key: value for key, value in record.items() if key != name})
    text = (Path(__file__).parents[2] / "docs" / "vault-layout.md").read_text(encoding="utf-8")
    assert re.search(rf"^\| `{name}` +\|", text, re.MULTILINE)


def test_a_pin_is_refused() -> None:
    """Not even a caller's mistake brings a PIN into Vault."""
    with pytest.raises(InputError, match="PIN"):
        build(chain_of("leaf", "issuing"), key_ref="pkcs11:token=t;id=%01?pin-value=1234")


@pytest.mark.parametrize(
    ("certificates", "changes", "check"),
    [
        (["x", "y"], {}, "certificate form"),
        (chain_of("leaf", "issuing")[:1], {}, "chain order"),
        ([*chain_of("leaf", "issuing")[:1], *chain_of("other", "other issuing")], {}, "chain order"),
        (chain_of("leaf", "issuing", "root")[::2], {}, "chain order"),
        (chain_of("leaf", "issuing"), {"key_id": KeyId(b"\x01" * 16)}, "key reference"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(
    certificates: list[str], changes: dict[str, Any], check: str
) -> None:
    """A record that contradicts itself is never built."""
    with pytest.raises(VerificationError) as caught:
        build(certificates, **changes)
    assert caught.value.check == check


def test_importing_the_room_loads_no_client() -> None:
    """Commands that do not speak to Vault do not pay for hvac, requests or cryptography."""
    script = "import sys, varmenne.vault; print([m for m in ('hvac', 'requests', 'cryptography') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
