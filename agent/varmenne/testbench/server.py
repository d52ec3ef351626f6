"""The bench as a server: HTTPS for the service, plain HTTP for the certificates and CRLs that it publishes."""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import logging
import threading
from typing import TYPE_CHECKING, Self

from varmenne.clock import system_clock
from varmenne.domain.identifiers import Environment
from varmenne.errors import InputError
from varmenne.service.interface import DSIG_XSD_NAME, WSDL_NAME, XSD_NAME, document
from varmenne.testbench.family import FOLDER_OF, Family, der
from varmenne.testbench.files import only_one, write_file
from varmenne.testbench.http import SERVICE_PATH, Listener, Site
from varmenne.testbench.refusals import Language
from varmenne.testbench.service import Behaviour, BenchService, Repeats
from varmenne.testbench.signing import SignatureForm
from varmenne.testbench.state import URL_NAME, BenchState
from varmenne.testbench.tls import server_context

if TYPE_CHECKING:
    import ssl
    from pathlib import Path
    from types import TracebackType

logger = logging.getLogger(__name__)

_XML = "text/xml; charset=utf-8"
_SERVE_POLL_SECONDS = 0.02
"""How often the accepting thread looks whether it is to stop."""


class BenchServer:
    """A running bench. A context manager: it listens inside the block, in threads of its own.

    Args:
        state: the bench's folder; only one server at a time serves it.
        host: a loopback address, or ``localhost``.
        port: the port; 0 means the one used last time if it is free, or any free one.
        delay_seconds: time from an accepted request until its certificate can be fetched, by the bench's clock.
        signature_form: the form of the signature on answers.
        language: the language of error messages.
        environment: the environment that requests must name.
        repeats: what a repeated signNewCertificate is answered.
    """

    def __init__(
        self,
        state: BenchState,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        delay_seconds: float = 2.0,
        signature_form: SignatureForm = SignatureForm.OBSERVED,
        language: Language = Language.FINNISH,
        environment: Environment = Environment.TEST,
        repeats: Repeats = Repeats.REFUSED,
    ) -> None:
        self._state = state
        self._host = _loopback(host)
        self._port = port
        self._behaviour = Behaviour(delay_seconds, signature_form, language, environment, repeats)
        self._running = contextlib.ExitStack()
        self._listener: Listener | None = None

    @property
    def state(self) -> BenchState:
        """The bench's folder."""
        return self._state

    @property
    def url(self) -> str:
        """The service's URL."""
        if self._listener is None:
            raise RuntimeError("the bench is not running")
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"https://{host}:{self._listener.port}{SERVICE_PATH}"

    @property
    def tls_ca(self) -> Path:
        """The CA of the bench's TLS certificate, in PEM."""
        return self._state.tls_ca

    @property
    def trust_dir(self) -> Path:
        """Varmenne's trust directory for this bench: one folder per environment."""
        return self._state.trust_dir

    def start(self) -> None:
        """Make what is missing in the folder, and listen.

        Raises:
            StateError: another server serves the folder.
            InputError: the port cannot be listened on.
        """
        with contextlib.ExitStack() as starting:
            directory = self._state.directory
            starting.enter_context(only_one(directory / "serve.lock", f"The bench in {directory}"))
            starting.enter_context(self._state.store.kept_open())
            context = server_context(directory / "tls", self.tls_ca, system_clock())
            family = self._state.family()
            for environment in {Environment.TEST, self._behaviour.environment}:
                family.publish_trust(self.trust_dir / environment.value)
            service = BenchService(self._state, family, self._behaviour)
            starting.callback(self._forget_listener)
            self._listener = self._listen(Site(self._interface_document, service.handle, self._state.now), context)
            _serve(self._listener, starting)
            self._publish(family, starting)
            write_file(directory / URL_NAME, self.url.encode() + b"\n")
            self._running = starting.pop_all()
        logger.info("BENCH listens at %s", self.url)

    def stop(self) -> None:
        """Stop listening, end every connection and let the folder go. Stopping twice is no mistake."""
        self._running.close()

    def _forget_listener(self) -> None:
        """Have no URL any more, or none yet, after a start that failed."""
        self._listener = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _listen(self, site: Site, context: ssl.SSLContext) -> Listener:
        """Open the service's port: the one that was asked for, or the last one, or any."""
        remembered = self._state.last_port()
        if not self._port and remembered:
            with contextlib.suppress(OSError):
                return Listener((self._host, remembered), site, context)
        try:
            listener = Listener((self._host, self._port), site, context)
        except (OSError, OverflowError) as exc:
            raise InputError(
                f"The bench cannot listen at {self._host} port {self._port}",
                why=str(exc),
                next_step="Choose another --port, or leave it out for any free one",
            ) from exc
        self._state.remember_port(listener.port)
        return listener

    def _publish(self, family: Family, running: contextlib.ExitStack) -> None:
        """Publish certificates and CRLs; a port taken by somebody else is no reason not to serve."""
        site = Site(functools.partial(_published_document, self._state, family))
        port = self._state.publication_port()
        try:
            _serve(Listener(("127.0.0.1", port), site), running)
        except OSError as exc:
            logger.warning("BENCH does not publish CRLs: port %d cannot be listened on: %s", port, exc)

    def _interface_document(self, path: str) -> tuple[str, bytes] | None:
        """Serve the WSDL, with this bench's address in it, and the schemas that it imports by relative names."""
        folder = SERVICE_PATH.rpartition("/")[0]
        if path.lower() == f"{SERVICE_PATH}?wsdl".lower() or path == f"{folder}/{WSDL_NAME}":
            return _XML, _with_address(document(WSDL_NAME), self.url)
        for name in (XSD_NAME, DSIG_XSD_NAME):
            if path == f"{folder}/{name}":
                return _XML, document(name)
        return None


def _serve(listener: Listener, running: contextlib.ExitStack) -> None:
    """Serve in a thread of its own until the stack is closed."""
    thread = threading.Thread(
        target=listener.serve_forever, args=(_SERVE_POLL_SECONDS,), name=f"bench-{listener.port}", daemon=True
    )
    thread.start()
    running.callback(thread.join)
    running.callback(listener.stop)


def _published_document(state: BenchState, family: Family, path: str) -> tuple[str, bytes] | None:
    """Serve ``/ca/NAME.cer`` and ``/crl/NAME.crl`` (RFC 5280, sections 4.2.1.13 and 4.2.2.1: both in DER)."""
    for name in FOLDER_OF:
        if path == f"/ca/{name}.cer":
            return "application/pkix-cert", der(family[name].certificate)
        if path == f"/crl/{name}.crl":
            signer = family.revoked_signer.certificate
            revoked = {
                "providers": state.store.revoked(),
                "services": [(signer.serial_number, signer.not_valid_before_utc)],
            }.get(name, [])
            return "application/pkix-crl", family.crl(name, revoked, state.now())
    return None


def _with_address(wsdl: bytes, url: str) -> bytes:
    """Return the WSDL with the service's address replaced."""
    from lxml import etree

    root = etree.fromstring(wsdl)
    for address in root.iter("{http://schemas.xmlsoap.org/wsdl/soap/}address"):
        address.set("location", url)
    rewritten: bytes = etree.tostring(root, xml_declaration=True, encoding="UTF-8")
    return rewritten


def _loopback(host: str) -> str:
    """Return a loopback address in digits: the bench is reachable from this computer only.

    Raises:
        InputError: it is another address or name.
    """
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address("127.0.0.1" if host == "localhost" else host).is_loopback:
            return "127.0.0.1" if host == "localhost" else host
    raise InputError(
        f"The bench does not listen at {host!r}",
        why="it is for this computer only",
        next_step="Use 127.0.0.1, ::1 or localhost",
    )
