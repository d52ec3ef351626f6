"""The renewal request as a document: signed by a real token without any network, and verified before it is sent."""

from __future__ import annotations

import base64
import socket
from typing import NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.renewals import CUSTOMER, NAME, NOWHERE, Keys, made, self_made
from harness.signers import BrokenSigner
from varmenne.csr import build_csr
from varmenne.domain.identifiers import Environment
from varmenne.domain.keys import Signer, new_key_id
from varmenne.errors import InputError, TokenError, VerificationError
from varmenne.service.client import CertificateService
from varmenne.service.interface import DSIG, NAMESPACE
from varmenne.service.renewal import Renewal, verify_renewal
from varmenne.token import CreatedToken, Token

CSR_BYTES = 10_240


def test_no_network_is_needed_before_sending(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dry run makes and verifies the very document that would be sent, and opens no connection."""

    def refuse(*_arguments: object) -> NoReturn:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    certificate, csr = self_made(keys.old), build_csr(keys.new, CUSTOMER, NAME)
    document = made(keys.old, certificate, csr)
    assert verify_renewal(document, certificate) == Renewal(Environment.TEST, CUSTOMER, NAME, csr)


class Counting:
    """A signer that counts how often it was asked."""

    def __init__(self, behind: Signer) -> None:
        self.public_key = behind.public_key
        self.asked = 0
        self._behind = behind

    def sign(self, data: bytes) -> bytes:
        """Sign, and count."""
        self.asked += 1
        return self._behind.sign(data)


def test_the_token_is_asked_once(keys: Keys) -> None:
    """One request, one signature."""
    signer = Counting(keys.old)
    made(signer, self_made(keys.old), b"csr")
    assert signer.asked == 1


def test_another_key_signs_nothing(keys: Keys) -> None:
    """A key that is not the certificate's is refused before the token is asked."""
    signer = Counting(keys.strange)
    with pytest.raises(VerificationError, match="not the one of the certificate") as caught:
        made(signer, self_made(keys.old), b"csr")
    assert (caught.value.check, signer.asked) == ("key", 0)


def test_a_token_that_is_gone_is_named(softhsm_shared: CreatedToken) -> None:
    """What the token says reaches the caller as it is, through the library that asked it."""
    with Token(softhsm_shared.settings) as token:
        key_id = new_key_id()
        token.generate(key_id, "renewal")
        signer = token.signer(key_id)
    with pytest.raises(TokenError):
        made(signer, self_made(signer), b"csr")


def test_a_wrong_signature_goes_nowhere() -> None:
    """What a broken signer made is verified, and refused, before anybody gets it."""
    signer = BrokenSigner()
    with pytest.raises(VerificationError) as caught:
        made(signer, self_made(signer), b"csr")
    assert caught.value.check == "signature"


def test_an_unreadable_certificate_is_refused(keys: Keys) -> None:
    """Neither for signing nor for verifying."""
    document = made(keys.old, self_made(keys.old), b"csr")
    for act in (lambda: made(keys.old, b"nonsense", b"csr"), lambda: verify_renewal(document, b"nonsense")):
        with pytest.raises(VerificationError) as caught:
            act()
        assert caught.value.check == "certificate"


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"name": "n" * 101}, "CustomerName"),
        ({"customer": "c" * 31}, "CustomerId"),
        ({"customer": ""}, "CustomerId"),
        ({"csr": b""}, "CertificateRequest"),
        ({"csr": bytes(CSR_BYTES + 1)}, "CertificateRequest"),
        ({"name": "bell\a"}, "could not be built"),
        ({"name": "half a letter \ud800"}, "could not be built"),
    ],
)
def test_values_that_break_the_schema_are_bad_input(keys: Keys, changes: dict[str, str | bytes], where: str) -> None:
    """Nothing comes out, and the message names the place without repeating the value."""
    values = {"customer": CUSTOMER, "name": NAME, "csr": b"csr", **changes}
    with CertificateService(Environment.TEST, NOWHERE) as client, pytest.raises(InputError, match=where) as caught:
        client.renewal_document(**values, certificate=self_made(keys.old), signer=keys.old)  # type: ignore[arg-type]
    assert not any(value and str(value) in str(caught.value) for value in changes.values())


EXCLUSIVE = "http://www.w3.org/2001/10/xml-exc-c14n#"
OPEN, CLOSE = "<ns0:RenewCertificateRequest", "</ns0:RenewCertificateRequest>"
CHANGED = {
    # What is changed in a signed document: (before, after, the check that refuses).
    "an XML declaration": (OPEN, f'<?xml version="1.0"?>{OPEN}', "node"),
    "a byte order mark": (OPEN, f"\ufeff{OPEN}", "node"),
    "a document type": (OPEN, f"<!DOCTYPE a>{OPEN}", "node"),
    "a comment": ("<CustomerId>", "<!-- a --><CustomerId>", "node"),
    "a comment in a value": ("0123456-7", "0123<!-- a -->456-7", "node"),
    "a processing instruction": (CLOSE, f"{CLOSE}<?a?>", "node"),
    "a second element": (CLOSE, f"{CLOSE}<a/>", "xml"),
    "an end too few": (CLOSE, "", "xml"),
    "an entity": ("0123456-7", "&a;", "xml"),
    "another message": ("RenewCertificateRequest", "GetCertificateRequest", "operation"),
    "another namespace": (NAMESPACE, f"{NAMESPACE}/", "operation"),
    "an unknown element": ("<CustomerId>", "<a/><CustomerId>", "schema"),
    "an attribute": ("<CustomerId>", '<CustomerId a="">', "schema"),
    "no customer": ("<CustomerId>0123456-7</CustomerId>", "", "schema"),
    "another customer": ("0123456-7", "0123456-8", "signature"),
    "another environment": ("<Environment>TEST", "<Environment>PRODUCTION", "signature"),
    "white space": ("<CustomerId>", "\n<CustomerId>", "signature"),
    "another prefix": ("ns0", "n", "signature"),
    "another CSR": (base64.b64encode(b"csr").decode(), base64.b64encode(b"cst").decode(), "signature"),
    "reference to an ID": ('URI=""', 'URI="#a"', "signature-shape"),
    "no reference URI": (' URI=""', "", "signature-shape"),
    "inclusive C14N": (
        f'Transform Algorithm="{EXCLUSIVE}"',
        'Transform Algorithm="http://www.w3.org/TR/2001/REC-xml-c14n-20010315"',
        "signature-shape",
    ),
    "a transform less": (f'<ds:Transform Algorithm="{EXCLUSIVE}"/>', "", "signature-shape"),
    "another hash": ("xmlenc#sha256", "xmlenc#sha512", "signature-shape"),
    "SHA-1": ("http://www.w3.org/2001/04/xmldsig-more#rsa-sha256", f"{DSIG}rsa-sha1", "signature-shape"),
    "a key name": ("<ds:KeyInfo>", "<ds:KeyInfo><ds:KeyName>a</ds:KeyName>", "signature-shape"),
    "an object": ("</ds:Signature>", "<ds:Object>a</ds:Object></ds:Signature>", "signature-shape"),
    "an ID": ("<ds:KeyInfo>", '<ds:KeyInfo Id="a">', "signature-shape"),
    "stray characters": ("<ds:SignatureValue>", "<ds:SignatureValue>*", "signature-shape"),
    "another signature": ("<ds:SignatureValue>", "<ds:SignatureValue>AAAA", "signature"),
    "another certificate": ("<ds:X509Certificate>", "<ds:X509Certificate>AAAA", "signer"),
}


@pytest.fixture(scope="module")
def genuine(keys: Keys) -> tuple[str, bytes]:
    """A signed document and its certificate."""
    certificate = self_made(keys.old)
    return made(keys.old, certificate, b"csr").decode(), certificate


@pytest.mark.parametrize("case", CHANGED)
def test_a_changed_document_is_refused_by_the_check_that_sees_it(genuine: tuple[str, bytes], case: str) -> None:
    """Before sending, a document from the disk is believed no more than a stranger's."""
    document, certificate = genuine
    before, after, check = CHANGED[case]
    assert before in document
    with pytest.raises(VerificationError) as caught:
        verify_renewal(document.replace(before, after).encode(), certificate)
    assert caught.value.check == check


def test_another_certificate_is_refused(genuine: tuple[str, bytes], keys: Keys) -> None:
    """The same key in another certificate is not the certificate to be renewed."""
    document, _certificate = genuine
    with pytest.raises(VerificationError) as caught:
        verify_renewal(document.encode(), self_made(keys.old))
    assert caught.value.check == "signer"


@settings(max_examples=200, deadline=None, database=None)
@given(data=st.data())
def test_one_changed_byte_changes_no_value(genuine: tuple[str, bytes], data: st.DataObject) -> None:
    """Any one byte of a document put to any value: the same values, or a refusal within the family."""
    document, certificate = genuine
    body = bytearray(document.encode())
    body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        renewal = verify_renewal(bytes(body), certificate)
    except VerificationError:
        return
    assert renewal == Renewal(Environment.TEST, CUSTOMER, NAME, b"csr")
