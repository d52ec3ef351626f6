"""The fuzz target of the verifier: whatever bytes come, it returns what the service signed, or refuses in one family.

As a program it fuzzes until the time is over or something is found (in ``tests``)::

    python -m harness.fuzzing FOLDER SECONDS [ENGINE]

What was found is in the folder then, in a file whose name begins with ``finding-``, and the exit code is not 0. CI runs
it for a minute; by hand it may run for hours.
"""

from __future__ import annotations

import gc
import importlib
import platform
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.forge import AT, Forge
from harness.good_answers import GOOD
from varmenne.errors import VerificationError
from varmenne.service.answers import Answer, verify_answer
from varmenne.service.interface import Operation

ENGINE = "atheris" if platform.machine() == "x86_64" else "hypothesis"
"""atheris, from Google, is guided by the code that an input reaches. It has wheels for this machine's kind alone, and
where there is none, hypothesis drives the same target. ``pyproject.toml`` has the same condition."""

EXPLORED = ("varmenne.service.", "signxml.", "pyhanko_certvalidator.")
"""Where atheris is to find new ways: what decides about an answer. All Python code there is would take a minute."""

SLOWEST_SECONDS = 20
"""An input that takes longer is a finding. Generous, since the machine may have other things to do."""
MAX_MEGABYTES = 500
"""Of the whole process, with the fuzzer's own."""

WORDS = tuple(
    "<ds:Signature> </ds:Signature> <!DOCTYPE &amp; &#13; <!----> <?x?> <![CDATA[ ]]> </RetrievalId> <RetrievalId> "
    "OK FAIL \ufeff xmlns='' \0 < >".encode().split(b" ")
)
"""Pieces of XML that byte by byte would be found too seldom."""

Check = Callable[[bytes], "Answer | None"]


def target(forge: Forge, signed: tuple[bytes, ...]) -> Check:
    """Return the target: it gives bytes to the verifier as an answer to each operation.

    What the verifier returns must be one of the ``signed`` answers, for nothing else has a valid signature.
    """
    honest = {answer for body in signed for answer in _accepted(forge, body)}

    def check(data: bytes) -> Answer | None:
        try:
            found = _accepted(forge, data)
        except Exception as exc:
            raise AssertionError(f"an error of another family: {type(exc).__name__}: {exc}") from exc
        if not honest.issuperset(found):
            raise AssertionError(f"this was never signed: {found}")
        return found[0] if found else None

    return check


def _accepted(forge: Forge, data: bytes) -> list[Answer]:
    """Return what the verifier reads in bytes, as an answer to each operation."""
    found = []
    for operation in Operation:
        try:
            found.append(verify_answer(data, operation, forge.anchors, AT))
        except VerificationError as exc:
            if exc.check == "unexpected":
                raise
    return found


def by_atheris(check: Check, signed: tuple[bytes, ...], folder: Path, seconds: int) -> None:
    """Fuzz with atheris, which begins with the genuine answers, and ends the process itself."""
    atheris: Any = importlib.import_module("atheris")  # it has no types, and is not there on every machine
    corpus, words = folder / "corpus", folder / "words"
    corpus.mkdir(exist_ok=True)
    for number, body in enumerate(signed):
        (corpus / f"signed-{number:03}").write_bytes(body)
    # libFuzzer's form: each word in quotation marks, any byte as \xAB.
    words.write_text("".join('"' + "".join(map("\\x{:02x}".format, word)) + '"\n' for word in WORDS))
    options = {
        "max_total_time": seconds,
        "timeout": SLOWEST_SECONDS,
        "rss_limit_mb": MAX_MEGABYTES,
        "max_len": 2 * max(map(len, signed)),
        "len_control": 0,
        "dict": words,
        "artifact_prefix": folder / "finding-",
    }
    for function in gc.get_objects():
        if isinstance(function, types.FunctionType) and str(function.__module__).startswith(EXPLORED):
            atheris.instrument_func(function)

    def once(data: bytes) -> None:
        check(data)

    atheris.Setup([sys.argv[0], *(f"-{name}={value}" for name, value in options.items()), str(corpus)], once)
    atheris.Fuzz()


def by_hypothesis(check: Check, signed: tuple[bytes, ...], folder: Path, seconds: int) -> None:
    """Fuzz with hypothesis, round after round."""
    # Not imported above: atheris would take all of hypothesis for a part of what it is to explore.
    from hypothesis import HealthCheck, Phase, given, settings

    from harness.mutations import mutations

    end = time.monotonic() + seconds
    tried = 0

    @settings(
        max_examples=500, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(data=mutations(signed))
    def one_round(data: bytes) -> None:
        nonlocal tried
        tried += 1
        began = time.monotonic()
        try:
            check(data)
            assert time.monotonic() - began < SLOWEST_SECONDS, "it took too long"
        except AssertionError:
            (folder / "finding-hypothesis").write_bytes(data)
            raise

    while time.monotonic() < end:
        one_round()
    print(f"Done {tried} runs in {seconds} seconds")


ENGINES = {"atheris": by_atheris, "hypothesis": by_hypothesis}


def main() -> None:
    """Fuzz until something is found, or the time that was given is over."""
    folder, seconds, engine = Path(sys.argv[1]), int(sys.argv[2]), (sys.argv[3:] or [ENGINE])[0]
    folder.mkdir(parents=True, exist_ok=True)
    forge = Forge()
    # A forge makes new keys, and so what is signed must be of this one.
    signed = tuple(build(forge).body for build in GOOD.values())
    ENGINES[engine](target(forge, signed), signed, folder, seconds)


if __name__ == "__main__":
    main()
