"""SOAP 1.1 as strangers speak it: requests in, answers and faults out.

The operation is known by the element in the Body, so that SOAPAction may be quoted, unquoted, wrong or absent. The
element is cut out as a document of its own before anything is read from it. Answers are put into their envelope by
joining bytes, so that what was signed reaches the wire untouched.
"""

from __future__ import annotations

import copy
import re
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from lxml import etree

from varmenne.service.interface import NAMESPACE, SOAP_ENVELOPE, Operation, message_schema

if TYPE_CHECKING:
    from collections.abc import Mapping

_REQUEST_ELEMENTS: Mapping[str, Operation] = {
    f"{{{NAMESPACE}}}{operation.request_element}": operation for operation in Operation
}
_ENVELOPE = f"{{{SOAP_ENVELOPE}}}Envelope"
_HEADER = f"{{{SOAP_ENVELOPE}}}Header"
_BODY = f"{{{SOAP_ENVELOPE}}}Body"
_MUST_UNDERSTAND = f"{{{SOAP_ENVELOPE}}}mustUnderstand"

_schema_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class SoapFault:
    """What a request is answered with if there is no message in it that could be answered otherwise.

    Attributes:
        code: ``Client``, ``Server``, ``VersionMismatch`` or ``MustUnderstand`` (SOAP 1.1, section 4.4.1).
        text: the fault string, for people. It never repeats a value of the request.
    """

    code: str
    text: str


class _Unreadable(Exception):
    """Leaves the reading of a request. Never leaves this module."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.fault = SoapFault(code, text)


@dataclass(frozen=True, slots=True)
class Message:
    """A request message that is valid by the schema, as a document of its own."""

    operation: Operation
    root: etree._Element

    def text(self, name: str) -> str | None:
        """Return the value of a child element, white space replaced as the schema's normalizedString orders."""
        child = self.root.find(name)
        if child is None:
            return None
        return re.sub(r"[\t\r\n]", " ", str(child.xpath("string()")))

    def __getitem__(self, name: str) -> str:
        value = self.text(name)
        if value is None:
            raise KeyError(name)
        return value


def read_request(body: bytes) -> Message | SoapFault:
    """Take the message out of a request's body.

    Returns a fault if the body is not XML in UTF-8, has a document type, is not a SOAP 1.1 envelope with one known
    request element, or that element is not valid by the schema.
    """
    try:
        return _message(_only_body_child(_parse(body)))
    except _Unreadable as exc:
        return exc.fault


def _message(element: etree._Element) -> Message:
    """Cut a request element out of its envelope as a document of its own, and validate it."""
    operation = _REQUEST_ELEMENTS.get(element.tag)
    if operation is None:
        raise _Unreadable("Client", "The Body holds no request element of this service.")
    root = copy.deepcopy(element)
    root.tail = None
    _validate(root)
    return Message(operation, root)


def _parse(body: bytes) -> etree._Element:
    """Parse a body without ever looking at a document type, an entity or the network."""
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _Unreadable("Client", "The request is not XML in UTF-8.") from None
    if "<!DOCTYPE" in text:
        raise _Unreadable("Client", "Document types are not allowed.")
    parser = etree.XMLParser(
        encoding="utf-8", resolve_entities=False, load_dtd=False, no_network=True, remove_comments=True
    )
    try:
        return etree.fromstring(text.encode(), parser)
    except etree.XMLSyntaxError as exc:
        raise _Unreadable("Client", f"The request is not well-formed XML: {exc.msg}") from None


def _only_body_child(envelope: etree._Element) -> etree._Element:
    """Return the one element in the Body of a SOAP 1.1 envelope."""
    if etree.QName(envelope).localname != "Envelope":
        raise _Unreadable("Client", "The request is not a SOAP envelope.")
    if envelope.tag != _ENVELOPE:
        raise _Unreadable("VersionMismatch", "This service speaks SOAP 1.1.")
    children = [child for child in envelope if isinstance(child.tag, str)]
    if [child.tag for child in children] not in ([_BODY], [_HEADER, _BODY]):
        raise _Unreadable("Client", "The envelope holds something else than a Header and a Body.")
    for header in children[:-1]:
        if any(entry.get(_MUST_UNDERSTAND) in {"1", "true"} for entry in header):
            raise _Unreadable("MustUnderstand", "The request has a header that this service does not understand.")
    elements = [child for child in children[-1] if isinstance(child.tag, str)]
    if len(elements) != 1:
        raise _Unreadable("Client", "The Body must hold exactly one element.")
    return elements[0]


def _validate(root: etree._Element) -> None:
    """Validate a message by the schema; a compiled schema serves one thread at a time."""
    with _schema_lock:
        schema = message_schema()
        if not schema.validate(root):
            # Only the place and the kind of the error: the schema's own text would quote a password.
            error = schema.error_log[0]
            where = error.path.rpartition(":")[2].rpartition("/")[2]
            raise _Unreadable("Client", f"The request is not valid by the schema at {where} ({error.type_name}).")


def envelop(document: bytes) -> bytes:
    """Put a message's bytes, untouched, into a SOAP envelope."""
    return (
        b'<soapenv:Envelope xmlns:soapenv="' + SOAP_ENVELOPE.encode() + b'"><soapenv:Body>'
        + document
        + b"</soapenv:Body></soapenv:Envelope>"
    )  # fmt: skip


def fault_document(fault: SoapFault) -> bytes:
    """Return the envelope of a SOAP fault."""
    return envelop(
        f"<soapenv:Fault><faultcode>soapenv:{fault.code}</faultcode>"
        f"<faultstring>BENCH: {escape(fault.text)}</faultstring></soapenv:Fault>".encode()
    )
