"""Settings of Vault, and of the ways to log in to it."""

from __future__ import annotations

from typing import Annotated

import msgspec

from varmenne.settings.kinds import ADDRESS_PATTERN, Seconds, SecretSource, Text


class LoginSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to log in to Vault."""

    method: Annotated[
        str,
        msgspec.Meta(
            pattern=r"^(token-file|approle|jwt|cert|kubernetes)$",
            description="`token-file`, `approle`, `jwt` (signed by a key in the token: no stored secret), `cert` (a "
            "TLS client certificate) or `kubernetes`.",
        ),
    ] = "token-file"
    mount: Annotated[
        str, msgspec.Meta(description="Mount of the auth method. Empty means the method's own name, such as `approle`.")
    ] = ""
    role: Annotated[
        str,
        msgspec.Meta(
            description="Role to log in as, for `jwt`, `cert` and `kubernetes`; for `approle` the role that a wrapped "
            "secret ID has to be of."
        ),
    ] = ""
    token_file: Annotated[
        str,
        msgspec.Meta(
            description="File that holds a Vault token, such as the sink of a Vault Agent. Read again when it changes."
        ),
    ] = ""
    role_id: Annotated[str, msgspec.Meta(description="AppRole role ID.")] = ""
    secret_id: Annotated[
        SecretSource | None,
        msgspec.Meta(description="Where the AppRole secret ID comes from; the same forms as `token.pin`."),
    ] = None
    wrapped_secret_id: Annotated[
        SecretSource | None,
        msgspec.Meta(
            description="Where a wrapping token comes from that holds the secret ID. It is opened at the first login, "
            "and its file removed. The secret ID is kept in the file of `secret_id`, or else in memory alone."
        ),
    ] = None
    jwt_key: Annotated[
        str,
        msgspec.Meta(
            pattern=r"^([0-9a-f]{32})?$",
            description="`CKA_ID` of the key in the token that signs logins by `jwt`, hexadecimal. It does nothing "
            "else; `varmenne vault login-key` makes it.",
        ),
    ] = ""
    jwt_issuer: Annotated[Text, msgspec.Meta(description="Issuer in the JWT, `bound_issuer` in Vault.")] = "varmenne"
    jwt_subject: Annotated[
        Text, msgspec.Meta(description="Subject in the JWT, `bound_subject` of the role: one for each agent.")
    ] = "varmenne"
    jwt_audience: Annotated[Text, msgspec.Meta(description="Audience in the JWT, `bound_audiences` of the role.")] = (
        "vault"
    )
    cert_file: Annotated[str, msgspec.Meta(description="PEM file of the TLS client certificate, for `cert`.")] = ""
    cert_key_file: Annotated[str, msgspec.Meta(description="PEM file of its private key, not encrypted.")] = ""
    service_account_file: Annotated[
        Text, msgspec.Meta(description="File of the pod's service account token, for `kubernetes`.")
    ] = "/var/run/secrets/kubernetes.io/serviceaccount/token"


class VaultSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where certificates are published."""

    address: Annotated[Text, msgspec.Meta(pattern=ADDRESS_PATTERN, description="URL of Vault or OpenBao.")]
    ca_file: Annotated[
        str, msgspec.Meta(description="PEM file of the CA of Vault's TLS certificate. Empty means the system's.")
    ] = ""
    namespace: Annotated[str, msgspec.Meta(description="Namespace, where the server has them.")] = ""
    mount: Annotated[Text, msgspec.Meta(description="Mount of the KV version 2 secrets engine.")] = "secret"
    prefix: Annotated[
        Text,
        msgspec.Meta(description="Path under the mount; records are at PREFIX/ENVIRONMENT/CUSTOMER/CHANNEL/current."),
    ] = "varmenne"
    login: LoginSettings = LoginSettings()
    connect_timeout_seconds: Annotated[Seconds, msgspec.Meta(description="Longest time for connecting.")] = 5.0
    read_timeout_seconds: Annotated[
        Seconds, msgspec.Meta(description="Longest silence while waiting for an answer.")
    ] = 15.0
