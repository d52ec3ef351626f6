"""A minute of fuzzing in every run of the suite, and the proof that the fuzzers see what is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.fuzzing import ENGINE

SECONDS = 60
PLANTED = """
from harness import fuzzing

def verify(data, *rest):
    data.decode()
    return genuine(data, *rest)

genuine, fuzzing.verify_answer = fuzzing.verify_answer, verify
fuzzing.main()
"""
"""A verifier with a hole: bytes that are not UTF-8 raise an error that is none of ours."""


def fuzz(folder: Path, seconds: int, *engine: str, program: tuple[str, str]) -> tuple[int, str, list[bytes]]:
    """Run a fuzzer as a process of its own, and return its exit code, what it said, and what it found."""
    done = subprocess.run(
        [sys.executable, *program, folder, str(seconds), *engine],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=seconds + 120,
        check=False,
    )
    return done.returncode, done.stdout, [path.read_bytes() for path in folder.glob("finding-*")]


@pytest.mark.timeout(SECONDS + 180)
def test_a_minute_of_fuzzing_finds_nothing(tmp_path: Path) -> None:
    """Nothing is accepted that was not signed, nothing escapes the family of errors, nothing takes long or much."""
    code, said, found = fuzz(tmp_path, SECONDS, program=("-m", "harness.fuzzing"))
    assert not found, f"{found}\n{said[-4000:]}"
    assert code == 0, said[-4000:]
    assert "Done" in said


@pytest.mark.parametrize("engine", sorted({ENGINE, "hypothesis"}))
def test_a_hole_is_found(tmp_path: Path, engine: str) -> None:
    """A fuzzer that finds nothing in a verifier with a hole would be worth nothing. It keeps the input."""
    code, said, found = fuzz(tmp_path, 30, engine, program=("-c", PLANTED))
    assert code != 0
    assert "UnicodeDecodeError" in said
    assert found
    with pytest.raises(UnicodeDecodeError):
        found[0].decode()
