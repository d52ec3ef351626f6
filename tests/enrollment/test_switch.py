"""Whoever reads Vault through a renewal never holds a certificate that does not fit its key."""

from __future__ import annotations

import threading
from datetime import timedelta

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from harness.stage import CUSTOMER, Stage
from varmenne.domain.pkcs11_uri import attributes_of
from varmenne.domain.steps import State
from varmenne.vault.record import refuse_contradictions

AGE = timedelta(days=730 - 40)


def test_a_reader_in_a_loop(stage: Stage) -> None:
    """Every version that is ever seen agrees with itself and names a key that is in the token and fits."""
    first = stage.aged(stage.order(), AGE)
    seen: list[dict[str, object]] = []
    failed: list[BaseException] = []
    enough = threading.Event()

    def read() -> None:
        client = stage.vault.root
        while not enough.is_set():
            try:
                answer = client.secrets.kv.v2.read_secret_version(
                    f"{stage.vault.settings.prefix}/test/{CUSTOMER}/ws/current",
                    mount_point=stage.vault.settings.mount,
                    raise_on_deleted_version=True,
                )
                seen.append(answer["data"]["data"])
            except BaseException as exc:  # noqa: BLE001 - told by the test
                failed.append(exc)
                return

    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert stage.run("renew", first.id).code == 0
        assert stage.run("activate", first.id).code == 0  # Back, and forward again.
        (second,) = (row for row in stage.rows() if row.state is State.SUPERSEDED)
        assert stage.run("activate", second.id).code == 0
    finally:
        enough.set()
        reader.join()
    assert failed == []
    different = {str(record["serial_number"]): record for record in seen}
    assert set(different) == {first.serial_number, second.serial_number}
    with stage.token_client() as token:
        for record in different.values():
            leaf = refuse_contradictions(record)
            key = token.find(leaf.key_id)
            assert key is not None
            assert attributes_of(str(record["key_ref"]))["id"] == leaf.key_id
            certificate = x509.load_pem_x509_certificate(str(record["certificate"]).encode())
            spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            assert key.public_key == leaf.public_key == spki
