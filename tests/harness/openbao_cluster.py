"""Three OpenBao servers that are one Vault: raft with a leader and two standbys, for tests of high availability."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING, Any

from varmenne.testbench.files import write_file
from varmenne.testbench.openbao import ROOT_TOKEN_FILE, UNSEAL_KEY_FILE, OpenBaoServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NODES = 3
VOTERS_SECONDS = 60.0
"""A node that has joined may vote only after it was stable for ten seconds."""


class Node(OpenBaoServer):
    """One node; all but the first join it."""

    def __init__(self, folder: Path, first: Node | None = None) -> None:
        super().__init__(folder, persistent=True)
        self._first = first

    def kill(self) -> None:
        """End it at once, as a power cut does."""
        assert self._process is not None
        assert self._process.poll() is None
        # setpriv has become the server: it is the same process.
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait(10)

    def leads(self) -> bool:
        """Tell whether it is the leader at present."""
        client = self.client(read_timeout_seconds=2)
        with contextlib.closing(client.adapter), contextlib.suppress(Exception):
            return bool(client.sys.read_leader_status()["is_self"])
        return False

    def _configure(self) -> Path:
        config = super()._configure()
        if self._first is not None:
            write_file(self.folder / UNSEAL_KEY_FILE, (self._first.folder / UNSEAL_KEY_FILE).read_bytes())
        return config

    def _configuration(self, listener: dict[str, str]) -> dict[str, object]:
        made: dict[str, Any] = super()._configuration(listener)
        raft = made["storage"]["raft"]
        raft["node_id"] = self.folder.name
        if self._first is not None:
            raft["retry_join"] = [{"leader_api_addr": self._first.address}]
        # All nodes must have the very same audit device, so its path is relative to each one's folder.
        made["audit"][0]["options"]["file_path"] = self.audit_file.name
        return made

    def _initialise(self, client: Any) -> None:
        if self._first is None:
            super()._initialise(client)
            return
        deadline = time.monotonic() + VOTERS_SECONDS
        while not client.sys.is_initialized():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        write_file(self.folder / ROOT_TOKEN_FILE, self._first.root_token.reveal().encode())
        self._root = self._first.root_token


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[list[Node]]:
    """Run three nodes, and yield them when all may vote."""
    with contextlib.ExitStack() as stack:
        nodes = [stack.enter_context(Node(folder / "node-1"))]
        nodes += [stack.enter_context(Node(folder / f"node-{number}", nodes[0])) for number in range(2, NODES + 1)]
        client = nodes[0].client()
        stack.callback(client.adapter.close)
        deadline = time.monotonic() + VOTERS_SECONDS
        while True:
            answer = client.adapter.get("/v1/sys/storage/raft/configuration")["data"]["config"]["servers"]
            if [server["voter"] for server in answer] == [True] * NODES:
                break
            assert time.monotonic() < deadline, answer
            time.sleep(0.2)
        yield nodes


def leader(nodes: list[Node]) -> Node:
    """Return the node that leads, when there is one."""
    deadline = time.monotonic() + VOTERS_SECONDS
    while True:
        for node in nodes:
            if node.leads():
                return node
        assert time.monotonic() < deadline
        time.sleep(0.05)
