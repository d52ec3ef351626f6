"""Another program at the token: what varmenne itself would never do, done in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from varmenne.token import CreatedToken

_PROGRAM = """
import json, sys
import pkcs11
from pkcs11 import Attribute, KeyType, ObjectClass
order = json.load(sys.stdin)
token = pkcs11.lib(order["module"]).get_token(token_label=order["label"])
with token.open(rw=True, user_pin=order["pin"]) as session:
    key_id = bytes.fromhex(order["key_id"])
    if order["destroy"]:
        kinds = [ObjectClass.PUBLIC_KEY] if order["only_public"] else [ObjectClass.PUBLIC_KEY, ObjectClass.PRIVATE_KEY]
        for kind in kinds:
            for thing in list(session.get_objects({Attribute.CLASS: kind, Attribute.ID: key_id})):
                thing.destroy()
    else:
        session.generate_keypair(
            KeyType.RSA, order["bits"], id=key_id, label=order["key_label"], store=True,
            private_template={Attribute.EXTRACTABLE: True},
        )
"""


def foreign_key(
    token: CreatedToken,
    key_id: bytes,
    key_label: str,
    *,
    bits: int = 1024,
    destroy: bool = False,
    only_public: bool = False,
) -> None:
    """Have another program make an extractable key with a ``CKA_ID``, or destroy the objects with it."""
    order = {
        "module": token.module,
        "label": token.label,
        "pin": Path(token.pin.removeprefix("file:")).read_text().strip(),
        "key_id": key_id.hex(),
        "key_label": key_label,
        "bits": bits,
        "destroy": destroy,
        "only_public": only_public,
    }
    subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        input=json.dumps(order).encode(),
        env={**os.environ, **token.environment},
        check=True,
    )
