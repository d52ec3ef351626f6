"""The floors of the house: who may import whom, what starts fast, and where keys may be made."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "agent" / "varmenne"

# What each room may import from its own package, besides itself. Settings are values, and load no driver.
GROUND = {"clock", "domain", "errors", "measure", "secret_sources", "settings"}
FLOORS = {
    "domain": {"errors"},
    "settings": {"domain", "errors"},
    "token": GROUND,
    "csr": GROUND,
    "service": GROUND,
    "vault": GROUND,
    "journal": GROUND,
    "audit": GROUND,
    "measure": {"errors"},
    # What is seen of the agent: it reads the journal, and calls nobody.
    "monitoring": GROUND | {"journal"},
    # The bench plays the service and starts a Vault, so it speaks their words; it never plays the agent.
    "testbench": GROUND | {"service", "vault"},
}
# Slow to import, so they are imported where they are used and never to print a help text.
HEAVY = {
    "alembic",
    "asn1crypto",
    "cryptography",
    "cyclonedx",
    "hvac",
    "jinja2",
    "lxml",
    "pkcs11",
    "prometheus_client",
    "psycopg",
    "pyhanko_certvalidator",
    "requests",
    "signxml",
    "sqlalchemy",
    "zeep",
}


def _sources(room: str = "") -> list[Path]:
    """The Python files of a room, which is a folder or a single module; of the package without one."""
    alone = PACKAGE / f"{room}.py"
    return [alone] if alone.exists() else sorted((PACKAGE / room).rglob("*.py"))


def _imports(tree: ast.AST, path: Path) -> set[str]:
    """Every module that a tree imports, by its full dotted name."""
    package = [*path.relative_to(PACKAGE.parent).with_suffix("").parts[:-1]]
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


def _rooms(path: Path) -> set[str]:
    """The rooms of this package that a file imports from."""
    parts = (name.split(".") for name in _imports(ast.parse(path.read_bytes()), path))
    own = {part[1] for part in parts if part[0] == "varmenne" and len(part) > 1}
    return {name for name in own if (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").exists()}


def _name(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def _top(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0]


@pytest.mark.parametrize("room", FLOORS)
def test_rooms_of_one_floor_do_not_know_each_other(room: str) -> None:
    """Only `enrollment` and `cli` compose; below them each room stands on the ground alone."""
    too_far = {_name(path): _rooms(path) - FLOORS[room] - {room} for path in _sources(room)}
    assert {name: found for name, found in too_far.items() if found} == {}


def test_domain_imports_nothing_but_the_standard_library_and_errors() -> None:
    """Values and states can be read and tested without a token, a server or a database."""
    foreign = {
        _name(path): {
            name for name in _imports(ast.parse(path.read_bytes()), path) if name.split(".")[0] not in _STANDARD
        }
        for path in _sources("domain")
    }
    assert {name: found for name, found in foreign.items() if found} == {}


_STANDARD = sys.stdlib_module_names | {"varmenne"}


def test_only_the_command_line_and_the_demo_know_the_bench() -> None:
    """A stand-in for the service that production code could reach would be a way around the service."""
    users = {_top(path) for path in _sources() if "testbench" in _rooms(path) and _top(path) != "testbench"}
    assert users <= {"cli", "demo"}


def test_nothing_below_the_use_cases_knows_them() -> None:
    """No circles: `enrollment` is used by the command line and the demo, and they by nobody but `python -m`."""
    users = {
        (upper, _top(path))
        for path in _sources()
        for upper in ("enrollment", "demo", "cli")
        if upper in _rooms(path) and _top(path) != upper
    }
    assert users <= {("enrollment", "demo"), ("enrollment", "cli"), ("demo", "cli"), ("cli", "__main__.py")}


def test_the_command_line_imports_heavy_libraries_only_inside_functions() -> None:
    """Every command starts by importing its module, if only to describe it."""
    heavy = {}
    for path in _sources("cli"):
        tree = ast.parse(path.read_bytes())
        top = ast.Module(body=[node for node in tree.body if not isinstance(node, _DEFERRED)], type_ignores=[])
        heavy[_name(path)] = {name.split(".")[0] for name in _imports(top, path)} & HEAVY
    assert {name: found for name, found in heavy.items() if found} == {}


_DEFERRED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.If)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_help_and_version_load_no_heavy_library(arguments: list[str]) -> None:
    """Start-up is a feature: what only speaks about itself loads the command-line library and little more."""
    script = (
        "import atexit, sys\n"
        f"heavy = {sorted(HEAVY)!r}\n"
        "atexit.register(lambda: print('loaded:', *[name for name in heavy if name in sys.modules], file=sys.stderr))\n"
        "from varmenne.cli import main\n"
        f"sys.argv = ['varmenne', *{arguments!r}]\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr.strip().splitlines()[-1:]) == (0, ["loaded:"])


def test_no_code_but_the_bench_makes_a_private_key_in_software() -> None:
    """A key is born in the token or not at all; the bench plays the service, and has keys of its own.

    A witness reads its own key from a file: it is elsewhere, where no token has to be, and its key is no certificate's.
    """
    makers = {
        f"{_name(path)}:{node.lineno}: {ast.unparse(node.func)}"
        for path in _sources()
        if _top(path) != "testbench"
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Call) and _makes_private_key(ast.unparse(node.func))
    }
    assert {maker.partition(":")[0] for maker in makers} == {"audit/witness.py"}


def _makes_private_key(called: str) -> bool:
    """True for the ways in which the libraries that we depend on make or load a private key.

    The token's own ``generate_keypair`` is not among them.
    """
    return any(
        word in called
        for word in (
            "generate_private_key",
            "generate_pair",
            "load_pem_private_key",
            "load_der_private_key",
            "RSA.generate",
        )
    ) or called in {"rsa.generate", "ec.generate", "asymmetric.generate"}
