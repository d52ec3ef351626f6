"""Logins without a stored secret of Vault's: a JWT signed in the PKCS#11 token, a TLS certificate, a Kubernetes pod."""

from __future__ import annotations

import base64
import json
import secrets
import shlex
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from varmenne.domain.keys import KeyId
from varmenne.domain.secret import Secret
from varmenne.errors import ConfigError, InputError
from varmenne.secret_sources import MAX_SECRET_BYTES
from varmenne.vault.login import Grant, Means, ask

if TYPE_CHECKING:
    from varmenne.settings import LoginSettings

JWT_SECONDS = 60
"""Life of a signed login. Vault accepts the same one again until it is over, so it is short."""

ALGORITHM = "RS256"
"""RSASSA-PKCS1-v1_5 with SHA-256 (RFC 7518, 3.3): what a signer of the token makes."""


class SignedToken:
    """Logs in with a JWT (RFC 7519) that a dedicated key in the PKCS#11 token signs anew for every login."""

    ours: ClassVar[bool] = True
    origin: ClassVar[str] = "that it has just given"
    next_step: ClassVar[str] = "Ask Vault's administrators what revokes it"

    def __init__(self, settings: LoginSettings, means: Means) -> None:
        _need(settings, "role", "the role of the JWT auth method to log in as")
        _need(settings, "jwt_key", "the CKA_ID that `varmenne vault login-key` prints")
        if means.signer is None:
            raise ConfigError("A login by jwt needs the PKCS#11 token, which this command does not use")
        self._settings = settings
        self._clock = means.clock
        self._signer = means.signer

    def obtain(self, client: Any) -> Grant:
        """Sign a JWT and show it to Vault.

        Raises:
            TokenError: the token has no such key, or does not sign.
            VaultDenied: Vault refuses the login.
            VaultError: what answers is not Vault.
        """
        return ask(
            client,
            self._settings.mount or "jwt",
            {"role": self._settings.role, "jwt": self._signed()},
            next_step="Compare jwt_issuer, jwt_subject and jwt_audience in [vault.login], the key that "
            "`varmenne vault login-key` prints, and the clock with what the role demands",
        )

    def changed(self) -> bool:
        """Nobody replaces our own token but we."""
        return False

    def _signed(self) -> str:
        """Return a fresh JWT in compact form (RFC 7515, 7.1)."""
        now = int(self._clock().timestamp())
        claims = {
            "iss": self._settings.jwt_issuer,
            "sub": self._settings.jwt_subject,
            "aud": self._settings.jwt_audience,
            "iat": now,
            "nbf": now,
            "exp": now + JWT_SECONDS,
            "jti": secrets.token_hex(16),
        }
        head = ".".join(_base64url(json.dumps(part).encode()) for part in ({"alg": ALGORITHM, "typ": "JWT"}, claims))
        signature = self._signer(KeyId(bytes.fromhex(self._settings.jwt_key))).sign(head.encode())
        return f"{head}.{_base64url(signature)}"


class ClientCertificate:
    """Logs in with the TLS client certificate that :mod:`varmenne.vault.wire` gives to the connection."""

    ours: ClassVar[bool] = True
    origin: ClassVar[str] = "that it has just given"
    next_step: ClassVar[str] = "Ask Vault's administrators what revokes it"

    def __init__(self, settings: LoginSettings, means: Means) -> None:  # noqa: ARG002 - all ways are made alike
        _need(settings, "cert_file", "the PEM file of the TLS client certificate")
        _need(settings, "cert_key_file", "the PEM file of its private key")
        self._settings = settings

    def obtain(self, client: Any) -> Grant:
        """Ask for a token; the certificate goes with the connection.

        Raises:
            VaultDenied: Vault refuses the login.
            VaultError: what answers is not Vault.
        """
        return ask(
            client,
            self._settings.mount or "cert",
            {"name": self._settings.role} if self._settings.role else {},
            next_step="Check that the role takes this certificate, and that it has not expired",
        )

    def changed(self) -> bool:
        """Nobody replaces our own token but we."""
        return False


class Kubernetes:
    """Logs in with the service account token that Kubernetes puts into the pod and keeps fresh."""

    ours: ClassVar[bool] = True
    origin: ClassVar[str] = "that it has just given"
    next_step: ClassVar[str] = "Ask Vault's administrators what revokes it"

    def __init__(self, settings: LoginSettings, means: Means) -> None:  # noqa: ARG002 - all ways are made alike
        _need(settings, "role", "the role of the Kubernetes auth method to log in as")
        self._settings = settings

    def obtain(self, client: Any) -> Grant:
        """Show the pod's token to Vault; it is read anew for every login, since Kubernetes replaces it.

        Raises:
            ConfigError: its file cannot be read.
            InputError: it is empty, too long, or no text.
            VaultDenied: Vault refuses the login.
            VaultError: what answers is not Vault.
        """
        return ask(
            client,
            self._settings.mount or "kubernetes",
            {"role": self._settings.role, "jwt": self._pod_token().reveal()},
            next_step="Check that the role is bound to this pod's service account and namespace",
        )

    def changed(self) -> bool:
        """Nobody replaces our own token but we."""
        return False

    def _pod_token(self) -> Secret:
        """Read the token. Other users of the pod may read it too, which is how Kubernetes does it: no warning."""
        path = Path(self._settings.service_account_file)
        try:
            with path.open("rb") as file:
                text = file.read(MAX_SECRET_BYTES + 1).decode("ascii").strip()
        except OSError as exc:
            raise ConfigError(
                f"The service account token {path} cannot be read",
                why=exc.strerror or str(exc),
                next_step="Is this a pod, with automountServiceAccountToken not switched off?",
            ) from exc
        except UnicodeDecodeError:
            raise InputError(f"{path} holds no service account token") from None
        if not text or len(text) > MAX_SECRET_BYTES:
            raise InputError(f"{path} holds no service account token")
        return Secret(text)


def jwt_setup(login: LoginSettings, role: str, subject: str, public_key: bytes) -> tuple[str, str]:
    """Return a login key in PEM, and the shell commands that make it known to Vault.

    Args:
        login: has the mount, the issuer and the audience.
        role: the role to make, and the policy that it has.
        subject: the subject that the role is bound to.
        public_key: DER ``SubjectPublicKeyInfo``.
    """
    mount = login.mount if login.method == "jwt" and login.mount else "jwt"
    lines = textwrap.wrap(base64.b64encode(public_key).decode("ascii"), 64)
    pem = "\n".join(("-----BEGIN PUBLIC KEY-----", *lines, "-----END PUBLIC KEY-----"))
    bound = f"bound_subject={shlex.quote(subject)} bound_audiences={shlex.quote(login.jwt_audience)}"
    commands = (
        f"bao auth enable -path={mount} jwt\n"
        f"bao write auth/{mount}/config bound_issuer={shlex.quote(login.jwt_issuer)} jwt_validation_pubkeys=- <<'EOF'\n"
        f"{pem}\nEOF\n"
        f"bao write auth/{mount}/role/{role} role_type=jwt user_claim=sub {bound} \\\n"
        f"  expiration_leeway=-1 clock_skew_leeway=10 token_policies={role} token_no_default_policy=true \\\n"
        f"  token_ttl=1200 token_max_ttl=14400"
    )
    return pem, commands


def _need(settings: LoginSettings, name: str, what: str) -> None:
    """Refuse settings that lack what the method needs.

    Raises:
        ConfigError: that is so.
    """
    if not getattr(settings, name):
        raise ConfigError(
            f"The setting vault.login.{name} is missing",
            why=f"vault.login.method is {settings.method}",
            next_step=f"Set it to {what}",
        )


def _base64url(data: bytes) -> str:
    """Encode as RFC 7515 (2) does, without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
