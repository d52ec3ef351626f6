from __future__ import annotations

import shutil
from collections.abc import Sequence

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from harness.bench import bench, bench_keys, start_bench
from testbench.stranger import Stranger
from varmenne.testbench.server import BenchServer

__all__ = ["bench", "bench_keys", "keys", "start_bench", "stranger"]

TOOLS = {"curl": "curl", "xmlsec1": "xmlsec1", "openssl": "openssl"}


@pytest.fixture(scope="session", autouse=True)
def _tools() -> None:
    """Fail, and name the package, where a stranger's tool is missing: a skipped proof is no proof."""
    missing = [package for tool, package in TOOLS.items() if shutil.which(tool) is None]
    if missing:
        pytest.fail(f"these tests need more system packages: apt-get install {' '.join(missing)}")


@pytest.fixture(scope="session")
def keys() -> Sequence[rsa.RSAPrivateKey]:
    """Software keys of customers, made once: each bench is new and has seen none of them."""
    return [rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(3)]


@pytest.fixture
def stranger(bench: BenchServer, keys: Sequence[rsa.RSAPrivateKey]) -> Stranger:
    """A client of the bench that shares no code with varmenne's."""
    return Stranger(bench, keys)
