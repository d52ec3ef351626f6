"""Looks certificates up in their CAs' lists, as strictly as the settings say: before what they stand for is used.

A certificate is looked up before it is published or put into files, and the service's signing certificate before an
answer is acted on. Verification itself knows no network, so that it says the same of an answer at any time.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from varmenne.service.certificates import issuers_above, with_root
from varmenne.service.revocation import CACHE_LIFETIME, Policy, RevocationChecker, refuse_revoked

if TYPE_CHECKING:
    from varmenne.enrollment.parts import Parts
    from varmenne.service.answers import Answer


def look_up(parts: Parts, certificates: Sequence[bytes], whose: str = "the certificate") -> tuple[str, ...]:
    """Refuse a certificate that is revoked, or whose issuers are; return warnings on what is not known.

    Args:
        parts: the parts.
        certificates: the certificate, then its chain, in DER.
        whose: what people call it.

    Raises:
        VerificationError: check ``revoked``.
        NotFinished: the settings demand to know, and it is not known.
    """
    settings = parts.settings
    policy = Policy(settings.trust.revocation)
    if policy is Policy.OFF:
        return ()
    checker = RevocationChecker(
        Path(settings.state_dir) / "crl", settings.trust.revocation_timeout_seconds, settings.service.ca_file
    )
    return refuse_revoked(with_root([*certificates], parts.trust().chain), checker, policy, parts.now, whose)


def look_up_signer(parts: Parts, answer: Answer) -> tuple[str, ...]:
    """Refuse an answer whose signer is revoked; return warnings on what is not known.

    The same signer is looked up once an hour: an enrollment that waits for its certificate gets many answers, and a
    list that cannot be had is told of once and not with each of them.

    Raises:
        VerificationError: check ``revoked``.
        NotFinished: the settings demand to know, and it is not known. The answer is kept, and read again later.
    """
    signer = answer.signed_by[0]
    again = parts.signers_looked_up.get(signer)
    if again is not None and parts.now < again:
        return ()
    above = issuers_above(answer.signed_by[-1], parts.trust().chain)
    warnings = look_up(parts, [*answer.signed_by, *above], "the certificate that signed the answer")
    parts.signers_looked_up[signer] = parts.now + CACHE_LIFETIME
    return warnings
