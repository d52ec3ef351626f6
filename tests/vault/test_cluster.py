"""Three raft nodes: publishing through step-downs and power cuts, reading through a standby that lags behind."""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from harness.openbao_cluster import Node, cluster, leader
from varmenne.clock import system_clock
from varmenne.domain.identifiers import Channel, CustomerId, Environment
from varmenne.testbench.openbao import provision
from varmenne.vault import CertificateStore, Location, Patience

if TYPE_CHECKING:
    from collections.abc import Iterator

    from varmenne.settings import VaultSettings

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(300)]

WORKERS = 4
EACH = 50
PATIENCE = Patience(attempts=40, total_seconds=120)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Node]]:
    """Run the cluster."""
    with cluster(tmp_path_factory.mktemp("cluster")) as made:
        yield made


@pytest.fixture(scope="module")
def settings(nodes: list[Node], tmp_path_factory: pytest.TempPathFactory) -> VaultSettings:
    """Settings for the first node."""
    made = provision(nodes[0], secret_id_file=tmp_path_factory.mktemp("cluster-role") / "secret-id")
    time.sleep(2)  # A standby knows a new role only a moment later, and until then refuses its login.
    return made


def at(settings: VaultSettings, node: Node) -> VaultSettings:
    """The settings for a node."""
    return msgspec.structs.replace(settings, address=node.address)


def place(name: str) -> Location:
    """The place of a customer's record."""
    return Location(prefix="varmenne", environment=Environment.TEST, customer=CustomerId(name), channel=Channel.WS)


def record(name: str) -> dict[str, Any]:
    """A record."""
    return {"certificate": name, "enrollment": name, "not_before": "2026-11-24T00:00:00Z"}


def published_by_all(
    settings: VaultSettings, nodes: list[Node], tag: str, meanwhile: Any, *, expected_version: int | None = None
) -> None:
    """Publish many records by several workers at several nodes while something happens; all must be there, once."""
    go_on = threading.Event()

    def work(number: int) -> list[int]:
        with CertificateStore(at(settings, nodes[number % len(nodes)]), clock=system_clock, patience=PATIENCE) as store:
            versions = []
            for count in range(EACH):
                name = f"{tag}-{number}-{count}"
                versions.append(
                    store.publish(place(name), record(name), operation=name, expected_version=expected_version)
                )
                if count == EACH // 5:
                    go_on.set()
            return versions

    with ThreadPoolExecutor(WORKERS) as pool:
        running = [pool.submit(work, number) for number in range(WORKERS)]
        go_on.wait(120)
        meanwhile()
        assert [future.result() for future in running] == [[1] * EACH] * WORKERS
    root = leader(nodes).client()
    with contextlib.closing(root.adapter):
        for number in range(WORKERS):
            for count in range(EACH):
                name = f"{tag}-{number}-{count}"
                found = root.secrets.kv.v2.read_secret_metadata(place(name).path, mount_point=settings.mount)["data"]
                assert list(found["versions"]) == ["1"]


def test_what_was_written_is_read_at_a_standby(settings: VaultSettings, nodes: list[Node]) -> None:
    """A standby lags behind by some tens of milliseconds; a store never sees that of its own writes."""
    standby = next(node for node in nodes if node is not leader(nodes))
    with CertificateStore(at(settings, standby), clock=system_clock, patience=PATIENCE) as store:
        for count in range(40):
            where = place(f"standby-{count}")
            store.publish(where, record("x"), operation="op-1")
            found = store.read(where)
            assert found is not None
            assert found.version == 1


@pytest.mark.parametrize("expected", [None, 0])
def test_step_downs_lose_nothing_and_double_nothing(
    settings: VaultSettings, nodes: list[Node], expected: int | None
) -> None:
    """The leader gives up twice while records are published by several workers."""

    def meanwhile() -> None:
        for _ in range(2):
            root = leader(nodes).client()
            with contextlib.closing(root.adapter):
                root.adapter.put("/v1/sys/step-down")
            time.sleep(1)

    published_by_all(settings, nodes, f"step-{expected}", meanwhile, expected_version=expected)


def test_a_power_cut_of_the_leader_loses_nothing(settings: VaultSettings, nodes: list[Node]) -> None:
    """The leader is killed while records are published, two nodes go on, and it comes back."""

    def meanwhile() -> None:
        killed = leader(nodes)
        killed.kill()
        leader([node for node in nodes if node is not killed])
        killed.stop()
        killed.start()

    published_by_all(settings, nodes, "kill", meanwhile)


def test_one_writer_wins_each_version_at_different_nodes(settings: VaultSettings, nodes: list[Node]) -> None:
    """Agents at different nodes publish the same customer: every version has one author, and the losers know."""
    where = place("contended")

    def work(number: int) -> set[int]:
        made = set()
        with CertificateStore(at(settings, nodes[number]), clock=system_clock, patience=PATIENCE) as store:
            for count in range(20):
                with contextlib.suppress(Exception):
                    made.add(store.publish(where, record("x"), operation=f"{number}-{count}"))
        return made

    with ThreadPoolExecutor(len(nodes)) as pool:
        made = list(pool.map(work, range(len(nodes))))
    everything = [version for versions in made for version in versions]
    assert sorted(everything) == list(range(1, len(everything) + 1))
