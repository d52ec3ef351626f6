"""Running benches for tests: the real thing over real HTTPS, on a free port, each in a folder of its own.

Import the fixtures that a room needs in its ``conftest.py``::

    from harness.bench import bench, bench_keys, start_bench

The keys of the bench's authorities are made once per session and copied, since making them is most of a first start.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from varmenne.clock import system_clock
from varmenne.testbench.files import private_folder
from varmenne.testbench.server import BenchServer
from varmenne.testbench.state import BenchState

__all__ = ["StartBench", "bench", "bench_keys", "copy_keys", "start_bench"]

StartBench = Callable[..., BenchServer]
"""Starts a bench with the keyword arguments of :class:`BenchServer`; it is stopped at the end of the test."""


@pytest.fixture(scope="session")
def bench_keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with all keys of a bench, made once per session."""
    from varmenne.testbench.tls import server_context

    state = BenchState.create(tmp_path_factory.mktemp("bench-keys") / "bench")
    state.family().signer_at(state.now())
    server_context(state.directory / "tls", state.tls_ca, system_clock())
    return state.directory


def copy_keys(source: Path, target: Path) -> None:
    """Copy the keys of a bench, and nothing else, into the folder of a new one."""
    for key in source.glob("*/*.key.pem"):
        folder = target / key.parent.name
        private_folder(folder)
        shutil.copy(key, folder)


@pytest.fixture
def start_bench(bench_keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartBench]:
    """Start benches as a test wants them; without a ``state`` each gets a new folder. Issuing takes no time."""
    with contextlib.ExitStack() as running:

        def start(state: BenchState | None = None, **options: Any) -> BenchServer:
            if state is None:
                directory = tmp_path_factory.mktemp("bench") / "bench"
                copy_keys(bench_keys, directory)
                state = BenchState.create(directory)
            return running.enter_context(BenchServer(state, **{"delay_seconds": 0.0, **options}))

        yield start


@pytest.fixture
def bench(start_bench: StartBench) -> BenchServer:
    """Return a running bench whose certificates are ready at once, with messages in English."""
    from varmenne.testbench.refusals import Language

    return start_bench(language=Language.ENGLISH)
