"""The bench's authorities, built like the real family: a root, an intermediate, and two issuing CAs below it.

::

    BENCH Root CA v1
    └── BENCH Intermediate CA v1
        ├── BENCH Data Providers Issuing CA v1      issues customers' certificates
        └── BENCH Services Issuing CA v1            issues the service's signing certificate

Their private keys are made here in software and lie in the bench's folder (mode 0600). They are the bench's own, and
the only software keys of this package. Every name begins with BENCH, so that nobody takes them for real ones. Unlike
the real family they are sound under strict validators (RFC 5280): critical basic constraints and key usage, and key
identifiers everywhere. Validity is counted by the bench's clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID

from varmenne.testbench.files import private_folder, write_file

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

ORGANIZATION = "varmenne BENCH"
CERTIFICATE_YEARS = 2
"""How long a customer's certificate, and the service's signing certificate, is valid."""
BACKDATED = timedelta(days=365)
"""The authorities are this much older than the bench, so that its clock can be set back a little."""
SIGNER_REPLACED_BEFORE_END = timedelta(days=30)
CRL_LIFETIME = timedelta(days=7)
MAX_ORGANIZATION_LENGTH = 64
"""RFC 5280, appendix A.1: ub-organization-name. Customer names can be longer and are cut in the certificate."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate of the bench's own with its private key."""

    certificate: x509.Certificate
    key: rsa.RSAPrivateKey


@dataclass(frozen=True, slots=True)
class _Plan:
    """How one authority is made: file name, common name, issuer's file name (None for itself), key size, years."""

    name: str
    common_name: str
    issuer: str | None
    bits: int
    years: int
    path_length: int | None = None


PLANS = (
    _Plan("root", "BENCH Root CA v1", None, 3072, 32),
    _Plan("intermediate", "BENCH Intermediate CA v1", "root", 2048, 30, path_length=1),
    _Plan("providers", "BENCH Data Providers Issuing CA v1", "intermediate", 2048, 25),
    _Plan("services", "BENCH Services Issuing CA v1", "intermediate", 2048, 25),
)
FOLDER_OF = {"root": "chain", "intermediate": "chain", "providers": "providers", "services": "services"}
"""Authority → folder of varmenne's trust directory."""

_CA_USAGE = ("key_cert_sign", "crl_sign")
_LEAF_USAGE = ("digital_signature", "key_encipherment")
_ALL_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


class Family:
    """The authorities of one bench, made on first use and read from then on. Safe for several threads.

    Args:
        folder: where keys and certificates lie. Keys that are there already are used.
        base_url: where the bench publishes certificates and lists of revoked ones; written into certificates.
        now: the bench's time.
    """

    def __init__(self, folder: Path, base_url: str, now: datetime) -> None:
        private_folder(folder)
        self._folder = folder
        self._base_url = base_url
        self._authorities: dict[str, KeyPair] = {}
        for plan in PLANS:
            self._authorities[plan.name] = self._load_or_make(plan, now)
        self.revoked_signer = self._load_or_make_revoked(now)
        """A signing key whose certificate is in the services CA's list from the beginning."""

    def __getitem__(self, name: str) -> KeyPair:
        return self._authorities[name]

    def _load_or_make(self, plan: _Plan, now: datetime) -> KeyPair:
        """Read an authority, or make what is missing of it; a start that was cut short is simply continued."""
        key = software_key(self._folder / f"{plan.name}.key.pem", plan.bits)
        path = self._folder / f"{plan.name}.pem"
        if path.exists():
            return KeyPair(x509.load_pem_x509_certificate(path.read_bytes()), key)
        subject = bench_name(plan.common_name)
        begin = whole_second(now - BACKDATED)
        extensions: list[tuple[x509.ExtensionType, bool]] = [
            (x509.BasicConstraints(ca=True, path_length=plan.path_length), True),
            (key_usage(*_CA_USAGE), True),
        ]
        if plan.issuer:
            extensions += self._pointers(plan.issuer)
        certificate = build_certificate(
            subject,
            key.public_key(),
            self._authorities.get(plan.issuer or ""),
            own_key=key,
            begin=begin,
            end=years_later(begin, plan.years),
            extensions=extensions,
        )
        write_file(path, pem(certificate))
        return KeyPair(certificate, key)

    def _load_or_make_revoked(self, now: datetime) -> KeyPair:
        """Read the revoked signing key, or make it; its certificate lasts as long as the authority."""
        key = software_key(self._folder / "revoked-signer.key.pem", 2048)
        path = self._folder / "revoked-signer.pem"
        if not path.exists():
            end = self["services"].certificate.not_valid_after_utc
            write_file(path, pem(self.new_signer(now - BACKDATED, end=end, key=key).certificate))
        return KeyPair(x509.load_pem_x509_certificate(path.read_bytes()), key)

    def _pointers(self, issuer: str) -> list[tuple[x509.ExtensionType, bool]]:
        """CRL distribution point and CA Issuers, as in the real family."""
        crl = x509.UniformResourceIdentifier(f"{self._base_url}/crl/{issuer}.crl")
        cer = x509.UniformResourceIdentifier(f"{self._base_url}/ca/{issuer}.cer")
        return [
            (x509.CRLDistributionPoints([x509.DistributionPoint([crl], None, None, None)]), False),
            (
                x509.AuthorityInformationAccess(
                    [x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, cer)]
                ),
                False,
            ),
        ]

    def issue(
        self,
        subject: x509.Name,
        public_key: rsa.RSAPublicKey,
        begin: datetime,
        *,
        issuer: str,
        end: datetime | None = None,
    ) -> x509.Certificate:
        """Issue an end entity's certificate, for two years if nothing else is said."""
        begin = whole_second(begin)
        return build_certificate(
            subject,
            public_key,
            self[issuer],
            begin=begin,
            end=end or years_later(begin, CERTIFICATE_YEARS),
            extensions=[
                (x509.BasicConstraints(ca=False, path_length=None), True),
                (key_usage(*_LEAF_USAGE), True),
                *self._pointers(issuer),
            ],
        )

    def signer_at(self, now: datetime, current: KeyPair | None = None) -> KeyPair:
        """Return the service's signing key; a new one in time before its certificate ends, as the real service must.

        Not for several threads at once.

        Args:
            now: the bench's time.
            current: the key in use; without it, the one in the folder is read.
        """
        current = current or self._stored_signer(now)
        begin, end = current.certificate.not_valid_before_utc, current.certificate.not_valid_after_utc
        return current if begin <= now < end - SIGNER_REPLACED_BEFORE_END else self._keep_signer(self.new_signer(now))

    def _stored_signer(self, now: datetime) -> KeyPair:
        """Read the signing key and its certificate; a missing or foreign certificate is issued anew."""
        key = software_key(self._folder / "signer.key.pem", 2048)
        path = self._folder / "signer.pem"
        if path.exists():
            certificate = x509.load_pem_x509_certificate(path.read_bytes())
            if certificate.public_key() == key.public_key():
                return KeyPair(certificate, key)
        return self._keep_signer(self.new_signer(now, key=key))

    def _keep_signer(self, signer: KeyPair) -> KeyPair:
        """Write a signing key and its certificate down."""
        write_file(self._folder / "signer.key.pem", key_pem(signer.key))
        write_file(self._folder / "signer.pem", pem(signer.certificate))
        return signer

    def new_signer(
        self,
        begin: datetime,
        *,
        issuer: str = "services",
        end: datetime | None = None,
        key: rsa.RSAPrivateKey | None = None,
    ) -> KeyPair:
        """Issue a signing certificate, for a new key if none is given. Faults use this with another issuer or time."""
        key = key or _new_key(2048)
        subject = bench_name("BENCH Certificate Service")
        return KeyPair(self.issue(subject, key.public_key(), begin, issuer=issuer, end=end), key)

    def crl(self, name: str, revoked: Iterable[tuple[int, datetime]], now: datetime) -> bytes:
        """Return an authority's list of revoked certificates in DER, made at this moment."""
        issuer = self[name]
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(issuer.certificate.subject)
            .last_update(whole_second(now))
            .next_update(whole_second(now + CRL_LIFETIME))
            .add_extension(_authority_key_identifier(issuer.certificate), critical=False)
            .add_extension(x509.CRLNumber(int(now.timestamp() * 1000)), critical=False)
        )
        for serial, at in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(whole_second(at)).build()
            builder = builder.add_revoked_certificate(entry)
        return builder.sign(issuer.key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)

    def publish_trust(self, folder: Path) -> None:
        """Write the certificates into a folder of varmenne's trust directory."""
        for name, place in FOLDER_OF.items():
            target = folder / place
            private_folder(target)
            write_file(target / f"bench-{name}.pem", pem(self[name].certificate))


def software_key(path: Path, bits: int) -> rsa.RSAPrivateKey:
    """Read one of the bench's own RSA keys, or make it: in software, in a file of mode 0600."""
    if path.exists():
        return _load_key(path.read_bytes())
    key = _new_key(bits)
    write_file(path, key_pem(key))
    return key


def _new_key(bits: int) -> rsa.RSAPrivateKey:
    """Make an RSA key of the bench's own."""
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def _load_key(content: bytes) -> rsa.RSAPrivateKey:
    """Read an RSA key in PEM. Its numbers are not tested again: that takes longer than all else in a start."""
    key = serialization.load_pem_private_key(content, password=None, unsafe_skip_rsa_key_validation=True)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise TypeError("a key file of the bench does not hold an RSA key")
    return key


def build_certificate(
    subject: x509.Name,
    public_key: rsa.RSAPublicKey | EllipticCurvePublicKey,
    issuer: KeyPair | None,
    *,
    begin: datetime,
    end: datetime,
    extensions: Iterable[tuple[x509.ExtensionType, bool]],
    own_key: rsa.RSAPrivateKey | None = None,
) -> x509.Certificate:
    """Build a certificate signed by ``issuer``, or by ``own_key`` if there is no issuer; key identifiers are added."""
    signing_key = issuer.key if issuer else own_key
    if signing_key is None:
        raise ValueError("a certificate without an issuer needs its own key")
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )
    if issuer:
        builder = builder.add_extension(_authority_key_identifier(issuer.certificate), critical=False)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(signing_key, hashes.SHA256())


def _authority_key_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """Point at the issuer's key by the identifier in its certificate."""
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def key_usage(*usages: str) -> x509.KeyUsage:
    """Return a key usage with the named bits set, named as cryptography names them."""
    return x509.KeyUsage(**{usage: usage in usages for usage in _ALL_USAGES})


def bench_name(common_name: str) -> x509.Name:
    """Return a name of the bench's own."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "FI"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANIZATION),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def customer_subject(customer_id: str, customer_name: str | None, serial: str) -> x509.Name:
    """Return a customer's subject: C, O (where the name is known), CN = customer ID, and a random serialNumber."""
    organization = (
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, customer_name[:MAX_ORGANIZATION_LENGTH])]
        if customer_name
        else []
    )
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "FI"),
            *organization,
            x509.NameAttribute(NameOID.COMMON_NAME, customer_id),
            x509.NameAttribute(NameOID.SERIAL_NUMBER, serial),
        ]
    )


def whole_second(moment: datetime) -> datetime:
    """Cut a moment to the second: certificates know nothing smaller, and must not begin in the future."""
    return moment.astimezone(UTC).replace(microsecond=0)


def years_later(moment: datetime, years: int) -> datetime:
    """Return the same day and time in a later year; 29 February becomes 1 March."""
    try:
        return moment.replace(year=moment.year + years)
    except ValueError:
        return moment.replace(year=moment.year + years, month=3, day=1)


def pem(certificate: x509.Certificate) -> bytes:
    """Return the certificate in PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def der(certificate: x509.Certificate) -> bytes:
    """Return the certificate in DER."""
    return certificate.public_bytes(serialization.Encoding.DER)


def key_pem(key: rsa.RSAPrivateKey) -> bytes:
    """Return a key of the bench's own in PEM, unencrypted: the file's mode protects it."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
