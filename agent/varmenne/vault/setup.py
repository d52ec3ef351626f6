"""What must stand in Vault before varmenne can use it, as one list of pieces: each is looked at, compared, and made.

A piece knows what is wanted, how to see what is there, how to make the difference, and the command that does the same
by hand. Making is idempotent and touches only what differs: other settings of a mount or a role stay as they are.
The administrator's token is used here and nowhere else; nothing of it is kept.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from varmenne.errors import ConfigError, InputError, VaultError
from varmenne.vault.location import checked_path
from varmenne.vault.policies import CONSUMER, FOR_ONE_CUSTOMER, policy_text

if TYPE_CHECKING:
    from varmenne.domain.secret import Secret
    from varmenne.vault.connection import Connection
    from varmenne.vault.location import Location

MAX_VERSIONS = 20
"""Versions of a record that the mount keeps at least: that many renewals can be looked back on."""

TERMS: dict[str, object] = {
    "token_ttl": 20 * 60,
    "token_max_ttl": 4 * 3600,
    "token_no_default_policy": True,
    "secret_id_num_uses": 0,
}
"""Terms of every AppRole, times in seconds: short tokens, and no right but those of its one policy."""

ONE_TIME = frozenset({"credentials-kv-writer", "credentials-kv-reader"})
"""Policies for the mount of one-time credentials, instead of that of the records."""

READER_ROLE = "varmenne-credentials-kv-reader"
"""Name of the latter in Vault."""

ONE_TIME_CONFIG: dict[str, object] = {"cas_required": True, "max_versions": 1, "delete_version_after": "336h0m0s"}
"""That mount keeps nothing that was replaced, and nothing for longer than the 14 days of credentials."""

OWN_PREFIX = "agent-own-prefix"
AGENT_METADATA = "varmenne_agent"
"""Name in the entity's metadata by which ``agent-own-prefix.hcl`` finds the agent's prefix."""

WITHOUT_ROLE = frozenset({"setup"})
"""Policies that are for people: no AppRole is made for them."""

READY_SECONDS = 30.0
"""Longest wait for a new mount, which is "being upgraded" for a moment."""

Found = Mapping[str, object] | None
"""What is there, by the names of what is wanted; ``None`` where there is nothing."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One thing that must stand in Vault.

    Attributes:
        words: what it is, for people.
        wanted: name → value.
        look: returns what is there.
        make: makes or changes it, given the values that differ.
        command: the same by hand, for a shell.
    """

    words: str
    wanted: Mapping[str, object]
    look: Callable[[Any], Found]
    make: Callable[[Any, Mapping[str, object]], None]
    command: str


@dataclass(frozen=True, slots=True)
class Difference:
    """What a piece lacks: name → (what is there, what is wanted); ``new`` if there is nothing at all."""

    words: str
    new: bool
    values: Mapping[str, tuple[object, object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is to be set up.

    Attributes:
        mount: the KV mount.
        prefix: the prefix of the records.
        policy: name of the policy file.
        role: name of the policy in Vault, and of the AppRole; it begins with ``varmenne-``.
        location: whose record the policy is for, if it is for one.
        consumer: name under which a consumer may tell what it serves.
        auth_mount: mount of the AppRole auth method.
        terms: terms of the AppRole.
    """

    mount: str
    prefix: str
    policy: str = "agent"
    role: str = "varmenne-agent"
    location: Location | None = None
    consumer: str = CONSUMER
    auth_mount: str = "approle"
    terms: Mapping[str, object] = field(default_factory=lambda: TERMS)

    def __post_init__(self) -> None:
        checked_path(self.mount, "vault.mount")
        checked_path(self.auth_mount, "vault.login.mount")
        checked_path(self.role, "role")
        if self.policy in FOR_ONE_CUSTOMER and self.location is None:
            raise InputError(f"The policy {self.policy} is for one customer", next_step="Give --customer-id")
        if self.policy == OWN_PREFIX and "/" not in self.prefix:
            raise ConfigError(
                f"The policy {OWN_PREFIX} needs a prefix that ends in the agent's own part",
                why=f"vault.prefix is {self.prefix!r}",
                next_step='Set vault.prefix to one such as "varmenne/a1"',
            )

    @property
    def text(self) -> str:
        """The policy as it is to stand in Vault."""
        prefix = self.prefix.rpartition("/")[0] if self.policy == OWN_PREFIX else self.prefix
        return policy_text(self.policy, mount=self.mount, prefix=prefix, location=self.location, consumer=self.consumer)


def pieces(target: Target) -> tuple[Piece, ...]:
    """Return what must stand in Vault for a target, in the order in which it has to be made."""
    found = [_mount(target), _mount_config(target), _policy(target)]
    if target.policy not in WITHOUT_ROLE:
        found += [_auth_method(target), _role(target)]
    if target.policy == OWN_PREFIX:
        found += [_entity(target), _alias(target)]
    return tuple(found)


def differences(connection: Connection, target: Target) -> list[Difference]:
    """Look at every piece and return those that are missing or otherwise. Nothing is changed.

    Raises:
        VaultError: Vault cannot be asked, or something of another kind is in the place of a piece.
    """
    return [found for piece in pieces(target) if (found := _compare(connection, piece)) is not None]


def apply(connection: Connection, target: Target) -> Iterator[Difference]:
    """Make what differs, piece by piece, and yield each when it is made and read back.

    Raises:
        VaultError: Vault refuses, or does not show what was written.
    """
    for piece in pieces(target):
        found = _compare(connection, piece)
        if found is None:
            continue
        changes = {name: wanted for name, (_now, wanted) in found.values.items()}
        _patiently(
            lambda piece=piece, changes=changes: connection.call(  # type: ignore[misc]
                f"making {piece.words}", lambda client: piece.make(client, changes)
            )
        )
        if left := _compare(connection, piece):
            raise VaultError(
                f"Vault has taken {piece.words}, but shows something else",
                why=", ".join(left.values),
                next_step="See whether something else sets it back; `varmenne vault setup --dry-run` shows it",
            )
        yield found


def commands(target: Target) -> str:
    """Return shell commands that do the same by hand, with ``bao``; ``vault`` takes the same words."""
    return "\n".join(piece.command for piece in pieces(target))


def role_id(connection: Connection, target: Target) -> str:
    """Return the AppRole's role ID; it is no secret."""
    path = f"/v1/auth/{target.auth_mount}/role/{target.role}/role-id"
    answer = connection.call("reading the role ID", lambda client: client.adapter.get(path))
    return str(answer["data"]["role_id"])


def new_secret_id(connection: Connection, target: Target, *, wrap_ttl: str | None = None) -> Secret:
    """Make a secret ID; with ``wrap_ttl`` return a wrapping token, with which one reader can fetch it once."""
    from varmenne.domain.secret import Secret

    answer = connection.call(
        "making a secret ID",
        lambda client: client.adapter.post(
            f"/v1/auth/{target.auth_mount}/role/{target.role}/secret-id", json={}, wrap_ttl=wrap_ttl
        ),
    )
    return Secret(str(answer["wrap_info"]["token"] if wrap_ttl else answer["data"]["secret_id"]))


def _compare(connection: Connection, piece: Piece) -> Difference | None:
    """Return what a piece lacks, or ``None``."""
    now = connection.call(f"looking at {piece.words}", piece.look)
    values = {
        name: (None if now is None else now.get(name), wanted)
        for name, wanted in piece.wanted.items()
        if now is None or now.get(name) != wanted
    }
    return Difference(piece.words, now is None, values) if values else None


def _patiently(make: Callable[[], None]) -> None:
    """Make a piece, again while its mount is being made ready, which can take longer than a call's own patience."""
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            return make()
        except VaultError as exc:
            if "being made ready" not in exc.what or time.monotonic() > deadline:
                raise


def _get(client: Any, path: str) -> dict[str, Any] | None:
    """Read a path's data; ``None`` if there is nothing."""
    from hvac.exceptions import InvalidPath

    try:
        answer = client.adapter.get(f"/v1/{path}")
    except InvalidPath:
        return None
    data = answer.get("data") if isinstance(answer, dict) else None
    return data if isinstance(data, dict) else None


def _mount(target: Target) -> Piece:
    """The KV engine; one of another kind or version in its place is a refusal, never converted."""

    def look(client: Any) -> Found:
        found = (_get(client, "sys/mounts") or {}).get(f"{target.mount}/")
        if found is None:
            return None
        version = str((found.get("options") or {}).get("version", "1"))
        if (found["type"], version) != ("kv", "2"):
            raise VaultError(
                f"The mount {target.mount} is something else",
                why=f"a {found['type']} engine of version {version}",
                next_step="Set vault.mount to another name; an engine that others use is not converted",
            )
        return {"type": "kv", "version": "2"}

    def make(client: Any, _changes: Mapping[str, object]) -> None:
        client.adapter.post(f"/v1/sys/mounts/{target.mount}", json={"type": "kv", "options": {"version": "2"}})

    command = f"bao secrets enable -path={target.mount} -version=2 kv"
    return Piece(f"the mount {target.mount}", {"type": "kv", "version": "2"}, look, make, command)


def _mount_config(target: Target) -> Piece:
    """Check-and-set for every write, and a history that is long enough; a longer one is left as it is."""

    def look(client: Any) -> Found:
        # Right after it was made, a mount is being upgraded and cannot be asked; then it has its defaults.
        found = _get(client, f"{target.mount}/config")
        if found is None:
            return None
        kept = int(found.get("max_versions") or 0)
        return {**found, "max_versions": kept if target.policy in ONE_TIME else min(kept, MAX_VERSIONS)}

    def make(client: Any, changes: Mapping[str, object]) -> None:
        client.adapter.post(f"/v1/{target.mount}/config", json=dict(changes))

    wanted: dict[str, object] = {"cas_required": True, "max_versions": MAX_VERSIONS}
    if target.policy in ONE_TIME:
        wanted = ONE_TIME_CONFIG
    command = f"bao write {target.mount}/config {_words(wanted)}"
    return Piece(f"the configuration of {target.mount}", wanted, look, make, command)


def _policy(target: Target) -> Piece:
    """The policy, word for word."""
    path = f"sys/policies/acl/{target.role}"

    def look(client: Any) -> Found:
        found = _get(client, path)
        return None if found is None else {"policy": found.get("policy")}

    def make(client: Any, changes: Mapping[str, object]) -> None:
        client.adapter.put(f"/v1/{path}", json=dict(changes))

    command = f"bao policy write {target.role} - <<'EOF'\n{target.text.rstrip()}\nEOF"
    return Piece(f"the policy {target.role}", {"policy": target.text}, look, make, command)


def _auth_method(target: Target) -> Piece:
    """The AppRole auth method."""

    def look(client: Any) -> Found:
        found = (_get(client, "sys/auth") or {}).get(f"{target.auth_mount}/")
        if found is not None and found["type"] != "approle":
            raise VaultError(
                f"The auth method at {target.auth_mount} is something else",
                why=f"it is of the type {found['type']}",
                next_step="Set vault.login.mount to another name",
            )
        return None if found is None else {"type": "approle"}

    def make(client: Any, _changes: Mapping[str, object]) -> None:
        client.adapter.post(f"/v1/sys/auth/{target.auth_mount}", json={"type": "approle"})

    command = f"bao auth enable -path={target.auth_mount} approle"
    return Piece(f"the auth method {target.auth_mount}", {"type": "approle"}, look, make, command)


def _role(target: Target) -> Piece:
    """The AppRole, with its one policy."""
    path = f"auth/{target.auth_mount}/role/{target.role}"
    wanted: dict[str, object] = {**target.terms, "token_policies": [target.role]}

    def look(client: Any) -> Found:
        found = _get(client, path)
        # An agent that takes one-time credentials out of KV has that policy too; it is given by hand, and stays.
        also = [name for name in (found or {}).get("token_policies") or () if name != READER_ROLE]
        return None if found is None else {**found, "token_policies": also or found.get("token_policies")}

    def make(client: Any, changes: Mapping[str, object]) -> None:
        client.adapter.post(f"/v1/{path}", json=dict(changes))

    return Piece(f"the AppRole {target.role}", wanted, look, make, f"bao write {path} {_words(wanted)}")


def _entity(target: Target) -> Piece:
    """The entity whose metadata names the agent's prefix."""
    path = f"identity/entity/name/{target.role}"
    own = target.prefix.rpartition("/")[2]

    def look(client: Any) -> Found:
        found = _get(client, path)
        return None if found is None else {AGENT_METADATA: (found.get("metadata") or {}).get(AGENT_METADATA)}

    def make(client: Any, changes: Mapping[str, object]) -> None:
        # Metadata is replaced as a whole, so what others have put there goes along.
        present = ((_get(client, path) or {}).get("metadata")) or {}
        client.adapter.post(f"/v1/{path}", json={"metadata": {**present, **changes}})

    command = f"bao write {path} metadata={AGENT_METADATA}={own}"
    return Piece(f"the entity {target.role}", {AGENT_METADATA: own}, look, make, command)


def _alias(target: Target) -> Piece:
    """The alias that ties the AppRole's logins to the entity; Vault names them by the role ID."""

    def where(client: Any) -> tuple[str, str, str]:
        """Return role ID, accessor of the auth method, and the entity's ID; empty where something is missing yet."""
        role = (_get(client, f"auth/{target.auth_mount}/role/{target.role}/role-id") or {}).get("role_id", "")
        method = (_get(client, "sys/auth") or {}).get(f"{target.auth_mount}/") or {}
        entity = (_get(client, f"identity/entity/name/{target.role}") or {}).get("id", "")
        return str(role), str(method.get("accessor", "")), str(entity)

    def look(client: Any) -> Found:
        role, accessor, _entity_id = where(client)
        entity = _get(client, f"identity/entity/name/{target.role}") or {}
        aliases = {(alias["name"], alias["mount_accessor"]) for alias in entity.get("aliases") or ()}
        return {"for": target.role} if role and (role, accessor) in aliases else None

    def make(client: Any, _changes: Mapping[str, object]) -> None:
        role, accessor, entity = where(client)
        body = {"name": role, "mount_accessor": accessor, "canonical_id": entity}
        client.adapter.post("/v1/identity/entity-alias", json=body)

    command = (
        "bao write identity/entity-alias \\\n"
        f"  name=$(bao read -field=role_id auth/{target.auth_mount}/role/{target.role}/role-id) \\\n"
        f"  mount_accessor=$(bao read -field=accessor sys/auth/{target.auth_mount}) \\\n"
        f"  canonical_id=$(bao read -field=id identity/entity/name/{target.role})"
    )
    return Piece(f"the entity's alias for {target.role}", {"for": target.role}, look, make, command)


def _words(values: Mapping[str, object]) -> str:
    """Write values as a shell's ``name=value`` words."""
    return " ".join(f"{name}={shlex.quote(_plain(value))}" for name, value in values.items())


def _plain(value: object) -> str:
    """Write a value as Vault's command line takes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
