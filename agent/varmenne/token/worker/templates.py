"""Templates for the library, checked in Python first.

python-pkcs11 ends the whole interpreter when a template holds a value that it cannot pack (None, a wrong type, an
attribute without handler), so no template reaches it that :func:`checked` has not seen.
"""

from __future__ import annotations

import struct
from typing import Any, Final

from pkcs11 import Attribute, CertificateType, KeyType, ObjectClass
from pkcs11.attributes import AttributeMapper
from pkcs11.constants import DEFAULT

Template = dict[Attribute, Any]

_TYPES: Final[dict[Attribute, type]] = {
    **dict.fromkeys(
        (
            Attribute.TOKEN,
            Attribute.PRIVATE,
            Attribute.SENSITIVE,
            Attribute.EXTRACTABLE,
            Attribute.MODIFIABLE,
            Attribute.SIGN,
            Attribute.SIGN_RECOVER,
            Attribute.VERIFY,
            Attribute.ENCRYPT,
            Attribute.DECRYPT,
            Attribute.WRAP,
            Attribute.UNWRAP,
            Attribute.DERIVE,
        ),
        bool,
    ),
    **dict.fromkeys(
        (
            Attribute.ID,
            Attribute.SUBJECT,
            Attribute.ISSUER,
            Attribute.SERIAL_NUMBER,
            Attribute.VALUE,
            Attribute.PUBLIC_EXPONENT,
            Attribute.MODULUS,
            Attribute.EC_PARAMS,
        ),
        bytes,
    ),
    Attribute.LABEL: str,
    Attribute.MODULUS_BITS: int,
    Attribute.CLASS: ObjectClass,
    Attribute.KEY_TYPE: KeyType,
    Attribute.CERTIFICATE_TYPE: CertificateType,
}
"""Every attribute that varmenne ever hands to the library, with the exact type of its value."""


def mapper() -> AttributeMapper:
    """Return the library's attribute mapper, mended where a token's strange value would raise."""
    mended = AttributeMapper()
    raw_number = mended.attribute_types[Attribute.MODULUS_BITS]
    mended.register_handler(Attribute.KEY_GEN_MECHANISM, *raw_number)
    mended.register_handler(Attribute.KEY_TYPE, raw_number[0], raw_number[1])
    mended.register_handler(
        Attribute.LABEL, lambda text: text.encode("utf-8"), lambda raw: raw.decode("utf-8", errors="replace")
    )
    return mended


_MAPPER: Final = mapper()


def checked(template: Template) -> Template:
    """Return the template if the library can pack every value of it.

    Raises:
        TypeError: an attribute, the type of a value or the value itself is not foreseen. It is a defect of the
            caller, never of the user.
    """
    for attribute, value in template.items():
        if value is DEFAULT:
            continue
        wanted = _TYPES.get(attribute)
        if wanted is None or type(value) is not wanted:
            raise TypeError(f"{attribute!r} cannot hold a value of type {type(value).__name__}")
        try:
            _MAPPER.pack_attribute(attribute, value)
        except (struct.error, OverflowError, ValueError) as exc:
            raise TypeError(f"{attribute!r} cannot hold this value: {exc}") from exc
    return template


def from_names(order: dict[str, bool], *, leave_out: frozenset[str] = frozenset()) -> Template:
    """Turn attribute names into a template; what is left out is marked so, lest the library put its own default."""
    return {Attribute[name]: DEFAULT if name in leave_out else value for name, value in order.items()}
