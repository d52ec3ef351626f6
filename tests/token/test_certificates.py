"""Certificates beside their keys."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key
from cryptography.x509.oid import NameOID

from varmenne.domain.keys import KeyFacts, new_key_id
from varmenne.errors import InputError, KeyNotFound
from varmenne.token import CreatedToken, Token

from .conftest import Shim

ISSUER_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def certificate(public_key: bytes, serial: int = 1) -> bytes:
    """Return a certificate for a public key, in DER."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Åkerlund & Öljy Oy")])
    key = load_der_public_key(public_key)
    assert isinstance(key, RSAPublicKey)
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key, serial, now, now + timedelta(days=1))
    return builder.sign(ISSUER_KEY, SHA256()).public_bytes(Encoding.DER)


@pytest.fixture(scope="module")
def client(softhsm_shared: CreatedToken) -> Iterator[Token]:
    """One client for all tests here."""
    with Token(softhsm_shared.settings) as shared:
        yield shared


@pytest.fixture(scope="module")
def made(client: Token) -> KeyFacts:
    """A key to store certificates beside."""
    return client.generate(new_key_id(), "key")


def test_a_certificate_is_stored_once(softhsm: CreatedToken, token: Token) -> None:
    """The first call writes, the second finds it there; the bytes come back as they were; a renewal stands beside."""
    facts = token.generate(new_key_id(), "key")
    first, second = certificate(facts.public_key, 1), certificate(facts.public_key, 2)
    assert token.certificates(facts.key_id) == ()
    assert token.store_certificate(facts.key_id, "certificate", first) is True
    assert token.store_certificate(facts.key_id, "certificate", first) is False
    assert token.certificates(facts.key_id) == (first,)
    assert token.store_certificate(facts.key_id, "renewed", second) is True
    assert set(token.certificates(facts.key_id)) == {first, second}
    with Token(softhsm.settings) as another:
        assert set(another.certificates(facts.key_id)) == {first, second}


def test_a_certificate_of_another_key_is_refused(client: Token, made: KeyFacts) -> None:
    """A certificate beside a key that it is not for would mislead every program that uses the pair."""
    other = client.generate(new_key_id(), "other")
    with pytest.raises(InputError, match="not for the key"):
        client.store_certificate(made.key_id, "certificate", certificate(other.public_key))
    assert client.certificates(made.key_id) == ()


def test_a_certificate_without_a_key_is_refused(client: Token, made: KeyFacts) -> None:
    """There must be a key to stand beside."""
    key_id = new_key_id()
    with pytest.raises(KeyNotFound):
        client.store_certificate(key_id, "certificate", certificate(made.public_key))
    assert client.certificates(key_id) == ()


@pytest.mark.parametrize("damage", ["empty", "truncated", "trailing", "PEM", "noise"])
def test_what_is_not_one_certificate_is_refused(client: Token, made: KeyFacts, damage: str) -> None:
    """Only exactly one DER certificate is stored."""
    good = certificate(made.public_key)
    bad = {
        "empty": b"",
        "truncated": good[:-10],
        "trailing": good + b"\0",
        "PEM": b"-----BEGIN CERTIFICATE-----\n",
        "noise": b"\x30\x03\x02\x01\x01",
    }[damage]
    with pytest.raises(InputError):
        client.store_certificate(made.key_id, "certificate", bad)
    assert client.certificates(made.key_id) == ()


def test_storing_is_not_repeated_in_silence(shim: Shim, shimmed: Token) -> None:
    """A crash while storing is an error; the next call finds out whether it is there."""
    facts = shimmed.generate(new_key_id(), "key")
    data = certificate(facts.public_key)
    before = shim.calls("C_CreateObject")
    shim.order("crash C_CreateObject")
    with pytest.raises(Exception, match="could not store a certificate"):
        shimmed.store_certificate(facts.key_id, "certificate", data)
    assert shim.calls("C_CreateObject") == before + 1
    shim.order()
    assert shimmed.store_certificate(facts.key_id, "certificate", data) is True
