"""Logins without a stored secret: signed in the token, by TLS certificate, by pod, and by a wrapped secret ID."""

from __future__ import annotations

import base64
import contextlib
import json
import stat
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import hvac
import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from harness.softhsm import softhsm, token  # noqa: F401 - fixtures
from varmenne.clock import system_clock
from varmenne.domain.keys import new_key_id
from varmenne.domain.secret import Secret
from varmenne.errors import ConfigError, KeyNotFound, VaultDenied, VaultError
from varmenne.settings import LoginSettings, VaultSettings
from varmenne.testbench.openbao import OpenBaoServer, provision
from varmenne.vault import CertificateStore, Location
from varmenne.vault.identity import jwt_setup
from vault.conftest import IMPATIENT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness.openbao import Vault
    from varmenne.token import Token

RECORD = {"certificate": "one", "enrollment": "20261124-00000001"}


def logging_in(vault: Vault, **login: Any) -> VaultSettings:
    """The test's settings with another login."""
    return msgspec.structs.replace(vault.settings, login=LoginSettings(**login))


def role_of(vault: Vault) -> str:
    """Name of the policy and the AppRole of a test."""
    return f"varmenne-agent-{vault.settings.mount}"


def private(file: Path, text: str) -> Path:
    """Write a private file."""
    file.touch(0o600)
    file.write_text(text)
    return file


# --- JWT, signed in the token


@pytest.fixture
def jwt_login(vault: Vault, token: Token) -> Iterator[dict[str, Any]]:  # noqa: F811 - a fixture
    """A login key in a real token, made known to Vault as the printed commands do it."""
    key_id = new_key_id()
    public_key = token.generate(key_id, "vault-login-test").public_key
    mount, role = f"jwt-{vault.settings.mount}", role_of(vault)
    login = {"method": "jwt", "mount": mount, "role": role, "jwt_key": key_id.hex(), "jwt_subject": "agent-7"}
    pem, commands = jwt_setup(LoginSettings(**login), role, "agent-7", public_key)
    written = dict(word.split("=", 1) for word in commands.split() if "=" in word and not word.startswith("-"))
    root = vault.root
    root.sys.enable_auth_method("jwt", path=mount)
    config = {"bound_issuer": written["bound_issuer"], "jwt_validation_pubkeys": [pem]}
    root.adapter.post(f"/v1/auth/{mount}/config", json=config)
    names = ("role_type", "user_claim", "bound_subject", "bound_audiences", "expiration_leeway", "clock_skew_leeway")
    body = {
        name: written[name]
        for name in (*names, "token_policies", "token_no_default_policy", "token_ttl", "token_max_ttl")
    }
    root.adapter.post(f"/v1/auth/{mount}/role/{role}", json=body)
    yield login
    root.sys.disable_auth_method(mount)


def test_a_login_signed_in_the_token(
    vault: Vault,
    token: Token,  # noqa: F811 - a fixture
    where: Location,
    jwt_login: dict[str, Any],
) -> None:
    """No secret is stored; a dead token leads to one new login; close leaves no token behind."""
    settings = logging_in(vault, **jwt_login)
    with CertificateStore(settings, clock=system_clock, signer=token.signer) as store:
        assert store.publish(where, RECORD, operation="op-1") == 1
        grant = store._connection._grant
        assert grant is not None
        assert grant.renewable
        vault.root.auth.token.revoke(grant.token.reveal())
        assert store.read(where) is not None
        again = store._connection._grant
        assert again is not None
    status = vault.server.client(again.token).adapter.get("/v1/auth/token/lookup-self", raise_exception=False)
    assert status.status_code == 403


@pytest.mark.parametrize(
    "change", [{"jwt_issuer": "other"}, {"jwt_subject": "agent-8"}, {"jwt_audience": "other"}, {"role": "nobody"}]
)
def test_a_login_that_the_role_does_not_take(
    vault: Vault,
    token: Token,  # noqa: F811 - a fixture
    where: Location,
    jwt_login: dict[str, Any],
    change: dict[str, str],
) -> None:
    """Issuer, subject, audience and role are all looked at by Vault, and the refusal names what to compare."""
    settings = logging_in(vault, **(jwt_login | change))
    with (
        CertificateStore(settings, clock=system_clock, signer=token.signer, patience=IMPATIENT) as store,
        pytest.raises(VaultDenied, match="refused the login") as caught,
    ):
        store.publish(where, RECORD, operation="op-1")
    assert "jwt_subject" in caught.value.next_step
    assert vault.versions(where.path) == {}


def test_a_signed_login_is_dead_after_a_minute(
    vault: Vault,
    token: Token,  # noqa: F811 - a fixture
    where: Location,
    jwt_login: dict[str, Any],
) -> None:
    """What somebody copied from the wire is worth nothing soon after; the clocks may differ by ten seconds."""
    old = system_clock() - timedelta(seconds=72)
    settings = logging_in(vault, **jwt_login)
    with (
        CertificateStore(settings, clock=lambda: old, signer=token.signer) as store,
        pytest.raises(VaultDenied, match="expired"),
    ):
        store.read(where)


def test_the_signed_claims(vault: Vault, token: Token, jwt_login: dict[str, Any]) -> None:  # noqa: F811 - a fixture
    """Sixty seconds of life, and an ID of its own every time."""
    moment = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)
    settings = logging_in(vault, **jwt_login)
    with CertificateStore(settings, clock=lambda: moment, signer=token.signer) as store:
        made = [store._connection._login._signed() for _ in range(2)]  # type: ignore[attr-defined]
    parts = [[json.loads(base64.urlsafe_b64decode(part + "==")) for part in jwt.split(".")[:2]] for jwt in made]
    assert parts[0][0] == {"alg": "RS256", "typ": "JWT"}
    claims = parts[0][1]
    assert (claims["exp"] - claims["iat"], claims["iat"]) == (60, int(moment.timestamp()))
    assert claims["jti"] != parts[1][1]["jti"]


def test_a_login_key_that_is_not_in_the_token(
    vault: Vault,
    token: Token,  # noqa: F811 - a fixture
    where: Location,
    jwt_login: dict[str, Any],
) -> None:
    """The token says so; nothing is sent, and a check-up shows it as a failure."""
    settings = logging_in(vault, **(jwt_login | {"jwt_key": "00" * 16}))
    with CertificateStore(settings, clock=system_clock, signer=token.signer) as store:
        with pytest.raises(KeyNotFound):
            store.read(where)
        assert store.check(where)[-1].verdict == "fail"


# --- TLS client certificate


class Tls:
    """A server with TLS, a CA for clients, and a role that takes one of its certificates."""

    def __init__(self, server: OpenBaoServer, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.ca = self._certificate("client CA", self.key, ca=True)
        self.settings = provision(server, mount="kv", secret_id_file=folder / "secret-id")

    def _certificate(self, name: str, key: ec.EllipticCurvePrivateKey, *, ca: bool = False) -> x509.Certificate:
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "client CA")])
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if not ca:
            usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
            builder = builder.add_extension(usage, critical=False)
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        return builder.sign(self.key, SHA256())

    def client(self, name: str) -> dict[str, Any]:
        """Make a client certificate, and return the login by it."""
        key = ec.generate_private_key(ec.SECP256R1())
        cert_file, key_file = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        cert_file.write_bytes(self._certificate(name, key).public_bytes(Encoding.PEM))
        key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return {"method": "cert", "role": "agent", "cert_file": str(cert_file), "cert_key_file": str(key_file)}


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tls]:
    """Run a server with TLS."""
    folder = tmp_path_factory.mktemp("tls")
    with OpenBaoServer(folder / "server", tls=True) as server:
        made = Tls(server, folder)
        client = server.client()
        client.sys.enable_auth_method("cert")
        body = {
            "certificate": made.ca.public_bytes(Encoding.PEM).decode(),
            "allowed_dns_sans": ["agent.example"],
            "token_policies": ["varmenne-agent-kv"],
            "token_no_default_policy": True,
            "token_ttl": "20m",
        }
        client.adapter.post("/v1/auth/cert/certs/agent", json=body)
        client.adapter.close()
        yield made


class Ahead:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.by = timedelta()

    def __call__(self) -> datetime:
        return system_clock() + self.by


def test_a_login_by_certificate(tls: Tls, where_in_tls: Location) -> None:
    """It logs in, publishes, and renews, which Vault allows only with the same certificate."""
    settings = msgspec.structs.replace(tls.settings, login=LoginSettings(**tls.client("agent.example")))
    clock = Ahead()
    with CertificateStore(settings, clock=clock) as store:
        assert store.publish(where_in_tls, RECORD, operation="op-1") == 1
        granted_at = store._connection._granted_at
        clock.by = timedelta(minutes=15)
        store.read(where_in_tls)
        assert store._connection._granted_at != granted_at


def test_a_certificate_that_the_role_does_not_take(tls: Tls, where_in_tls: Location) -> None:
    """A certificate of the right CA with another name is refused by Vault, with Vault's reason."""
    settings = msgspec.structs.replace(tls.settings, login=LoginSettings(**tls.client("stranger.example")))
    with CertificateStore(settings, clock=system_clock) as store, pytest.raises(VaultDenied, match="no chain matching"):
        store.read(where_in_tls)


@pytest.mark.parametrize("broken", ["cert_file", "cert_key_file"])
def test_certificate_files_that_cannot_be_used(tls: Tls, where_in_tls: Location, broken: str) -> None:
    """A missing file, and a key that is another certificate's, are told before anything is sent."""
    login = tls.client("agent.example") | {broken: str(tls.folder / "nowhere.pem")}
    settings = msgspec.structs.replace(tls.settings, login=LoginSettings(**login))
    with CertificateStore(settings, clock=system_clock) as store, pytest.raises(ConfigError, match="cannot be used"):
        store.read(where_in_tls)
    mixed = tls.client("agent.example") | {"cert_key_file": tls.client("other.example")["cert_key_file"]}
    settings = msgspec.structs.replace(tls.settings, login=LoginSettings(**mixed))
    with CertificateStore(settings, clock=system_clock) as store, pytest.raises(ConfigError, match="cannot be used"):
        store.read(where_in_tls)


@pytest.fixture
def where_in_tls(where_of: Callable[[VaultSettings], Location], tls: Tls) -> Location:
    """The record's place on the server with TLS."""
    return where_of(tls.settings)


# --- Kubernetes: the server's own auth method, with the part of a cluster's API that it asks


class _Cluster(BaseHTTPRequestHandler):
    """Answers TokenReview (authentication.k8s.io/v1) as a cluster does: whose token it is, or that it is nobody's."""

    reviewers: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.reviewers.append(self.path)
        claims = json.loads(base64.urlsafe_b64decode(body["spec"]["token"].split(".")[1] + "=="))
        known = claims["jti"] == "known"
        user = {"username": claims["sub"], "uid": "7", "groups": ["system:serviceaccounts"]}
        good = {"authenticated": True, "user": user, "audiences": body["spec"].get("audiences", [])}
        status = good if known else {"authenticated": False, "error": "unknown token"}
        content = json.dumps(
            {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": status}
        ).encode()
        self.send_response(201)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def cluster(vault: Vault, tls: Tls) -> Iterator[str]:
    """Run the API, and an auth method of the server that asks it, with a role for one service account; its mount."""
    _Cluster.reviewers.clear()
    mount = f"kubernetes-{vault.settings.mount}"
    with ThreadingHTTPServer(("127.0.0.1", 0), _Cluster) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        vault.root.sys.enable_auth_method("kubernetes", path=mount)
        host = f"http://127.0.0.1:{server.server_address[1]}"
        # It demands the CA of the API, which answers without TLS here, so any will do.
        authority = Path(tls.settings.ca_file).read_text()
        config = {"kubernetes_host": host, "kubernetes_ca_cert": authority, "disable_local_ca_jwt": True}
        vault.root.adapter.post(f"/v1/auth/{mount}/config", json=config)
        role = {
            "bound_service_account_names": ["varmenne"],
            "bound_service_account_namespaces": ["certificates"],
            "token_policies": [role_of(vault)],
        }
        vault.root.adapter.post(f"/v1/auth/{mount}/role/agent", json=role)
        yield mount
        vault.root.sys.disable_auth_method(mount)
        server.shutdown()
        thread.join()


def pod_token(*, account: str = "varmenne", jti: str = "known") -> str:
    """A service account token as Kubernetes makes them; the cluster's key signs it, which only the cluster checks."""
    header = {"alg": "ES256", "kid": "k"}
    claims = {
        "iss": "https://kubernetes.default.svc",
        "sub": f"system:serviceaccount:certificates:{account}",
        "aud": ["https://kubernetes.default.svc"],
        "nbf": int(datetime.now(UTC).timestamp()) - 60,
        "iat": int(datetime.now(UTC).timestamp()) - 60,
        "exp": int((datetime.now(UTC) + timedelta(hours=1)).timestamp()),
        "jti": jti,
        "kubernetes.io": {"namespace": "certificates", "serviceaccount": {"name": account, "uid": "7"}},
    }
    parts = [json.dumps(part).encode() for part in (header, claims)] + [b"x" * 64]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def test_a_login_by_pod(vault: Vault, where: Location, cluster: str, tmp_path: Path) -> None:
    """The pod's token logs in as it stands in the file now, and is reviewed by the cluster each time."""
    file = tmp_path / "token"
    file.write_text(pod_token(jti="unknown") + "\n")
    login = {"method": "kubernetes", "role": "agent", "mount": cluster, "service_account_file": str(file)}
    with CertificateStore(logging_in(vault, **login), clock=system_clock, patience=IMPATIENT) as store:
        with pytest.raises(VaultDenied, match="refused the login") as caught:
            store.publish(where, RECORD, operation="op-1")
        assert "service account" in caught.value.next_step
        file.write_text(pod_token() + "\n")
        assert store.publish(where, RECORD, operation="op-1") == 1
        grant = store._connection._grant
        assert grant is not None
        token = grant.token.reveal()
    assert set(_Cluster.reviewers) == {"/apis/authentication.k8s.io/v1/tokenreviews"}
    with pytest.raises(hvac.exceptions.Forbidden):  # It was revoked at the end.
        vault.server.client(Secret(token)).auth.token.lookup_self()


def test_a_pod_of_another_service_account_is_refused(
    vault: Vault, where: Location, cluster: str, tmp_path: Path
) -> None:
    """The cluster knows it, the role does not; nothing is published."""
    (tmp_path / "token").write_text(pod_token(account="other"))
    login = {"method": "kubernetes", "role": "agent", "mount": cluster, "service_account_file": str(tmp_path / "token")}
    with (
        CertificateStore(logging_in(vault, **login), clock=system_clock, patience=IMPATIENT) as store,
        pytest.raises(VaultDenied, match="refused the login"),
    ):
        store.publish(where, RECORD, operation="op-1")
    assert vault.versions(where.path) == {}


# --- A wrapped secret ID


def wrapped_login(vault: Vault, folder: Path, **changes: str) -> dict[str, Any]:
    """The login with a freshly wrapped secret ID in a file."""
    answer = vault.root.auth.approle.generate_secret_id(role_of(vault), wrap_ttl="60s")
    file = private(folder / "wrapped", answer["wrap_info"]["token"] + "\n")
    return {
        "method": "approle",
        "role": role_of(vault),
        "role_id": vault.settings.login.role_id,
        "wrapped_secret_id": f"file:{file}",
    } | changes


def test_a_wrapped_secret_id_is_opened_and_kept(vault: Vault, where: Location, tmp_path: Path) -> None:
    """It is opened once, its file removed, and the secret ID is in a private file for the next time."""
    own = tmp_path / "own-secret-id"
    settings = logging_in(vault, **wrapped_login(vault, tmp_path, secret_id=f"file:{own}"))
    for version in (1, 2):
        with CertificateStore(settings, clock=system_clock) as store:
            assert store.publish(where, RECORD, operation=f"op-{version}") == version
        assert not (tmp_path / "wrapped").exists()
        assert stat.S_IMODE(own.stat().st_mode) == 0o600


def test_a_wrapped_secret_id_in_memory_alone(vault: Vault, where: Location, tmp_path: Path) -> None:
    """Without a file for it, the secret ID serves this process for further logins and is nowhere on disk."""
    settings = logging_in(vault, **wrapped_login(vault, tmp_path))
    with CertificateStore(settings, clock=system_clock) as store:
        store.read(where)
        grant = store._connection._grant
        assert grant is not None
        vault.root.auth.token.revoke(grant.token.reveal())
        assert store.publish(where, RECORD, operation="op-1") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_secret_id_that_somebody_opened_first_is_an_alarm(vault: Vault, where: Location, tmp_path: Path) -> None:
    """The words say so, nothing is published, and the file stays as evidence."""
    login = wrapped_login(vault, tmp_path)
    token_text = (tmp_path / "wrapped").read_text().strip()
    client = vault.server.client(vault.server.root_token)
    with contextlib.closing(client.adapter):
        client.token = token_text
        client.sys.unwrap()
    with (
        CertificateStore(logging_in(vault, **login), clock=system_clock) as store,
        pytest.raises(VaultDenied, match="ALARM: somebody has opened") as caught,
    ):
        store.publish(where, RECORD, operation="op-1")
    assert caught.value.facts["reason"] == "opened"
    assert token_text not in str(caught.value)
    assert (tmp_path / "wrapped").exists()
    assert vault.versions(where.path) == {}


def test_a_wrapping_token_of_another_origin_is_an_alarm(vault: Vault, where: Location, tmp_path: Path) -> None:
    """Somebody's own wrapped value in the place of ours is recognised by its path, and not opened."""
    login = wrapped_login(vault, tmp_path)
    answer = vault.root.adapter.post("/v1/sys/wrapping/wrap", json={"secret_id": "mine"}, wrap_ttl="60s")
    forged = answer["wrap_info"]["token"]
    (tmp_path / "wrapped").write_text(forged)
    with (
        CertificateStore(logging_in(vault, **login), clock=system_clock) as store,
        pytest.raises(VaultDenied, match="ALARM: this wrapping token is not") as caught,
    ):
        store.publish(where, RECORD, operation="op-1")
    assert caught.value.facts["creation_path"] == "sys/wrapping/wrap"
    assert vault.root.adapter.post("/v1/sys/wrapping/lookup", json={"token": forged})["data"]["creation_ttl"] == 60
    assert vault.versions(where.path) == {}


@pytest.mark.parametrize(
    ("login", "words"),
    [
        ({"method": "jwt", "role": "x"}, "jwt_key is missing"),
        ({"method": "jwt", "jwt_key": "00" * 16}, "role is missing"),
        ({"method": "jwt", "role": "x", "jwt_key": "00" * 16}, "needs the PKCS#11 token"),
        ({"method": "cert", "cert_file": "x"}, "cert_key_file is missing"),
        ({"method": "cert"}, "cert_file is missing"),
        ({"method": "kubernetes"}, "role is missing"),
        ({"method": "approle", "role_id": "x", "wrapped_secret_id": "file:/x"}, "role is missing"),
    ],
)
def test_a_method_that_lacks_a_setting_says_which(vault: Vault, login: dict[str, Any], words: str) -> None:
    """Before anything is asked of Vault."""
    with pytest.raises(ConfigError, match=words):
        CertificateStore(logging_in(vault, **login), clock=system_clock)


def test_a_pod_without_a_token_says_so(vault: Vault, where: Location, tmp_path: Path) -> None:
    """Outside a pod there is no such file."""
    login = {"method": "kubernetes", "role": "x", "service_account_file": str(tmp_path / "none")}
    with (
        CertificateStore(logging_in(vault, **login), clock=system_clock) as store,
        pytest.raises((ConfigError, VaultError), match="service account token"),
    ):
        store.read(where)
