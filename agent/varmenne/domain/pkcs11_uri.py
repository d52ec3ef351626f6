"""PKCS#11 URIs (RFC 7512): how other software is told which key of which token to use. They never carry a PIN."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal
from urllib.parse import quote, unquote_to_bytes

from varmenne.errors import InputError

if TYPE_CHECKING:
    from varmenne.domain.keys import KeyId, TokenIdentity

SCHEME = "pkcs11:"

Kind = Literal["private", "public", "cert"]
"""Values of the path attribute ``type`` for what varmenne keeps in a token (RFC 7512, 2.3)."""

PIN_ATTRIBUTES = frozenset({"pin-value", "pin-source"})
"""Query attributes that hold a PIN or lead to one (RFC 7512, 2.4). Vault and files that many may read have neither."""


def pkcs11_uri(token: TokenIdentity, key_id: KeyId, label: str, kind: Kind = "private") -> str:
    """Return the URI of one object: token label, serial, model and manufacturer, then ``CKA_ID``, label and type.

    Everything but the unreserved characters of RFC 3986 is percent-encoded as UTF-8, which every reader must accept,
    and every byte of the ID is, as RFC 7512 (2.3) advises. What the token does not tell is left out: an empty value
    would match only a token that says nothing.
    """
    attributes = {
        "token": _encoded(token.label),
        "serial": _encoded(token.serial),
        "model": _encoded(token.model),
        "manufacturer": _encoded(token.manufacturer),
        "id": "".join(f"%{byte:02X}" for byte in key_id),
        "object": _encoded(label),
        "type": kind,
    }
    return SCHEME + ";".join(f"{name}={value}" for name, value in attributes.items() if value)


def attributes_of(uri: str) -> dict[str, bytes]:
    """Take a PKCS#11 URI apart: attribute name → decoded value, path and query attributes together.

    Raises:
        InputError: another scheme, an attribute without a value, or one that occurs twice (RFC 7512, 2.3 and 2.4).
    """
    if not uri.startswith(SCHEME):
        raise InputError("This is not a PKCS#11 URI", why=f"it does not begin with {SCHEME!r}")
    path, _, query = uri.removeprefix(SCHEME).partition("?")
    found: dict[str, bytes] = {}
    for part in [*filter(None, path.split(";")), *filter(None, query.split("&"))]:
        name, equals, value = part.partition("=")
        if not equals or name in found:
            raise InputError(f"The PKCS#11 URI's attribute {name!r} has no value or occurs twice")
        found[name] = unquote_to_bytes(value)
    return found


def refuse_pin(uri: str) -> None:
    """Refuse a PKCS#11 URI that holds a PIN or the way to one; the message does not repeat it.

    Raises:
        InputError: the URI has ``pin-value`` or ``pin-source``, or cannot be read.
    """
    if found := PIN_ATTRIBUTES & {name.lower() for name in attributes_of(uri)}:
        raise InputError(
            "The PKCS#11 URI of a key must not carry its PIN",
            why=f"it has the attribute {', '.join(sorted(found))}",
            next_step="Leave the attribute out; whoever uses the key brings the PIN by another way",
        )


def _encoded(text: str) -> str:
    """Percent-encode a text as UTF-8, leaving only letters, digits and ``-._~``."""
    return quote(text, safe="")
