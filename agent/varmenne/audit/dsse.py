"""Envelopes that the log's key signs: DSSE v1, whose signature covers type and content as they are, byte for byte."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

from varmenne.audit import verifier
from varmenne.audit.note import key_of, refusing

if TYPE_CHECKING:
    from varmenne.domain.keys import LogSigner

IN_TOTO = "application/vnd.in-toto+json"


def envelope(signer: LogSigner, origin: str, content: bytes, *, kind: str = IN_TOTO) -> bytes:
    """Sign content of a type, and return the envelope. It was read back, and its signature verified.

    Args:
        signer: the log's key.
        origin: the log's name; with the key's ID it tells readers which key to try.
        content: what is signed, such as an in-toto statement.
        kind: its media type.

    Raises:
        TokenError: the token did not sign.
        EvidenceError: what it signed does not verify.
    """
    key = key_of(origin, signer.kind, signer.public_key)
    signature = {
        "keyid": f"{key.name}+{key.id.hex()}",
        "sig": base64.b64encode(signer.sign(verifier.pae(kind, content))).decode(),
    }
    value = {"payload": base64.b64encode(content).decode(), "payloadType": kind, "signatures": [signature]}
    data = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    with refusing("The envelope that the token signed does not verify"):
        verifier.open_envelope(data, [key])
    return data
