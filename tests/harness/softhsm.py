"""Real SoftHSM tokens for tests, made by the same function that makes them for people.

Use the fixtures from a ``conftest.py`` by ``from harness.softhsm import softhsm, softhsm_shared, token``, or by naming
``harness.softhsm`` in ``pytest_plugins`` of the top one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from varmenne.token import CreatedToken, Token, create_softhsm_token, find_modules
from varmenne.token.softhsm import MODULE_NAME

TOKEN_LABEL = "varmenne test"


def softhsm_module() -> str:
    """Return the path of SoftHSM's module, or fail with the package's name: these tests are not skipped in silence."""
    for path in find_modules():
        if path.name == MODULE_NAME:
            return str(path)
    pytest.fail("SoftHSM is missing: install the package softhsm2")


@pytest.fixture
def softhsm(tmp_path: Path) -> CreatedToken:
    """A fresh, empty SoftHSM token for one test; ``softhsm.settings`` is what ``Token`` takes."""
    return create_softhsm_token(tmp_path / "softhsm", label=TOKEN_LABEL, module=softhsm_module())


@pytest.fixture(scope="module")
def softhsm_shared(tmp_path_factory: pytest.TempPathFactory) -> CreatedToken:
    """A SoftHSM token for a whole test module, for tests that only add keys of their own."""
    return create_softhsm_token(
        tmp_path_factory.mktemp("shared") / "softhsm", label=TOKEN_LABEL, module=softhsm_module()
    )


@pytest.fixture
def token(softhsm: CreatedToken, tmp_path: Path) -> Iterator[Token]:
    """A client of the fresh token, with a state folder of its own."""
    with Token(softhsm.settings, state_dir=tmp_path / "token-state") as client:
        yield client
