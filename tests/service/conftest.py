"""Fixtures of the service's tests."""

from collections.abc import Iterator

import pytest

from harness.authorities import authorities, command, config
from harness.bench import bench, bench_keys, start_bench
from harness.forge import Forge
from harness.renewals import Keys
from harness.signers import SoftwareSigner
from harness.softhsm import softhsm_shared
from varmenne.domain.keys import new_key_id
from varmenne.token import CreatedToken, Token

__all__ = [
    "authorities",
    "bench",
    "bench_keys",
    "command",
    "config",
    "forge",
    "keys",
    "signer",
    "softhsm_shared",
    "start_bench",
]


@pytest.fixture(scope="session")
def signer() -> SoftwareSigner:
    """Return a key in software; making one takes a while."""
    return SoftwareSigner()


@pytest.fixture(scope="session")
def forge() -> Forge:
    """Return a forge of answers; its keys are made once."""
    return Forge()


@pytest.fixture(scope="module")
def keys(softhsm_shared: CreatedToken) -> Iterator[Keys]:
    """Keys made in a SoftHSM token. Each bench is new, and has seen none of them."""
    with Token(softhsm_shared.settings) as token:
        ids = [new_key_id() for _ in range(3)]
        for key_id in ids:
            token.generate(key_id, "renewal")
        yield Keys(*map(token.signer, ids))
