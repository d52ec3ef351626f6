"""Fixtures of the service's tests."""

import pytest
from harness.bench import bench, bench_keys, start_bench
from harness.signers import SoftwareSigner

__all__ = ["bench", "bench_keys", "signer", "start_bench"]


@pytest.fixture(scope="session")
def signer() -> SoftwareSigner:
    """Return a key in software; making one takes a while."""
    return SoftwareSigner()
