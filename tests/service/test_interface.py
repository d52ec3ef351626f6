"""The interface that varmenne ships says the same as the published one, and works as WSDL and schema."""

from __future__ import annotations

from pathlib import Path

import pytest
from lxml import etree

from varmenne.service.interface import (
    DSIG_XSD_NAME,
    NAMESPACE,
    WSDL_NAME,
    XSD_NAME,
    Operation,
    document,
    message_schema,
)

REFERENCE = Path(__file__).parents[2].parent / "shared" / "reference" / "wsdl"
XS = "{http://www.w3.org/2001/XMLSchema}"
WSDL = "{http://schemas.xmlsoap.org/wsdl/}"
SOAP = "{http://schemas.xmlsoap.org/wsdl/soap/}"


def published(name: str) -> etree._Element:
    """Return a document of the published interface, or skip: it is compared with, never copied into this project."""
    path = REFERENCE / name
    if not path.exists():
        pytest.skip(f"the published interface is not here ({path.name}); it is not part of this project")
    return etree.fromstring(path.read_bytes())


def test_the_schema_means_the_same_as_the_published_one() -> None:
    """Messages and types: the same elements in the same order, as often, with the same limits."""
    assert schema_model(etree.fromstring(document(XSD_NAME))) == schema_model(published(XSD_NAME))


def test_the_wsdl_means_the_same_as_the_published_one() -> None:
    """Operations, actions, message elements, binding, service and port."""
    assert wsdl_model(etree.fromstring(document(WSDL_NAME))) == wsdl_model(published(WSDL_NAME))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('maxOccurs="unbounded"', 'maxOccurs="9"'),
        ('<xs:element name="CustomerName" type="cs:String100" minOccurs="0"/>', ""),
        ('value="10240"', 'value="10241"'),
        ('type="cs:String30"', 'type="cs:String32"'),
        ('<xs:enumeration value="FAIL"/>', ""),
        ("xs:normalizedString", "xs:token"),
        ('targetNamespace="http', 'elementFormDefault="qualified" targetNamespace="http'),
    ],
)
def test_the_comparison_sees_differences(old: str, new: str) -> None:
    """A model that left something out would find everything equal."""
    ours = document(XSD_NAME).decode()
    assert old in ours
    assert schema_model(etree.fromstring(ours.replace(old, new, 1).encode())) != schema_model(
        etree.fromstring(ours.encode())
    )


def test_operations_are_those_of_the_wsdl() -> None:
    """The names that the code uses are read off nothing, so they are compared here."""
    operations = wsdl_model(etree.fromstring(document(WSDL_NAME)))["operations"]
    expected = {
        operation.value: {
            "action": operation.value,
            "input": f"{{{NAMESPACE}}}{operation.request_element}",
            "output": f"{{{NAMESPACE}}}{operation.response_element}",
        }
        for operation in Operation
    }
    assert isinstance(operations, dict)
    assert {name: {key: found[key] for key in expected[name]} for name, found in operations.items()} == expected


def test_the_schema_compiles_and_judges() -> None:
    """Children are unqualified, and a value over its limit is refused."""
    text = (
        f'<c:GetCertificateRequest xmlns:c="{NAMESPACE}"><Environment>TEST</Environment>'
        "<CustomerId>0123456-7</CustomerId><RetrievalId>{}</RetrievalId></c:GetCertificateRequest>"
    )
    schema = message_schema()
    assert schema.validate(etree.fromstring(text.format("x" * 32)))
    assert not schema.validate(etree.fromstring(text.format("x" * 33)))
    assert not schema.validate(etree.fromstring(text.format("x").replace("Environment", "c:Environment")))


def test_documents_are_known_by_name() -> None:
    """Three documents, and no path to any other file."""
    assert all(document(name) for name in (WSDL_NAME, XSD_NAME, DSIG_XSD_NAME))
    with pytest.raises(KeyError):
        document("../__init__.py")


def schema_model(schema: etree._Element) -> dict[str, object]:
    """What a schema means: global elements, complex types in order, simple types with their facets."""
    return {
        "target": schema.get("targetNamespace"),
        "qualified": schema.get("elementFormDefault", "unqualified"),
        "imports": sorted(element.get("namespace") for element in schema.findall(f"{XS}import")),
        "elements": {element.get("name"): _name(element, "type") for element in schema.findall(f"{XS}element")},
        "complex": {kind.get("name"): _sequence(kind) for kind in schema.findall(f"{XS}complexType")},
        "simple": {kind.get("name"): _restriction(kind) for kind in schema.findall(f"{XS}simpleType")},
    }


def _sequence(kind: etree._Element) -> list[tuple[str | None, ...]]:
    """The elements of a type, in order: name or reference, type, least and most occurrences."""
    (sequence,) = [child for child in kind if isinstance(child.tag, str)]
    assert sequence.tag == f"{XS}sequence"
    return [
        (
            element.tag,
            element.get("name") or _name(element, "ref"),
            _name(element, "type"),
            element.get("minOccurs", "1"),
            element.get("maxOccurs", "1"),
        )
        for element in sequence
        if isinstance(element.tag, str)
    ]


def _restriction(kind: etree._Element) -> tuple[str | None, list[tuple[str, str | None]]]:
    """The base of a simple type and its facets; their order means nothing."""
    restriction = kind.find(f"{XS}restriction")
    facets = [(facet.tag, facet.get("value")) for facet in restriction if isinstance(facet.tag, str)]
    return _name(restriction, "base"), sorted(facets, key=str)


def wsdl_model(wsdl: etree._Element) -> dict[str, object]:
    """What a WSDL means: operations with action, style and message elements; binding, service, port."""
    messages = {
        message.get("name"): [_name(part, "element") for part in message.findall(f"{WSDL}part")]
        for message in wsdl.findall(f"{WSDL}message")
    }
    (port_type,) = wsdl.findall(f"{WSDL}portType")
    (binding,) = wsdl.findall(f"{WSDL}binding")
    (service,) = wsdl.findall(f"{WSDL}service")
    (port,) = service.findall(f"{WSDL}port")
    transport = binding.find(f"{SOAP}binding")
    bound = {operation.get("name"): operation for operation in binding.findall(f"{WSDL}operation")}
    return {
        "target": wsdl.get("targetNamespace"),
        "imports": [
            (element.get("namespace"), element.get("schemaLocation"))
            for element in wsdl.iterfind(f"{WSDL}types/{XS}schema/{XS}import")
        ],
        "port type": port_type.get("name"),
        "binding": (binding.get("name"), _name(binding, "type"), transport.get("style"), transport.get("transport")),
        "service": (service.get("name"), port.get("name"), _name(port, "binding")),
        "address": port.find(f"{SOAP}address").get("location"),
        "operations": {
            operation.get("name"): _operation(operation, bound[operation.get("name")], messages)
            for operation in port_type.findall(f"{WSDL}operation")
        },
    }


def _operation(
    operation: etree._Element, bound: etree._Element, messages: dict[str, list[str | None]]
) -> dict[str, object]:
    """What an operation means: action, style, and for either direction the message's element and its encoding."""
    soap = bound.find(f"{SOAP}operation")
    found: dict[str, object] = {"action": soap.get("soapAction"), "style": soap.get("style")}
    for direction in ("input", "output"):
        message = etree.QName(_name(operation.find(f"{WSDL}{direction}"), "message")).localname
        (found[direction],) = messages[message]
        found[f"{direction} use"] = bound.find(f"{WSDL}{direction}/{SOAP}body").get("use")
    return found


def _name(element: etree._Element, attribute: str) -> str | None:
    """Resolve an attribute that holds a prefixed name, such as a type, to its namespace and local name."""
    value = element.get(attribute)
    if value is None:
        return None
    prefix, _, local = value.rpartition(":")
    return f"{{{element.nsmap.get(prefix or None)}}}{local}"
