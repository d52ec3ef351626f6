"""Fixtures of the service's tests."""

import pytest

from harness.bench import bench, bench_keys, start_bench
from harness.forge import Forge
from harness.signers import SoftwareSigner

__all__ = ["bench", "bench_keys", "forge", "signer", "start_bench"]


@pytest.fixture(scope="session")
def signer() -> SoftwareSigner:
    """Return a key in software; making one takes a while."""
    return SoftwareSigner()


@pytest.fixture(scope="session")
def forge() -> Forge:
    """Return a forge of answers; its keys are made once."""
    return Forge()
