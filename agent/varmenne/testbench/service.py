"""The three operations: what a request must be, what it changes, and what is answered.

Checks come in the order of the code. A request that is refused changes nothing, except that wrong passwords are
counted. What an accepted request changes is durable before its answer is made. Decisions where the real service is
unknown:

* a transfer ID is used up by the first accepted request; the same CSR once more is refused, or gets the same answer if
  :class:`Repeats` says so;
* wrong passwords never burn an order, and a request with a bad CSR does not either;
* a key that has a certificate of this bench gets no second one;
* a certificate may be renewed more than once while it is valid (each time with a new key); a RetrievalId never ends.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import threading
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import SignatureAlgorithmOID
from lxml import etree

from varmenne.domain.identifiers import Environment
from varmenne.domain.keys import RSA_BITS
from varmenne.errors import StateError
from varmenne.service.interface import NAMESPACE, Operation
from varmenne.testbench import refusals
from varmenne.testbench.envelope import Message, SoapFault, envelop, fault_document, read_request
from varmenne.testbench.family import Family, customer_subject, der
from varmenne.testbench.faults import FAULTS, NO_FAULT, Fault, Reply
from varmenne.testbench.proof import signer_of
from varmenne.testbench.refusals import Language, Refusal, outcome, refuse
from varmenne.testbench.signing import SignatureForm, sign_document
from varmenne.testbench.state import BenchState, password_fits
from varmenne.testbench.store import Clash, Issued

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from varmenne.testbench.family import KeyPair

RENEWAL_WINDOW = timedelta(days=60)
"""A certificate can be renewed at the earliest this long before it expires."""


class Repeats(StrEnum):
    """What spent credentials get when they come once more with the key that they were spent on.

    What the real service does is unknown, so that a client must be right with either.
    """

    REFUSED = "refused"
    SAME_ANSWER = "same-answer"


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How a bench behaves, where that can be chosen.

    Attributes:
        delay_seconds: time from an accepted request until its certificate can be fetched, by the bench's clock.
        signature_form: the form of the signature on answers.
        language: the language of error messages.
        environment: the environment that requests must name.
        repeats: what a repeated signNewCertificate is answered.
    """

    delay_seconds: float = 2.0
    signature_form: SignatureForm = SignatureForm.OBSERVED
    language: Language = Language.FINNISH
    environment: Environment = Environment.TEST
    repeats: Repeats = Repeats.REFUSED


@dataclass(frozen=True, slots=True)
class _Holder:
    """Whom a certificate is for, and the transfer ID that it is given for, if any."""

    customer_id: str
    customer_name: str | None
    channel: str
    transfer_id: str | None = None


class BenchService:
    """Answers requests. Safe for several threads."""

    def __init__(self, state: BenchState, family: Family, behaviour: Behaviour) -> None:
        self._state = state
        self._store = state.store
        self._family = family
        self._behaviour = behaviour
        self._signer: KeyPair | None = None
        self._lock = threading.Lock()
        self._operations: Mapping[Operation, Callable[[Message, datetime], tuple[str, str]]] = {
            Operation.SIGN_NEW: self._sign_new,
            Operation.RENEW: self._renew,
            Operation.GET: self._get,
        }

    def handle(self, body: bytes) -> tuple[Reply, str]:
        """Answer one request body. Returns the reply, and a line for the program's log without secrets."""
        try:
            return self._handle(body)
        except StateError as exc:
            fault = SoapFault("Server", "The bench's state cannot be used.")
            return Reply(500, fault_document(fault)), f"FAULT {fault.code}: {exc}"

    def _handle(self, body: bytes) -> tuple[Reply, str]:
        """Do the work of :meth:`handle`, as long as the state can be used."""
        now = self._state.now()
        message = read_request(body)
        if isinstance(message, SoapFault):
            number, _ = self._store.begin_request(now, None, None, None)
            self._store.end_request(number, "FAULT")
            return Reply(500, fault_document(message)), f"FAULT {message.code}: {message.text}"
        customer = message["CustomerId"]
        number, fault_name = self._store.begin_request(now, message.operation, customer, message.text("TransferId"))
        reply, status = self._answer(message, now, FAULTS[fault_name] if fault_name else NO_FAULT)
        self._store.end_request(number, status)
        noted = f" (fault {fault_name})" if fault_name else ""
        return reply, f"{message.operation.value} for customer {customer}: {status}{noted}"

    def _answer(self, message: Message, now: datetime, fault: Fault) -> tuple[Reply, str]:
        """Process a message and make the signed answer. Returns the reply and the status for the log."""
        if fault.instead:
            return fault.instead, f"HTTP {fault.instead.status}" if fault.instead.status else "DROPPED"
        root, status = self._outcome(message, now, fault)
        signer = fault.signer(self._family, now) if fault.signer else self._signer_at(now)
        document = sign_document(root, signer, self._behaviour.signature_form)
        reply = Reply(200, envelop(fault.document(document) if fault.document else document))
        return (fault.reply(reply) if fault.reply else reply), status

    def _outcome(self, message: Message, now: datetime, fault: Fault) -> tuple[etree._Element, str]:
        """Process a message. Returns the answer, not signed yet, and the status for the log."""
        result = outcome(lambda: self._process(message, now, fault))
        if isinstance(result, Refusal):
            root = _answer_root(message.operation, "FAIL")
            _add_error(root, result.code, result.message(self._behaviour.language))
            return root, f"FAIL:{result.code}"
        return _answer_root(message.operation, "OK", result), "OK"

    def _process(self, message: Message, now: datetime, fault: Fault) -> tuple[str, str]:
        """Do what the operation does, and return the name and text of the element that is answered."""
        if fault.refusal:
            refuse(fault.refusal)
        name, value = self._operations[message.operation](message, now)
        if fault.certificate:
            issued = x509.load_der_x509_certificate(base64.b64decode(value))
            value = base64.b64encode(der(fault.certificate(self._family, issued, now))).decode()
        return name, value

    def _signer_at(self, now: datetime) -> KeyPair:
        """Return the service's signing key for this time."""
        with self._lock:
            signer = self._signer = self._family.signer_at(now, self._signer)
        return signer

    def _sign_new(self, message: Message, now: datetime) -> tuple[str, str]:
        """Spend one-time credentials on a certificate."""
        self._require_environment(message)
        order = self._store.find_order(message["TransferId"])
        if order is None:
            refuse(refusals.UNKNOWN_TRANSFER_ID)
        if order.customer_id != message["CustomerId"]:
            refuse(refusals.TRANSFER_ID_OF_ANOTHER)
        if not password_fits(message["TransferPassword"], order):
            self._store.count_wrong_password(order.transfer_id)
            refuse(refusals.WRONG_PASSWORD)
        if order.used:
            return self._repeat(message)
        if order.valid_until <= now:
            refuse(refusals.TRANSFER_ID_EXPIRED)
        key = self._requested_key(message)
        name = order.customer_name or message.text("CustomerName")
        return self._issue(key, _Holder(order.customer_id, name, order.channel, order.transfer_id), now)

    def _repeat(self, message: Message) -> tuple[str, str]:
        """Answer to credentials that are spent already."""
        issued = self._store.find_issued(by="transfer_id", value=message["TransferId"])
        key = checked_csr_key(base64.b64decode(message["CertificateRequest"]))
        if self._behaviour.repeats is Repeats.REFUSED or issued is None or issued.public_key_hash != _key_hash(key):
            refuse(refusals.TRANSFER_ID_USED)
        return "RetrievalId", issued.retrieval_id

    def _renew(self, message: Message, now: datetime) -> tuple[str, str]:
        """Issue a new certificate to the holder of a current one."""
        self._require_environment(message)
        certificate = signer_of(message.root)
        current = self._store.find_issued(by="certificate_hash", value=_sha256(der(certificate)))
        if current is None:
            refuse(refusals.SIGNER_UNKNOWN)
        if current.customer_id != message["CustomerId"]:
            refuse(refusals.SIGNER_OF_ANOTHER)
        if current.revoked_at is not None:
            refuse(refusals.SIGNER_REVOKED)
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            refuse(refusals.SIGNER_NOT_VALID)
        if now < certificate.not_valid_after_utc - RENEWAL_WINDOW:
            refuse(refusals.TOO_EARLY)
        key = self._requested_key(message)
        name = current.customer_name or message.text("CustomerName")
        return self._issue(key, _Holder(current.customer_id, name, current.channel), now)

    def _get(self, message: Message, now: datetime) -> tuple[str, str]:
        """Hand out a certificate, as often as it is asked for."""
        self._require_environment(message)
        issued = self._store.find_issued(by="retrieval_id", value=message["RetrievalId"])
        if issued is None:
            refuse(refusals.UNKNOWN_RETRIEVAL_ID)
        if issued.customer_id != message["CustomerId"]:
            refuse(refusals.RETRIEVAL_ID_OF_ANOTHER)
        if now < issued.ready_at:
            refuse(refusals.NOT_READY)
        return "Certificate", base64.b64encode(issued.certificate).decode()

    def _require_environment(self, message: Message) -> None:
        """Refuse a request that was meant for the other environment."""
        if message["Environment"] != self._behaviour.environment.on_the_wire:
            refuse(refusals.WRONG_ENVIRONMENT)

    def _requested_key(self, message: Message) -> rsa.RSAPublicKey:
        """Check the CSR and return its key, which must not have a certificate yet."""
        key = checked_csr_key(base64.b64decode(message["CertificateRequest"]))
        if self._store.find_issued(by="public_key_hash", value=_key_hash(key)):
            refuse(refusals.KEY_KNOWN)
        return key

    def _issue(self, key: rsa.RSAPublicKey, holder: _Holder, now: datetime) -> tuple[str, str]:
        """Make the certificate, keep it, and return its RetrievalId."""
        subject = customer_subject(holder.customer_id, holder.customer_name, secrets.token_hex(8))
        certificate = self._family.issue(subject, key, now, issuer="providers")
        issued = Issued(
            retrieval_id=secrets.token_hex(16),
            customer_id=holder.customer_id,
            customer_name=holder.customer_name,
            channel=holder.channel,
            transfer_id=holder.transfer_id,
            public_key_hash=_key_hash(key),
            certificate_hash=_sha256(der(certificate)),
            certificate=der(certificate),
            serial=certificate.serial_number,
            ready_at=now + timedelta(seconds=self._behaviour.delay_seconds),
        )
        if clash := self._store.add_issued(issued, now):
            refuse(_CLASHES[clash])
        return "RetrievalId", issued.retrieval_id


_CLASHES = {Clash.ORDER: refusals.TRANSFER_ID_USED, Clash.KEY: refusals.KEY_KNOWN}
"""What another request was faster with → the refusal."""


def checked_csr_key(csr: bytes) -> rsa.RSAPublicKey:
    """Check a CSR as the service does, and return the one thing that is used of it: its public key.

    Refuses what is not PKCS#10 in DER or not signed by RSA with SHA-256, a key that is not RSA of 2048 bits, and a
    signature that does not verify.
    """
    try:
        request = x509.load_der_x509_csr(csr)
        exact = request.public_bytes(serialization.Encoding.DER) == csr
    except ValueError:
        refuse(refusals.CSR_UNREADABLE)
    if not exact:
        refuse(refusals.CSR_UNREADABLE)
    if request.signature_algorithm_oid != SignatureAlgorithmOID.RSA_WITH_SHA256:
        refuse(refusals.CSR_ALGORITHM)
    try:
        key = request.public_key()
    except (ValueError, UnsupportedAlgorithm):
        refuse(refusals.CSR_KEY)
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size != RSA_BITS:
        refuse(refusals.CSR_KEY)
    if not request.is_signature_valid:
        refuse(refusals.CSR_SIGNATURE)
    return key


def _answer_root(operation: Operation, status: str, *values: tuple[str, str]) -> etree._Element:
    """Begin an answer: the message element, its value where there is one, and the result."""
    root = etree.Element(f"{{{NAMESPACE}}}{operation.response_element}", nsmap={"cer": NAMESPACE})
    for name, value in values:
        etree.SubElement(root, name).text = value
    etree.SubElement(etree.SubElement(root, "Result"), "Status").text = status
    return root


def _add_error(root: etree._Element, code: str, message: str) -> None:
    """Add an error to the result."""
    info = etree.SubElement(root.find("Result"), "ErrorInfo")
    etree.SubElement(info, "ErrorCode").text = code
    etree.SubElement(info, "ErrorMessage").text = message


def _key_hash(key: rsa.RSAPublicKey) -> str:
    """SHA-256 of a public key's DER SubjectPublicKeyInfo, hexadecimal."""
    return _sha256(key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo))


def _sha256(octets: bytes) -> str:
    """SHA-256, hexadecimal."""
    return hashlib.sha256(octets).hexdigest()
