"""How a key is ordered from the token, what the token may refuse, and what must be read back. Tables only.

Attribute names are those of PKCS#11 without ``CKA_``. Nothing here knows the PKCS#11 library, so the parent, the audit
log and the documentation can read the same tables as the worker that acts on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Final

from varmenne.domain.keys import RSA_BITS

PUBLIC_EXPONENT: Final = 65_537

PRIVATE_KEY_ORDER: Final[Mapping[str, bool]] = MappingProxyType(
    {
        "TOKEN": True,
        "PRIVATE": True,
        "SENSITIVE": True,
        "EXTRACTABLE": False,
        "SIGN": True,
        "SIGN_RECOVER": False,
        "DECRYPT": False,
        "UNWRAP": False,
        "DERIVE": False,
        "MODIFIABLE": False,
    }
)
"""The private key's template. ``ID``, ``LABEL``, the key type and the size come beside it."""

PUBLIC_KEY_ORDER: Final[Mapping[str, bool]] = MappingProxyType(
    {"TOKEN": True, "PRIVATE": False, "VERIFY": True, "ENCRYPT": False, "WRAP": False}
)
"""The public key's template. The object is a courtesy to other software: varmenne never relies on it."""

_USAGE: Final = frozenset({"SIGN_RECOVER", "DECRYPT", "UNWRAP", "DERIVE", "ENCRYPT", "WRAP"})


@dataclass(frozen=True, slots=True)
class Concession:
    """Attributes that the order leaves to the token, after the token refused the order that has them.

    What makes a key secret (``PRIVATE``, ``SENSITIVE``, ``EXTRACTABLE``) can never be conceded.
    """

    leave_out: frozenset[str]
    sentence: str


CONCESSIONS: Final = (
    Concession(frozenset(), ""),
    Concession(_USAGE, "the token refused an order that limits the key to signing, so its usage is the token's choice"),
    Concession(frozenset({"MODIFIABLE"}), "the token refused an order with MODIFIABLE false"),
    Concession(
        _USAGE | {"MODIFIABLE"},
        "the token refused an order that limits the key to signing and has MODIFIABLE false, so both are its choice",
    ),
)
"""Tried in this order. A TPM takes the second: its key flags allow decryption, and it refuses other words for them."""

CONCEDED_ON: Final = frozenset(
    {
        "CKR_GENERAL_ERROR",
        "CKR_ATTRIBUTE_VALUE_INVALID",
        "CKR_ATTRIBUTE_TYPE_INVALID",
        "CKR_ATTRIBUTE_READ_ONLY",
        "CKR_TEMPLATE_INCONSISTENT",
    }
)
"""Return codes by which a token refuses the words of an order. After any other code, nothing is conceded."""


class Verdict(Enum):
    """What follows from an attribute that is not as wanted."""

    UNFIT = "the key is not used"
    DEVIATION = "the key is used, and the deviation is recorded with it"
    FINE = "nothing"


@dataclass(frozen=True, slots=True)
class Expectation:
    """The value that an attribute must read back with, and what follows if it does not, or if the token does not tell."""

    attribute: str
    wanted: bool | int
    if_other: Verdict
    if_untold: Verdict
    meaning: str


_UNFIT, _DEVIATION, _FINE = Verdict.UNFIT, Verdict.DEVIATION, Verdict.FINE

EXPECTATIONS: Final = (
    Expectation("TOKEN", True, _UNFIT, _UNFIT, "the key would be gone when the session ends"),
    Expectation("PRIVATE", True, _UNFIT, _UNFIT, "the key could be used without the PIN"),
    Expectation("SENSITIVE", True, _UNFIT, _UNFIT, "the token would show the private key in clear"),
    Expectation("EXTRACTABLE", False, _UNFIT, _UNFIT, "the key could leave the token wrapped under another key"),
    Expectation("ALWAYS_SENSITIVE", True, _UNFIT, _UNFIT, "the key may have been shown in clear before"),
    Expectation("NEVER_EXTRACTABLE", True, _UNFIT, _UNFIT, "the key may have left the token before"),
    Expectation("LOCAL", True, _UNFIT, _DEVIATION, "the token does not confirm that the key was born in it"),
    Expectation("KEY_TYPE", 0, _UNFIT, _UNFIT, "the key is not an RSA key"),
    Expectation("MODULUS_BITS", RSA_BITS, _UNFIT, _UNFIT, "the size of the key is not the size ordered"),
    Expectation("PUBLIC_EXPONENT", PUBLIC_EXPONENT, _UNFIT, _UNFIT, "the public exponent is not the one ordered"),
    Expectation("SIGN", True, _UNFIT, _UNFIT, "the key cannot sign"),
    Expectation("ALWAYS_AUTHENTICATE", False, _UNFIT, _FINE, "every signature would need the PIN anew"),
    Expectation("DECRYPT", False, _DEVIATION, _DEVIATION, "the key can also decrypt"),
    Expectation("UNWRAP", False, _DEVIATION, _DEVIATION, "the key can also unwrap other keys"),
    Expectation("DERIVE", False, _DEVIATION, _DEVIATION, "the key can also derive other keys"),
    Expectation("SIGN_RECOVER", False, _DEVIATION, _FINE, "the key can also sign with recovery"),
    Expectation("MODIFIABLE", False, _DEVIATION, _DEVIATION, "attributes of the key can be changed later"),
)
"""Everything that is demanded of a key when it is read back, right after generation and each time it is found.

``LOCAL`` may be untold, because tokens need not have it, but not false: an imported key can have every other flag right.
``MODULUS_BITS`` and ``PUBLIC_EXPONENT`` are computed from the values read, since a private key object has no size of its
own.
"""

EVIDENCE: Final = ("KEY_GEN_MECHANISM", "COPYABLE", "DESTROYABLE", "WRAP_WITH_TRUSTED")
"""Read back and recorded, but nothing is demanded of them."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the attributes of one key mean: why it is not used (empty if it is), and how it deviates from the order."""

    unfit: tuple[str, ...]
    deviations: tuple[str, ...]


def judge(attributes: Mapping[str, bool | int | None]) -> Judgement:
    """Compare attributes as read back with :data:`EXPECTATIONS`. ``None`` stands for what the token does not tell."""
    sentences: dict[Verdict, list[str]] = {verdict: [] for verdict in Verdict}
    for row in EXPECTATIONS:
        value = attributes.get(row.attribute)
        if value is None:
            sentences[row.if_untold].append(f"{row.attribute} cannot be read, so possibly {row.meaning}")
        elif value != row.wanted:
            sentences[row.if_other].append(f"{row.attribute} is {_word(value)}: {row.meaning}")
    return Judgement(unfit=tuple(sentences[_UNFIT]), deviations=tuple(sentences[_DEVIATION]))


def _word(value: bool | int) -> str:  # noqa: FBT001 - an attribute's value, not an option
    """Write a value as people write attributes: ``true``, ``false`` or a number."""
    return str(value).lower()
