"""Where CA certificates come from: files, zip packages as the service publishes them, and the network.

Reading establishes nothing about them: see :mod:`varmenne.service.trust_store` for what may be believed.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from varmenne.domain.identifiers import Environment
from varmenne.errors import InputError, ServiceUnreachable
from varmenne.service.certificates import read_certificate_file
from varmenne.service.fetch import Limits, fetch
from varmenne.service.trust_store import Authority, read_authority

if TYPE_CHECKING:
    from pathlib import Path

MAX_FILE_BYTES = 1024 * 1024
MAX_ZIP_ENTRIES = 50
MAX_ENTRY_BYTES = 64 * 1024
FETCH_LIMITS = Limits(max_bytes=MAX_ENTRY_BYTES, seconds=15)
MAX_FETCHES = 12

PUBLISHED_AT = {
    # CA certificates that the service publishes by http; their fingerprints are shipped, so anybody may hand them over.
    Environment.PRODUCTION: ("http://cinfo.vero.fi/ca/VerohallintoIntermediateCAv1.cer",),
    Environment.TEST: (
        "http://crl-testi.vero.fi/ca/VerohallintoRootTestCAv1.cer",
        "http://crl-testi.vero.fi/ca/VerohallintoIntermediateTestCAv1.cer",
    ),
}

Fetch = Callable[[str], bytes]


def read_file(path: Path) -> tuple[Authority, ...]:
    """Read the CA certificates of a file: PEM, DER, PKCS#7, or a zip with any of these in it.

    Raises:
        InputError: it cannot be read, is too large, or holds no CA certificate.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except OSError as exc:
        raise InputError(f"{path} cannot be read", why=exc.strerror or str(exc)) from exc
    if len(data) > MAX_FILE_BYTES:
        raise InputError(f"{path} is too large", why=f"at most {MAX_FILE_BYTES} bytes are read")
    certificates = list(_in_zip(path, data)) if data.startswith(b"PK") else list(read_certificate_file(data))
    if not certificates:
        raise InputError(f"{path} holds no certificate", next_step="Download it again")
    return tuple(read_authority(der) for der in certificates)


def _in_zip(path: Path, data: bytes) -> Iterator[bytes]:
    """Yield the certificates of a zip; what is none, such as a README, is passed over. Nothing is unpacked to disk."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            if len(entries) > MAX_ZIP_ENTRIES:
                raise InputError(f"{path} holds too many files", why=f"{len(entries)}, at most {MAX_ZIP_ENTRIES}")
            for entry in entries:
                with archive.open(entry) as stream:
                    content = stream.read(MAX_ENTRY_BYTES + 1)
                if len(content) <= MAX_ENTRY_BYTES:
                    yield from _certificates(content)
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, RuntimeError, NotImplementedError) as exc:
        # zipfile raises these for what is broken, encrypted, or compressed in a way that it does not know.
        raise InputError(f"The zip file {path} cannot be read", why=str(exc), next_step="Download it again") from exc


def _certificates(content: bytes) -> tuple[bytes, ...]:
    """Return the certificates of a zip's entry, or none."""
    try:
        return read_certificate_file(content)
    except InputError:
        return ()


def fetch_issuers(
    known: Iterable[Authority], environment: Environment, *, get: Fetch | None = None, tell: Callable[[str, str], None]
) -> Iterator[tuple[Authority, str]]:
    """Fetch the certificates above those that are known, step by step to the root, and yield each with its URL.

    Args:
        known: certificates to begin with; where there are none, the service's published addresses are asked.
        environment: whose addresses those are.
        get: fetches a URL; within limits of time and size if nothing else is given.
        tell: is told the URL that could not be fetched, and why. That is no error: others may be found.
    """
    get = get or (lambda url: fetch(url, FETCH_LIMITS))
    have = {authority.fingerprint: authority for authority in known}
    subjects = {authority.subject for authority in have.values()}
    asked: set[str] = set()
    waiting = [url for authority in have.values() if authority.issuer not in subjects for url in authority.ca_issuers]
    waiting += [] if have else PUBLISHED_AT[environment]
    while waiting and len(asked) < MAX_FETCHES:
        url = waiting.pop(0)
        if url in asked:
            continue
        asked.add(url)
        try:
            found = [read_authority(der) for der in read_certificate_file(get(url))]
        except (ServiceUnreachable, InputError) as exc:
            tell(url, exc.why or exc.what)
            continue
        for authority in found:
            if authority.fingerprint not in have:
                have[authority.fingerprint] = authority
                waiting += authority.ca_issuers
                yield authority, url
