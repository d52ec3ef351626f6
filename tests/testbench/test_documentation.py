"""docs/testbench.md says what the bench does: its tables are those of the code."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from varmenne.testbench.faults import FAULTS
from varmenne.testbench.refusals import REFUSALS
from varmenne.testbench.store import Request

TEXT = (Path(__file__).parents[2] / "docs" / "testbench.md").read_text(encoding="utf-8")


def table(heading: str) -> list[str]:
    """The rows of the first table under a heading, without its head."""
    section = TEXT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return [line for line in section.splitlines() if line.startswith("|")][2:]


def test_the_errors_are_those_of_the_code() -> None:
    """Codes and messages, in order."""
    assert table("Errors") == [f"| `{line.code}` | {line.en} | {line.fi} | {line.sv} |" for line in REFUSALS.values()]


def test_the_faults_are_those_of_the_code() -> None:
    """Names, operations and meanings, in order."""
    expected = [
        f"| `{name}` | {fault.only.value if fault.only else 'any'} | {fault.meaning} |"
        for name, fault in FAULTS.items()
    ]
    assert table("Faults") == expected


def test_the_log_has_the_keys_of_the_code() -> None:
    """Every key that a line can have is explained."""
    assert {row.split("`")[1] for row in table("The log")} == {field.name for field in fields(Request)}


def test_codes_named_in_the_text_exist() -> None:
    """A code that is gone from the table is gone from the text."""
    assert set(re.findall(r"PKI\d{3}", TEXT)) == set(REFUSALS)
