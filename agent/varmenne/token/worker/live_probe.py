"""Tries on a live key: only what changes nothing, and must be refused.

There is no control key here, so a refusal counts only by the return code that PKCS#11 has for exactly this. Wrapping,
copying and changing attributes could do harm if they were not refused: :mod:`varmenne.token.worker.probe` tries them on
throw-away keys of the same template.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pkcs11 import Attribute, KeyType

from varmenne.domain.keys import ProbeResult
from varmenne.token.key_policy import EXPECTATIONS, LOG_KEY_EXPECTATIONS, judge
from varmenne.token.worker.keys import read_back
from varmenne.token.worker.objects import PrivateKeys, read
from varmenne.token.worker.tries import ALLOWED, NOT_APPLICABLE, REFUSED, Try, attempt, permitted, reads, uses

if TYPE_CHECKING:
    from pkcs11.types import Object

    from varmenne.token.worker.session import TokenSession

_PROOF: Final = frozenset({"CKR_ATTRIBUTE_SENSITIVE", "CKR_KEY_FUNCTION_NOT_PERMITTED"})
"""PKCS#11 2.40, 5.1.6: the value may not be read; the key may not be used so."""


def probe_key(token: TokenSession, keys: PrivateKeys, key_id: bytes) -> tuple[ProbeResult, ...]:
    """Make every try on one key, and compare its attributes with the policy.

    Raises:
        KeyNotFound: no key, or more than one, has this ``CKA_ID``.
        PKCS11Error: the token went away.
    """
    private = keys.get(key_id)
    key_type = read(private, Attribute.KEY_TYPE)
    try:
        results = [_outcome(way, private) for way in (*reads(key_type), *uses(token, key_type))]
        return (*results, _attributes(token, private, key_type))
    finally:
        token.drop_work()  # Should the token have let an operation begin, it ends here.
        keys.forget()


def _outcome(way: Try, private: Object) -> ProbeResult:
    """Make one try and draw the conclusion."""
    came_out, happened = attempt(way, private)
    if not came_out:
        return ProbeResult(way.name, REFUSED if happened in _PROOF else NOT_APPLICABLE, happened)
    if permitted(way, private):
        return ProbeResult(way.name, NOT_APPLICABLE, f"{happened}; {way.usage} is true, a deviation of the key")
    return ProbeResult(way.name, ALLOWED, happened)


def _attributes(token: TokenSession, private: Object, key_type: KeyType | None) -> ProbeResult:
    """Read the attributes anew and judge them as at the key's birth: "allowed" if one was changed that must not be."""
    expectations = EXPECTATIONS if key_type == KeyType.RSA else LOG_KEY_EXPECTATIONS
    judgement = judge(read_back(token, private, expectations), expectations)
    if judgement.unfit:
        return ProbeResult("change attributes", ALLOWED, "; ".join(judgement.unfit))
    return ProbeResult("change attributes", REFUSED, "; ".join(("they read as ordered", *judgement.deviations)))
