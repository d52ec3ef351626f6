"""Hostile answers, continued: weak algorithms, and signers whom nobody should believe."""

from __future__ import annotations

import functools
import hashlib
import hmac
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from asn1crypto import algos, core
from asn1crypto import x509 as asn1
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding

from harness.forge import AT, C14N, ENC, EXCLUSIVE, MORE, YEAR, Forge, Sample, b64, envelope
from harness.hostile_answers import Build
from varmenne.service.interface import DSIG
from varmenne.testbench.family import KeyPair, bench_name, build_certificate, der, key_usage, pem

SHAPE = "signature-shape"


def _with(check: str, **changes: Any) -> tuple[str, Build]:
    """The service signs with something changed."""
    return check, lambda forge: forge.answer(**changes)


def _value(check: str, make: Callable[[Forge, bytes], bytes], **changes: Any) -> tuple[str, Build]:
    """The signature's value is made in another way."""
    return check, lambda forge: forge.answer(sign_octets=functools.partial(make, forge), **changes)


def _hmac(forge: Forge, octets: bytes) -> bytes:
    """Use the certificate, which everybody has, as the secret."""
    return hmac.digest(pem(forge.signer.certificate), octets, "sha256")


def _pss(forge: Forge, octets: bytes) -> bytes:
    return forge.signer.key.sign(octets, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())


def _of_sha1(forge: Forge, octets: bytes) -> bytes:
    return forge.signer.key.sign(octets, padding.PKCS1v15(), hashes.SHA1())  # noqa: S303 - that is the attack


def _cut(forge: Forge, octets: bytes) -> bytes:
    return forge.signer.key.sign(octets, padding.PKCS1v15(), hashes.SHA256())[:-1]


def _lengthened(forge: Forge, octets: bytes) -> bytes:
    return b"\0" + forge.signer.key.sign(octets, padding.PKCS1v15(), hashes.SHA256())


def _raw_digest(_forge: Forge, octets: bytes) -> bytes:
    return hashlib.sha256(octets).digest()


def _of_other_octets(forge: Forge, octets: bytes) -> bytes:
    return forge.signer.key.sign(octets + b" ", padding.PKCS1v15(), hashes.SHA256())


XMLDSIG_SHA1 = f"{DSIG}rsa-sha1"

ALGORITHMS: dict[str, tuple[str, Build]] = {
    "digest SHA-1": _with(SHAPE, digest_method=f"{DSIG}sha1", digest_hash=hashes.SHA1()),  # noqa: S303
    "digest MD5": _with(SHAPE, digest_method=f"{MORE}md5", digest_hash=hashes.MD5()),  # noqa: S303
    "digest SHA-224": _with(SHAPE, digest_method=f"{MORE}sha224", digest_hash=hashes.SHA224()),
    "digest RIPEMD-160": _with(SHAPE, digest_method=f"{ENC}ripemd160"),
    "digest SHA3-256": _with(SHAPE, digest_method="http://www.w3.org/2007/05/xmldsig-more#sha3-256"),
    "digest unknown": _with(SHAPE, digest_method="urn:unknown"),
    "digest without a name": _with(SHAPE, digest_method=""),
    "digest named SHA-256, made with SHA-1": _with("signature", digest_hash=hashes.SHA1()),  # noqa: S303
    "digest named SHA-512, made with SHA-256": _with("signature", digest_method=f"{ENC}sha512"),
    "signature RSA-SHA1": _with(SHAPE, method=XMLDSIG_SHA1, signature_hash=hashes.SHA1()),  # noqa: S303
    "signature RSA-MD5": _with(SHAPE, method=f"{MORE}rsa-md5"),
    "signature RSA-SHA224": _with(SHAPE, method=f"{MORE}rsa-sha224", signature_hash=hashes.SHA224()),
    "signature RSA-PSS": _value(SHAPE, _pss, method="http://www.w3.org/2007/05/xmldsig-more#sha256-rsa-MGF1"),
    "signature DSA-SHA1": _with(SHAPE, method=f"{DSIG}dsa-sha1"),
    "signature ECDSA": _with(SHAPE, method=f"{MORE}ecdsa-sha256"),
    "signature HMAC with the certificate as secret": _value(SHAPE, _hmac, method=f"{MORE}hmac-sha256"),
    "signature HMAC-SHA1": _value(SHAPE, _hmac, method=f"{DSIG}hmac-sha1"),
    "signature HMAC cut to nothing": _value(
        SHAPE, _hmac, method=f"{MORE}hmac-sha256", method_inside="<ds:HMACOutputLength>0</ds:HMACOutputLength>"
    ),
    "RSA with an HMAC length": _with(SHAPE, method_inside="<ds:HMACOutputLength>8</ds:HMACOutputLength>"),
    "signature unknown": _with(SHAPE, method="urn:unknown"),
    "signature none": _with(SHAPE, method="none"),
    "named RSA-SHA256, made with SHA-1": _value("signature", _of_sha1),
    "named RSA-SHA256, made with PSS": _value("signature", _pss),
    "named RSA-SHA512, made with SHA-256": _with("signature", method=f"{MORE}rsa-sha512"),
    "value empty": _value("signature", lambda _forge, _octets: b""),
    "value of one byte": _value("signature", lambda _forge, _octets: b"\1"),
    "value of zeros": _value("signature", lambda _forge, _octets: bytes(256)),
    "value of ones": _value("signature", lambda _forge, _octets: bytes(255) + b"\1"),
    "value longer than the key": _value("signature", lambda _forge, _octets: b"\xff" * 257),
    "value with a zero before it": _value("signature", _lengthened),
    "value a byte short": _value("signature", _cut),
    "value a bare digest": _value("signature", _raw_digest),
    "value of other octets": _value("signature", _of_other_octets),
    "canonicalisation with comments": _with(SHAPE, c14n=f"{C14N}#WithComments"),
    "exclusive canonicalisation with comments": _with(SHAPE, c14n=f"{EXCLUSIVE}WithComments"),
    "canonicalisation unknown": _with(SHAPE, c14n="urn:unknown"),
    "canonicalisation 2.0": _with(SHAPE, c14n="http://www.w3.org/2010/xml-c14n2"),
    "canonicalisation without a name": _with(SHAPE, c14n=""),
}


def _other_canonicalisation(forge: Forge) -> bytes:
    """SignedInfo names exclusive C14N, and was signed over inclusive."""
    text = forge.signed(newline="\n")
    return envelope(
        text.replace(f'CanonicalizationMethod Algorithm="{C14N}"', f'CanonicalizationMethod Algorithm="{EXCLUSIVE}"')
    )


ALGORITHMS["canonicalisation another than named"] = ("signature", _other_canonicalisation)


def _signed_by(check: str, signer: Callable[[Forge], KeyPair], **changes: Any) -> tuple[str, Build]:
    """Somebody else signs, and says so: the certificate in the signature is theirs."""
    return check, lambda forge: forge.answer(signer=signer(forge), **changes)


def _rogue(forge: Forge) -> KeyPair:
    """An authority with the name of the services CA, made by a stranger."""
    extensions = [(x509.BasicConstraints(True, None), True), (key_usage("key_cert_sign"), True)]
    certificate = build_certificate(
        forge.services.certificate.subject, forge.other_key.public_key(), None, own_key=forge.other_key,
        begin=AT - YEAR, end=AT + YEAR, extensions=extensions,
    )  # fmt: skip
    return KeyPair(certificate, forge.other_key)


def _self_signed(forge: Forge) -> KeyPair:
    """A certificate with the service's name, signed by its own key."""
    certificate = build_certificate(
        forge.signer.certificate.subject, forge.other_key.public_key(), None, own_key=forge.other_key,
        begin=AT - YEAR, end=AT + YEAR, extensions=[(x509.BasicConstraints(False, None), True)],
    )  # fmt: skip
    return KeyPair(certificate, forge.other_key)


def _below_the_signer(forge: Forge) -> KeyPair:
    """The service's end entity certificate issues another."""
    return forge.issue(forge.signer, key=forge.other_key)


def _below_a_customer(forge: Forge) -> KeyPair:
    """A customer's certificate issues one with the service's name."""
    return forge.issue(forge.customer)


def _sub_authority(forge: Forge) -> KeyPair:
    """An authority below the services CA."""
    return forge.issue(forge.services, name="FORGE Sub CA", key=forge.other_key, ca=True, usage=("key_cert_sign",))


def _below_sub_authority(forge: Forge) -> Sample:
    """The services CA issued an authority, and that one the signer; only direct issuing is believed."""
    sub = _sub_authority(forge)
    signer = forge.issue(sub)
    return Sample(forge.answer(signer=signer, certificates=[der(signer.certificate), der(sub.certificate)]))


def _strange_critical(forge: Forge) -> KeyPair:
    """A critical extension that nobody knows."""
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4.5"), b"\x05\x00")
    return _issued_with(forge, unknown)


def _unreadable_usage(forge: Forge) -> KeyPair:
    """A key usage whose bit string says that bits are unused which it does not have (X.690, 8.6.2)."""
    usage = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.15"), b"\x03\x01\x07")
    return forge.issue(forge.services, usage=None, extensions=[(usage, True)])


def _many_policies(forge: Forge) -> KeyPair:
    """As many policies as would make the tree of RFC 5280, section 6.1.2, costly."""
    policies = [x509.PolicyInformation(x509.ObjectIdentifier(f"1.2.3.{number}"), None) for number in range(3000)]
    return forge.issue(forge.services, extensions=[(x509.CertificatePolicies(policies), False)])


def _issued_with(forge: Forge, extension: x509.ExtensionType) -> KeyPair:
    return forge.issue(forge.services, extensions=[(extension, True)])


def _constrained(forge: Forge) -> Sample:
    """The services CA may issue for one name only, and the signer has another."""
    allowed = x509.NameConstraints([x509.DirectoryName(bench_name("FORGE somebody else"))], None)
    extensions = [
        (x509.BasicConstraints(True, None), True), (key_usage("key_cert_sign"), True), (allowed, True)
    ]  # fmt: skip
    certificate = build_certificate(
        bench_name("FORGE Constrained CA"), forge.services.key.public_key(), forge.root, begin=AT - YEAR,
        end=AT + YEAR, extensions=extensions,
    )  # fmt: skip
    authority = KeyPair(certificate, forge.services.key)
    return Sample(forge.answer(signer=forge.issue(authority)), services=(der(certificate),))


@functools.cache
def _weak_key() -> Any:
    return Forge.new_key(1024)


def _elliptic(forge: Forge) -> bytes:
    """The certificate's key is not RSA."""
    pair = forge.issue(forge.services, key=ec.generate_private_key(ec.SECP256R1()))
    return forge.answer(certificates=[der(pair.certificate)])


def _sha1_certificate(forge: Forge) -> bytes:
    """The services CA signed the certificate with SHA-1, of which collisions can be made."""
    parsed = asn1.Certificate.load(der(forge.signer.certificate))
    algorithm = algos.SignedDigestAlgorithm({"algorithm": "sha1_rsa", "parameters": core.Null()})
    parsed["tbs_certificate"]["signature"] = algorithm
    parsed["signature_algorithm"] = algorithm
    octets = parsed["tbs_certificate"].dump(force=True)
    parsed["signature_value"] = forge.services.key.sign(octets, padding.PKCS1v15(), hashes.SHA1())  # noqa: S303
    return forge.answer(certificates=[parsed.dump(force=True)])


def _at(moment: datetime) -> Build:
    """A genuine answer, looked at at another time."""
    return lambda forge: Sample(forge.answer(), at=moment)


def _carrying(check: str, certificates: Callable[[Forge], list[bytes]], *, by_other: bool = False) -> tuple[str, Build]:
    """The signature carries other certificates than its signer's."""

    def build(forge: Forge) -> bytes:
        signer = KeyPair(forge.signer.certificate, forge.other_key) if by_other else forge.signer
        return forge.answer(signer=signer, certificates=certificates(forge))

    return check, build


def _own(forge: Forge) -> bytes:
    return der(forge.signer.certificate)


def _key_info(check: str, inside: str) -> tuple[str, Build]:
    """KeyInfo says in another way which key it is."""
    return check, lambda forge: forge.answer(key_info=f"<ds:KeyInfo>{inside}</ds:KeyInfo>")


def _key_value(of: Any) -> str:
    numbers = of.public_key().public_numbers()
    return (
        f"<ds:KeyValue><ds:RSAKeyValue><ds:Modulus>{b64(numbers.n.to_bytes(256))}</ds:Modulus>"
        "<ds:Exponent>AQAB</ds:Exponent></ds:RSAKeyValue></ds:KeyValue>"
    )


def _attackers_key_value(forge: Forge) -> bytes:
    """The certificate is the service's, the KeyValue and the signature the attacker's."""
    signer = KeyPair(forge.signer.certificate, forge.other_key)
    return forge.answer(signer=signer, key_info_more=_key_value(forge.other_key))


def _key_value_alone(forge: Forge) -> bytes:
    """There is no certificate, only the attacker's key."""
    signer = KeyPair(forge.signer.certificate, forge.other_key)
    return forge.answer(signer=signer, key_info=f"<ds:KeyInfo>{_key_value(forge.other_key)}</ds:KeyInfo>")


def _garbled(octets: bytes) -> bytes:
    return octets[:40] + b"\xff\xff\xff\xff" + octets[44:]


RETRIEVAL = f'<ds:RetrievalMethod URI="http://127.0.0.1:9/key" Type="{DSIG}rawX509Certificate"/>'
SERIAL = (
    "<ds:X509Data><ds:X509IssuerSerial><ds:X509IssuerName>CN=FORGE Services CA</ds:X509IssuerName>"
    "<ds:X509SerialNumber>1</ds:X509SerialNumber></ds:X509IssuerSerial></ds:X509Data>"
)

TRUST: dict[str, tuple[str, Build]] = {
    "a customer of the same root signs": _signed_by("chain", lambda forge: forge.customer),
    "a customer signs and sends the chain": (
        "chain",
        lambda forge: forge.answer(
            signer=forge.customer,
            certificates=[der(pair.certificate) for pair in (forge.customer, forge.providers, forge.root)],
        ),
    ),
    "an authority of the same name": _signed_by("chain", lambda forge: forge.issue(_rogue(forge))),
    "an authority of the same name, chain sent": (
        "chain",
        lambda forge: forge.answer(
            signer=(signer := forge.issue(_rogue(forge))),
            certificates=[der(signer.certificate), der(_rogue(forge).certificate)],
        ),
    ),
    "self-signed with the service's name": _signed_by("chain", _self_signed),
    "issued by the root": _signed_by("chain", lambda forge: forge.issue(forge.root)),
    "issued by the service's own certificate": _signed_by("chain", _below_the_signer),
    "issued by a customer": _signed_by("chain", _below_a_customer),
    "issued by an authority below the services CA": ("chain", _below_sub_authority),
    "the services CA itself": _signed_by("signer", lambda forge: forge.services),
    "an authority below the services CA": _signed_by("signer", _sub_authority),
    "the root itself": _signed_by("signer", lambda forge: forge.root),
    "ended yesterday": _signed_by(
        "chain", lambda forge: forge.issue(forge.services, begin=AT - YEAR, end=AT - timedelta(days=1))
    ),
    "begins tomorrow": _signed_by(
        "chain", lambda forge: forge.issue(forge.services, begin=AT + timedelta(days=1), end=AT + YEAR)
    ),
    "looked at after its end": ("chain", _at(AT + 2 * YEAR)),
    "looked at before its beginning": ("chain", _at(AT - 2 * YEAR)),
    "looked at after the CA's end": ("chain", _at(AT + 20 * YEAR)),
    "may only encipher": _signed_by("signer", lambda forge: forge.issue(forge.services, usage=("key_encipherment",))),
    "may only agree on keys": _signed_by("signer", lambda forge: forge.issue(forge.services, usage=("key_agreement",))),
    "an unknown critical extension": _signed_by("chain", _strange_critical),
    "a key usage that cannot be read": _signed_by("signer", _unreadable_usage),
    "three thousand policies": _signed_by("chain", _many_policies),
    "outside the CA's name constraints": ("chain", _constrained),
    "a key of 1024 bits": _signed_by("signer", lambda forge: forge.issue(forge.services, key=_weak_key())),
    "a key on an elliptic curve": ("signer", _elliptic),
    "a certificate signed with SHA-1": ("chain", _sha1_certificate),
    "no anchor at all": ("chain", lambda forge: Sample(forge.answer(), services=())),
    "the anchors are the customers'": (
        "chain",
        lambda forge: Sample(forge.answer(), services=(der(forge.providers.certificate),)),
    ),
    "the service's certificate with another key's signature": _carrying(
        "signature", lambda f: [_own(f)], by_other=True
    ),
    "two end entities": _carrying("signer", lambda f: [_own(f), der(f.customer.certificate)]),
    "the same certificate twice": _carrying("signer", lambda f: [_own(f), _own(f)]),
    "six certificates": _carrying(SHAPE, lambda f: [_own(f)] + [der(f.root.certificate)] * 5),
    "no certificate in X509Data": _carrying("schema", lambda _f: []),
    "an empty certificate": _carrying("signer", lambda _f: [b""]),
    "a garbled certificate": _carrying("chain", lambda f: [_garbled(_own(f))]),
    "half a certificate": _carrying("signer", lambda f: [_own(f)[:400]]),
    "a certificate with bytes after it": _carrying("signer", lambda f: [_own(f) + b"\0"]),
    "a certificate in PEM": _carrying("signer", lambda f: [pem(f.signer.certificate)]),
    "garbage beside the certificate": _carrying("signer", lambda f: [_own(f), b"\x30\x03\x02\x01\x01"]),
    "no KeyInfo": ("signature-shape", lambda forge: forge.answer(key_info="")),
    "empty KeyInfo": _key_info("schema", ""),
    "a name of a key": _key_info(SHAPE, "<ds:KeyName>the service</ds:KeyName>"),
    "a key to be fetched": _key_info(SHAPE, RETRIEVAL),
    "issuer and serial number alone": _key_info(SHAPE, SERIAL),
    "PGP": _key_info(SHAPE, "<ds:PGPData><ds:PGPKeyID>AAAA</ds:PGPKeyID></ds:PGPData>"),
    "SPKI": _key_info(SHAPE, "<ds:SPKIData><ds:SPKISexp>AAAA</ds:SPKISexp></ds:SPKIData>"),
    "management data": _key_info(SHAPE, "<ds:MgmtData>key exchange</ds:MgmtData>"),
    "the attacker's KeyValue beside the certificate": ("signer", _attackers_key_value),
    "a KeyValue alone": ("signature-shape", _key_value_alone),
    "the genuine key with another's KeyValue": (
        "signer",
        lambda forge: forge.answer(key_info_more=_key_value(forge.other_key)),
    ),
    "a key to be fetched beside the certificate": (SHAPE, lambda forge: forge.answer(key_info_more=RETRIEVAL)),
    "a revocation list beside the certificate": (
        SHAPE,
        lambda forge: forge.answer(x509_more="<ds:X509CRL>AAAA</ds:X509CRL>"),
    ),
    "X509Data twice": (
        SHAPE,
        lambda forge: forge.answer(
            key_info_more=f"<ds:X509Data><ds:X509Certificate>{b64(der(forge.customer.certificate))}</ds:X509Certificate></ds:X509Data>"
        ),
    ),
}
