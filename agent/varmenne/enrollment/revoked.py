"""Looks a certificate up in its CA's list, as strictly as the settings say: before it is published or put in files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from varmenne.service.certificates import with_root
from varmenne.service.revocation import Policy, RevocationChecker, refuse_revoked

if TYPE_CHECKING:
    from varmenne.enrollment.parts import Parts


def look_up(parts: Parts, certificates: Sequence[bytes]) -> tuple[str, ...]:
    """Refuse a certificate that is revoked, or whose issuers are; return warnings on what is not known.

    Args:
        parts: the parts.
        certificates: the certificate, then its chain, in DER.

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
    return refuse_revoked(with_root([*certificates], parts.trust().chain), checker, policy, parts.now)
