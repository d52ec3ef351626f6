"""The SOAP client: zeep builds each message from the WSDL, the schema checks it, our transport sends it once.

Answers come back as raw bytes. They are stored first, then verified by :mod:`varmenne.service.answers`; zeep never
interprets them, since it does not look at signatures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from varmenne.domain.identifiers import Environment
from varmenne.errors import InputError, VarmenneError
from varmenne.service.interface import WSDL_NAME, Operation, document, message_schema
from varmenne.service.transport import Endpoint, RawAnswer

if TYPE_CHECKING:
    from types import TracebackType

    import zeep

    from varmenne.domain.credentials import Credentials
    from varmenne.domain.identifiers import CustomerId, CustomerName, RetrievalId
    from varmenne.settings import ServiceSettings

ENDPOINTS = {
    Environment.PRODUCTION: "https://pkiws.vero.fi/2017/10/CertificateServices",
    Environment.TEST: "https://pkiws-testi.vero.fi/2017/10/CertificateServices",
}
"""The service's real endpoints. ``service.endpoint`` names another one, such as a bench."""

_INTERFACE_BASE = "https://interface.invalid/"


class CertificateService:
    """A client for one environment of the service. Close it after use; not for use by several threads at once."""

    def __init__(self, environment: Environment, settings: ServiceSettings) -> None:
        url = settings.endpoint or ENDPOINTS[environment]
        if settings.endpoint in ENDPOINTS.values() and settings.endpoint != ENDPOINTS[environment]:
            raise InputError(
                f"The endpoint {url} is not the one of the {environment} environment",
                why="test and production are never mixed",
                next_step="Set `environment` and `service.endpoint` so that they agree, or leave the endpoint empty",
            )
        if not url.startswith("https://"):
            raise InputError(f"The endpoint {url} is not an https:// address", why="one-time passwords travel to it")
        self.environment = environment
        self.endpoint = Endpoint(url, settings)
        self._client: zeep.Client | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections to the service."""
        self.endpoint.close()

    def sign_new_certificate(
        self, customer: CustomerId, name: CustomerName | None, credentials: Credentials, csr: bytes
    ) -> RawAnswer:
        """Spend the one-time credentials: ask for a certificate for the CSR (DER). Never repeat this by itself.

        Raises:
            ServiceUnreachable: nothing was sent.
            OutcomeUncertain: the request may have been received, and nothing of an answer came.
        """
        return self._call(
            Operation.SIGN_NEW,
            CustomerId=customer,
            CustomerName=name,
            TransferId=credentials.transfer,
            TransferPassword=credentials.password.reveal(),
            CertificateRequest=csr,
        )

    def get_certificate(self, customer: CustomerId, name: CustomerName | None, retrieval: RetrievalId) -> RawAnswer:
        """Ask for the certificate that a RetrievalId names. May be repeated.

        Raises:
            ServiceUnreachable: nothing was sent.
            OutcomeUncertain: the connection failed on the way.
        """
        return self._call(Operation.GET, CustomerId=customer, CustomerName=name, RetrievalId=retrieval)

    def _call(self, operation: Operation, **values: Any) -> RawAnswer:
        """Let zeep build the message and send it through our transport, which returns the answer as it came."""
        import zeep

        if self._client is None:
            self._client = _zeep_client(self.endpoint)
        given = {name: value for name, value in values.items() if value is not None}
        try:
            call = self._client.service[operation.value]
            answer: RawAnswer = call(Environment=self.environment.on_the_wire, **given)
        except VarmenneError:
            raise
        except zeep.exceptions.Error as exc:
            # zeep's own message may quote values, one of which is the password.
            raise InputError(f"The {operation} request could not be built", why=type(exc).__name__) from None
        return answer


def _zeep_client(endpoint: Endpoint) -> zeep.Client:
    """Make a zeep client over the WSDL that we ship; it reads nothing from the network."""
    import zeep
    from zeep.plugins import Plugin
    from zeep.transports import Transport

    class Wire(Transport):
        """Loads our own documents only, and sends through :class:`Endpoint`."""

        def load(self, url: str) -> bytes:
            return document(url.rpartition("/")[2])

        def post(self, _address: str, message: bytes, headers: dict[str, str]) -> RawAnswer:
            return endpoint.post(message, headers["SOAPAction"].strip('"'))

    class SchemaCheck(Plugin):
        """Checks the message by the schema's lengths and patterns, which zeep does not enforce."""

        def egress(self, envelope: Any, http_headers: Any, operation: Any, _options: Any) -> tuple[Any, Any]:
            message = envelope[-1][0]
            schema = message_schema()
            if not schema.validate(message):
                # The schema's messages quote values, so only the element's name is told.
                where = (schema.error_log.last_error.path or "").rpartition("/")[2]
                raise InputError(f"The request is not as the service's schema wants it: {operation.name}, {where}")
            return envelope, http_headers

    # What is "external" to zeep are our own documents: Wire.load has no others.
    settings = zeep.Settings(strict=True, raw_response=True, forbid_dtd=True, forbid_external=False)
    wire = Wire()  # type: ignore[no-untyped-call]  # zeep's types are partial
    return zeep.Client(  # type: ignore[no-untyped-call]  # zeep's types are partial
        _INTERFACE_BASE + WSDL_NAME, transport=wire, settings=settings, plugins=[SchemaCheck()]
    )
