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
class Form:
    """A form of the order: all of it, or less, after the token refused the form before.

    What makes a key secret (``PRIVATE``, ``SENSITIVE``, ``EXTRACTABLE``) is in every form.

    Attributes:
        leave_out: attributes that are left to the token.
        concession: a sentence on that; empty for the whole order.
        because: return code of the refusal that made it necessary, once that is known.
    """

    leave_out: frozenset[str]
    concession: str
    because: str = ""

    @property
    def deviation(self) -> str:
        """What to record with a key that was ordered in this form; empty if nothing."""
        return f"{self.concession} ({self.because})" if self.concession else ""


FORMS: Final[tuple[Form, ...]] = (
    Form(frozenset(), ""),
    Form(_USAGE, "the token refused an order that limits the key to signing, so its usage is the token's choice"),
    Form(frozenset({"MODIFIABLE"}), "the token refused an order with MODIFIABLE false"),
    Form(
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
    """The value that an attribute must read back with, and what follows otherwise, or if the token does not tell."""

    attribute: str
    meaning: str
    wanted: bool | int
    if_other: Verdict
    if_untold: Verdict


_UNFIT, _DEVIATION, _FINE = Verdict.UNFIT, Verdict.DEVIATION, Verdict.FINE


def _expect(attribute: str, meaning: str, *, to_be: bool | int, or_: Verdict = _UNFIT, untold: Verdict) -> Expectation:
    """Build one row."""
    return Expectation(attribute, meaning, wanted=to_be, if_other=or_, if_untold=untold)


EXPECTATIONS: Final = (
    _expect("TOKEN", "the key would be gone when the session ends", to_be=True, untold=_UNFIT),
    _expect("PRIVATE", "the key could be used without the PIN", to_be=True, untold=_UNFIT),
    _expect("PRIVATE_EXPONENT", "the token shows the private key in clear", to_be=False, untold=_FINE),
    _expect("SENSITIVE", "the token would show the private key in clear", to_be=True, untold=_UNFIT),
    _expect("EXTRACTABLE", "the key could leave the token wrapped under another key", to_be=False, untold=_UNFIT),
    _expect("ALWAYS_SENSITIVE", "the key may have been shown in clear before", to_be=True, untold=_UNFIT),
    _expect("NEVER_EXTRACTABLE", "the key may have left the token before", to_be=True, untold=_UNFIT),
    _expect("LOCAL", "the token does not confirm that the key was born in it", to_be=True, untold=_DEVIATION),
    _expect("KEY_TYPE", "the key is not an RSA key", to_be=0, untold=_UNFIT),
    _expect("MODULUS_BITS", "the size of the key is not the size ordered", to_be=RSA_BITS, untold=_UNFIT),
    _expect("PUBLIC_EXPONENT", "the exponent is not the one ordered", to_be=PUBLIC_EXPONENT, untold=_UNFIT),
    _expect("SIGN", "the key cannot sign", to_be=True, untold=_UNFIT),
    _expect("ALWAYS_AUTHENTICATE", "every signature would need the PIN anew", to_be=False, untold=_FINE),
    _expect("DECRYPT", "the key can also decrypt", to_be=False, or_=_DEVIATION, untold=_DEVIATION),
    _expect("UNWRAP", "the key can also unwrap other keys", to_be=False, or_=_DEVIATION, untold=_DEVIATION),
    _expect("DERIVE", "the key can also derive other keys", to_be=False, or_=_DEVIATION, untold=_DEVIATION),
    _expect("SIGN_RECOVER", "the key can also sign with recovery", to_be=False, or_=_DEVIATION, untold=_FINE),
    _expect("MODIFIABLE", "attributes can be changed later", to_be=False, or_=_DEVIATION, untold=_DEVIATION),
)
"""Everything that is demanded of a key when it is read back, right after generation and each time it is found.

``LOCAL`` may be untold, because tokens need not have it, but not false: an imported key can have every other flag
right. ``MODULUS_BITS`` and ``PUBLIC_EXPONENT`` are computed from the values read, since a private key object has no
size of its own. ``PRIVATE_EXPONENT`` is only tried: ``True`` if the token shows it, and otherwise untold, as it should
be; its value goes nowhere.
"""

_OF_RSA: Final = frozenset({"PRIVATE_EXPONENT", "KEY_TYPE", "MODULUS_BITS", "PUBLIC_EXPONENT"})

LOG_KEY_EXPECTATIONS: Final = (
    *(row for row in EXPECTATIONS if row.attribute not in _OF_RSA),
    _expect("VALUE", "the token shows the private key in clear", to_be=False, untold=_FINE),
)
"""The same for the audit log's key. Its type, size and public half are shown by a signature, not by attributes.

``VALUE`` is only tried, as ``PRIVATE_EXPONENT`` is.
"""

EVIDENCE: Final = ("KEY_GEN_MECHANISM", "COPYABLE", "DESTROYABLE", "WRAP_WITH_TRUSTED")
"""Read back and recorded, but nothing is demanded of them."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the attributes of one key mean: why it is not used (empty if it is), and how it deviates from the order."""

    unfit: tuple[str, ...]
    deviations: tuple[str, ...]


def judge(
    attributes: Mapping[str, bool | int | None], expectations: tuple[Expectation, ...] = EXPECTATIONS
) -> Judgement:
    """Compare attributes as read back with what is expected. ``None`` stands for what the token does not tell."""
    sentences: dict[Verdict, list[str]] = {verdict: [] for verdict in Verdict}
    for row in expectations:
        value = attributes.get(row.attribute)
        if value is None:
            sentences[row.if_untold].append(f"{row.attribute} cannot be read, so possibly {row.meaning}")
        elif value != row.wanted:
            sentences[row.if_other].append(f"{row.attribute} is {_word(value)}: {row.meaning}")
    return Judgement(unfit=tuple(sentences[_UNFIT]), deviations=tuple(sentences[_DEVIATION]))


def _word(value: bool | int) -> str:  # noqa: FBT001 - an attribute's value, not an option
    """Write a value as people write attributes: ``true``, ``false`` or a number."""
    return str(value).lower()
