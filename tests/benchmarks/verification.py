"""Verification of an answer, against bare signxml with the same CA: what the other checks cost."""

from __future__ import annotations

import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

from signxml.verifier import SignatureConfiguration, XMLVerifier

from benchmarks.measure import medians, report
from harness.forge import AT, C14N, ENVELOPED, EXCLUSIVE, Forge
from varmenne.service.answers import verify_answer
from varmenne.service.interface import Operation
from varmenne.testbench.family import pem

ROUNDS = 300
FORMS: dict[str, dict[str, Any]] = {
    "observed form": {"transforms": ((ENVELOPED, ""), (C14N, "")), "c14n": C14N},
    "exclusive form": {"transforms": ((ENVELOPED, ""), (EXCLUSIVE, "")), "c14n": EXCLUSIVE},
}


def main() -> None:
    """Print the ratio for both forms, and the memory of one verification."""
    forge = Forge()
    with tempfile.TemporaryDirectory() as folder:
        ca_file = Path(folder) / "services.pem"
        ca_file.write_bytes(pem(forge.services.certificate))
        for name, form in FORMS.items():
            body, message = forge.answer(Operation.GET, **form), forge.signed(Operation.GET, **form).encode()
            configuration = SignatureConfiguration(location="./", verification_time=AT)

            def bare(message: bytes = message, configuration: SignatureConfiguration = configuration) -> object:
                return XMLVerifier().verify(message, ca_pem_file=str(ca_file), expect_config=configuration)

            def ours(body: bytes = body) -> object:
                return verify_answer(body, Operation.GET, forge.anchors, AT)

            took = medians({"ours": ours, "bare": bare}, rounds=ROUNDS)
            detail = f"{took['ours'] * 1e3:.2f} ms ÷ {took['bare'] * 1e3:.2f} ms, {name}"
            report("verification ÷ bare signxml", took["ours"] / took["bare"], 2.0, detail)
    tracemalloc.start()
    verify_answer(forge.answer(), Operation.SIGN_NEW, forge.anchors, AT)
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    report("memory of one verification", peak, 100, "Python's own, peak", unit=" MB")


if __name__ == "__main__":
    main()
