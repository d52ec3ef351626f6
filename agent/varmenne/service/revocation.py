"""Revocation by CRL: a pure judgement of one certificate by one list, and a cache that fetches lists within limits.

What cannot be judged is *unknown*, and unknown is never "good": the policy says what follows. ``soft`` warns, ``hard``
waits until it is known, ``off`` does not look. A revoked certificate is refused by both. See RFC 5280, sections 5 and
6.3. Complete lists of the issuing CA itself are understood; delta lists, lists for some reasons only, and lists issued
by others are not.

The real issuing CAs name the issuer of their list as CN, O, C where its subject is encoded C, O, CN. Names are
therefore compared without regard to the order of their parts. That gives nothing away: the list's signature is verified
with the key of the certificate's own issuer, whatever names say.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from varmenne.errors import NotFinished, ServiceUnreachable, VerificationError
from varmenne.service.fetch import Limits, fetch

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography import x509

MAX_CRL_BYTES = 8 * 1024 * 1024
CACHE_LIFETIME = timedelta(hours=1)
"""A list younger than this is used again. Afterwards a new one is asked for; the old one serves until it ends."""
CLOCK_TOLERANCE = timedelta(minutes=5)
MAX_URLS = 3
"""Addresses of one certificate that are tried."""


class Policy(StrEnum):
    """What follows if it is not known whether a certificate is revoked."""

    OFF = "off"
    SOFT = "soft"
    HARD = "hard"


class Status(StrEnum):
    """What a list says of a certificate."""

    GOOD = "good"
    REVOKED = "revoked"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """What is known, in a word and a sentence for people."""

    status: Status
    told: str


def judge(certificate: bytes, issuer: bytes, crl: bytes, at: datetime) -> Finding:
    """Judge a certificate by a list. All in DER; pure, and never an error: what cannot be read is unknown.

    Args:
        certificate: the certificate in question.
        issuer: its issuer's certificate, which is trusted already.
        crl: the list, as it came from wherever.
        at: the one reference time.
    """
    from cryptography import x509

    try:
        return _judged(
            x509.load_der_x509_certificate(certificate),
            x509.load_der_x509_certificate(issuer),
            x509.load_der_x509_crl(crl),
            at,
        )
    except Exception as exc:  # noqa: BLE001 - the list comes from the network; whatever is wrong with it, nothing is known
        return Finding(Status.UNKNOWN, f"the list cannot be used: {exc}")


def _judged(
    certificate: x509.Certificate, issuer: x509.Certificate, crl: x509.CertificateRevocationList, at: datetime
) -> Finding:
    """Judge by a list that has been parsed."""
    doubt = next(_doubts(certificate, issuer, crl, at), None)
    if doubt is not None:
        return Finding(Status.UNKNOWN, doubt)
    entry = crl.get_revoked_certificate_by_serial_number(certificate.serial_number)
    if entry is None or _reason(entry) == "removeFromCRL":
        return Finding(Status.GOOD, f"not in the list of {crl.last_update_utc:%Y-%m-%d %H:%M} UTC")
    return Finding(
        Status.REVOKED, f"revoked on {entry.revocation_date_utc:%Y-%m-%d}, reason: {_reason(entry) or 'not given'}"
    )


def _doubts(
    certificate: x509.Certificate, issuer: x509.Certificate, crl: x509.CertificateRevocationList, at: datetime
) -> Iterator[str]:
    """Yield why the list says nothing about the certificate."""
    from cryptography import x509

    usages = [e.value for e in issuer.extensions if isinstance(e.value, x509.KeyUsage)]
    if _parts(certificate.issuer) != _parts(issuer.subject) or _parts(crl.issuer) != _parts(issuer.subject):
        yield "the list is another issuer's"
    if usages and not usages[0].crl_sign:
        yield "the issuer may not sign lists"
    if crl.signature_hash_algorithm is None or crl.signature_hash_algorithm.name not in {"sha256", "sha384", "sha512"}:
        yield "the list is signed with a weak algorithm"
    key: Any = issuer.public_key()
    if not crl.is_signature_valid(key):
        yield "the list's signature is wrong"
    if crl.last_update_utc > at + CLOCK_TOLERANCE:
        yield "the list is from the future: check the clock"
    if crl.next_update_utc is None or crl.next_update_utc <= at:
        yield "the list is out of date"
    known = {x509.IssuingDistributionPoint: _partial}
    for extension in crl.extensions:
        judge_extension = known.get(type(extension.value))
        if isinstance(extension.value, x509.DeltaCRLIndicator) or (extension.critical and judge_extension is None):
            yield f"the list has the extension {extension.oid.dotted_string}, which is not understood"
        elif judge_extension is not None and judge_extension(extension.value, certificate):
            yield "the list is not about such certificates, or not complete"


def _partial(scope: Any, certificate: x509.Certificate) -> bool:
    """Tell whether a list's scope leaves this certificate, or some reasons, out."""
    from cryptography import x509

    constraints = [e.value for e in certificate.extensions if isinstance(e.value, x509.BasicConstraints)]
    is_ca = bool(constraints and constraints[0].ca)
    wrong_kind = scope.only_contains_user_certs if is_ca else scope.only_contains_ca_certs
    return bool(wrong_kind or scope.indirect_crl or scope.only_contains_attribute_certs or scope.only_some_reasons)


def _parts(name: x509.Name) -> frozenset[tuple[str, str]]:
    """Return a name's parts without their order, in the comparison of RFC 5280, section 7.1: case and blanks folded."""
    return frozenset((part.oid.dotted_string, " ".join(str(part.value).split()).casefold()) for part in name)


def _reason(entry: x509.RevokedCertificate) -> str:
    """Return the reason of an entry, if it has one."""
    from cryptography import x509

    reasons = [e.value.reason.value for e in entry.extensions if isinstance(e.value, x509.CRLReason)]
    return str(reasons[0]) if reasons else ""


def crl_urls(certificate: bytes) -> tuple[str, ...]:
    """Return where a certificate says that its list is, http only."""
    from cryptography import x509

    try:
        extensions = x509.load_der_x509_certificate(certificate).extensions
        points = extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    except Exception:  # noqa: BLE001 - it says nothing, or nothing that can be read
        return ()
    names = [
        name for point in points for name in point.full_name or () if isinstance(name, x509.UniformResourceIdentifier)
    ]
    return tuple(name.value for name in names if name.value.startswith(("http://", "https://")))[:MAX_URLS]


@dataclass(frozen=True, slots=True)
class RevocationChecker:
    """Looks certificates up in lists, which it fetches and keeps.

    Attributes:
        cache: folder for lists; their names are hashes of their addresses. Nothing in it is trusted.
        seconds: the longest time for one fetch, from beginning to end.
        ca_file: for lists behind https: the CA to trust instead of the system's.
        get: fetches a URL; for tests.
    """

    cache: Path
    seconds: float
    ca_file: str = ""
    get: Callable[[str], bytes] | None = None

    def look_up(self, certificate: bytes, issuer: bytes, at: datetime) -> Finding:
        """Return what the lists of a certificate say: the first that says anything counts."""
        urls = crl_urls(certificate)
        finding = Finding(Status.UNKNOWN, "the certificate does not say where its list is")
        for url in urls:
            for crl in self._lists(url, at):
                finding = (
                    judge(certificate, issuer, crl, at) if isinstance(crl, bytes) else Finding(Status.UNKNOWN, crl)
                )
                if finding.status is not Status.UNKNOWN:
                    return finding
        return finding

    def _lists(self, url: str, at: datetime) -> Iterator[bytes | str]:
        """Yield a fresh kept list, else a new one, else an older kept one; or a sentence on what failed."""
        path = self.cache / f"{hashlib.sha256(url.encode()).hexdigest()}.crl"
        kept, age = _kept(path, at)
        if kept is not None and timedelta(0) <= age < CACHE_LIFETIME:
            yield kept
        try:
            new = (self.get or self._fetch)(url)
        except ServiceUnreachable as exc:
            yield str(exc)
        else:
            _keep(path, new)
            yield new
        if kept is not None:
            yield kept

    def _fetch(self, url: str) -> bytes:
        """Fetch within the limits."""
        return fetch(url, Limits(MAX_CRL_BYTES, self.seconds), self.ca_file)


def _kept(path: Path, at: datetime) -> tuple[bytes | None, timedelta]:
    """Return a kept list and its age."""
    try:
        if path.stat().st_size > MAX_CRL_BYTES:
            return None, timedelta()
        return path.read_bytes(), at - datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except OSError:
        return None, timedelta()


def _keep(path: Path, crl: bytes) -> None:
    """Keep a list. That it cannot be kept is no reason to fail: it will be fetched again."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(crl)
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)


def refuse_revoked(
    certificates: Sequence[bytes],
    checker: RevocationChecker,
    policy: Policy,
    at: datetime,
    whose: str = "the certificate",
) -> tuple[str, ...]:
    """Refuse a certificate that is revoked, or whose issuers are; return warnings on what is not known.

    Args:
        certificates: the certificate, then each issuer's as far as it is known, in DER. The last is not looked up.
        checker: where to look.
        policy: what follows if it is not known.
        at: the one reference time.
        whose: what people call the certificate.

    Raises:
        VerificationError: check ``revoked``.
        NotFinished: the policy is hard and it is not known. Nothing is lost; it is tried again later.
    """
    warnings: list[str] = []
    if policy is Policy.OFF:
        return ()
    for certificate, issuer in itertools.pairwise(certificates):
        finding = checker.look_up(certificate, issuer, at)
        name = whose if certificate is certificates[0] else f"an issuer of {whose}"
        if finding.status is Status.REVOKED:
            raise VerificationError(
                f"{name[0].upper()}{name[1:]} is revoked",
                check="revoked",
                why=finding.told,
                next_step="Nothing that rests on it is used. Ask whoever revoked it: the authority's support can tell",
            )
        if finding.status is Status.UNKNOWN and policy is Policy.HARD:
            raise NotFinished(
                f"It is not known whether {name} is revoked",
                why=finding.told,
                next_step='All is safe, and is tried again later. `trust.revocation = "soft"` goes on without knowing',
            )
        if finding.status is Status.UNKNOWN:
            warnings.append(f"It is not known whether {name} is revoked: {finding.told}")
    return tuple(warnings)
