"""PKCS#11 URIs: correctly encoded, readable back, and never with a PIN."""

from __future__ import annotations

import pytest

from varmenne.domain.keys import KeyId, TokenIdentity
from varmenne.domain.pkcs11_uri import Kind, attributes_of, pkcs11_uri, refuse_pin
from varmenne.errors import InputError

TOKEN = TokenIdentity(
    label="varmenne",
    serial="26c0a9b1d3f4e577",
    model="SoftHSM v2",
    manufacturer="SoftHSM project",
    firmware="",
    library="",
)
KEY_ID = KeyId(bytes.fromhex("00ff256a3b3f26"))


def test_the_whole_uri() -> None:
    """Attributes in a fixed order, blanks as %20, every byte of the ID encoded in upper case."""
    assert pkcs11_uri(TOKEN, KEY_ID, "varmenne 20261124-7f3a9c21") == (
        "pkcs11:token=varmenne;serial=26c0a9b1d3f4e577;model=SoftHSM%20v2;manufacturer=SoftHSM%20project"
        ";id=%00%FF%25%6A%3B%3F%26;object=varmenne%2020261124-7f3a9c21;type=private"
    )


@pytest.mark.parametrize("kind", ["private", "public", "cert"])
def test_the_type_is_told(kind: Kind) -> None:
    """The three kinds of objects share all else."""
    assert attributes_of(pkcs11_uri(TOKEN, KEY_ID, "x", kind))["type"] == kind.encode()


@pytest.mark.parametrize(
    "label", ["a;b", "a?pin-value=1", "a&b", "a%41", "a/b#c", "Åkerlund & Öljy Oy", "a=b", "'\"<>"]
)
def test_any_label_is_read_back(label: str) -> None:
    """What separates attributes, or begins a query, is encoded: a label cannot smuggle in an attribute."""
    uri = pkcs11_uri(TOKEN, KEY_ID, label)
    found = attributes_of(uri)
    assert found["object"] == label.encode()
    assert found["id"] == KEY_ID
    assert set(found) == {"token", "serial", "model", "manufacturer", "id", "object", "type"}
    assert uri.isascii()
    refuse_pin(uri)


def test_what_a_token_does_not_tell_is_left_out() -> None:
    """An empty serial number would match only tokens without one."""
    bare = TokenIdentity(label="t", serial="", model="", manufacturer="", firmware="", library="")
    assert pkcs11_uri(bare, KeyId(b"\x01"), "") == "pkcs11:token=t;id=%01;type=private"


@pytest.mark.parametrize("query", ["pin-value=1234", "pin-source=file:/etc/pin", "module-name=x&PIN-VALUE=1234"])
def test_a_pin_is_refused_and_not_repeated(query: str) -> None:
    """A URI with a PIN, or the way to one, does not get into a record; the message does not show it."""
    with pytest.raises(InputError) as caught:
        refuse_pin(f"pkcs11:token=t;id=%01?{query}")
    assert "1234" not in str(caught.value)


@pytest.mark.parametrize("uri", ["", "pkcs12:token=t", "pkcs11:token", "pkcs11:token=a;token=b", "pkcs11:a=1?a=2"])
def test_what_is_no_uri_is_refused(uri: str) -> None:
    """Another scheme, an attribute without a value, or one twice."""
    with pytest.raises(InputError):
        attributes_of(uri)


def test_a_module_in_the_query_is_read() -> None:
    """Query attributes other than a PIN are allowed."""
    assert attributes_of("pkcs11:token=t?module-path=/usr/lib/x.so&module-name=x") == {
        "token": b"t",
        "module-path": b"/usr/lib/x.so",
        "module-name": b"x",
    }
