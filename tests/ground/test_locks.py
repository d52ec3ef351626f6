"""The lock files: everything is pinned and hashed, and nothing tells where it was made."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = ["run", "test"]


def _read(name: str) -> str:
    return (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")


def _versions(name: str) -> dict[str, str]:
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", _read(name), re.MULTILINE))


def _names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^A-Za-z0-9._-]", item, maxsplit=1)[0].lower().replace("_", "-") for item in requirements}


@pytest.mark.parametrize("name", LOCKS)
def test_every_requirement_is_pinned_and_hashed(name: str) -> None:
    """A file with one missing hash is refused by pip, but only on the machine where it matters."""
    entries = re.split(r"\n(?=\S)", re.sub(r"(?m)^\s*#.*\n", "", _read(name)).strip())
    bare = [entry for entry in entries if not re.search(r"^\S+==\S+.*--hash=sha256:[0-9a-f]{64}", entry, re.DOTALL)]
    assert bare == []


@pytest.mark.parametrize("name", LOCKS)
def test_no_index_and_no_path_in_a_lock(name: str) -> None:
    """Where packages come from is a matter of the user's pip settings."""
    found = re.findall(
        r".*(?:://|--index|--extra-index|--find-links|--trusted-host| @ |/home/|/tmp/|/root/).*", _read(name)
    )
    assert found == []


def test_tests_run_on_the_versions_that_users_run() -> None:
    """The test lock adds tools; it changes no version."""
    run, test = _versions("run"), _versions("test")
    assert {name: test.get(name) for name in run} == run


def test_what_pyproject_asks_for_is_locked() -> None:
    """`scripts/lock` was run after the last change of pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    groups, project = project["dependency-groups"], project["project"]
    run = _names(project["dependencies"] + project["optional-dependencies"]["demo"] + groups["build"])
    test = run | _names(groups["test"] + groups["check"])
    locked_run, locked_test = ({name.lower() for name in _versions(lock)} for lock in LOCKS)
    assert (run - locked_run, test - locked_test) == (set(), set())
