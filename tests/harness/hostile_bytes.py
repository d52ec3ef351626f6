"""Hostile answers, continued: for the parser, in the envelope, and in the values."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from typing import Any

from harness.forge import SIGNATURE_HERE, Forge, Sample, b64, envelope, sign
from harness.good_answers import ERROR
from harness.hostile_answers import Build
from varmenne.service.interface import DSIG, NAMESPACE, SOAP_ENVELOPE, Operation

XS = "http://www.w3.org/2001/XMLSchema"
XSI = "http://www.w3.org/2001/XMLSchema-instance"
SOAP_1_2 = "http://www.w3.org/2003/05/soap-envelope"


def _bytes(check: str, body: bytes) -> tuple[str, Build]:
    """Bytes that need no forge."""
    return check, lambda _forge: body


def _before(check: str, text: str) -> tuple[str, Build]:
    """Something before a genuine envelope."""
    return check, lambda forge: text.encode() + forge.answer()


def _edit(check: str, old: str, new: str, **changes: Any) -> tuple[str, Build]:
    """Change a genuine answer's text where it is first found."""

    def build(forge: Forge) -> bytes:
        text = forge.answer(**changes).decode()
        assert old in text, old
        return text.replace(old, new, 1).encode()

    return check, build


def _recode(check: str, change: Callable[[bytes], bytes]) -> tuple[str, Build]:
    """Change a genuine answer's bytes."""
    return check, lambda forge: change(forge.answer())


def _entities(forge: Forge, doctype: str, reference: str) -> bytes:
    """A document type, and a reference to an entity where the value is."""
    return (doctype + forge.answer().decode().replace(forge.retrieval, reference, 1)).encode()


def _doctype(doctype: str, reference: str = "&e;") -> tuple[str, Build]:
    return "doctype", lambda forge: _entities(forge, doctype, reference)


LAUGHS = "<!DOCTYPE x [" + '<!ENTITY a "ha">' + "".join(
    f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10}">' for i in range(9)
) + "]>"  # fmt: skip

PARSER: dict[str, tuple[str, Build]] = {
    "empty": _bytes("xml", b""),
    "blanks": _bytes("xml", b"  \n "),
    "a byte order mark": _bytes("xml", b"\xef\xbb\xbf"),
    "two byte order marks": _recode("encoding", lambda body: b"\xef\xbb\xbf" * 2 + body),
    "random bytes": ("encoding", lambda forge: b"\xff" + forge.random.randbytes(5000)),
    "HTML": _bytes("xml", b"<html><head><title>Log in</title><body><p>Hotel<br></html>"),
    "an HTML document": _bytes("doctype", b"<!DOCTYPE html><title>Log in</title>"),
    "an HTML document in small letters": _bytes("xml", b"<!doctype html><title>Log in</title>"),
    "JSON": _bytes("xml", b'{"RetrievalId": "12345"}'),
    "text": _bytes("xml", b"Service Unavailable"),
    "still compressed": ("encoding", lambda forge: gzip.compress(forge.answer(), mtime=0)),
    "an internal entity": _doctype('<!DOCTYPE x [<!ENTITY e "666">]>'),
    "an external entity": _doctype('<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/hostname">]>'),
    "an entity of the network": _doctype('<!DOCTYPE x [<!ENTITY e SYSTEM "http://127.0.0.1:9/e">]>'),
    "an external document type": _doctype('<!DOCTYPE x SYSTEM "http://127.0.0.1:9/x.dtd">', "1"),
    "a parameter entity": _doctype('<!DOCTYPE x [<!ENTITY % p SYSTEM "http://127.0.0.1:9/p"> %p;]>', "1"),
    "a billion laughs": _doctype(LAUGHS, "&j;"),
    "a quadratic entity": _doctype(f'<!DOCTYPE x [<!ENTITY e "{"x" * 50_000}">]>', "&e;" * 1000),
    "a default attribute": _doctype('<!DOCTYPE x [<!ATTLIST RetrievalId a CDATA "b">]>', "1"),
    "a document type after a declaration": _doctype('<?xml version="1.0"?>\n<!DOCTYPE x>', "1"),
    "an unknown entity": _edit("xml", "<RetrievalId>", "<RetrievalId>&nbsp;"),
    "UTF-16": _recode("encoding", lambda body: body.decode().encode("utf-16")),
    "UTF-16 without a mark": _recode("encoding", lambda body: body.decode().encode("utf-16-le")),
    "UTF-16, other end": _recode("encoding", lambda body: body.decode().encode("utf-16-be")),
    "UTF-32": _recode("encoding", lambda body: body.decode().encode("utf-32")),
    "EBCDIC": _recode("encoding", lambda body: body.decode().encode("cp500")),
    "declared UTF-7": _before("encoding", '<?xml version="1.0" encoding="UTF-7"?>'),
    "declared UTF-16": _before("encoding", '<?xml version="1.0" encoding="UTF-16"?>'),
    "declared Latin-1": _before("encoding", '<?xml version="1.0" encoding="ISO-8859-1"?>'),
    "declared unknown": _before("encoding", '<?xml version="1.0" encoding="x-unknown"?>'),
    "document type in UTF-7": _before("encoding", '<?xml version="1.0" encoding="UTF-7"?>+ADwAIQ-DOCTYPE x+AD4-'),
    "XML 1.1": _before("encoding", '<?xml version="1.1"?>'),
    "XML 2.0": _before("encoding", '<?xml version="2.0"?>'),
    "a declaration after a blank": _before("xml", ' <?xml version="1.0"?>'),
    "an overlong character": _recode("encoding", lambda body: body.replace(b"<Status>", b"<Status>\xc0\x80")),
    "half a surrogate": _recode("encoding", lambda body: body.replace(b"<Status>", b"<Status>\xed\xa0\x80")),
    "Latin-1 without saying so": _recode("encoding", lambda body: body.replace(b"<Status>", b"<Status>\xe4")),
    "NUL": _recode("encoding", lambda body: body.replace(b"<Status>", b"<Status>\0")),
    "NUL at the end": _recode("encoding", lambda body: body + b"\0<!-- -->"),
    "a reference to NUL": _edit("xml", "<RetrievalId>", "<RetrievalId>&#0;"),
    "a control character": _edit("xml", "<RetrievalId>", "<RetrievalId>\x1b"),
    "a reference to a control character": _edit("xml", "<RetrievalId>", "<RetrievalId>&#27;"),
    "cut off": _recode("xml", lambda body: body[:-20]),
    "cut off early": _recode("xml", lambda body: body[:200]),
    "two documents": _recode("xml", lambda body: body * 2),
    "text after the end": _recode("xml", lambda body: body + b"x"),
    "an attribute twice": _edit("xml", 'URI=""', 'URI="" URI=""'),
    "a prefix of nothing": _edit("xml", "<RetrievalId>", "<q:RetrievalId>"),
    "crossed elements": _edit("xml", "</RetrievalId><Result>", "<Result></RetrievalId>"),
    "ten thousand deep": _edit("xml", "<RetrievalId>", "<RetrievalId>" + "<a>" * 10_000 + "</a>" * 10_000),
    "two hundred deep": _edit("schema", "<RetrievalId>", "<RetrievalId>" + "<a>" * 200 + "</a>" * 200),
    "ten thousand attributes": _edit(
        "schema", "<RetrievalId>", "<RetrievalId " + " ".join(f'a{i}=""' for i in range(10_000)) + ">"
    ),
    "five thousand namespaces": _edit(
        "signature", "<RetrievalId>", "<RetrievalId " + " ".join(f'xmlns:a{i}="u:{i}"' for i in range(5_000)) + ">"
    ),
    "twenty thousand children": _edit("schema", "<RetrievalId>", "<RetrievalId>" + "<a/>" * 20_000),
    "a value of 200,000 characters": _edit("schema", "<RetrievalId>", "<RetrievalId>" + "x" * 200_000),
    "a name of 60,000 characters": _edit("xml", "<RetrievalId>", f"<{'x' * 60_000}>"),
    "over the limit": _recode("size", lambda body: body + b" " * 300_000),
    "far over the limit": _recode("size", lambda body: body + b" " * 20_000_000),
    "a comment in a value": _edit("node", "<RetrievalId>", "<RetrievalId><!-- -->"),
    "a comment in DigestValue": _edit("node", "<ds:DigestValue>", "<ds:DigestValue><!-- -->"),
    "a comment between": _edit("node", "<Result>", "<!-- --><Result>"),
    "a comment before": _before("node", "<!-- -->"),
    "a comment after": _recode("node", lambda body: body + b"<!-- -->"),
    "an instruction in a value": _edit("node", "<RetrievalId>", "<RetrievalId><?x y?>"),
    "an instruction before": _before("node", "<?x y?>"),
    "a style sheet": _before("node", '<?xml-stylesheet href="http://127.0.0.1:9/x.xsl" type="text/xsl"?>'),
    "an inclusion": _edit(
        "schema",
        "<RetrievalId>",
        '<RetrievalId><xi:include xmlns:xi="http://www.w3.org/2001/XInclude" href="file:///etc/hostname"/>',
    ),
    "garbage in SignatureValue": _edit("signature-shape", "<ds:SignatureValue>", "<ds:SignatureValue>*!*"),
    "garbage in DigestValue": _edit("schema", "<ds:DigestValue>", "<ds:DigestValue>===="),
    "garbage in X509Certificate": _edit("signer", "<ds:X509Certificate>", "<ds:X509Certificate>%%%"),
    "a no-break space in SignatureValue": _edit("signature-shape", "<ds:SignatureValue>", "<ds:SignatureValue>\u00a0"),
    "a no-break space in X509Certificate": _edit("signer", "<ds:X509Certificate>", "<ds:X509Certificate>\u00a0"),
    "a letter of full width in SignatureValue": _edit(
        "signature-shape", "<ds:SignatureValue>", "<ds:SignatureValue>\uff21"
    ),
    "a document type as text": _edit("doctype", "<RetrievalId>", "<RetrievalId><![CDATA[<!DOCTYPE x>]]>"),
    "the prefix xml for something else": _edit("xml", "<RetrievalId>", '<RetrievalId xmlns:xml="urn:x">'),
    "the prefix xmlns declared": _edit("xml", "<RetrievalId>", '<RetrievalId xmlns:xmlns="urn:x">'),
    "a relative namespace": _edit("signature", "<RetrievalId>", '<RetrievalId xmlns:q="../x">'),
    "text in SignedInfo": _edit("schema", "<ds:SignedInfo>", "<ds:SignedInfo>x"),
    "a digest with bytes after it": _edit("schema", "</ds:DigestValue>", "AAAA</ds:DigestValue>"),
    "a type on SignedInfo": _edit(
        "signature", "<ds:SignedInfo>", f'<ds:SignedInfo xmlns:i="{XSI}" i:type="ds:SignedInfoType">'
    ),
}


def _around(check: str, **changes: Any) -> tuple[str, Build]:
    """A genuine message in a strange envelope."""
    return check, lambda forge: envelope(forge.signed(), **changes)


def _headed(block: str, **changes: Any) -> tuple[str, Build]:
    return _around("envelope", header=f"<soapenv:Header>{block}</soapenv:Header>", **changes)


BLOCK = '<x:Must xmlns:x="urn:x" soapenv:mustUnderstand="{}"/>'
ENCODING = ' soapenv:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/"'
FAULT = "<soapenv:Fault><faultcode>soapenv:Server</faultcode><faultstring>{}</faultstring></soapenv:Fault>"
MULTIPART = b"--b\r\nContent-Type: application/xop+xml\r\n\r\n%s\r\n--b--\r\n"

ENVELOPE: dict[str, tuple[str, Build]] = {
    "none": ("envelope", lambda forge: forge.signed().encode()),
    "SOAP 1.2": _around("envelope", namespace=SOAP_1_2),
    "an unknown namespace": _around("envelope", namespace="urn:x"),
    "no namespace": ("envelope", lambda forge: f"<Envelope><Body>{forge.signed()}</Body></Envelope>".encode()),
    "small letters": _recode("envelope", lambda body: body.replace(b"Envelope", b"envelope")),
    "no body": _bytes("envelope", f'<s:Envelope xmlns:s="{SOAP_ENVELOPE}"/>'.encode()),
    "an empty body": ("envelope", lambda _forge: envelope("")),
    "text in the body": ("envelope", lambda forge: envelope("x" + forge.signed())),
    "text after the message": ("envelope", lambda forge: envelope(forge.signed() + "x")),
    "text after the body": _edit("envelope", "</soapenv:Envelope>", "x</soapenv:Envelope>"),
    "text before the body": _edit("envelope", "<soapenv:Body>", "x<soapenv:Body>"),
    "two bodies": _edit("envelope", "<soapenv:Body>", "<soapenv:Body/><soapenv:Body>"),
    "two messages": ("envelope", lambda forge: envelope(forge.signed() * 2)),
    "two headers": _around("envelope", header="<soapenv:Header/><soapenv:Header/>"),
    "a header after the body": _edit("envelope", "</soapenv:Envelope>", "<soapenv:Header/></soapenv:Envelope>"),
    "something after the body": _edit("envelope", "</soapenv:Envelope>", '<x xmlns="urn:x"/></soapenv:Envelope>'),
    "a header to be understood": _headed(BLOCK.format("1")),
    "a header to be understood, true": _headed(BLOCK.format("true")),
    "a header to be understood, with blanks": _headed(BLOCK.format(" 1 ")),
    "a header to be understood, second": _headed(BLOCK.format("0") + BLOCK.format("1")),
    "text in front of the header": _edit("envelope", "<soapenv:Body>", "x<soapenv:Header/><soapenv:Body>"),
    "an encoding on the envelope": _around("envelope", declared=ENCODING),
    "an encoding on the body": _around("envelope", body=ENCODING),
    "multipart": _recode("xml", lambda body: MULTIPART % body),
    "a fault": ("fault", lambda _forge: envelope(FAULT.format("out of order"))),
    "a fault with orders to the terminal": ("fault", lambda _forge: envelope(FAULT.format("\x9b2J\u202eevil"))),
    "a fault with a genuine message in its detail": (
        "fault",
        lambda forge: envelope(
            FAULT.format("").replace("</soapenv:F", f"<detail>{forge.signed()}</detail></soapenv:F")
        ),
    ),
    "an answer to a renewal": ("operation", lambda forge: forge.answer(Operation.RENEW)),
    "an answer to getCertificate": ("operation", lambda forge: forge.answer(Operation.GET)),
    "an answer to signNewCertificate, not asked": (
        "operation",
        lambda forge: Sample(forge.answer(), operation=Operation.GET),
    ),
    "a request": _recode("operation", lambda body: body.replace(b"CertificateResponse", b"CertificateRequest")),
    "a message of another namespace": _recode(
        "operation", lambda body: body.replace(NAMESPACE.encode(), NAMESPACE.encode() + b"/v2")
    ),
    "a message without namespace": _recode("operation", lambda body: body.replace(b"cs:Sign", b"Sign")),
}


def _signs(check: str, operation: Operation = Operation.SIGN_NEW, **message: Any) -> tuple[str, Build]:
    """The service itself signs what it should not say."""
    return check, lambda forge: Sample(envelope(forge.signed(message=forge.message(operation, **message))), operation)


def _swapped(tag: str) -> Build:
    """Take an element of the signature from another genuine answer."""

    def build(forge: Forge) -> bytes:
        text = forge.answer().decode()
        other = forge.answer(message=forge.message(value="<RetrievalId>999</RetrievalId>")).decode()

        def part(of: str) -> str:
            return of[of.index(f"<ds:{tag}") : of.index(f"</ds:{tag}>")]

        return text.replace(part(text), part(other)).encode()

    return build


def _certificate_replaced(forge: Forge) -> Sample:
    """Put another genuine certificate into the answer to getCertificate."""
    other = b64(forge.anchors[0])
    body = forge.answer(Operation.GET).decode()
    return Sample(body.replace(b64(forge.certificate), other, 1).encode(), Operation.GET)


def _fail_turned(forge: Forge) -> bytes:
    """Turn a signed refusal into OK, and add what it lacks."""
    text = forge.signed(message=forge.message(value="", result=ERROR.format("no")))
    return envelope(text.replace("FAIL", "OK").replace("<Result>", "<RetrievalId>666</RetrievalId><Result>"))


def _evil(forge: Forge) -> bytes:
    return forge.evil(forge.answer().decode()).encode()


def _signature_of(forge: Forge) -> str:
    """Return the signature of a genuine answer."""
    text = forge.signed()
    return text[text.index("<ds:Signature") : text.index("</cs:")]


OK = "<Status>OK</Status>"

CONTENT: dict[str, tuple[str, Build]] = {
    "another RetrievalId": ("signature", _evil),
    "a digit more": _edit("signature", "</RetrievalId>", "7</RetrievalId>"),
    "a blank more": _edit("signature", "</RetrievalId>", " </RetrievalId>"),
    "a line break between elements": _edit("signature", "<Result>", "\n<Result>"),
    "OK turned to FAIL": _edit("signature", "OK", "FAIL"),
    "FAIL turned to OK": ("signature", _fail_turned),
    "another certificate": ("signature", _certificate_replaced),
    "RetrievalId taken out": (
        "signature",
        lambda forge: forge.answer().replace(f"<RetrievalId>{forge.retrieval}</RetrievalId>".encode(), b""),
    ),
    "an error put in": _edit("signature", OK, ERROR.format("x").replace("FAIL", "OK")),
    "the digest of another answer": ("signature", _swapped("DigestValue")),
    "the value of another answer": ("signature", _swapped("SignatureValue")),
    "SignedInfo of another answer": ("signature", _swapped("SignedInfo")),
    "the whole signature of another answer": ("signature", _swapped("Signature")),
    "no signature": ("schema", lambda forge: envelope(forge.message().replace(SIGNATURE_HERE, ""))),
    "a signature of another namespace": _recode(
        "schema", lambda body: body.replace(f'"{DSIG}"'.encode(), f'"{DSIG}x"'.encode())
    ),
    "OK without a RetrievalId": _signs("values", value=""),
    "OK without a certificate": _signs("values", Operation.GET, value=""),
    "an empty RetrievalId": _signs("schema", value="<RetrievalId/>"),
    "a RetrievalId of blanks": _signs("values", value="<RetrievalId>   </RetrievalId>"),
    "a RetrievalId too long": _signs("schema", value=f"<RetrievalId>{'x' * 33}</RetrievalId>"),
    "an invisible RetrievalId": _signs("values", value="<RetrievalId>\u200b\u202e</RetrievalId>"),
    "a RetrievalId with a line break": _signs("values", value="<RetrievalId>a\u2028b</RetrievalId>"),
    "two RetrievalIds": _signs("schema", value="<RetrievalId>1</RetrievalId><RetrievalId>2</RetrievalId>"),
    "an element in a RetrievalId": _signs("schema", value="<RetrievalId>1<a/>2</RetrievalId>"),
    "a qualified RetrievalId": _signs("schema", value="<cs:RetrievalId>1</cs:RetrievalId>"),
    "a null RetrievalId": _signs("schema", value=f'<RetrievalId xmlns:i="{XSI}" i:nil="true"/>'),
    "a RetrievalId of another type": _signs(
        "schema",
        value=f'<RetrievalId xmlns:i="{XSI}" xmlns:x="{XS}" i:type="x:anyURI">1</RetrievalId>',
    ),
    "a RetrievalId of private characters": _signs("values", value="<RetrievalId>a\ue000b</RetrievalId>"),
    "the type of another answer": _signs("schema", declared=f' xmlns:i="{XSI}" i:type="cs:GetCertificateResponse"'),
    "a language": _signs("schema", declared=' xml:lang="fi"'),
    "a base": _signs("schema", declared=' xml:base="http://127.0.0.1:9/"'),
    "an unknown attribute": _signs("schema", declared=' version="2"'),
    "an unknown element": _signs("schema", extra="<Extra>1</Extra>"),
    "result before value": _signs("schema", value="", result=OK + "</Result><RetrievalId>1</RetrievalId><Result>" + OK),
    "status in small letters": _signs("schema", result="<Status>ok</Status>"),
    "status unknown": _signs("schema", result="<Status>PENDING</Status>"),
    "no status": _signs("schema", result=""),
    "two results": _signs("schema", result=f"{OK}</Result><Result>{OK}"),
    "an empty certificate": _signs("schema", Operation.GET, value="<Certificate></Certificate>"),
    "a certificate that is no base64": _signs("schema", Operation.GET, value="<Certificate>A*</Certificate>"),
    "a certificate too large": _signs("schema", Operation.GET, value=f"<Certificate>{'A' * 43_696}</Certificate>"),
    "a RetrievalId for a certificate": _signs("schema", Operation.GET, value="<RetrievalId>1</RetrievalId>"),
    "an error code too long": _signs("schema", result=ERROR.format("x").replace("PKI110", "P" * 17)),
    "an error message too long": _signs("schema", result=ERROR.format("x" * 256)),
    "text between elements": _signs("schema", extra="text"),
    "signed twice": ("schema", lambda forge: envelope(sign(forge.message(extra=_signature_of(forge)), forge.plan()))),
}
