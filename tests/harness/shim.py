"""A PKCS#11 module between a SoftHSM token and us, which misbehaves as a test orders; ``token/shim.c`` tells how.

Import the fixture that compiles it, and put it before a token::

    from harness.shim import Shim, shim_module
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

from varmenne.settings import TokenSettings
from varmenne.token import CreatedToken, Token


class Shim:
    """A SoftHSM token behind ``shim.c``."""

    def __init__(self, module: Path, behind: CreatedToken, folder: Path) -> None:
        self.behind = behind
        self.state_dir = folder / "shim-state"
        self._control = folder / "control"
        self._calls = folder / "calls"
        self.settings: TokenSettings = msgspec.structs.replace(
            behind.settings,
            module=str(module),
            environment={
                **behind.environment,
                "SHIM_MODULE": behind.module,
                "SHIM_CONTROL": str(self._control),
                "SHIM_CALLS": str(self._calls),
            },
        )

    @property
    def pin_file(self) -> Path:
        """The file that the PIN is read from."""
        return Path(self.settings.pin.removeprefix("file:"))

    def order(self, *lines: str) -> None:
        """Have it misbehave from now on; without lines, behave."""
        self._control.write_text("".join(f"{line}\n" for line in lines))

    def calls(self, name: str) -> int:
        """Return how often a function of the module has been called so far."""
        return self._calls.read_text().split().count(name) if self._calls.exists() else 0

    def client(self, **changes: object) -> Token:
        """Return a client that goes through the shim, with changed settings."""
        retry_pin = bool(changes.pop("retry_pin", False))
        settings = msgspec.structs.replace(self.settings, **changes)
        return Token(settings, state_dir=self.state_dir, retry_pin=retry_pin)

    def honest(self) -> Token:
        """Return a client that goes to the token directly."""
        return Token(self.behind.settings, state_dir=self.state_dir)


@pytest.fixture(scope="session")
def shim_module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled shim."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.fail("a C compiler is missing: install the package gcc (and libc6-dev)")
    source = Path(__file__).parents[1] / "token" / "shim.c"
    library = tmp_path_factory.mktemp("shim") / "libshim.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o", library, source, "-ldl"], check=True)
    return library
