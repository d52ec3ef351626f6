"""Makes a SoftHSM token in a folder: for development, demonstrations and tests. It protects keys by file mode only."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from varmenne.errors import InputError, TokenUnavailable
from varmenne.settings import TokenSettings
from varmenne.token import messages as say
from varmenne.token.discovery import find_modules
from varmenne.token.one_shot import ask_once

MODULE_NAME: Final = "libsofthsm2.so"

_CONFIG: Final = """\
# Written by varmenne. Used through SOFTHSM2_CONF.
directories.tokendir = {tokens}
objectstore.backend = file
log.level = ERROR
slots.removable = false
"""

_MAX_LABEL_BYTES: Final = 32
"""``CK_TOKEN_INFO.label`` has this many bytes."""

_TIMEOUT_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class CreatedToken:
    """A new token, and what the settings need to use it.

    Attributes:
        directory: the folder of everything below; only its owner may enter it.
        module: path of the SoftHSM module.
        label: the token's label.
        serial: the token's serial number.
        environment: ``SOFTHSM2_CONF``, for the module.
        pin: source of the user PIN, ``file:…``.
        so_pin_file: file of the security officer's PIN; varmenne does not need it again.
    """

    directory: Path
    module: str
    label: str
    serial: str
    environment: dict[str, str]
    pin: str
    so_pin_file: Path

    @property
    def settings(self) -> TokenSettings:
        """The token's settings, with default time limits."""
        return TokenSettings(
            module=self.module,
            label=self.label,
            serial=self.serial,
            environment=self.environment,
            pin=self.pin,
        )


def create_softhsm_token(directory: Path, *, label: str, module: str | None = None) -> CreatedToken:
    """Make a new SoftHSM token with random PINs, which are written to files that only their owner can read.

    ``softhsm2-util`` is not used: it takes the PINs on its command line, where every user can read them.

    Args:
        directory: folder for the token; made if need be, and closed to others.
        label: the token's label, at most 32 bytes.
        module: path of the SoftHSM module; looked for if not given.

    Raises:
        InputError: the folder cannot be made, or holds a token or other files already, or the label is not usable.
            Nothing was changed.
        TokenUnavailable: SoftHSM is not installed, or failed; what was made has been removed again.
    """
    if not label.isprintable() or not 0 < len(label.encode()) <= _MAX_LABEL_BYTES:
        raise InputError(f"The label of a token must have 1 to {_MAX_LABEL_BYTES} bytes of printable characters")
    directory = directory.absolute()
    module = module or _installed_module()
    try:
        existed = _empty_or_new(directory)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
    except OSError as exc:
        raise InputError(f"No token can be made in {directory}", why=exc.strerror or str(exc)) from exc
    try:
        return _create(directory, label, module)
    except BaseException:
        _remove(directory, keep_folder=existed)
        raise


def _empty_or_new(directory: Path) -> bool:
    """Tell whether the folder is there.

    Raises:
        InputError: something is there that is not an empty folder.
    """
    if not directory.exists():
        return False
    if not directory.is_dir() or any(directory.iterdir()):
        raise InputError(
            f"{directory} is not an empty folder",
            why="a token is only made where nothing is yet, so that none is destroyed",
            next_step="Name a new folder, or use the token that is there",
        )
    return True


def _remove(directory: Path, *, keep_folder: bool) -> None:
    """Remove what was made in a folder that was empty before, and the folder if it is ours."""
    for entry in directory.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    if not keep_folder:
        directory.rmdir()


def _create(directory: Path, label: str, module: str) -> CreatedToken:
    """Write the configuration and have the token initialised."""
    tokens, config = directory / "tokens", directory / "softhsm2.conf"
    tokens.mkdir(mode=0o700)
    config.touch(mode=0o600)
    config.write_text(_CONFIG.format(tokens=tokens), encoding="utf-8")
    environment = {"SOFTHSM2_CONF": str(config)}
    pin_file, so_pin_file = directory / "pin", directory / "so-pin"
    status = ask_once(
        say.Setup(module=module),
        say.InitToken(label=label, pin_file=str(pin_file), so_pin_file=str(so_pin_file)),
        environment=environment,
        timeout_seconds=_TIMEOUT_SECONDS,
    )
    return CreatedToken(
        directory=directory,
        module=module,
        label=label,
        serial=status.identity.serial,
        environment=environment,
        pin=f"file:{pin_file}",
        so_pin_file=so_pin_file,
    )


def _installed_module() -> str:
    """Return the SoftHSM module of this computer."""
    for path in find_modules():
        if path.name == MODULE_NAME:
            return str(path)
    raise TokenUnavailable("SoftHSM is not installed", next_step="Install the package softhsm2")
