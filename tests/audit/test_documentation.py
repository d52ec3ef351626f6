"""What the documentation tells of the verifier is what the verifier does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.evidence import told
from varmenne.audit import verifier

PAGE = (Path(__file__).parents[2] / "docs" / "audit-verifier.md").read_text("utf-8")


def test_its_options_are_all_told_and_no_others(capsys: pytest.CaptureFixture[str]) -> None:
    """The table has the options that ``--help`` has, and the examples use no others."""
    with pytest.raises(SystemExit):
        verifier.main(["--help"])
    options = {*re.findall(r"--[a-z]+", capsys.readouterr().out)} - {"--help"}
    assert {*re.findall(r"^\| `(--[a-z]+)` \|", PAGE, re.MULTILINE)} == options
    examples = [line for line in PAGE.splitlines() if line.startswith("python verifier.py")]
    assert {option for line in examples for option in re.findall(r"--[a-z]+", line)} <= options


def test_the_keys_of_a_record_and_of_the_manifest_are_those(tmp_path: Path) -> None:
    """In their order."""
    listed = PAGE.partition("all of them, in this order:")[2].partition("The hash")[0]
    assert re.findall(r"`([a-z_]+)`", listed) == list(verifier.FIELDS)
    path = tmp_path / "bundle.zip"
    path.write_bytes(told().bundle())
    with path.open("rb") as file:
        manifest = verifier.Bundle(file).manifest()
    line = next(line for line in PAGE.splitlines() if line.startswith("| `manifest.json`"))
    assert re.findall(r"`([a-z_]+)`", line) == list(manifest)
    assert f"`{verifier.FORMAT}`" in line


def test_births_and_the_difference_of_clocks_are_those() -> None:
    """Numbers and words of the rules."""
    assert all(f"`{act}`" in PAGE for act in verifier.BIRTHS)
    assert (verifier.CLOCKS_DIFFER.total_seconds(), "may be a minute older" in PAGE) == (60, True)
