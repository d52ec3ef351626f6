"""The fuzz target of the verifier: whatever bytes come, it returns what the service signed, or refuses in one family.

As a program it fuzzes with atheris (coverage-guided, from Google; not among the project's dependencies) for as long as
it is let: ``python -m harness.fuzzing [FOLDER] [-max_total_time=SECONDS]``, in ``tests``. Without atheris, the same
target is driven by hypothesis in ``tests/service/test_properties.py``.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.forge import AT, Forge
from harness.good_answers import GOOD
from varmenne.errors import VerificationError
from varmenne.service.answers import Answer, verify_answer
from varmenne.service.interface import Operation


def target(forge: Forge) -> Callable[[bytes], Answer | None]:
    """Return the target: it gives bytes to the verifier as an answer to each operation.

    What it returns must be one of the answers that the forge signs, for nothing else has a valid signature.
    """
    honest = {
        operation: verify_answer(forge.answer(operation), operation, forge.anchors, AT) for operation in Operation
    }

    def check(data: bytes) -> Answer | None:
        found = None
        for operation in Operation:
            try:
                found = verify_answer(data, operation, forge.anchors, AT)
            except VerificationError as exc:
                if exc.check == "unexpected":
                    raise AssertionError(f"a check without a name refused: {exc}") from exc
                continue
            if found != honest[operation]:
                raise AssertionError(f"{found} was never signed")
        return found

    return check


def seeds(forge: Forge, folder: Path) -> None:
    """Write genuine answers for a fuzzer to begin with."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, build in enumerate(GOOD.values()):
        (folder / f"good-{number:03}").write_bytes(build(forge).body)


def main() -> None:
    """Fuzz until something is found, or the time that was given is over."""
    atheris: Any = importlib.import_module("atheris")  # not a dependency: install it where you fuzz
    forge = Forge()
    check = target(forge)
    # A forge makes new keys, and so the seeds must be of this one.
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else Path("fuzz-corpus")
    seeds(forge, folder)
    arguments = [argument for argument in sys.argv[1:] if argument.startswith("-")]
    atheris.instrument_all()
    atheris.Setup([sys.argv[0], str(folder), *arguments], functools.partial(_one, check))
    atheris.Fuzz()


def _one(check: Callable[[bytes], Answer | None], data: bytes) -> None:
    """Run the target; genuine forms with other values are no finding of a fuzzer that was given them as seeds."""
    try:
        check(data)
    except AssertionError as exc:
        if not any(value in str(exc) for value in SIGNED_IN_SEEDS):
            raise


SIGNED_IN_SEEDS = ("12345", "R" * 32, "ä/€", "PKI110", "ok=False")
"""Marks of the other answers that the seeds hold."""


if __name__ == "__main__":
    main()
