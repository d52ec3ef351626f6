"""What a write carries so that its outcome can be decided later: the act that made it, and a digest over what it says.

Vault's limits are looked at here as well, before anything is sent: beyond them it answers an internal error, which
looks as if it might pass, or refuses metadata after the record is written.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from varmenne.errors import InputError, VaultError
from varmenne.vault.record import DIGEST, OPERATION

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_RECORD_BYTES = 256 * 1024
"""Largest record, as JSON. Vault's storage takes 1 MiB (and answers 500 to more); a real record is some 10 KiB."""

MAX_METADATA_KEYS = 64
MAX_METADATA_KEY_BYTES = 128
MAX_METADATA_VALUE_BYTES = 512
"""Vault's limits on custom metadata (its KV version 2 API documentation, "custom_metadata")."""


def digest_of(data: Mapping[str, object]) -> str:
    """Return the SHA-256, hexadecimal, over all fields but the digest itself, as canonical JSON in UTF-8.

    Raises:
        InputError: a value is none of JSON's.
    """
    fields = {name: value for name, value in data.items() if name != DIGEST}
    return hashlib.sha256(_json(fields)).hexdigest()


def _json(value: object) -> bytes:
    """Return canonical JSON: sorted names, no blanks, UTF-8."""
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as exc:
        raise InputError("The record is not JSON", why=str(exc)) from exc


def sealed(record: Mapping[str, object], operation: str) -> dict[str, object]:
    """Return the record with its operation and digest.

    Raises:
        VaultError: it is larger than :data:`MAX_RECORD_BYTES`.
        InputError: it is not JSON, or there is no operation.
    """
    if not operation:
        raise InputError("Publishing needs the ID of its operation")
    data = {**record, OPERATION: operation}
    data[DIGEST] = digest_of(data)
    if (size := len(_json(data))) > MAX_RECORD_BYTES:
        raise VaultError(
            "The record is too large for Vault",
            why=f"{size} bytes, at most {MAX_RECORD_BYTES} are sent",
            next_step="Nothing was written. Look at the chain of certificates: it should be a few KiB",
            size_bytes=size,
        )
    return data


def same(theirs: Mapping[str, object], ours: Mapping[str, object]) -> bool:
    """Tell whether two records are one act of publishing.

    The digest says so. Failing that, the operation and the certificate do: a newer varmenne that resumes the work of an
    older one may word the rest of the record differently.
    """
    if theirs.get(DIGEST) == ours[DIGEST]:
        return True
    certificate = ours.get("fingerprint_sha256")
    return certificate is not None and (theirs.get(OPERATION), theirs.get("fingerprint_sha256")) == (
        ours[OPERATION],
        certificate,
    )


def check_metadata(wanted: Mapping[str, str]) -> None:
    """Refuse custom metadata that Vault would refuse after the record is written, or that is not plain text.

    Raises:
        InputError: too many, too long, empty, or not text.
    """
    for key, value in wanted.items():
        if not isinstance(value, str) or not 1 <= len(value.encode()) <= MAX_METADATA_VALUE_BYTES:
            raise InputError(
                f"The custom metadata {key!r} is not usable",
                why=f"a value is text of 1 to {MAX_METADATA_VALUE_BYTES} bytes",
            )
        if not 1 <= len(key.encode()) <= MAX_METADATA_KEY_BYTES:
            raise InputError(f"A name of custom metadata has 1 to {MAX_METADATA_KEY_BYTES} bytes")
    if len(wanted) > MAX_METADATA_KEYS:
        raise InputError(f"There are more than {MAX_METADATA_KEYS} names of custom metadata")
