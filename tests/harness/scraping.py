"""Reading metrics as Prometheus does: over HTTP, from a Unix socket, or from a file."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Mapping
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


class _AtSocket(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=20)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect(str(self._path))


def scrape(listen: str, headers: Mapping[str, str] | None = None) -> str:
    """Return what is served at ``unix:PATH`` or ``HOST:PORT``."""
    kind, _, rest = listen.partition(":")
    connection = _AtSocket(Path(rest)) if kind == "unix" else http.client.HTTPConnection(listen, timeout=20)
    try:
        connection.request("GET", "/metrics", headers=dict(headers or {}))
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    assert answer.status == 200, (answer.status, body)
    return body.decode()


def series(text: str) -> Series:
    """Return name and labels → value of all series in a text."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(found: Series, name: str, **labels: str) -> float:
    """Return the value of the one series that has the labels.

    Raises:
        AssertionError: there is none, or more than one.
    """
    fitting = [number for (own, its), number in found.items() if own == name and its >= set(labels.items())]
    assert len(fitting) == 1, (name, labels, fitting)
    return fitting[0]
