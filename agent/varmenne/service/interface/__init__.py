"""The service's interface as this package ships it: WSDL, message schema, names of operations and elements.

The schema of XML Signature (W3C xmldsig-core) is not copied: it is read from the installed ``signxml``. It lets a
canonicalisation have parameters only if their schema is known too, so the one of exclusive C14N stands beside it.
Nothing here touches the network: a reference to anything else is refused.
"""

from __future__ import annotations

import functools
from enum import StrEnum
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from varmenne.errors import InputError

if TYPE_CHECKING:
    from lxml import etree

NAMESPACE = "http://certificates.vero.fi/2017/10/certificateservices"
DSIG = "http://www.w3.org/2000/09/xmldsig#"
SOAP_ENVELOPE = "http://schemas.xmlsoap.org/soap/envelope/"

WSDL_NAME = "CertificateServices.wsdl"
XSD_NAME = "CertificateServices.xsd"
DSIG_XSD_NAME = "xmldsig-core-schema.xsd"
EXCLUSIVE_C14N_XSD_NAME = "exclusive-c14n.xsd"

_ALL = f"""<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema">
  <xs:import namespace="{NAMESPACE}" schemaLocation="{XSD_NAME}"/>
  <xs:import namespace="http://www.w3.org/2001/10/xml-exc-c14n#" schemaLocation="{EXCLUSIVE_C14N_XSD_NAME}"/>
</xs:schema>"""
"""A schema that puts the others together, so that the service's own stays as it is published."""


class Operation(StrEnum):
    """The three operations; the value is the operation's name and its SOAPAction."""

    SIGN_NEW = "signNewCertificate"
    RENEW = "renewCertificate"
    GET = "getCertificate"

    @property
    def request_element(self) -> str:
        """Local name of the request message's element."""
        return f"{self.value[0].upper()}{self.value[1:]}Request"

    @property
    def response_element(self) -> str:
        """Local name of the response message's element."""
        return f"{self.value[0].upper()}{self.value[1:]}Response"


@functools.cache
def document(name: str) -> bytes:
    """Return the bytes of one of the interface's documents, named by its file name.

    Raises:
        KeyError: there is no such document.
    """
    if name in {WSDL_NAME, XSD_NAME, EXCLUSIVE_C14N_XSD_NAME}:
        return files(__name__).joinpath(name).read_bytes()
    if name == DSIG_XSD_NAME:
        return _without_doctype(files("signxml").joinpath("schemas", name).read_bytes())
    raise KeyError(name)


def _without_doctype(schema: bytes) -> bytes:
    """Return a schema without the document type that W3C's copy has: careful parsers, such as zeep's, refuse it."""
    from lxml import etree

    parser = etree.XMLParser(resolve_entities="internal", load_dtd=False, no_network=True)
    bare: bytes = etree.tostring(etree.fromstring(schema, parser), xml_declaration=True, encoding="UTF-8")
    return bare


@functools.cache
def message_schema() -> etree.XMLSchema:
    """Return the compiled schema of all messages; shared, and safe to use from one thread at a time."""
    from lxml import etree

    class Local(etree.Resolver):  # type: ignore[misc]  # lxml ships no types
        """Resolves the schema's import to the documents that we ship, and nothing else."""

        def resolve(self, url: str, _public_id: str, context: object) -> object:
            try:
                return self.resolve_string(document(url.rpartition("/")[2]), context)
            except KeyError:
                return self.resolve_empty(context)

    parser = etree.XMLParser(no_network=True, load_dtd=False, resolve_entities=False)
    parser.resolvers.add(Local())
    return etree.XMLSchema(etree.fromstring(_ALL, parser, base_url="all.xsd"))


def check_request(message: Any, operation: Operation) -> None:
    """Check a request by the schema's lengths and patterns, before it is sent.

    Raises:
        InputError: it is not valid. The schema's messages quote values, one of which may be a password, so only the
            element's name is told.
    """
    schema = message_schema()
    if not schema.validate(message):
        where = (schema.error_log.last_error.path or "").rpartition("/")[2]
        raise InputError(f"The request is not as the service's schema wants it: {operation}, {where}")
