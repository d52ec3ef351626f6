"""A signature ties no answer to a question: each way to misuse a genuine answer, and why it fails or is harmless."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from harness.forge import AT, YEAR, Forge
from varmenne.domain.identifiers import CustomerId, Environment
from varmenne.errors import VerificationError
from varmenne.service.answers import verify_answer
from varmenne.service.certificates import IssuedCertificate, SubjectPolicy, verify_certificate, with_root
from varmenne.service.interface import Operation
from varmenne.service.trust import TrustAnchors
from varmenne.testbench.family import KeyPair, customer_subject, der

CUSTOMER = CustomerId("0123456-7")


def public_key(pair: KeyPair) -> bytes:
    """Return a SubjectPublicKeyInfo."""
    return pair.certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture
def trust(forge: Forge) -> TrustAnchors:
    """Return an honest client's trust."""
    return TrustAnchors(
        Environment.TEST, forge.anchors, (der(forge.providers.certificate),), (der(forge.root.certificate),)
    )


def ours(forge: Forge, *, name: str = "FORGE 0123456-7", **changes: Any) -> KeyPair:
    """Issue our certificate."""
    options: dict[str, Any] = {"begin": AT - timedelta(days=1), "end": AT + 2 * YEAR, **changes}
    return forge.issue(forge.providers, name=name, key=forge.other_key, **options)


def judged(forge: Forge, trust: TrustAnchors, pair: KeyPair, **options: Any) -> IssuedCertificate:
    """Verify a certificate as ours."""
    given: dict[str, Any] = {"customer": CUSTOMER, "at": AT, **options}
    return verify_certificate(
        der(pair.certificate),
        public_key=public_key(ours(forge)),
        trust=trust,
        **given,
    )


def test_our_certificate_is_accepted(forge: Forge, trust: TrustAnchors) -> None:
    """No warnings, and the chain without the root, which is found where it is wanted."""
    found = judged(forge, trust, ours(forge))
    assert found.warnings == ()
    assert found.chain == (der(forge.providers.certificate),)
    assert with_root([found.certificate, *found.chain], trust.chain)[-1] == der(forge.root.certificate)
    assert len(with_root([found.certificate], trust.chain)) == 1


def test_old_answer_to_signing_is_harmless(forge: Forge) -> None:
    """An old RetrievalId verifies, since nothing binds it to us. It fetches a certificate of another key: see below."""
    answer = verify_answer(forge.answer(), Operation.SIGN_NEW, forge.anchors, AT)
    assert answer.retrieval_id == forge.retrieval


def test_certificate_of_another_key_is_refused(forge: Forge, trust: TrustAnchors) -> None:
    """Whatever was replayed, of whatever customer or order: a certificate that does not carry our key is nobody's."""
    body = forge.answer(Operation.GET)
    certificate = verify_answer(body, Operation.GET, forge.anchors, AT).certificate
    assert certificate is not None
    other = Forge.new_key().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(VerificationError) as caught:
        verify_certificate(certificate, public_key=other, customer=CUSTOMER, trust=trust, at=AT)
    assert caught.value.check == "key"


@pytest.mark.parametrize("asked", list(Operation))
@pytest.mark.parametrize("answered", list(Operation))
def test_answer_to_another_operation_is_refused(forge: Forge, asked: Operation, answered: Operation) -> None:
    """The signed element's name is the operation's, so an answer serves its own question alone."""
    body = forge.answer(answered)
    if asked is answered:
        assert verify_answer(body, asked, forge.anchors, AT).ok
        return
    with pytest.raises(VerificationError) as caught:
        verify_answer(body, asked, forge.anchors, AT)
    assert caught.value.check == "operation"


def test_answer_is_not_ours_after_its_signer_has_ended(forge: Forge) -> None:
    """The longest that a recorded answer can be replayed is the life of the service's certificate."""
    with pytest.raises(VerificationError) as caught:
        verify_answer(forge.answer(), Operation.SIGN_NEW, forge.anchors, AT + 3 * YEAR)
    assert caught.value.check == "chain"
    assert "clock says" in caught.value.why


def test_replayed_refusal_only_delays(forge: Forge) -> None:
    """A recorded FAIL verifies too. It makes us believe a refusal, never a success; nothing is sent again by itself."""
    body = forge.answer(message=forge.message(value="", result="<Status>FAIL</Status>"))
    answer = verify_answer(body, Operation.SIGN_NEW, forge.anchors, AT)
    assert (answer.ok, answer.retrieval_id) == (False, None)


def test_answer_of_the_other_environment_is_refused(forge: Forge) -> None:
    """Test and production have authorities of their own."""
    with pytest.raises(VerificationError) as caught:
        verify_answer(forge.answer(), Operation.SIGN_NEW, Forge().anchors, AT)
    assert caught.value.check == "chain"


def test_other_customers_subject_is_told_or_refused(forge: Forge, trust: TrustAnchors) -> None:
    """Our key in another customer's name: a warning, since nobody promises where the ID is, or a refusal if so set."""
    stranger = ours(forge, name="FORGE 7654321-0")
    (warning,) = judged(forge, trust, stranger).warnings
    assert "0123456-7" in warning
    with pytest.raises(VerificationError) as caught:
        judged(forge, trust, stranger, subject=SubjectPolicy.REFUSE)
    assert caught.value.check == "subject"
    assert judged(forge, trust, ours(forge), subject=SubjectPolicy.REFUSE).warnings == ()


def test_serial_number_of_an_earlier_certificate_is_refused(forge: Forge, trust: TrustAnchors) -> None:
    """An authority never gives a number twice, so the same one again is no new certificate."""
    pair = ours(forge)
    with pytest.raises(VerificationError) as caught:
        judged(forge, trust, pair, older_serials={pair.certificate.serial_number})
    assert caught.value.check == "duplicate"
    assert judged(forge, trust, pair, older_serials={1}).serial_number == pair.certificate.serial_number


@pytest.mark.parametrize(
    ("check", "changes"),
    [
        ("validity", {"end": AT - timedelta(hours=1)}),
        ("validity", {"begin": AT + timedelta(hours=1)}),
        ("ca", {"ca": True, "usage": ("key_cert_sign",)}),
        ("usage", {"usage": ("key_encipherment",)}),
        ("usage", {"extensions": [(x509.ExtendedKeyUsage([x509.ObjectIdentifier("1.3.6.1.5.5.7.3.1")]), False)]}),
        ("chain", {"extensions": [(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"\5\0"), True)]}),
    ],
)
def test_certificate_that_was_not_ordered(
    forge: Forge, trust: TrustAnchors, check: str, changes: dict[str, Any]
) -> None:
    """Out of time, a CA's, not for TLS clients, or with a critical extension that nobody knows."""
    with pytest.raises(VerificationError) as caught:
        judged(forge, trust, ours(forge, **changes))
    assert caught.value.check == check


def test_certificate_of_the_wrong_authority(forge: Forge, trust: TrustAnchors) -> None:
    """The services CA issues no customers' certificates."""
    wrong = forge.issue(forge.services, name="FORGE 0123456-7", key=forge.other_key)
    with pytest.raises(VerificationError) as caught:
        judged(forge, trust, wrong)
    assert caught.value.check == "chain"


def test_strange_length_is_told(forge: Forge, trust: TrustAnchors) -> None:
    """About two years are usual; anything else is a warning."""
    (warning,) = judged(forge, trust, ours(forge, end=AT + timedelta(days=90))).warnings
    assert "91 days" in warning


@pytest.mark.parametrize("garbage", [b"", b"nonsense", b"\x30\x82\x00\x01\x00", bytes(32_768)])
def test_garbage_is_no_certificate(trust: TrustAnchors, garbage: bytes) -> None:
    """Whatever the service signs, an unreadable certificate is refused by its own check."""
    with pytest.raises(VerificationError) as caught:
        verify_certificate(garbage, public_key=b"", customer=CUSTOMER, trust=trust, at=AT)
    assert caught.value.check == "certificate"


def test_bench_puts_the_customer_where_we_look() -> None:
    """The subject that the bench gives holds the customer ID."""
    assert any(CUSTOMER in str(part.value) for part in customer_subject(CUSTOMER, "Name", "1"))
