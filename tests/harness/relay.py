"""A relay over real TLS in front of a bench: keeps what it is sent, byte for byte, and can change it on the way."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import requests

from varmenne.clock import system_clock
from varmenne.testbench.faults import Reply
from varmenne.testbench.http import SERVICE_PATH, Handler, Listener, Site
from varmenne.testbench.server import BenchServer
from varmenne.testbench.tls import server_context


@dataclass
class Relay:
    """What a relay has seen, and what it does to it.

    Attributes:
        change: what the bench gets for a body; nothing is changed until a test sets it.
        bodies: the bodies of the requests, as they came.
        actions: their SOAPAction headers.
    """

    bench: BenchServer
    change: Callable[[bytes], bytes] = bytes
    url: str = ""
    bodies: list[bytes] = field(default_factory=list)
    actions: list[str] = field(default_factory=list)

    def pass_on(self, body: bytes) -> tuple[Reply, str]:
        """Keep a body, and have the bench answer it."""
        self.bodies.append(body)
        with requests.Session() as session:
            session.trust_env = False
            answer = session.post(
                self.bench.url,
                data=self.change(body),
                headers={"Content-Type": "text/xml", "SOAPAction": self.actions[-1]},
                verify=str(self.bench.tls_ca),
                timeout=20,
            )
        return Reply(answer.status_code, answer.content, answer.headers["Content-Type"]), "relayed"


@contextlib.contextmanager
def relay(bench: BenchServer) -> Iterator[Relay]:
    """Run a relay with the bench's own TLS certificate, on a free port."""
    made = Relay(bench)

    class Noting(Handler):
        """Notes the header that the bench does not look at."""

        def do_POST(self) -> None:  # noqa: N802 - the name that http.server calls
            made.actions.append(self.headers["SOAPAction"])
            super().do_POST()

    context = server_context(bench.state.directory / "tls", bench.tls_ca, system_clock())
    listener = Listener(("127.0.0.1", 0), Site(lambda _path: None, made.pass_on), context)
    listener.RequestHandlerClass = Noting
    made.url = f"https://127.0.0.1:{listener.port}{SERVICE_PATH}"
    thread = threading.Thread(target=listener.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield made
    finally:
        listener.stop()
        thread.join()
