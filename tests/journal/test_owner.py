"""Whom the journal names: who logged in, and not whom somebody says to be."""

from __future__ import annotations

from pathlib import Path

import pytest

from varmenne.journal import owner

NOBODY = 0xFFFFFFFF
CONTAINER = "4026532000"


@pytest.mark.parametrize(
    ("login", "namespace", "named", "person"),
    [
        (0, owner.INITIAL_NAMESPACE, "maija", "root"),
        (0, owner.INITIAL_NAMESPACE, "", "root"),
        (987654, owner.INITIAL_NAMESPACE, "maija", "uid 987654"),
        (NOBODY, owner.INITIAL_NAMESPACE, "maija", "maija"),
        (NOBODY, owner.INITIAL_NAMESPACE, "", "account"),
        (NOBODY, CONTAINER, "maija", "account"),
    ],
)
def test_who_acts(monkeypatch: pytest.MonkeyPatch, login: int, namespace: str, named: str, person: str) -> None:
    """A name that is given counts only where nobody logged in, on the machine itself: there, only root begins that."""
    monkeypatch.setattr(owner, "_login", lambda: login)
    monkeypatch.setattr(owner, "_namespace", lambda: namespace)
    monkeypatch.setattr("os.getuid", lambda: 123456)
    monkeypatch.setenv(owner.ON_BEHALF, named)
    found = owner.this_person.__wrapped__()
    assert found == ("uid 123456" if person == "account" else person)


def test_what_the_kernel_says_is_read() -> None:
    """The number of an account, or that nobody logged in."""
    assert 0 <= owner._login() <= NOBODY


def test_the_script_for_persons_names_them() -> None:
    """Its service has no login, so the script looks who has one, and gives the name under this variable."""
    script = Path(__file__).parents[2] / "scripts" / "systemd" / "varmenne-as-agent"
    assert f'--setenv={owner.ON_BEHALF}="$person"' in script.read_text("utf-8")
