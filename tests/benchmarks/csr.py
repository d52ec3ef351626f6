"""CSR build and sign, against one bare C_Sign on the same token."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.measure import medians, report
from varmenne.csr import build_csr
from varmenne.domain.identifiers import CustomerId, CustomerName
from varmenne.domain.keys import new_key_id
from varmenne.token import CreatedToken, Token, create_softhsm_token

ROUNDS = 200


def _bare_sign(token: CreatedToken, key_id: bytes, pipe: Connection) -> None:
    """Time C_Sign alone, in a process that has the module to itself, and send the median in seconds."""
    os.environ.update(token.environment)
    import pkcs11

    pin = Path(token.pin.removeprefix("file:")).read_text(encoding="utf-8").strip()
    with pkcs11.lib(token.module).get_token(token_label=token.label).open(user_pin=pin) as session:
        key: Any = session.get_key(pkcs11.ObjectClass.PRIVATE_KEY, id=key_id)
        data = b"x" * 300
        sign = lambda: key.sign(data, mechanism=pkcs11.Mechanism.SHA256_RSA_PKCS)  # noqa: E731
        pipe.send(medians({"sign": sign}, rounds=ROUNDS)["sign"])


def main() -> None:
    """Print the ratio."""
    with tempfile.TemporaryDirectory() as folder:
        created = create_softhsm_token(Path(folder) / "token", label="benchmark")
        with Token(created.settings) as token:
            key_id = new_key_id()
            token.generate(key_id, "benchmark")
            signer = token.signer(key_id)
            customer, name = CustomerId("0123456-7"), CustomerName("Åkerlund & Öljy Oy")
            ours = medians(
                {"build": lambda: build_csr(signer, customer, name), "sign": lambda: signer.sign(b"x" * 300)},
                rounds=ROUNDS,
            )
        ours_end, theirs_end = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(target=_bare_sign, args=(created, key_id, theirs_end))
        process.start()
        bare = ours_end.recv()
        process.join()
    took = f"{ours['build'] * 1e3:.2f} ms ÷ {bare * 1e3:.2f} ms"
    detail = f"{took}; signing alone through the worker {ours['sign'] * 1e3:.2f} ms"
    report("CSR build and sign ÷ one C_Sign", ours["build"] / bare, 1.5, detail)


if __name__ == "__main__":
    main()
