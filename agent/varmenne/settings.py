"""Settings: one TOML file, parsed once into frozen values. The reference in ``docs/`` is generated from these classes.

Secrets are never settings: a setting names the *source* of a secret (a file, a descriptor, a systemd credential, an
environment variable or a prompt). Unknown keys are refused by name. Relative paths are relative to the file's folder.
"""

from __future__ import annotations

import difflib
import os
import re
import stat
import tomllib
from pathlib import Path
from typing import Annotated, Any

import msgspec

from varmenne.domain.identifiers import Environment
from varmenne.errors import ConfigError

CONFIG_NAME = "varmenne.toml"

Text = Annotated[str, msgspec.Meta(min_length=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]
SOURCE_PATTERN = r"^(prompt|file:.+|fd:[0-9]+|credential:[A-Za-z0-9_.-]+|env:[A-Za-z_][A-Za-z0-9_]*)$"
SecretSource = Annotated[str, msgspec.Meta(pattern=SOURCE_PATTERN)]
FINGERPRINT_PATTERN = r"^[0-9a-f]{64}$"
Fingerprint = Annotated[str, msgspec.Meta(pattern=FINGERPRINT_PATTERN)]
ADDRESS_PATTERN = r"^https?://"


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
            description="`soft`, `hard` or `off`: what happens before publishing if nobody knows whether a new "
            "certificate is revoked. `soft` warns, `hard` waits until it is known, `off` does not look. A revoked one "
            "is refused by `soft` and `hard`.",
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


def find_config(explicit: str | None) -> Path:
    """Return the settings file: the explicit one, ``./varmenne.toml``, the user's, or ``/etc/varmenne/varmenne.toml``.

    Raises:
        ConfigError: the file does not exist or cannot be reached, or none was found.
    """
    if explicit:
        path = Path(explicit)
        _refuse_no_file(path)
        return path
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    candidates = [Path(CONFIG_NAME), home / "varmenne" / CONFIG_NAME, Path("/etc/varmenne") / CONFIG_NAME]
    looked_for = []
    for path in candidates:
        try:
            if path.is_file():
                return path
            looked_for.append(str(path))
        except OSError as exc:
            looked_for.append(f"{path} (cannot be read: {exc.strerror})")
    raise ConfigError(
        "No settings file was found",
        why="looked for " + ", ".join(looked_for),
        next_step="`varmenne init` writes one; `--config FILE` or VARMENNE_CONFIG names another. "
        "`varmenne demo` needs none",
    )


def _refuse_no_file(path: Path) -> None:
    """Refuse a name that is not a settings file's.

    Raises:
        ConfigError: nothing is there, it is a folder, or a folder on the way may not be entered.
    """
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(f"There is no settings file {path}", next_step="`varmenne init` writes one") from None
    except OSError as exc:
        raise ConfigError(f"The settings file {path} cannot be read", why=exc.strerror or str(exc)) from exc
    if stat.S_ISDIR(found.st_mode):
        raise ConfigError(f"{path} is a folder", next_step=f"Name the file, such as {path / CONFIG_NAME}")


def load_settings(path: Path) -> Settings:
    """Read and check a settings file.

    Raises:
        ConfigError: unreadable, not TOML, an unknown key (the nearest right one is named), a missing or wrong value.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as exc:
        raise ConfigError(f"The settings file {path} cannot be read", why=exc.strerror or str(exc)) from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"The settings file {path} is not valid TOML", why=str(exc)) from exc
    return parse_settings(text, path)


def parse_settings(text: str, path: Path) -> Settings:
    """Check a settings file's text, which need not be in the file yet.

    Raises:
        ConfigError: not TOML, an unknown key (the nearest right one is named), a missing or wrong value.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"The settings file {path} is not valid TOML", why=str(exc)) from exc
    _refuse_unknown(document, Settings, (), path)
    _resolve(document, path.resolve().parent)
    try:
        return msgspec.convert(document, Settings)
    except msgspec.ValidationError as exc:
        raise ConfigError(f"The settings file {path} has a wrong value", why=_in_toml_words(str(exc))) from exc


def why_wrong(keys: tuple[str, ...], value: object) -> str:
    """Say why one setting cannot have a value; nothing if it can."""
    kind: Any = Settings
    for key in keys:
        kind = next(field.type for field in msgspec.structs.fields(kind) if field.name == key)
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as exc:
        return _in_toml_words(str(exc))
    return ""


def _refuse_unknown(table: dict[str, Any], struct: type[msgspec.Struct], where: tuple[str, ...], path: Path) -> None:
    """Refuse the first key that the struct does not know, and suggest the nearest one that it does."""
    fields = {field.name: field.type for field in msgspec.structs.fields(struct)}
    for key, value in table.items():
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            raise ConfigError(
                f"Unknown setting {'.'.join((*where, key))!r} in {path}",
                next_step=f"Did you mean {'.'.join((*where, near[0]))!r}?"
                if near
                else f"Known here: {', '.join(fields)}",
            )
        kind = fields[key]
        if isinstance(value, dict) and isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            _refuse_unknown(value, kind, (*where, key), path)


def _resolve(document: dict[str, Any], base: Path) -> None:
    """Make the file's relative paths absolute, so that they mean the same from every working directory."""
    for keys, prefix in [(keys, "") for keys in PATHS] + [(keys, "file:") for keys in SECRET_SOURCES]:
        table: Any = document
        for key in keys[:-1]:
            table = table.get(key) if isinstance(table, dict) else None
        value = table.get(keys[-1]) if isinstance(table, dict) else None
        if isinstance(value, str) and value.startswith(prefix) and value != prefix:
            table[keys[-1]] = prefix + str(base / Path(value.removeprefix(prefix)).expanduser())


def _in_toml_words(message: str) -> str:
    """Turn msgspec's JSON path (``$.token.pin``) into the words of the file, and its types into TOML's."""
    message = message.replace(
        f"Expected `str` matching regex {SOURCE_PATTERN!r}",
        "the source of a secret is prompt, file:PATH, fd:NUMBER, credential:NAME or env:NAME, never the secret itself",
    )
    message = message.replace(
        f"Expected `str` matching regex {ADDRESS_PATTERN!r}", "an address begins with https:// or http://"
    )
    message = message.replace(
        f"Expected `str` matching regex {FINGERPRINT_PATTERN!r}", "it has 64 small hexadecimal digits"
    )
    message = re.sub(
        r"Expected `str` matching regex '\^\(([a-z|-]+)\)\$'", lambda m: f"it is {m[1].replace('|', ' or ')}", message
    )
    message = message.replace("Expected `str` of length >= 1", "it may not be empty")
    message = re.sub(r" - at `\$\.?([^`]*)`", lambda m: f" (at {m[1]})" if m[1] else "", message)
    return message.replace("Object missing required field", "missing setting").replace("`", "'")
