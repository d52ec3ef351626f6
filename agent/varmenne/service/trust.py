"""Trust anchors of one environment, and the path validation that rests on them.

Two issuing CAs are trusted, each for one thing: the *services* CA signs the service's answers, the *providers* CA
issues customers' certificates. They are never mixed, and the root that both descend from is never an anchor: with it,
any customer of the family could sign answers that verify.

The folder of an environment holds PEM files in ``services/``, ``providers/`` and ``chain/`` (root and intermediate,
published along with the certificates, never trusted by themselves).
"""

from __future__ import annotations

import asyncio
import functools
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from varmenne.domain.identifiers import Environment
from varmenne.errors import ConfigError, VerificationError
from varmenne.service.doubt import printable

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography import x509

KNOWN_CAS = {
    # Fingerprint (SHA-256 of the DER certificate): (name, environment, folder). The service's published CAs.
    "0e56c090491c43c9c08385877bc64112034b927d47f729c518e7d7a65111d435": (
        "Verohallinto Root CA v1",
        Environment.PRODUCTION,
        "chain",
    ),
    "21e803ccea2a69552484c4c817a173c1b045ef384b515b2e2ff46a32c7024cd1": (
        "Verohallinto Intermediate CA v1",
        Environment.PRODUCTION,
        "chain",
    ),
    "4a262a71b1d62fb3e42953c5030ab2a4e38d1f828ae1fadb4234862dfdb9e878": (
        "Data Providers Issuing CA v1",
        Environment.PRODUCTION,
        "providers",
    ),
    "816e39fbb49a29ee4b104b7bf9bba063f30e2452496df4bcf37fc1f219215f55": (
        "IR Services Issuing CA v1",
        Environment.PRODUCTION,
        "services",
    ),
    "45bb8ef7054693f88c48991589116b2f4f685bf3166933f4248632a47ec102d4": (
        "Verohallinto Root Test CA v1",
        Environment.TEST,
        "chain",
    ),
    "3ae3d4a0355456fcbac47304b86d9dd1f2720bd42d19a5661f781bbc7b7a5044": (
        "Verohallinto Intermediate Test CA v1",
        Environment.TEST,
        "chain",
    ),
}

FOLDERS = ("services", "providers", "chain")


@dataclass(frozen=True, slots=True)
class TrustAnchors:
    """Certificates in DER. Anchors that are not valid at the time of loading are left out.

    Attributes:
        environment: the world that they belong to.
        services: issuing CAs whose certificates may sign answers.
        providers: issuing CAs whose certificates are given to customers.
        chain: certificates above them, for publishing.
    """

    environment: Environment
    services: tuple[bytes, ...]
    providers: tuple[bytes, ...]
    chain: tuple[bytes, ...] = ()


def load_trust(directory: Path, environment: Environment, at: datetime) -> TrustAnchors:
    """Read and check the trust folder of an environment.

    Raises:
        ConfigError: a folder is missing or holds no valid certificate, a file is not PEM, a certificate is in both
            ``services`` and ``providers``, is not a CA, is self-signed, or belongs to the other environment.
    """
    found = {folder: _certificates(directory, folder, environment) for folder in FOLDERS}
    valid = {
        folder: tuple(
            _der(certificate)
            for certificate in certificates
            if certificate.not_valid_before_utc <= at <= certificate.not_valid_after_utc
        )
        for folder, certificates in found.items()
    }
    for folder in ("services", "providers"):
        if not valid[folder]:
            why = "the certificates there are expired or not valid yet" if found[folder] else "there are no PEM files"
            raise ConfigError(
                f"There is no trust anchor in {directory / folder}",
                why=why,
                next_step=f"varmenne trust import FILE… brings the {folder} issuing CA in; its owner publishes "
                "its certificate and fingerprint",
            )
    if set(valid["services"]) & set(valid["providers"]):
        raise ConfigError(
            f"A certificate is in both services and providers of {directory}",
            why="each CA is trusted for one thing only",
            next_step="Remove it from the folder where it does not belong",
        )
    return TrustAnchors(environment, valid["services"], valid["providers"], valid["chain"])


def _certificates(directory: Path, folder: str, environment: Environment) -> list[x509.Certificate]:
    """Read every PEM file of a folder, each time anew; a file may hold several certificates."""
    found: list[x509.Certificate] = []
    for path in sorted((directory / folder).glob("*.pem")):
        try:
            content = path.read_bytes()
        except OSError as exc:
            raise ConfigError(f"The trust anchor file {path} cannot be read", why=str(exc)) from exc
        found += _accepted(path, content, folder, environment)
    return found


@functools.lru_cache(maxsize=64)
def _accepted(path: Path, content: bytes, folder: str, environment: Environment) -> tuple[x509.Certificate, ...]:
    """Return the certificates of a file after refusing what cannot be in its folder: by its bytes, so once for each."""
    from cryptography import x509

    try:
        certificates = tuple(x509.load_pem_x509_certificates(content))
    except ValueError as exc:
        raise ConfigError(f"The trust anchor file {path} cannot be read", why=str(exc)) from exc
    for certificate in certificates:
        _check_place(path, certificate, folder, environment)
    return certificates


def _check_place(path: Path, certificate: x509.Certificate, folder: str, environment: Environment) -> None:
    """Refuse a certificate that cannot be what its folder says."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    known = KNOWN_CAS.get(certificate.fingerprint(hashes.SHA256()).hex())
    if known and known[1:] != (environment, folder):
        raise ConfigError(
            f"{path} holds {known[0]}, which belongs in {known[1].value}/{known[2]}",
            why="test and production, and the two issuing CAs, are never mixed",
        )
    try:
        is_ca = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        is_ca = False
    if not is_ca:
        raise ConfigError(f"{path} holds a certificate that is not a CA's", why="only CA certificates are anchors")
    if folder != "chain" and certificate.subject == certificate.issuer:
        raise ConfigError(
            f"{path} holds a root certificate",
            why="with the root as an anchor, any customer's certificate could sign answers",
            next_step="Put the issuing CA there, and the root into chain",
        )


def _der(certificate: x509.Certificate) -> bytes:
    """Return the certificate in DER."""
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.DER)


@dataclass(frozen=True, slots=True)
class _ValidPath:
    """A path that was validated once, and the span in which the same result holds."""

    certificates: tuple[bytes, ...]
    not_before: datetime
    not_after: datetime


_valid_paths: dict[tuple[bytes, tuple[bytes, ...], tuple[bytes, ...]], _ValidPath] = {}
"""Certificate, anchors, others → its path. Only successes are kept; they rest on these bytes and the time alone."""

MAX_KNOWN_PATHS = 256


CLOCK_TOLERANCE = timedelta(minutes=5)
"""How far our clock may be behind the one of whoever made a certificate a moment ago."""


def tolerant(at: datetime, not_before: datetime) -> datetime:
    """Return the moment to judge a certificate at: its beginning, if only our clock's error puts that in the future."""
    return not_before if at < not_before <= at + CLOCK_TOLERANCE else at


def validate_path(
    certificate: bytes, anchors: tuple[bytes, ...], at: datetime, *, what: str, others: tuple[bytes, ...] = ()
) -> tuple[bytes, ...]:
    """Validate a certification path (RFC 5280, section 6) to one of the anchors, at the given time.

    Returns the path in DER: the certificate first, the anchor last. Revocation is not looked at here.

    Raises:
        VerificationError: check ``chain``; there is no path, or it does not validate.
    """
    key = (certificate, anchors, others)
    known = _valid_paths.get(key)
    if known is None or not known.not_before <= at <= known.not_after:
        known = _validated(certificate, anchors, at, what, others)
        if len(_valid_paths) >= MAX_KNOWN_PATHS:
            _valid_paths.clear()
        _valid_paths[key] = known
    return known.certificates


def _validated(
    certificate: bytes, anchors: tuple[bytes, ...], at: datetime, what: str, others: tuple[bytes, ...]
) -> _ValidPath:
    """Build and validate the path with pyhanko-certvalidator, without network."""
    from asn1crypto import x509
    from pyhanko_certvalidator import CertificateValidator, ValidationContext
    from pyhanko_certvalidator.authority import CertTrustAnchor

    try:
        context = ValidationContext(
            # What an anchor's certificate limits (names, path length) holds for what it issues, as for any CA.
            trust_roots=[
                CertTrustAnchor(x509.Certificate.load(anchor, strict=True), derive_default_quals_from_cert=True)
                for anchor in anchors
            ],
            other_certs=[x509.Certificate.load(other, strict=True) for other in others],
            moment=at,
            allow_fetching=False,
            revocation_mode="soft-fail",
        )
        validator = CertificateValidator(x509.Certificate.load(certificate, strict=True), validation_context=context)
        path = list(asyncio.run(validator.async_validate_path()).iter_certs(include_root=True))
    except Exception as exc:
        # Besides its own errors the library raises what its parsers do; whatever it is, there is no valid path.
        raise VerificationError(
            f"{what} is not trusted",
            check="chain",
            why=f"{printable(str(exc))}; this computer's clock says {at:%Y-%m-%d %H:%M} UTC",
            next_step="Check the trust anchors and the clock. If both are right, do not use this certificate",
        ) from exc
    return _ValidPath(
        tuple(step.dump() for step in reversed(path)),
        max(step.not_valid_before for step in path),
        min(step.not_valid_after for step in path),
    )
