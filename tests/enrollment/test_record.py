"""The record of a real enrollment, as consumers find it in Vault."""

from __future__ import annotations

import json
import subprocess
from datetime import timedelta

import jsonschema

from harness.stage import NAME, Listener, Stage, order_for
from varmenne.enrollment import facts
from varmenne.enrollment.enroll import enroll
from varmenne.vault import record_schema

WAIT = timedelta(seconds=20)


def test_record_is_as_documented(stage: Stage) -> None:
    """It fits the published schema, holds the issued certificate, and nothing of the order's secrets."""
    order = stage.order(name=NAME)
    with stage.parts() as parts:
        row = enroll(parts, Listener(), order_for(name=NAME), stage.credentials(order), wait=WAIT)
        published = parts.store.read(facts.place(parts.settings, row.customer_id, row.channel))
    assert published is not None
    record = dict(published.data or {})
    jsonschema.Draft202012Validator(record_schema()).validate(record)
    assert record["certificate"].strip() == (row.certificate or "").strip()
    assert record["enrollment"] == row.id
    assert record["custody"]["probe"]["fit"] is True
    text = json.dumps(record)
    assert order.one_time_password not in text
    assert order.transfer_id not in text


def test_openssl_reads_what_is_stored(stage: Stage) -> None:
    """OpenSSL takes the chain apart, and finds in the certificate the key that the record names."""
    with stage.parts() as parts:
        row = enroll(parts, Listener(), order_for(), stage.credentials(stage.order()), wait=WAIT)
        published = parts.store.read(facts.place(parts.settings, row.customer_id, row.channel))
    assert published is not None
    record = dict(published.data or {})
    (stage.folder / "leaf.pem").write_text(record["certificate"] + "\n")
    (stage.folder / "chain.pem").write_text(record["ca_chain"] + "\n")
    root = next(path for path in (stage.bench.trust_dir / "test" / "chain").glob("*.pem") if "root" in path.name)
    command = ["openssl", "verify", "-x509_strict", "-CAfile", str(root), "-untrusted", "chain.pem", "leaf.pem"]
    subprocess.run(command, check=True, cwd=stage.folder, capture_output=True)
    key = subprocess.run(
        ["openssl", "x509", "-in", "leaf.pem", "-noout", "-pubkey"], check=True, cwd=stage.folder, capture_output=True
    )
    der = subprocess.run(
        ["openssl", "pkey", "-pubin", "-outform", "DER"], input=key.stdout, check=True, capture_output=True
    )
    assert facts.sha256(der.stdout) == record["public_key_sha256"]


def test_key_in_the_token_has_its_certificate_beside_it(stage: Stage) -> None:
    """The certificate object bears the key's CKA_ID, and is there once."""
    with stage.parts() as parts:
        row = enroll(parts, Listener(), order_for(), stage.credentials(stage.order()), wait=WAIT)
        assert parts.token.certificates(row.key_id) == (facts.pem_to_der(row.certificate or ""),)
