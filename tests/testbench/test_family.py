"""The bench's authorities: like the real family, sound under strict validators, and plainly a bench's."""

from __future__ import annotations

import asyncio
import stat
import subprocess
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from harness.bench import StartBench
from testbench.stranger import Stranger, get
from varmenne.domain.identifiers import Environment
from varmenne.service.trust import load_trust, validate_path
from varmenne.testbench.server import BenchServer
from varmenne.testbench.state import BenchState


def signer_of(stranger: Stranger) -> bytes:
    """The certificate in an answer's signature, in DER."""
    import base64

    answer = stranger.call(get("unknown"))
    return base64.b64decode(next(answer.root.iter("{http://www.w3.org/2000/09/xmldsig#}X509Certificate")).text)


def as_pem(certificate: bytes, folder: Path) -> Path:
    """Write a certificate as a PEM file."""
    path = folder / "leaf.pem"
    path.write_bytes(x509.load_der_x509_certificate(certificate).public_bytes(serialization.Encoding.PEM))
    return path


@pytest.mark.parametrize("issuer", ["providers", "services"])
def test_openssl_validates_both_chains_strictly(stranger: Stranger, tmp_path: Path, issuer: str) -> None:
    """``openssl verify -x509_strict`` has nothing to say against customer's and service's certificates."""
    leaf = as_pem(stranger.enroll() if issuer == "providers" else signer_of(stranger), tmp_path)
    trust = stranger.bench.trust_dir / "test"
    command = ["openssl", "verify", "-x509_strict", "-no-CApath", "-no-CAstore", "-purpose", "sslclient"]
    chain = ["-untrusted", str(trust / "chain" / "bench-intermediate.pem")]
    chain += ["-untrusted", str(trust / issuer / f"bench-{issuer}.pem")]
    done = subprocess.run(
        [*command, "-CAfile", str(trust / "chain" / "bench-root.pem"), *chain, str(leaf)],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (done.returncode, done.stdout) == (0, f"{leaf}: OK\n")


@pytest.mark.parametrize("issuer", ["providers", "services"])
def test_certvalidator_validates_both_chains(stranger: Stranger, issuer: str) -> None:
    """Full path validation (RFC 5280) from the leaf to the root, with the bench's lists of revoked certificates."""
    from asn1crypto import crl as asn1_crl
    from asn1crypto import x509 as asn1_x509
    from pyhanko_certvalidator import CertificateValidator, ValidationContext

    leaf = stranger.enroll() if issuer == "providers" else signer_of(stranger)
    family = stranger.bench.state.family()
    chain = [asn1_x509.Certificate.load(_der(family[name].certificate)) for name in ("root", "intermediate", issuer)]
    now = stranger.bench.state.now()
    context = ValidationContext(
        trust_roots=chain[:1],
        other_certs=chain[1:],
        crls=[asn1_crl.CertificateList.load(family.crl(name, [], now)) for name in ("root", "intermediate", issuer)],
        revocation_mode="require",
        allow_fetching=False,
    )
    validator = CertificateValidator(asn1_x509.Certificate.load(leaf), validation_context=context)
    path = asyncio.run(validator.async_validate_usage({"digital_signature"}))  # type: ignore[no-untyped-call]
    assert len(list(path)) == 4


@pytest.mark.parametrize("environment", Environment)
def test_varmenne_takes_the_trust_folder_as_it_is(
    start_bench: StartBench, keys: Sequence[rsa.RSAPrivateKey], environment: Environment
) -> None:
    """The layout is that of varmenne's trust directory, and a customer's certificate validates with it."""
    bench = start_bench(environment=environment)
    anchors = load_trust(bench.trust_dir / environment.value, environment, bench.state.now())
    certificate = bench.state.family().issue(x509.Name([]), keys[0].public_key(), bench.state.now(), issuer="providers")
    path = validate_path(_der(certificate), anchors.providers, bench.state.now(), what="The certificate")
    assert (len(anchors.services), len(anchors.providers), len(anchors.chain), len(path)) == (1, 1, 2, 2)


def test_nobody_takes_them_for_real_ones(stranger: Stranger) -> None:
    """Every authority, the signer and the TLS certificates are named BENCH."""
    folder = stranger.bench.state.directory
    stranger.call(get("unknown"))
    certificates = [
        x509.load_pem_x509_certificate(path.read_bytes()) for path in folder.rglob("*.pem") if _is_certificate(path)
    ]
    names = {certificate.subject.rfc4514_string() for certificate in certificates}
    assert len(names) == 7
    assert all("CN=BENCH " in name and "O=varmenne BENCH" in name for name in names)


def test_private_files_are_private(stranger: Stranger) -> None:
    """Folders 0700, files 0600, all of them."""
    stranger.enroll()
    folder = stranger.bench.state.directory
    modes = {
        (path.is_dir(), stat.S_IMODE(path.stat().st_mode)) for path in [folder, *folder.rglob("*")] if path.exists()
    }
    assert modes == {(True, 0o700), (False, 0o600)}


def test_a_first_start_makes_the_family_and_a_second_one_keeps_it(tmp_path: Path) -> None:
    """All keys are new in a new folder, and none is afterwards; the port stays the same too."""
    with BenchServer(BenchState.create(tmp_path / "bench")) as bench:
        first = {path.name: path.read_bytes() for path in (tmp_path / "bench" / "ca").iterdir()}
        url = bench.url
    with BenchServer(BenchState.open(tmp_path / "bench")) as bench:
        assert {path.name: path.read_bytes() for path in (tmp_path / "bench" / "ca").iterdir()} == first
        assert bench.url == url
    assert (tmp_path / "bench" / "url").read_text() == f"{url}\n"
    assert {"root.key.pem", "intermediate.key.pem", "providers.key.pem", "services.key.pem"} <= set(first)


def test_a_start_that_was_cut_short_is_continued(tmp_path: Path) -> None:
    """Authorities that are missing are made under those that are there."""
    state = BenchState.create(tmp_path / "bench")
    before = state.family()
    for name in ("providers.pem", "services.pem", "services.key.pem"):
        (tmp_path / "bench" / "ca" / name).unlink()
    after = state.family()
    assert after["root"].certificate == before["root"].certificate
    assert after["providers"].key.public_key() == before["providers"].key.public_key()
    after["services"].certificate.verify_directly_issued_by(before["intermediate"].certificate)


def test_the_service_replaces_its_signing_certificate_in_time(stranger: Stranger) -> None:
    """After two simulated years answers are signed by another key of the services CA; until then by the same."""
    first = signer_of(stranger)
    stranger.bench.state.advance_clock(timedelta(days=600))
    same = signer_of(stranger)
    stranger.bench.state.advance_clock(timedelta(days=120))
    second = x509.load_der_x509_certificate(signer_of(stranger))
    assert same == first
    assert second.public_key() != x509.load_der_x509_certificate(first).public_key()
    second.verify_directly_issued_by(stranger.bench.state.family()["services"].certificate)


def test_issued_certificates_fit_under_their_authorities_for_twenty_years(stranger: Stranger) -> None:
    """Simulations of many years do not outlive the family."""
    end = stranger.bench.state.now() + timedelta(days=365 * 22)
    family = stranger.bench.state.family()
    assert all(
        family[name].certificate.not_valid_after_utc > end for name in ("root", "intermediate", "providers", "services")
    )


def test_revoked_certificates_are_on_the_published_list(stranger: Stranger) -> None:
    """The distribution point in a certificate answers over plain HTTP with a list signed by its issuer."""
    certificate = x509.load_der_x509_certificate(stranger.enroll())
    point = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value[0]
    issuers = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value[0]
    assert point.full_name
    before = x509.load_der_x509_crl(_fetch(point.full_name[0].value))
    stranger.bench.state.revoke(certificate.serial_number)
    after = x509.load_der_x509_crl(_fetch(point.full_name[0].value))
    issuer = x509.load_der_x509_certificate(_fetch(issuers.access_location.value))
    certificate.verify_directly_issued_by(issuer)
    public_key = issuer.public_key()
    assert isinstance(public_key, rsa.RSAPublicKey)
    assert after.is_signature_valid(public_key)
    assert before.get_revoked_certificate_by_serial_number(certificate.serial_number) is None
    assert after.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None


def test_the_published_documents_are_for_reading_only(stranger: Stranger) -> None:
    """The plain listener has no service and no WSDL."""
    port = stranger.bench.state.publication_port()
    base = f"http://127.0.0.1:{port}"
    with requests.Session() as session:
        session.trust_env = False
        statuses = [
            session.post(f"{base}/2017/10/CertificateServices", data=b"x", timeout=10).status_code,
            session.get(f"{base}/2017/10/CertificateServices?wsdl", timeout=10).status_code,
            session.get(f"{base}/ca/root.key.pem", timeout=10).status_code,
            session.get(f"{base}/crl/../ca/root.key.pem", timeout=10).status_code,
        ]
    assert statuses == [404, 404, 404, 404]


def test_the_tls_certificate_fits_all_names_of_this_computer(stranger: Stranger) -> None:
    """localhost, 127.0.0.1 and ::1, under a CA that is not of the family."""
    chain = x509.load_pem_x509_certificates((stranger.bench.state.directory / "tls" / "tls-server.pem").read_bytes())
    names = chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in names] == ["localhost", "127.0.0.1", "::1"]
    chain[0].verify_directly_issued_by(x509.load_pem_x509_certificate(stranger.bench.tls_ca.read_bytes()))
    answer = stranger.fetch(stranger.bench.url.replace("127.0.0.1", "localhost") + "?wsdl")
    assert answer.status == 200


def test_tls_stays_on_the_computers_time(stranger: Stranger) -> None:
    """Whatever the bench's clock says, clients verify TLS by their own, also after a restart."""
    state = stranger.bench.state
    state.advance_clock(timedelta(days=4000))
    stranger.bench.stop()
    stranger.bench.start()
    assert stranger.call(get("unknown")).result == "PKI130"


def test_ipv6_works_and_other_addresses_are_refused(start_bench: StartBench, keys: Sequence[rsa.RSAPrivateKey]) -> None:
    """Loopback only, in either family of addresses; nothing is made for another one."""
    from varmenne.errors import InputError

    assert Stranger(start_bench(host="::1"), keys).call(get("unknown")).result == "PKI130"
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.com", ""):  # noqa: S104  # to be refused
        with pytest.raises(InputError, match="does not listen"):
            start_bench(host=host)


def _fetch(url: object) -> bytes:
    with requests.Session() as session:
        session.trust_env = False
        got = session.get(str(url), timeout=10)
    assert got.status_code == 200
    return got.content


def _is_certificate(path: Path) -> bool:
    return b"BEGIN CERTIFICATE" in path.read_bytes()


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)
