"""Revocation: what a list proves, what remains unknown, and what the policies make of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from harness.forge import AT, Forge
from varmenne.clock import system_clock
from varmenne.errors import NotFinished, ServiceUnreachable, VerificationError
from varmenne.service.revocation import Policy, RevocationChecker, Status, crl_urls, judge, refuse_revoked
from varmenne.testbench.family import KeyPair, build_certificate, der, key_usage
from varmenne.testbench.server import BenchServer

DAY = timedelta(days=1)
URL = "http://127.0.0.1:9/providers.crl"


@dataclass
class Lists:
    """Makes lists of the providers CA, and certificates that point at them."""

    forge: Forge
    certificate: x509.Certificate

    def crl(self, *, by: KeyPair | None = None, **changes: Any) -> bytes:
        """Return a list in DER; everything about it can be changed."""
        authority = by or self.forge.providers
        begin, end = changes.get("begin", AT - DAY), changes.get("end", AT + DAY)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(changes.get("issuer", authority.certificate.subject))
            .last_update(begin)
            .next_update(end)
        )
        for serial, reason in changes.get("revoked", ()):
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(AT - DAY)
            if reason is not None:
                entry = entry.add_extension(x509.CRLReason(reason), critical=False)
            builder = builder.add_revoked_certificate(entry.build())
        for extension, critical in changes.get("extensions", ()):
            builder = builder.add_extension(extension, critical)
        key = changes.get("key", authority.key)
        return builder.sign(key, changes.get("algorithm", hashes.SHA256())).public_bytes(Encoding.DER)

    def judge(self, **changes: Any) -> Status:
        """Judge the certificate by a list."""
        issuer = der(self.forge.providers.certificate)
        return judge(der(self.certificate), issuer, self.crl(**changes), AT).status


@pytest.fixture(scope="session")
def lists(forge: Forge) -> Lists:
    """Return lists about one certificate of the providers CA."""
    point = x509.DistributionPoint([x509.UniformResourceIdentifier(URL)], None, None, None)
    pair = forge.issue(forge.providers, extensions=[(x509.CRLDistributionPoints([point]), False)])
    return Lists(forge, pair.certificate)


def scope(**changes: Any) -> x509.IssuingDistributionPoint:
    """Return the scope of a list."""
    names: dict[str, Any] = {"full_name": None, "relative_name": None, "only_some_reasons": None}
    kinds = ("only_contains_user_certs", "only_contains_ca_certs", "only_contains_attribute_certs")
    flags = dict.fromkeys((*kinds, "indirect_crl"), False)
    return x509.IssuingDistributionPoint(**{**names, **flags, **changes})


def test_good_and_revoked(lists: Lists) -> None:
    """A list proves either, whatever the reason; another's serial number changes nothing."""
    serial = lists.certificate.serial_number
    assert lists.judge() is Status.GOOD
    assert lists.judge(revoked=[(serial + 1, None)]) is Status.GOOD
    assert lists.judge(revoked=[(serial, None)]) is Status.REVOKED
    assert lists.judge(revoked=[(serial, x509.ReasonFlags.key_compromise)]) is Status.REVOKED
    assert lists.judge(revoked=[(serial, x509.ReasonFlags.certificate_hold)]) is Status.REVOKED
    assert lists.judge(extensions=[(scope(only_contains_user_certs=True), True)]) is Status.GOOD


@pytest.mark.parametrize(
    "changes",
    [
        {"end": AT - timedelta(hours=1), "begin": AT - DAY},
        {"begin": AT + timedelta(hours=1)},
        {"algorithm": hashes.SHA224()},
        {"extensions": [(x509.DeltaCRLIndicator(1), True)]},
        {"extensions": [(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"\x05\x00"), True)]},
        {"extensions": [(scope(only_contains_ca_certs=True), True)]},
        {"extensions": [(scope(indirect_crl=True), True)]},
        {"extensions": [(scope(only_some_reasons=frozenset({x509.ReasonFlags.key_compromise})), True)]},
    ],
)
def test_what_says_nothing_is_unknown(lists: Lists, changes: dict[str, Any]) -> None:
    """Old, from the future, weak, partial or not understood: neither good nor revoked, even with the serial in it."""
    assert lists.judge(**changes) is Status.UNKNOWN
    assert lists.judge(**changes, revoked=[(lists.certificate.serial_number, None)]) is Status.UNKNOWN


def test_list_of_somebody_else_is_unknown(lists: Lists, forge: Forge) -> None:
    """Another authority's list, and one with the right name and the wrong key."""
    assert lists.judge(by=forge.services) is Status.UNKNOWN
    assert lists.judge(key=forge.other_key) is Status.UNKNOWN


@pytest.mark.parametrize("body", [b"", b"nonsense", b"\x30\x80", bytes(5000)])
def test_garbage_is_unknown(lists: Lists, forge: Forge, body: bytes) -> None:
    """The network may give anything."""
    assert judge(der(lists.certificate), der(forge.providers.certificate), body, AT).status is Status.UNKNOWN


def test_names_in_another_order_are_the_same(lists: Lists, forge: Forge) -> None:
    """The real issuing CAs name the issuer of their list in another order than its certificate does."""
    turned = x509.Name(list(forge.providers.certificate.subject)[::-1])
    assert turned != forge.providers.certificate.subject
    assert lists.judge(issuer=turned) is Status.GOOD
    other = x509.Name([*turned, x509.NameAttribute(NameOID.LOCALITY_NAME, "Helsinki")])
    assert lists.judge(issuer=other) is Status.UNKNOWN


def test_issuer_without_the_right_to_sign_lists(lists: Lists, forge: Forge) -> None:
    """A key usage without cRLSign makes its lists worthless."""
    certificate = build_certificate(
        forge.providers.certificate.subject, forge.providers.key.public_key(), forge.root, begin=AT - DAY, end=AT + DAY,
        extensions=[(x509.BasicConstraints(True, None), True), (key_usage("key_cert_sign"), True)],
    )  # fmt: skip
    assert judge(der(lists.certificate), der(certificate), lists.crl(), AT).status is Status.UNKNOWN


def offline(_url: str) -> bytes:
    """Stand for a network that is not there."""
    raise ServiceUnreachable("nobody answers")


def outcome(lists: Lists, forge: Forge, cache: Path, get: Callable[[str], bytes], policy: Policy) -> tuple[str, ...]:
    """Look the certificate up."""
    checker = RevocationChecker(cache, 1.0, get=get)
    at = system_clock()
    return refuse_revoked([der(lists.certificate), der(forge.providers.certificate)], checker, policy, at)


def test_policies(lists: Lists, forge: Forge, tmp_path: Path) -> None:
    """Unknown: soft warns, hard waits, off does not even look. Revoked: soft and hard refuse."""
    assert outcome(lists, forge, tmp_path, offline, Policy.OFF) == ()
    (warning,) = outcome(lists, forge, tmp_path, offline, Policy.SOFT)
    assert "nobody answers" in warning
    with pytest.raises(NotFinished) as waiting:
        outcome(lists, forge, tmp_path, offline, Policy.HARD)
    assert waiting.value.transient
    now = system_clock()
    crl = lists.crl(revoked=[(lists.certificate.serial_number, None)], begin=now - DAY, end=now + DAY)
    for policy in (Policy.SOFT, Policy.HARD):
        with pytest.raises(VerificationError) as refused:
            outcome(lists, forge, tmp_path / policy, lambda _url: crl, policy)
        assert refused.value.check == "revoked"


def test_list_is_kept_and_serves_until_it_ends(lists: Lists, forge: Forge, tmp_path: Path) -> None:
    """Fetched once within the hour; privately kept; when the network is gone it serves on; and garbage is replaced."""
    now = system_clock()
    crl = lists.crl(begin=now - DAY, end=now + DAY)
    asked: list[str] = []

    def online(url: str) -> bytes:
        asked.append(url)
        return crl

    for _time in range(3):
        assert outcome(lists, forge, tmp_path, online, Policy.HARD) == ()
    assert asked == [URL]
    (kept,) = tmp_path.iterdir()
    assert kept.stat().st_mode & 0o777 == 0o600
    checker = RevocationChecker(tmp_path, 1.0, get=offline)
    issuer = der(forge.providers.certificate)
    assert checker.look_up(der(lists.certificate), issuer, now + timedelta(hours=5)).status is Status.GOOD
    assert checker.look_up(der(lists.certificate), issuer, now + 2 * DAY).status is Status.UNKNOWN
    kept.write_bytes(b"garbage")
    assert outcome(lists, forge, tmp_path, online, Policy.HARD) == ()
    assert kept.read_bytes() == crl


def test_certificate_without_an_address(forge: Forge, lists: Lists, tmp_path: Path) -> None:
    """What does not say where its list is stays unknown, and nothing is asked."""
    checker = RevocationChecker(tmp_path, 1.0, get=offline)
    found = checker.look_up(der(forge.customer.certificate), der(forge.providers.certificate), AT)
    assert found.status is Status.UNKNOWN
    assert crl_urls(der(lists.certificate)) == (URL,)
    assert crl_urls(b"nonsense") == ()


def test_lists_of_a_real_bench(bench: BenchServer, tmp_path: Path) -> None:
    """Over real HTTPS the whole path is looked up: one list of each authority."""
    family = bench.state.family()
    begin = bench.state.now() - DAY
    leaf = family.issue(x509.Name([]), Forge.new_key().public_key(), begin, issuer="providers")
    path = [der(leaf), *(der(family[name].certificate) for name in ("providers", "intermediate", "root"))]
    checker = RevocationChecker(tmp_path, 5.0, ca_file=str(bench.tls_ca))
    assert refuse_revoked(path, checker, Policy.HARD, system_clock()) == ()
    assert len(list(tmp_path.iterdir())) == 3
