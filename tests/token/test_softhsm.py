"""Making SoftHSM tokens, and finding modules."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest

from harness.softhsm import softhsm_module
from varmenne.errors import InputError, TokenUnavailable
from varmenne.settings import TokenSettings
from varmenne.token import CreatedToken, Token, create_softhsm_token, find_modules


def contents(folder: Path) -> dict[Path, bytes]:
    """Return every file under a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_new_token_is_closed_to_others(softhsm: CreatedToken) -> None:
    """The folder and everything in it that varmenne writes is for its owner alone."""
    assert stat.S_IMODE(softhsm.directory.stat().st_mode) == 0o700
    for name in ("pin", "so-pin", "softhsm2.conf"):
        assert stat.S_IMODE((softhsm.directory / name).stat().st_mode) == 0o600
    pin, so_pin = (softhsm.directory / name for name in ("pin", "so-pin"))
    assert pin.read_text() != so_pin.read_text()
    assert len(pin.read_text().strip()) == 32


def test_a_new_token_works_by_its_settings(softhsm: CreatedToken) -> None:
    """What is returned is what the settings need."""
    settings = softhsm.settings
    assert isinstance(settings, TokenSettings)
    with Token(settings) as client:
        client.login()
        status = client.status()
    assert (status.identity.label, status.identity.serial) == (softhsm.label, softhsm.serial)
    assert status.pin_initialized


@pytest.mark.parametrize("there", ["token", "file", "is a file"])
def test_nothing_is_overwritten(tmp_path: Path, there: str) -> None:
    """A folder that holds anything is refused, and left as it was."""
    folder = tmp_path / "token"
    if there == "token":
        create_softhsm_token(folder, label="first")
    elif there == "file":
        folder.mkdir()
        (folder / "precious").write_text("data")
    else:
        folder.write_text("data")
    before = contents(tmp_path)
    with pytest.raises(InputError, match="not an empty folder"):
        create_softhsm_token(folder, label="second")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("label", ["", "x" * 33, "ö" * 17, "line\nbreak"])
def test_a_label_that_does_not_fit_is_refused(tmp_path: Path, label: str) -> None:
    """A token's label has at most 32 bytes, and would be cut in silence."""
    with pytest.raises(InputError):
        create_softhsm_token(tmp_path / "token", label=label)
    assert not (tmp_path / "token").exists()


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    """When the module does not work, what was made so far is removed, so the call can be made again."""
    folder = tmp_path / "token"
    with pytest.raises(TokenUnavailable):
        create_softhsm_token(folder, label="x", module="/nowhere/libsofthsm2.so")
    assert contents(tmp_path) == {}
    assert create_softhsm_token(folder, label="x").label == "x"


def test_the_pins_are_on_no_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every process that is started is started without a PIN among its arguments or in its environment."""
    started: list[str] = []
    spawn = subprocess.Popen

    class Watched(spawn):  # type: ignore[valid-type,misc]
        def __init__(self, *args: object, **kwargs: object) -> None:
            started.append(repr((args, kwargs)))
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(subprocess, "Popen", Watched)
    made = create_softhsm_token(tmp_path / "token", label="x")
    assert len(started) == 1
    for name in ("pin", "so-pin"):
        assert (made.directory / name).read_text().strip() not in started[0]


def test_installed_modules_are_found_once() -> None:
    """SoftHSM is found; nothing is listed twice, and everything listed exists."""
    modules = find_modules()
    assert Path(softhsm_module()) in modules
    assert len({path.resolve() for path in modules}) == len(modules)
    assert all(path.is_file() for path in modules)


def test_modules_are_found_by_the_configs_of_p11_kit(tmp_path: Path) -> None:
    """A module that only a p11-kit config names is found; trust modules, missing ones and broken configs are passed."""
    for name in ("good.so", "trust.so"):
        (tmp_path / name).write_bytes(b"")
    configs = tmp_path / "modules"
    configs.mkdir()
    (configs / "a.module").write_text(f"# comment\nmodule: {tmp_path}/good.so\ncritical: no\n")
    (configs / "b.module").write_text(f"module: {tmp_path}/trust.so\ntrust-policy: yes\n")
    (configs / "c.module").write_text("module: /nowhere/x.so\n")
    (configs / "d.module").write_bytes(b"\xff\xfe")
    (tmp_path / "same.so").symlink_to(tmp_path / "good.so")
    found = find_modules(well_known=(str(tmp_path / "same.so"),), module_configs=(str(configs), "/nowhere"))
    assert found == (tmp_path / "same.so",)
    assert find_modules(well_known=(), module_configs=(str(configs),)) == (tmp_path / "good.so",)
