"""The way through the e-service's form: a person carries the CSR there and the certificate back."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from harness.signers import SoftwareSigner
from harness.stage import NAME, Listener, Stage, order_for
from varmenne.clock import system_clock
from varmenne.csr import build_csr, to_pem
from varmenne.domain.identifiers import Channel, CustomerId
from varmenne.domain.steps import Method, State
from varmenne.enrollment.enroll import enroll, go_on, import_certificate, make_request, unfinished
from varmenne.errors import StateError, VarmenneError, VaultUnavailable, VerificationError
from varmenne.journal import Journal
from varmenne.service.certificates import read_certificate_file

WAIT = timedelta(seconds=20)


def pem(der: bytes) -> bytes:
    """Write a certificate in PEM."""
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)


def chain_of(stage: Stage) -> list[x509.Certificate]:
    """Return the CA certificates of the bench, as a download would bring them along."""
    paths = sorted((stage.bench.trust_dir / "test").glob("*/*.pem"))
    return [x509.load_pem_x509_certificate(path.read_bytes()) for path in paths]


FORMS: dict[str, Callable[[bytes, list[x509.Certificate]], bytes]] = {
    "pem": lambda der, _chain: pem(der),
    "der": lambda der, _chain: der,
    "p7b": lambda der, chain: pkcs7.serialize_certificates([*chain, x509.load_der_x509_certificate(der)], Encoding.DER),
    "p7b in pem": lambda der, chain: pkcs7.serialize_certificates(
        [x509.load_der_x509_certificate(der), *chain], Encoding.PEM
    ),
    "pem chain": lambda der, chain: b"".join(ca.public_bytes(Encoding.PEM) for ca in chain) + pem(der),
    "pem with text": lambda der, _chain: b"Here it is:\r\n\r\n" + pem(der).replace(b"\n", b"\r\n"),
}


@pytest.mark.parametrize("form", FORMS)
def test_there_and_back(shared_stage: Stage, form: str) -> None:
    """In each form that a download may have, the certificate is verified and stored like any other."""
    stage, customer = shared_stage, form
    channel = Channel.SFTP if form == "der" else Channel.WS
    listener = Listener()
    with stage.parts() as parts:
        row = make_request(parts, listener, order_for(customer, name=NAME, channel=channel))
        assert (row.state, row.method, row.owner) == (State.KEYED, Method.E_SERVICE, None)
        assert row.csr is not None
        assert unfinished(parts) == ()
        assert go_on(parts, listener, row, wait=WAIT) == row
    before = stage.sent()
    certificate = stage.carried(row.csr, customer)
    assert stage.sent() == before + 1
    data = FORMS[form](certificate, chain_of(stage))
    with stage.parts() as parts:
        done = import_certificate(parts, listener, row, read_certificate_file(data), wait=WAIT)
        assert parts.token.certificates(row.key_id) == (certificate,)
    assert (done.state, done.owner, done.vault_version) == (State.ACTIVE, None, 1)
    assert done.certificate is not None
    assert x509.load_pem_x509_certificate(done.certificate.encode()) == x509.load_der_x509_certificate(certificate)
    assert stage.keys_of(done) == 1
    assert list(stage.vault.versions(done.vault_path or "")) == ["1"]
    assert listener.told("reached") == [
        *(State.PREPARED, State.KEYED, State.KEYED),
        *(State.ISSUED, State.STORED, State.ACTIVE),
    ]


def test_foreign_certificates_change_nothing(shared_stage: Stage) -> None:
    """A certificate for another key, or of another family, is refused with the check that it failed."""
    stage = shared_stage
    with stage.parts() as parts:
        row = make_request(parts, Listener(), order_for("foreign"))
    assert row.csr is not None
    signer = SoftwareSigner()
    other_key = stage.carried(to_pem(build_csr(signer, CustomerId("foreign"), None)), "foreign")
    family = stage.bench.state.family()
    key = x509.load_pem_x509_csr(row.csr.encode()).public_key()
    subject = x509.load_pem_x509_csr(row.csr.encode()).subject
    wrong_issuer = family.issue(subject, key, system_clock(), issuer="services")  # type: ignore[arg-type]  # it is RSA
    before = stage.world()
    with stage.parts() as parts:
        for certificate, check in ((other_key, "key"), (wrong_issuer.public_bytes(Encoding.DER), "chain")):
            with pytest.raises(VerificationError) as caught:
                import_certificate(parts, Listener(), row, (certificate,), wait=WAIT)
            assert caught.value.check == check
        assert parts.journal.get(row.id) == row
        assert parts.token.certificates(row.key_id) == ()
    assert stage.world() == before


def test_only_who_waits_for_a_certificate_gets_one(shared_stage: Stage) -> None:
    """Neither an enrollment by the API nor a finished one takes a certificate from a person."""
    stage = shared_stage
    with stage.parts() as parts:
        order = stage.order("by-api")
        row = enroll(parts, Listener(), order_for("by-api"), stage.credentials(order), wait=WAIT)
        before = stage.world()
        with pytest.raises(StateError, match="does not wait for a certificate") as caught:
            import_certificate(parts, Listener(), row, (b"",), wait=WAIT)
        assert stage.world() == before
    assert "active, by api" in caught.value.why


def test_replacing_by_hand(shared_stage: Stage) -> None:
    """A carried certificate takes the place of another one by name, as an enrolled one does."""
    stage = shared_stage
    with stage.parts() as parts:
        order = stage.order("replace-me")
        first = enroll(parts, Listener(), order_for("replace-me"), stage.credentials(order), wait=WAIT)
        with pytest.raises(StateError, match="has an active certificate"):
            make_request(parts, Listener(), order_for("replace-me"))
        row = make_request(parts, Listener(), order_for("replace-me", replaces=first.id))
        assert row.csr is not None
        done = import_certificate(parts, Listener(), row, (stage.carried(row.csr, "replace-me"),), wait=WAIT)
        assert parts.journal.get(first.id).state is State.SUPERSEDED
    assert (done.state, done.vault_version, done.generation) == (State.ACTIVE, 2, 2)


def test_vault_goes_down_at_import(stage: Stage) -> None:
    """An imported certificate is durable before anything else happens with it."""
    with stage.parts() as parts:
        row = make_request(parts, Listener(), order_for())
    assert row.csr is not None
    certificate = stage.carried(row.csr)
    stage.configure(vault={"address": "http://127.0.0.1:9", "connect_timeout_seconds": 0.2})
    with stage.parts() as parts, pytest.raises(VaultUnavailable):
        import_certificate(parts, Listener(), row, (certificate,), wait=WAIT)
    stage.configure()
    with stage.parts() as parts:
        row = parts.journal.get(row.id)
        assert (row.state, row.owner) == (State.ISSUED, None)
        assert go_on(parts, Listener(), row, wait=WAIT).state is State.ACTIVE
    assert list(stage.versions()) == ["1"]


def test_a_request_that_was_cut_off_is_finished(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key whose CSR was never made is unfinished work, and going on makes the CSR with that key."""
    with stage.parts() as parts:
        with monkeypatch.context() as patched:

            def fail(*_arguments: object) -> str:
                raise VarmenneError("the power went out")

            patched.setattr("varmenne.enrollment.enroll.make_csr", fail)
            with pytest.raises(VarmenneError, match="the power went out"):
                make_request(parts, Listener(), order_for())
        (row,) = unfinished(parts)
        assert (row.state, row.csr, row.owner) == (State.KEYED, None, None)
        done = go_on(parts, Listener(), row, wait=WAIT)
        assert done.csr is not None
        assert unfinished(parts) == ()
    assert stage.keys_of(done) == 1
    with Journal(stage.state_dir) as journal:
        assert [event.step for event in journal.history(row.id)] == ["prepare", "generate", "csr"]
