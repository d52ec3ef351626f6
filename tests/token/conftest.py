"""Real SoftHSM tokens, and a module between them and us that misbehaves as ordered."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.shim import Shim, shim_module
from harness.softhsm import softhsm, softhsm_shared, token
from varmenne.token import CreatedToken, Token

__all__ = ["Shim", "shim", "shim_module", "shimmed", "softhsm", "softhsm_shared", "token"]


@pytest.fixture
def shim(shim_module: Path, softhsm: CreatedToken, tmp_path: Path) -> Shim:
    """A fresh token behind the shim, which behaves until it is ordered otherwise."""
    return Shim(shim_module, softhsm, tmp_path)


@pytest.fixture
def shimmed(shim: Shim) -> Iterator[Token]:
    """A client of the token behind the shim."""
    with shim.client() as client:
        yield client
