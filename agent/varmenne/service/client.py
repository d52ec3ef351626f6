"""The SOAP client: zeep builds each message from the WSDL, the schema checks it, our transport sends it once.

A renewal request is signed before it is sent: it is built as a document of its own, and its bytes are put into the
envelope as they are, since zeep would write them anew.

Answers come back as raw bytes. They are stored first, then verified by :mod:`varmenne.service.answers`; zeep never
interprets them, since it does not look at signatures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from varmenne.domain.identifiers import Environment
from varmenne.errors import InputError
from varmenne.service.interface import NAMESPACE, SOAP_ENVELOPE, WSDL_NAME, Operation, check_request, document
from varmenne.service.renewal import sign_renewal
from varmenne.service.transport import Endpoint, RawAnswer

if TYPE_CHECKING:
    from types import TracebackType

    import zeep

    from varmenne.domain.credentials import Credentials
    from varmenne.domain.identifiers import CustomerId, CustomerName, RetrievalId
    from varmenne.domain.keys import Signer
    from varmenne.settings import ServiceSettings

ENDPOINTS = {
    Environment.PRODUCTION: "https://pkiws.vero.fi/2017/10/CertificateServices",
    Environment.TEST: "https://pkiws-testi.vero.fi/2017/10/CertificateServices",
}
"""The service's real endpoints. ``service.endpoint`` names another one, such as a bench."""

_INTERFACE_BASE = "https://interface.invalid/"
_ENVELOPE_BEGIN = f'<soap-env:Envelope xmlns:soap-env="{SOAP_ENVELOPE}"><soap-env:Body>'.encode()
_ENVELOPE_END = b"</soap-env:Body></soap-env:Envelope>"


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

    def renewal_document(
        self, customer: CustomerId, name: CustomerName | None, csr: bytes, *, certificate: bytes, signer: Signer
    ) -> bytes:
        """Make a signed request for the successor of a certificate. Nothing is sent, and no network is needed.

        Args:
            customer: whose certificate is renewed.
            name: the customer's name.
            csr: the request for the new key (DER).
            certificate: the certificate to be renewed (DER), still valid.
            signer: its key.

        Returns:
            What :meth:`renew_certificate` sends, and :func:`varmenne.service.renewal.verify_renewal` verifies.

        Raises:
            VerificationError: the signer is not the certificate's key, or what came of it does not verify.
            InputError: a value breaks the service's schema.
            TokenError: the token did not sign.
        """
        message = self._message(Operation.RENEW, CustomerId=customer, CustomerName=name, CertificateRequest=csr)
        return sign_renewal(message, certificate, signer)

    def renew_certificate(self, signed: bytes) -> RawAnswer:
        """Send a signed renewal request as it is, byte for byte. It is not looked at here: verify it before.

        Raises:
            ServiceUnreachable: nothing was sent.
            OutcomeUncertain: the request may have been received, and nothing of an answer came.
        """
        return self.endpoint.post(_ENVELOPE_BEGIN + signed + _ENVELOPE_END, Operation.RENEW.value)

    def _call(self, operation: Operation, **values: Any) -> RawAnswer:
        """Let zeep build the message and send it through our transport, which returns the answer as it came."""
        import zeep

        call = self._zeep().service[operation.value]
        try:
            answer: RawAnswer = call(**self._given(values))
        except zeep.exceptions.Error as exc:
            # zeep's own message may quote values, one of which is the password.
            raise _not_built(operation, exc) from None
        return answer

    def _message(self, operation: Operation, **values: Any) -> bytes:
        """Let zeep build a message alone, all but its signature, as a document of its own."""
        import zeep
        from lxml import etree

        name = f"{{{NAMESPACE}}}{operation.request_element}"
        element = self._zeep().get_element(name)  # type: ignore[no-untyped-call]  # zeep's types are partial
        parent = etree.Element("parent")
        try:
            element.render(parent, element(**self._given(values), Signature=zeep.xsd.SkipValue))
        except (zeep.exceptions.Error, ValueError) as exc:
            raise _not_built(operation, exc) from None
        message: bytes = etree.tostring(parent[0], encoding="UTF-8")
        return message

    def _given(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return the values that there are, and the environment, which every message has."""
        given = {name: value for name, value in values.items() if value is not None}
        return {"Environment": self.environment.on_the_wire, **given}

    def _zeep(self) -> zeep.Client:
        """Return the zeep client, made when it is first needed."""
        self._client = self._client or _zeep_client(self.endpoint)
        return self._client


def _not_built(operation: Operation, exc: Exception) -> InputError:
    """Say that zeep did not build a message, by the kind of its error alone."""
    return InputError(f"The {operation} request could not be built", why=type(exc).__name__)


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
            check_request(envelope[-1][0], Operation(operation.name))
            return envelope, http_headers

    # What is "external" to zeep are our own documents: Wire.load has no others.
    settings = zeep.Settings(strict=True, raw_response=True, forbid_dtd=True, forbid_external=False)
    wire = Wire()  # type: ignore[no-untyped-call]  # zeep's types are partial
    return zeep.Client(  # type: ignore[no-untyped-call]  # zeep's types are partial
        _INTERFACE_BASE + WSDL_NAME, transport=wire, settings=settings, plugins=[SchemaCheck()]
    )
