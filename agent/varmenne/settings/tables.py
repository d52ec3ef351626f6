"""The tables of the settings file. The reference in ``docs/`` is generated from these classes.

Secrets are never settings: a setting names the *source* of a secret (a file, a descriptor, a systemd credential, an
environment variable or a prompt).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from varmenne.domain.identifiers import Environment
from varmenne.settings.kinds import Fingerprint, Seconds, SecretSource, Text
from varmenne.settings.unattended import AgentSettings, HookSettings, MetricsSettings, RenewalSettings
from varmenne.settings.vault import VaultSettings


class TokenSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The PKCS#11 token that keys are made in."""

    module: Annotated[Text, msgspec.Meta(description="Path of the PKCS#11 module (a shared library).")]
    label: Annotated[Text, msgspec.Meta(description="Label of the token. Slot numbers move, labels stay.")]
    serial: Annotated[
        str,
        msgspec.Meta(description="Serial number the token must have. Serial numbers are not unique across all tokens."),
    ] = ""
    model: Annotated[str, msgspec.Meta(description="Model the token must have.")] = ""
    anchor: Annotated[
        Fingerprint | None,
        msgspec.Meta(
            description="SHA-256 of the SubjectPublicKeyInfo of a key that the token must hold. Without it, the newest "
            "key that the journal knows in this token serves as the anchor."
        ),
    ] = None
    pin: Annotated[
        SecretSource,
        msgspec.Meta(
            description="Where the user PIN comes from: `prompt`, `file:PATH`, `fd:NUMBER`, `credential:NAME` "
            "(systemd) or `env:NAME` (works, but other processes of the same user can read it: a warning is shown)."
        ),
    ] = "prompt"
    init_parameters: Annotated[
        str, msgspec.Meta(description="Text handed to C_Initialize as pReserved; only NSS softokn needs it.")
    ] = ""
    environment: Annotated[
        dict[str, str],
        msgspec.Meta(description="Environment variables for the module alone, such as SOFTHSM2_CONF."),
    ] = {}
    call_timeout_seconds: Annotated[
        Seconds, msgspec.Meta(description="Longest time for one call into the module; then its process is ended.")
    ] = 30.0
    generate_timeout_seconds: Annotated[
        Seconds, msgspec.Meta(description="Longest time for making one key; hardware can be slow.")
    ] = 180.0


class ServiceSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The certificate service."""

    endpoint: Annotated[
        str,
        msgspec.Meta(
            description="URL of the service. Empty means the real endpoint of the environment; a bench has its own."
        ),
    ] = ""
    ca_file: Annotated[
        str,
        msgspec.Meta(
            description="PEM file of the CA that signed the endpoint's TLS certificate. Empty means the system's."
        ),
    ] = ""
    connect_timeout_seconds: Annotated[Seconds, msgspec.Meta(description="Longest time for connecting.")] = 10.0
    read_timeout_seconds: Annotated[
        Seconds,
        msgspec.Meta(description="Longest silence while waiting for an answer. A whole answer may take twice as long."),
    ] = 60.0
    first_poll_seconds: Annotated[
        Seconds, msgspec.Meta(description="Wait between sending and the first getCertificate.")
    ] = 15.0
    longest_poll_seconds: Annotated[
        Seconds, msgspec.Meta(description="Longest wait between two calls of getCertificate.")
    ] = 60.0
    wait_limit_seconds: Annotated[
        Annotated[float, msgspec.Meta(ge=0, le=86_400)],
        msgspec.Meta(description="How long a command waits for the certificate before it leaves the rest to `resume`."),
    ] = 600.0


class TrustSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whom to believe. The directory has one folder per environment, with `services`, `providers` and `chain` in it."""

    directory: Annotated[
        str, msgspec.Meta(description="Folder of the trust anchors. Empty means `trust` in the state folder.")
    ] = ""
    revocation: Annotated[
        str,
        msgspec.Meta(
            pattern=r"^(off|soft|hard)$",
            description="`soft`, `hard` or `off`: what happens if nobody knows whether a new certificate, or the one "
            "that signed the service's answer, is revoked. `soft` warns, `hard` waits until it is known, `off` does "
            "not look. A revoked one is refused by `soft` and `hard`.",
        ),
    ] = "soft"
    revocation_timeout_seconds: Annotated[
        Seconds, msgspec.Meta(description="Longest time for fetching one revocation list.")
    ] = 5.0
    subject: Annotated[
        str,
        msgspec.Meta(
            pattern=r"^(warn|refuse)$",
            description="`warn` or `refuse`: what happens if the subject of a new certificate does not hold the "
            "customer ID. The service does not promise where it puts it, so `warn` is the default.",
        ),
    ] = "warn"


class JournalSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where durable state is kept, and how long the service's raw answers are."""

    url: Annotated[
        str,
        msgspec.Meta(
            description="PostgreSQL database for several hosts: `postgresql+psycopg://USER@HOST/DATABASE`, without a "
            "password. Empty means SQLite in the state folder."
        ),
    ] = ""
    password: Annotated[
        SecretSource | None,
        msgspec.Meta(description="Where the database's password comes from; the same forms as `token.pin`."),
    ] = None
    keep_answers_days: Annotated[
        Annotated[int, msgspec.Meta(ge=30, le=36_500)],
        msgspec.Meta(
            description="Days after its end for which an enrollment's raw answers are kept. Those of unfinished and "
            "uncertain enrollments are never removed."
        ),
    ] = 730


class CustomerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The customer that commands are for when they name none. A software house leaves this out."""

    id: Annotated[str, msgspec.Meta(description="Business ID or other customer ID.")] = ""
    name: Annotated[str, msgspec.Meta(description="The customer's name, as in the order.")] = ""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    environment: Annotated[
        Environment, msgspec.Meta(description="`test` or `production`; a command's --environment must agree with it.")
    ]
    state_dir: Annotated[
        Text, msgspec.Meta(description="Folder of the journal and the trust anchors; only its owner may enter it.")
    ]
    token: TokenSettings
    vault: VaultSettings
    service: ServiceSettings = ServiceSettings()
    trust: TrustSettings = TrustSettings()
    journal: JournalSettings = JournalSettings()
    renewal: RenewalSettings = RenewalSettings()
    agent: AgentSettings = AgentSettings()
    hooks: HookSettings = HookSettings()
    metrics: MetricsSettings = MetricsSettings()
    customer: CustomerSettings = CustomerSettings()

    @property
    def trust_dir(self) -> Path:
        """The folder of the trust anchors of the settings' environment."""
        return Path(self.trust.directory or Path(self.state_dir) / "trust") / self.environment.value


PATHS: tuple[tuple[str, ...], ...] = (
    ("state_dir",),
    ("token", "module"),
    ("service", "ca_file"),
    ("trust", "directory"),
    ("hooks", "directory"),
    ("metrics", "textfile"),
    ("vault", "ca_file"),
    ("vault", "login", "token_file"),
    ("vault", "login", "cert_file"),
    ("vault", "login", "cert_key_file"),
    ("vault", "login", "service_account_file"),
)
"""Settings that are paths, and so are resolved against the file's folder."""

SECRET_SOURCES: tuple[tuple[str, ...], ...] = (
    ("token", "pin"),
    ("vault", "login", "secret_id"),
    ("vault", "login", "wrapped_secret_id"),
    ("journal", "password"),
)
"""Settings that name a secret's source; the path in ``file:PATH`` is resolved likewise."""
