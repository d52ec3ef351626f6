"""One-time credentials are spent once, by the right customer, in time; a refusal changes nothing."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from harness.bench import StartBench
from testbench.proofs import VERIFIERS
from testbench.stranger import CUSTOMER, Stranger, csr, get, sign_new
from varmenne.domain.identifiers import Environment
from varmenne.testbench.refusals import REFUSALS, Language
from varmenne.testbench.service import Repeats
from varmenne.testbench.state import Order

OTHER = "7654321-0"


def test_credentials_work_once(stranger: Stranger) -> None:
    """The second request with the same transfer ID is refused, whatever its CSR."""
    order = stranger.order()
    first = stranger.call(sign_new(order, csr(stranger.keys[0])))
    before = stranger.kept()
    again = stranger.call(sign_new(order, csr(stranger.keys[0])))
    another = stranger.call(sign_new(order, csr(stranger.keys[1])))
    assert (first.result, again.result, another.result) == ("OK", "PKI113", "PKI113")
    assert stranger.kept() == before


def test_repeats_may_get_the_same_answer(start_bench: StartBench, keys: Sequence[rsa.RSAPrivateKey]) -> None:
    """The other thing that the real service could do: the same key gets the same RetrievalId, any other is refused."""
    stranger = Stranger(start_bench(repeats=Repeats.SAME_ANSWER), keys)
    order = stranger.order()
    first = stranger.call(sign_new(order, csr(keys[0])))
    before = stranger.kept()
    again = stranger.call(sign_new(order, csr(keys[0])))
    another = stranger.call(sign_new(order, csr(keys[1])))
    wrong = stranger.call(sign_new(order, csr(keys[0]), TransferPassword="wrong"))
    assert (first.result, again.result, another.result, wrong.result) == ("OK", "OK", "PKI113", "PKI112")
    assert again.text("RetrievalId") == first.text("RetrievalId")
    assert stranger.kept() == before


REFUSED: dict[str, tuple[str, Callable[[Order], dict[str, str]]]] = {
    "another environment": ("PKI101", lambda _order: {"Environment": "PRODUCTION"}),
    "unknown transfer ID": ("PKI110", lambda _order: {"TransferId": "12345678903"}),
    "another customer": ("PKI111", lambda _order: {"CustomerId": OTHER}),
    "wrong password": ("PKI112", lambda _order: {"TransferPassword": "wrong"}),
    "password in other case": ("PKI112", lambda order: {"TransferPassword": order.one_time_password.swapcase()}),
    "not a CSR": ("PKI120", lambda _order: {"CertificateRequest": base64.b64encode(b"nothing").decode()}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_request_that_does_not_fit_its_order_is_refused_and_burns_nothing(stranger: Stranger, case: str) -> None:
    """Each refusal has a code of its own, and afterwards the right request still succeeds."""
    code, changes = REFUSED[case]
    order = stranger.order()
    before = stranger.kept()
    refused = stranger.call(sign_new(order, csr(stranger.keys[0]), **changes(order)))
    assert (refused.result, stranger.kept()) == (code, before)
    assert stranger.call(sign_new(order, csr(stranger.keys[0]))).result == "OK"


def test_many_wrong_passwords_burn_nothing(stranger: Stranger) -> None:
    """Wrong passwords are counted, not punished: the real service's limit is unknown."""
    order = stranger.order()
    for _ in range(10):
        assert stranger.call(sign_new(order, csr(stranger.keys[0]), TransferPassword="guess")).result == "PKI112"
    stored = stranger.bench.state.store.find_order(order.transfer_id)
    assert (stored and stored.wrong_passwords) == 10
    assert stranger.call(sign_new(order, csr(stranger.keys[0]))).result == "OK"


@pytest.mark.parametrize(("age", "result"), [(timedelta(days=13, hours=23), "OK"), (timedelta(days=14), "PKI114")])
def test_credentials_end_after_fourteen_days(stranger: Stranger, age: timedelta, result: str) -> None:
    """The 14 days are counted by the bench's clock."""
    order = stranger.order()
    before = stranger.kept()
    stranger.bench.state.advance_clock(age)
    assert stranger.call(sign_new(order, csr(stranger.keys[0]))).result == result
    assert (stranger.kept() == before) == (result != "OK")


def _damaged(request: bytes) -> bytes:
    return request[:-1] + bytes([request[-1] ^ 1])


def _csr_of_curve() -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(Encoding.DER)


def _csr_of(bits: int) -> bytes:
    return csr(rsa.generate_private_key(public_exponent=65537, key_size=bits))


BAD_CSRS: dict[str, tuple[str, Callable[[rsa.RSAPrivateKey], bytes]]] = {
    "PEM": ("PKI120", lambda key: b"-----BEGIN CERTIFICATE REQUEST-----\n" + base64.b64encode(csr(key))),
    "bytes behind it": ("PKI120", lambda key: csr(key) + b"\0"),
    "cut off": ("PKI120", lambda key: csr(key)[:-10]),
    "SHA-512": ("PKI121", lambda key: csr(key, hashes.SHA512())),
    "elliptic curve": ("PKI121", lambda _key: _csr_of_curve()),
    "RSA of 1024 bits": ("PKI122", lambda _key: _csr_of(1024)),
    "RSA of 3072 bits": ("PKI122", lambda _key: _csr_of(3072)),
    "damaged signature": ("PKI123", lambda key: _damaged(csr(key))),
}


@pytest.mark.parametrize("case", BAD_CSRS)
def test_a_bad_csr_is_refused_and_burns_nothing(stranger: Stranger, case: str) -> None:
    """RSA of 2048 bits and SHA-256, in DER, with a signature that verifies: nothing else gets a certificate."""
    code, make = BAD_CSRS[case]
    order = stranger.order()
    before = stranger.kept()
    refused = stranger.call(sign_new(order, make(stranger.keys[0])))
    assert (refused.result, stranger.kept()) == (code, before)


def test_a_key_gets_one_certificate_only(stranger: Stranger) -> None:
    """Not even under a new order: each enrollment has a key of its own."""
    stranger.enroll()
    order = stranger.order()
    before = stranger.kept()
    assert stranger.call(sign_new(order, csr(stranger.keys[0]))).result == "PKI124"
    assert stranger.kept() == before


def test_eight_at_once_with_one_transfer_id_get_one_certificate(stranger: Stranger) -> None:
    """However the threads run, one wins and seven are told that the transfer ID is used."""
    order = stranger.order()
    requests = [csr(key) for key in [*stranger.keys, *stranger.keys, *stranger.keys][:8]]
    results: list[str] = []
    start = threading.Barrier(8)

    def submit(request: bytes) -> None:
        start.wait()
        results.append(stranger.call(sign_new(order, request)).result)

    threads = [threading.Thread(target=submit, args=(request,)) for request in requests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    assert results.count("OK") == 1
    assert set(results) <= {"OK", "PKI113", "PKI124"}
    assert len(stranger.kept()[1]) == 1


def test_issuing_takes_its_time(start_bench: StartBench, keys: Sequence[rsa.RSAPrivateKey]) -> None:
    """The certificate is "not ready" until the delay has passed by the bench's clock, then it stays the same."""
    stranger = Stranger(start_bench(delay_seconds=300), keys)
    accepted = stranger.call(sign_new(stranger.order(), csr(keys[0])))
    early = stranger.call(get(accepted.text("RetrievalId")))
    stranger.bench.state.advance_clock(timedelta(seconds=300))
    first, second = (stranger.call(get(accepted.text("RetrievalId"))) for _ in range(2))
    assert (early.result, early.text("Certificate"), first.result) == ("PKI132", "", "OK")
    assert first.certificate == second.certificate


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"retrieval_id": "unknown"}, "PKI130"),
        ({"customer": OTHER}, "PKI131"),
        ({"environment": "PRODUCTION"}, "PKI101"),
    ],
)
def test_a_certificate_is_given_to_its_customer_only(stranger: Stranger, changes: dict[str, str], code: str) -> None:
    """A RetrievalId alone is not enough, and an unknown one gives nothing."""
    accepted = stranger.call(sign_new(stranger.order(), csr(stranger.keys[0])))
    before = stranger.kept()
    refused = stranger.call(get(**({"retrieval_id": accepted.text("RetrievalId")} | changes)))
    assert (refused.result, refused.text("Certificate"), stranger.kept()) == (code, "", before)


def test_a_bench_can_be_of_production(start_bench: StartBench, keys: Sequence[rsa.RSAPrivateKey]) -> None:
    """With --environment production it takes PRODUCTION only, and its trust folder is there as well."""
    stranger = Stranger(start_bench(environment=Environment.PRODUCTION), keys)
    order = stranger.order()
    assert stranger.call(sign_new(order, csr(keys[0]))).result == "PKI101"
    assert stranger.call(sign_new(order, csr(keys[0]), Environment="PRODUCTION")).result == "OK"
    assert sorted(folder.name for folder in stranger.bench.trust_dir.iterdir()) == ["production", "test"]


@pytest.mark.parametrize("language", Language)
def test_refusals_are_signed_and_in_the_chosen_language(
    start_bench: StartBench, keys: Sequence[rsa.RSAPrivateKey], language: Language
) -> None:
    """An error is an answer like any other: it verifies, and its text is that of the table."""
    answer = Stranger(start_bench(language=language), keys).call(get("unknown"))
    assert answer.text("Result/ErrorInfo/ErrorMessage") == REFUSALS["PKI130"].message(language)
    assert (answer.status, answer.text("Result/Status"), answer.text("RetrievalId")) == (200, "FAIL", "")


def test_refusals_verify_with_letters_beyond_ascii(start_bench: StartBench, keys: Sequence[rsa.RSAPrivateKey]) -> None:
    """Finnish and Swedish letters survive canonicalization."""
    bench = start_bench(language=Language.FINNISH)
    answer = Stranger(bench, keys).call(get("unknown", environment="PRODUCTION"))
    assert "ympäristö" in answer.text("Result/ErrorInfo/ErrorMessage")
    assert all(verify(answer.document, bench.trust_dir / "test") for verify in VERIFIERS.values())


def test_every_refusal_fits_the_schema() -> None:
    """Codes are PKI and three digits, in order, each once; messages fit in 255 characters and differ."""
    codes = list(REFUSALS)
    texts = [refusal.message(language) for refusal in REFUSALS.values() for language in Language]
    assert codes == sorted(set(codes))
    assert all(code[:3] == "PKI" and code[3:].isdigit() and len(code) == 6 for code in codes)
    assert len(set(texts)) == len(texts)
    assert all(0 < len(text) <= 255 for text in texts)


def test_the_password_is_nowhere_in_the_folder(stranger: Stranger) -> None:
    """Only a salted hash is kept, before and after the password was used."""
    order = stranger.order()
    stranger.call(sign_new(order, csr(stranger.keys[0]), TransferPassword="seldom-seen"))
    stranger.call(sign_new(order, csr(stranger.keys[0])))
    files = [path for path in stranger.bench.state.directory.rglob("*") if path.is_file()]
    found = [
        path
        for path in files
        for word in (order.one_time_password, "seldom-seen")
        if word.encode() in path.read_bytes()
    ]
    assert len(files) > 10
    assert found == []
    assert order.one_time_password not in repr(order)


def test_customers_of_any_form_are_served(stranger: Stranger) -> None:
    """Foreign identifiers have no format rule, only a length."""
    for index, customer in enumerate(("FI01234567", "Ö" * 30, "<&>' x")):
        stranger.enroll(index, customer)
    assert [row[1] for row in sorted(stranger.kept()[1], key=str)] != [CUSTOMER]
