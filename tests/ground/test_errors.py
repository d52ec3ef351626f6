"""Every error tells who must act, and ends a command with a code that is documented."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re

import pytest

import varmenne
from varmenne import errors

FAMILY = errors.family()

# Exceptions that carry news inside one room, and are turned into ours before they leave it.
INNER = {"varmenne.audit.verifier.Refused", "varmenne.token.process.Lost", "varmenne.token.answers.Refused"}


def _drawn() -> dict[str, int]:
    """The tree at the top of the module: each class, with the code on its line or on its parent's."""
    codes: dict[str, int] = {}
    parents: list[tuple[int, int]] = [(-1, 1)]
    for line in inspect.cleandoc(errors.__doc__ or "").splitlines():
        found = re.match(r"^([ │├└─]*)([A-Z]\w+)(?:\s.*?)?(?:\s{2,}(\d+)|\s(\d+))?$", line)
        if not found or not hasattr(errors, found[2]):
            continue
        depth = len(found[1])
        while parents[-1][0] >= depth:
            parents.pop()
        codes[found[2]] = int(found[3] or found[4] or parents[-1][1])
        parents.append((depth, codes[found[2]]))
    return codes


def test_the_drawn_tree_is_the_tree() -> None:
    """The picture at the top of the module names each class and its code, and none besides."""
    assert _drawn() == {cls.__name__: cls.exit_code for cls in FAMILY}


@pytest.mark.parametrize("cls", FAMILY)
def test_each_error_has_a_docstring_and_a_meaning_of_its_own_code(cls: type[errors.VarmenneError]) -> None:
    """Two errors with one code have one meaning, so that the table of exit codes can be printed from the classes."""
    assert cls.__doc__
    assert {other.meaning for other in FAMILY if other.exit_code == cls.exit_code} == {cls.meaning}


def test_exit_codes_leave_room_for_the_shell_and_the_command_line_library() -> None:
    """0 is success, 2 is wrong usage, and from 64 on codes mean something to others."""
    assert {code for cls in FAMILY if (code := cls.exit_code) in {0, 2} or code >= 64} == set()


def test_all_exceptions_of_the_package_are_of_the_family() -> None:
    """No class escapes the base, so that one `except` is enough for a caller.

    Warnings are not raised. An exception of a library's family, made at that library's edge, is translated there.
    """
    strangers = set()
    for found in pkgutil.walk_packages(varmenne.__path__, "varmenne."):
        if found.name.endswith("__main__"):
            continue
        module = importlib.import_module(found.name)
        strangers |= {
            f"{value.__module__}.{name}"
            for name, value in vars(module).items()
            if inspect.isclass(value)
            and issubclass(value, BaseException)
            and not issubclass(value, (errors.VarmenneError, Warning))
            and {base.__module__.split(".")[0] for base in value.__mro__} == {"varmenne", "builtins"}
            and not name.startswith("_")
        }
    assert strangers == INNER
