"""The trust folder of one environment: what may go in, how it goes in, and the record of who put it there.

A certificate goes in because its fingerprint is one of those that this package ships, or because a person has compared
it and said so. Where it came from (a file, a zip, the network) proves nothing. Files are written whole and private;
every change is a line of ``log.jsonl``.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from varmenne.domain.identifiers import Environment
from varmenne.errors import ConfigError, InputError
from varmenne.service.trust import FOLDERS, KNOWN_CAS

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from cryptography import x509

LOG_NAME = "log.jsonl"
LEAST_DIGITS = 8
"""So many digits of a fingerprint have to be given to name a certificate that is there."""


class Ground(StrEnum):
    """Why a certificate was believed."""

    PUBLISHED = "published"
    """Its fingerprint is one that this package ships."""
    GIVEN = "fingerprint given"
    """Its fingerprint was named on the command line."""
    TYPED = "confirmed by typing"
    """A person saw the fingerprint, compared it and typed a part of it."""


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA certificate, with what people want to know of it.

    Attributes:
        fingerprint: SHA-256 of the DER, in small hexadecimal digits.
        self_signed: subject and issuer are the same: a root.
        ca_issuers: URLs of its issuer's certificate (RFC 5280, section 4.2.2.1).
    """

    der: bytes
    fingerprint: str
    subject: str
    issuer: str
    not_before: datetime
    not_after: datetime
    self_signed: bool
    ca_issuers: tuple[str, ...]

    @property
    def published_as(self) -> tuple[str, Environment, str] | None:
        """Name, environment and role that this package knows for the fingerprint."""
        return KNOWN_CAS.get(self.fingerprint)


@dataclass(frozen=True, slots=True)
class Stored:
    """A certificate of the trust folder."""

    path: Path
    role: str
    authority: Authority


@dataclass(frozen=True, slots=True)
class Entry:
    """A certificate that may go in, its place, and why."""

    authority: Authority
    role: str
    ground: Ground
    source: str


def read_authority(der: bytes) -> Authority:
    """Read a CA certificate. Does not establish that it is anybody's.

    Raises:
        InputError: it cannot be read, or is not a CA's.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    try:
        certificate = x509.load_der_x509_certificate(der)
        extensions = {type(extension.value): extension.value for extension in certificate.extensions}
    except Exception as exc:
        raise InputError("The certificate cannot be read", why=str(exc)) from exc
    constraints = extensions.get(x509.BasicConstraints)
    subject = certificate.subject.rfc4514_string()
    if not isinstance(constraints, x509.BasicConstraints) or not constraints.ca:
        raise InputError(f"The certificate of {subject} is not a CA's", why="only CA certificates are trust anchors")
    return Authority(
        der=der,
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
        subject=subject,
        issuer=certificate.issuer.rfc4514_string(),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        self_signed=certificate.subject == certificate.issuer,
        ca_issuers=_ca_issuers(extensions.get(x509.AuthorityInformationAccess)),
    )


def _ca_issuers(access: x509.ExtensionType | None) -> tuple[str, ...]:
    """Return the URLs at which the issuer's certificate is published."""
    from cryptography import x509
    from cryptography.x509.oid import AuthorityInformationAccessOID

    if not isinstance(access, x509.AuthorityInformationAccess):
        return ()
    return tuple(
        str(description.access_location.value)
        for description in access
        if description.access_method == AuthorityInformationAccessOID.CA_ISSUERS
        and isinstance(description.access_location, x509.UniformResourceIdentifier)
    )


class TrustStore:
    """The trust folder of one environment.

    Args:
        directory: its folder, such as ``trust/test``. It need not be there yet.
        environment: the world that it belongs to.
    """

    def __init__(self, directory: Path, environment: Environment) -> None:
        self.directory = directory
        self.environment = environment

    def stored(self) -> tuple[Stored, ...]:
        """Return what is there, role by role; a file may hold several certificates.

        Raises:
            ConfigError: a file cannot be read, or holds something else than CA certificates.
        """
        from cryptography import x509
        from cryptography.hazmat.primitives.serialization import Encoding

        found = []
        for role in FOLDERS:
            for path in sorted((self.directory / role).glob("*.pem")):
                try:
                    certificates = x509.load_pem_x509_certificates(path.read_bytes())
                    found += [
                        Stored(path, role, read_authority(certificate.public_bytes(Encoding.DER)))
                        for certificate in certificates
                    ]
                except (OSError, ValueError, InputError) as exc:
                    raise ConfigError(f"The trust anchor file {path} cannot be read", why=str(exc)) from exc
        return tuple(found)

    def place_of(self, authority: Authority, wanted: str | None) -> str:
        """Return the role in which an authority may go in.

        Args:
            authority: the CA certificate.
            wanted: the role that a person named, if any.

        Raises:
            InputError: it belongs to the other environment or another role, it is a root that should be an anchor, or
                nobody knows its role.
        """
        known = authority.published_as
        if known is not None:
            name, environment, role = known
            if environment is not self.environment:
                raise InputError(
                    f"{name} belongs to {environment}, not to {self.environment}",
                    why="test and production are never mixed",
                    next_step="Use the settings file of the other environment, or the other file",
                )
            if wanted not in {None, role}:
                raise InputError(f"{name} belongs in {role}, not in {wanted}", why="the issuing CAs are never mixed")
            return role
        if authority.self_signed and wanted in {"services", "providers"}:
            raise InputError(
                f"{authority.subject} is a root and cannot be in {wanted}",
                why="with the root as an anchor, any customer's certificate could sign answers",
                next_step="Put the issuing CA there, and the root into chain",
            )
        role = wanted or ("chain" if authority.self_signed else "")
        if not role:
            raise InputError(
                f"It is not known what {authority.subject} is for",
                why="its fingerprint is not among those that varmenne ships",
                next_step="Say so with --role: services signs answers, providers issues certificates, chain is above",
            )
        return role

    def refuse_unusable(self, authority: Authority, role: str, now: datetime) -> bool:
        """Tell whether the authority is there already; refuse it if it has ended or has another role here.

        Raises:
            InputError: it cannot go in.
        """
        if authority.not_after <= now:
            raise InputError(
                f"{authority.subject} ended on {authority.not_after:%Y-%m-%d}", next_step="Get its successor"
            )
        roles = {stored.role for stored in self.stored() if stored.authority.fingerprint == authority.fingerprint}
        if roles - {role}:
            raise InputError(
                f"{authority.subject} is in {', '.join(sorted(roles - {role}))} already, and cannot be in {role} too",
                why="each CA is trusted for one thing only",
                next_step="If it was put into the wrong place: varmenne trust remove FINGERPRINT",
            )
        return role in roles

    def add(self, entries: Iterable[Entry], now: datetime, user: str) -> tuple[Path, ...]:
        """Write certificates into the folder, each in a file of its own, and note each in the log.

        Raises:
            ConfigError: a file cannot be written. Those before it are in place, and in the log.
        """
        written = []
        for entry in entries:
            folder = self.directory / entry.role
            path = folder / f"{_file_name(entry.authority)}.pem"
            try:
                _private_folder(folder)
                _write(path, _pem(entry.authority).encode("ascii"))
                self._note(
                    now, user, "import", entry.role, entry.authority, file=entry.source, ground=entry.ground.value
                )
            except OSError as exc:
                raise ConfigError(f"{path} cannot be written", why=exc.strerror or str(exc)) from exc
            written.append(path)
        return tuple(written)

    def find(self, prefix: str) -> Stored:
        """Return the stored certificate whose fingerprint begins with ``prefix``; colons and case do not matter.

        Raises:
            InputError: none does, or more than one.
        """
        wanted = normal_fingerprint(prefix)
        matches = [stored for stored in self.stored() if stored.authority.fingerprint.startswith(wanted)]
        if len(matches) != 1 or len(wanted) < LEAST_DIGITS:
            if len(wanted) < LEAST_DIGITS:
                why = f"at least {LEAST_DIGITS} digits are needed"
            else:
                why = f"{'more than one' if matches else 'no'} certificate's fingerprint begins with it"
            raise InputError(
                f"{prefix!r} does not name one certificate of {self.directory}",
                why=why,
                next_step="`varmenne trust list` shows the fingerprints",
            )
        return matches[0]

    def grounds(self) -> dict[tuple[str, str], str]:
        """Return role and fingerprint → who confirmed it and when, by the log, for what a person brought in.

        The log proves nothing against somebody who may write the folder; it tells people whom to ask.
        """
        found: dict[tuple[str, str], str] = {}
        try:
            lines = (self.directory / LOG_NAME).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            return found
        for line in lines:
            try:
                noted = json.loads(line)
                named = (noted["role"], noted["fingerprint_sha256"])
                if noted["action"] == "import" and noted["ground"] != Ground.PUBLISHED:
                    found[named] = f"confirmed by {noted['user']} on {noted['at'][:10]}"
                else:
                    found.pop(named, None)
            except (ValueError, KeyError, TypeError):
                continue  # A line that somebody has spoilt tells nothing.
        return found

    def remove(self, stored: Stored, now: datetime, user: str) -> None:
        """Take a certificate out, and note it in the log. Others of the same file stay.

        Raises:
            ConfigError: the file cannot be changed.
        """
        others = [
            other.authority
            for other in self.stored()
            if other.path == stored.path and other.authority.fingerprint != stored.authority.fingerprint
        ]
        try:
            if others:
                _write(stored.path, "".join(map(_pem, others)).encode("ascii"))
            else:
                stored.path.unlink()
            self._note(now, user, "remove", stored.role, stored.authority, file=stored.path.name, ground="")
        except OSError as exc:
            raise ConfigError(f"{stored.path} cannot be changed", why=exc.strerror or str(exc)) from exc

    def _note(
        self, now: datetime, user: str, action: str, role: str, authority: Authority, *, file: str, ground: str
    ) -> None:
        """Append a line to the log; it is on disk before this returns."""
        line = {
            "at": f"{now:%Y-%m-%dT%H:%M:%SZ}",
            "user": user,
            "action": action,
            "environment": self.environment.value,
            "role": role,
            "fingerprint_sha256": authority.fingerprint,
            "subject": authority.subject,
            "file": file,
            "ground": ground,
        }
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(self.directory / LOG_NAME, flags, 0o600)
        try:
            os.write(descriptor, (json.dumps(line, ensure_ascii=False) + "\n").encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def normal_fingerprint(text: str) -> str:
    """Return a fingerprint as people write it in our form: small hexadecimal digits, without colons and blanks.

    Raises:
        InputError: it holds something else than hexadecimal digits.
    """
    normal = re.sub(r"[:\s]", "", text.lower().removeprefix("sha256:"))
    if not re.fullmatch(r"[0-9a-f]{1,64}", normal):
        raise InputError(f"{text!r} is not a SHA-256 fingerprint", why="it has 64 hexadecimal digits")
    return normal


def in_pairs(fingerprint: str) -> str:
    """Write a fingerprint as it is published, so that a person can compare: pairs of capital digits, with colons."""
    return ":".join(fingerprint[at : at + 2] for at in range(0, len(fingerprint), 2)).upper()


def whole_fingerprint(text: str) -> str:
    """Return a whole SHA-256 fingerprint in our form.

    Raises:
        InputError: it has not 64 hexadecimal digits, such as an SHA-1 or a part.
    """
    normal = normal_fingerprint(text)
    if len(normal) != 64:
        raise InputError(f"{text!r} is not a SHA-256 fingerprint", why=f"it has {len(normal)} digits of 64")
    return normal


def _file_name(authority: Authority) -> str:
    """Make a name that people recognise and that no other certificate has."""
    common = re.search(r"CN=([^,]*)", authority.subject)
    words = re.sub(r"[^a-z0-9]+", "-", (common[1] if common else "ca").lower()).strip("-")
    return f"{words[:60] or 'ca'}-{authority.fingerprint[:8]}"


def _pem(authority: Authority) -> str:
    """Return the certificate in PEM."""
    import ssl

    return ssl.DER_cert_to_PEM_cert(authority.der)


def _private_folder(folder: Path) -> None:
    """Make a folder, and those missing above it, that only its owner can enter."""
    for part in (*reversed(folder.parents), folder):
        if not part.is_dir():
            part.mkdir(mode=0o700, exist_ok=True)


def _write(path: Path, content: bytes) -> None:
    """Write a file of mode 0600 under another name and put it in its place, so that nobody ever reads a half."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
