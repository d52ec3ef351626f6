"""The scripts: each is executable and readable by its shell, and set-up says what it would need."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from shlex import quote

import pytest

ROOT = Path(__file__).parents[2]
EXECUTABLE = [
    ".ci/run",
    "scripts/check",
    "scripts/demo",
    "scripts/docs",
    "scripts/image",
    "scripts/lock",
    "scripts/test",
    "scripts/try-on",
]


def _shell(path: Path) -> list[str]:
    """The interpreter that a file names in its first line; `sh` for one that is sourced."""
    first = path.read_text(encoding="utf-8").splitlines()[0]
    return first[2:].split() if first.startswith("#!") else ["/bin/sh"]


@pytest.mark.parametrize("name", EXECUTABLE)
def test_each_verb_is_executable(name: str) -> None:
    """A newcomer types the name and nothing else."""
    assert os.access(ROOT / name, os.X_OK)


@pytest.mark.parametrize("name", [*EXECUTABLE, "scripts/setup.sh"])
def test_each_script_can_be_read_by_its_shell(name: str) -> None:
    """A syntax error in a branch that is rarely taken shows here; `scripts/check` looks deeper."""
    path = ROOT / name
    done = subprocess.run([*_shell(path), "-n", str(path)], capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


def test_set_up_names_no_host() -> None:
    """Where packages come from is configured on the machine, never here."""
    address = re.compile(r"\w+://|(?<!no-emit-)index-url|trusted-host|(?<!no-emit-)find-links")
    files = [*ROOT.glob("requirements/*"), *ROOT.glob("scripts/*"), *ROOT.glob(".ci/*")]
    named = {path.name: address.findall(path.read_text("utf-8")) for path in files if path.is_file()}
    assert {name: found for name, found in named.items() if found} == {}


def test_documents_name_only_paths_that_exist() -> None:
    """Whoever follows a document must find what it speaks of."""
    documents = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    named = {
        path
        for text in documents
        for path in re.findall(r"`((?:scripts|agent|tests|docs)/[\w./-]+)", text.read_text("utf-8"))
    }
    assert {path for path in named if not (ROOT / path).exists()} == set()


def test_each_system_package_has_a_level_and_a_reason() -> None:
    """The one table of packages can be read by the scripts and by people."""
    [table] = re.findall(r"<<'TABLE'\n(.*?)\nTABLE\n", (ROOT / "scripts/setup.sh").read_text("utf-8"), re.DOTALL)
    odd = [line for line in table.splitlines() if not re.fullmatch(r"[a-z0-9.+-]+ +(run|test) +\S.*", line)]
    assert odd == []


def _python_found(tmp_path: Path, **programs: str) -> str:
    """What set-up takes for Python on a PATH that holds only these programs, each given as the body of a script."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, body in programs.items():
        (tools / name).write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        (tools / name).chmod(0o755)
    script = f'root={quote(str(ROOT))}; . "$root/scripts/setup.sh"; PATH={tools}; varmenne_python'
    done = subprocess.run(["/bin/sh", "-c", script], env={}, capture_output=True, text=True, check=False, timeout=30)
    return done.stdout.strip().removeprefix(f"{tools}/")


GOOD = f'exec {quote(sys.executable)} "$@"'


@pytest.mark.parametrize(
    "python3", ["exit 1", "exit 0", "echo 3.9", "kill -9 $$"], ids=["fails", "lies", "talks", "dies"]
)
def test_a_python3_that_cannot_be_used_is_passed_over(tmp_path: Path, python3: str) -> None:
    """A stub, or an old one that hides Debian's, must not stop a newcomer whose machine has a good one, too."""
    assert _python_found(tmp_path, python3=python3, **{"python3.12": GOOD}) == "python3.12"


def test_the_python_on_the_path_is_taken_first(tmp_path: Path) -> None:
    """Who has arranged for a Python means it."""
    assert _python_found(tmp_path, python3=GOOD, **{"python3.12": GOOD}) == "python3"


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    """The environment of a user without privileges, on a machine where Debian knows of no installed package.

    The checkout is a copy, so that the real one's environment is out of reach.
    """
    for name in ("scripts", "requirements"):
        shutil.copytree(ROOT / name, tmp_path / "checkout" / name)
    shutil.copy(ROOT / "pyproject.toml", tmp_path / "checkout")
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, body in {
        "dpkg-query": "exit 1",
        "apt-get": f"echo apt-get >> {tmp_path}/called",
        "sudo": "exit 1",
        "id": "echo 1000",
    }.items():
        (tools / name).write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        (tools / name).chmod(0o755)
    return {"PATH": f"{tools}:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(tmp_path)}


@pytest.mark.parametrize("verb", ["demo", "test"])
def test_set_up_without_privileges_says_what_to_install(machine: dict[str, str], tmp_path: Path, verb: str) -> None:
    """One line to copy, exit code 1, and nothing was touched."""
    checkout = tmp_path / "checkout"
    before = sorted(checkout.rglob("*"))
    done = subprocess.run(
        [str(checkout / "scripts" / verb)],
        env=machine,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (1, "")
    [line] = re.findall(r"^ +apt-get install --no-install-recommends (.*)$", done.stderr, re.MULTILINE)
    assert "softhsm2" in line.split()
    assert ("xmlsec1" in line.split()) == (verb == "test")
    assert (sorted(checkout.rglob("*")), (tmp_path / "called").exists()) == (before, False)


def test_a_python_that_was_asked_for_and_is_unusable_is_refused(machine: dict[str, str], tmp_path: Path) -> None:
    """PYTHON is an order, so no other interpreter is taken in its place."""
    done = subprocess.run(
        [str(tmp_path / "checkout" / "scripts" / "demo")],
        env=machine | {"PYTHON": "/bin/false"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert "PYTHON=/bin/false is not a Python 3.11 to 3.13" in done.stderr


def test_a_checkout_of_somebody_else_is_left_alone() -> None:
    """Who may not write it is told so in one sentence, before anything is removed, installed or asked for."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders cannot be entered by others.
        checkout = Path(folder, "checkout")
        for name in ("scripts", "requirements"):
            shutil.copytree(ROOT / name, checkout / name)
        shutil.copy(ROOT / "pyproject.toml", checkout)
        (checkout / ".venv").mkdir()
        Path(folder).chmod(0o755)
        checkout.chmod(0o555)
        somebody = 65534 if os.getuid() == 0 else None  # the superuser may write anything
        done = subprocess.run(
            [str(checkout / "scripts" / "demo")],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            user=somebody,
            group=somebody,
        )
        assert (done.returncode, done.stdout) == (1, "")
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert f"may not write {checkout}" in done.stderr
        assert (checkout / ".venv").is_dir()
        checkout.chmod(0o755)
