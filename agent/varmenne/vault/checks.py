"""What must be true before one-time credentials are spent, each asked of Vault itself and each with its next step.

:data:`CHECKS` is the list, in the order in which one rests on another. A check returns what it found, or raises the
error that the same cause would raise later, in the middle of the work.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from varmenne.domain.check import Check, Verdict
from varmenne.errors import VaultDenied, VaultError, VaultUnavailable
from varmenne.vault.location import AUDIT

if TYPE_CHECKING:
    from collections.abc import Callable

    from varmenne.vault.connection import Connection
    from varmenne.vault.location import Location

SHORT_TTL_SECONDS = 300
"""A token that cannot be renewed should live as long as waiting for one certificate may take, and that is minutes."""

NEEDED = ("create", "read", "update")
"""Rights that publishing uses at a record."""

DANGEROUS = {
    "data": ("delete", "sudo"),
    "metadata": ("delete", "sudo"),
    "delete": ("update",),
    "destroy": ("update",),
    "undelete": ("update",),
}
"""KV version 2 path → rights that publishing never uses, and that could take away what was published."""

WRITES = ("create", "update", "patch", "delete", "sudo")

DANGEROUS_AT_CHECKPOINTS = DANGEROUS | {"data": ("update", "patch", "delete", "sudo"), "metadata": WRITES}
"""The same for checkpoints of the audit log, which are written once."""

SOMEBODY = "varmenne-somebody-else"
"""A name that nobody has, for asking about what belongs to others; nothing is written there."""

DANGEROUS_ELSEWHERE: dict[str, tuple[str, ...]] = {
    "{mount}/config": WRITES,
    "{mount}/data/{somebody}/test/1/ws/current": ("read", "list", *WRITES),
    "{mount}/metadata/{somebody}/test/1/ws/current": ("read", "list", *WRITES),
    "{mount}/metadata": ("list",),
    "{somebody}/data/secret": ("read", "list", *WRITES),
    "auth/token/create": WRITES,
    "auth/token/create-orphan": WRITES,
    "auth/token/roles/{somebody}": WRITES,
    "auth/token/revoke-accessor": WRITES,
    "auth/approle/role/{somebody}": ("read", *WRITES),
    "auth/approle/role/{somebody}/secret-id": WRITES,
    "identity/entity": WRITES,
    "identity/entity/name/{somebody}": WRITES,
    "identity/entity-alias": WRITES,
    "identity/group": WRITES,
    "sys/audit": ("read", *WRITES),
    "sys/audit/{somebody}": WRITES,
    "sys/audit-hash/file": WRITES,
    "sys/auth/{somebody}": WRITES,
    "sys/capabilities": WRITES,
    "sys/config/auditing/request-headers/{somebody}": WRITES,
    "sys/generate-root/attempt": WRITES,
    "sys/leases/lookup": WRITES,
    "sys/leases/revoke-prefix/{somebody}": WRITES,
    "sys/mounts/{mount}": ("read", *WRITES),
    "sys/mounts/{somebody}": WRITES,
    "sys/mounts/{mount}/tune": WRITES,
    "sys/namespaces/{somebody}": WRITES,
    "sys/plugins/catalog/secret/{somebody}": WRITES,
    "sys/policies/acl/{somebody}": ("read", *WRITES),
    "sys/policies/password/{somebody}": WRITES,
    "sys/policy/{somebody}": ("read", *WRITES),
    "sys/quotas/rate-limit/{somebody}": WRITES,
    "sys/raw/{somebody}": ("read", "list", *WRITES),
    "sys/remount": WRITES,
    "sys/rotate": WRITES,
    "sys/seal": WRITES,
    "sys/step-down": WRITES,
    "sys/storage/raft/configuration": ("read",),
    "sys/storage/raft/snapshot": ("read", *WRITES),
    "sys/storage/raft/snapshot-force": WRITES,
}
"""Path elsewhere → rights that an agent must not have there, so that a stolen token is worth little."""


def reachable(connection: Connection, location: Location) -> Check:  # noqa: ARG001 - all are called alike
    """Ask for the seal status, which needs no login."""
    status = connection.anonymous("asking whether it is sealed", lambda client: client.sys.read_seal_status())
    try:
        initialised, sealed, version = bool(status["initialized"]), bool(status["sealed"]), str(status["version"])
    except (KeyError, TypeError):
        raise VaultError(
            f"What answers at {connection.settings.address} is not Vault", next_step="Check vault.address"
        ) from None
    if not initialised:
        raise VaultUnavailable(
            "Vault is not initialised", next_step="Ask its administrators; `bao operator init` does that once"
        )
    if sealed:
        raise VaultUnavailable("Vault is sealed", next_step="Ask its administrators to unseal it")
    return Check("reachable", Verdict.OK, f"{connection.settings.address} is unsealed, version {version}")


def login(connection: Connection, location: Location) -> Check:  # noqa: ARG001 - all are called alike
    """Log in, and let the token look itself up: a real call, which also goes through Vault's audit log."""
    data = _data(connection.call("looking up our own token", lambda client: client.auth.token.lookup_self()))
    ttl, renewable = int(data.get("ttl") or 0), bool(data.get("renewable"))
    policies = sorted({*(data.get("policies") or ()), *(data.get("identity_policies") or ())})
    detail = f"by {connection.settings.login.method}, policies {', '.join(policies)}, " + (
        f"{ttl} s to live" if ttl else "no end"
    )
    if "root" in policies:
        return Check("login", Verdict.WARN, detail, "Use a role with policies/agent.hcl, never a root token")
    if ttl and not renewable and ttl < SHORT_TTL_SECONDS:
        return Check("login", Verdict.WARN, detail, "Give the role a longer token_ttl, or renewable tokens")
    return Check("login", Verdict.OK, detail)


def mount(connection: Connection, location: Location) -> Check:  # noqa: ARG001 - all are called alike
    """Make sure that the mount is a KV engine of version 2: version 1 would take our writes and keep no versions."""
    name = connection.settings.mount
    try:
        answer = connection.call(
            f"looking at the mount {name}",
            lambda client: client.adapter.get(f"/v1/sys/internal/ui/mounts/{name}"),
        )
    except VaultDenied as exc:
        if exc.facts.get("reason") != "policy":
            raise
        raise VaultDenied(
            f"Vault has no mount {name}, or none that our role may use",
            why="Vault answers the same to both",
            next_step="Check vault.mount and vault.namespace, and give the role the policy of policies/agent.hcl",
            mount=name,
        ) from exc
    data = _data(answer)
    kind, version = str(data.get("type")), str((data.get("options") or {}).get("version", "1"))
    if kind not in {"kv", "generic"}:
        raise VaultError(
            f"The mount {name} is a {kind} engine", next_step="Set vault.mount to a KV version 2 mount", mount=name
        )
    if version != "2":
        raise VaultError(
            f"The mount {name} is a KV engine of version {version}",
            why="it has no versions and no check-and-set, so concurrent writers would overwrite each other",
            next_step="Make a KV version 2 mount and set vault.mount to it; do not convert one that others use",
            mount=name,
        )
    return Check("mount", Verdict.OK, f"{name} is a KV engine of version 2")


def rights(connection: Connection, location: Location) -> Check:
    """Ask Vault what our token may do at the records' own paths: the current certificate's, and a generation's."""
    name = connection.settings.mount
    records = [f"{name}/data/{place.path}" for place in (location, location.generation(1))]
    checkpoint = _checkpoint(location)
    wanted = {
        f"{name}/metadata/{location.path}": ("patch", "custom metadata cannot be set"),
        f"{name}/metadata/{location.generation(1).path}": ("patch", "custom metadata cannot be set"),
        f"{name}/metadata/{location.served().path}": ("list", "it is not seen who still serves an old certificate"),
        f"{name}/data/{location.served_by(SOMEBODY).path}": ("read", "it is not seen what consumers serve"),
        f"{name}/data/{checkpoint}": ("create", "the audit log is not anchored in Vault"),
        f"{name}/metadata/{checkpoint}": ("list", "the audit log is not compared with what was anchored"),
    }
    found = _capabilities(connection, {where: where for where in (*records, *wanted)})
    for where in records:
        if lacking := [right for right in NEEDED if not found[where] & {right, "root"}]:
            raise VaultDenied(
                f"Our Vault token may not {', '.join(lacking)} at {where}",
                why="its policies do not grant it",
                next_step="Give the role the policy of policies/agent.hcl",
                path=where,
                lacking=lacking,
            )
    told = f"{', '.join(NEEDED)} at {records[0]} and its generations"
    for where, (right, otherwise) in wanted.items():
        if not found[where] & {right, "root"}:
            next_step = "Give the role the policy of policies/agent.hcl"
            return Check("rights", Verdict.WARN, f"{told}, but not {right} at {where}: {otherwise}", next_step)
    return Check("rights", Verdict.OK, told)


def no_dangerous_rights(connection: Connection, location: Location) -> Check:
    """Ask whether our token could also destroy what was published, reach what is not ours, or get more rights."""
    name = connection.settings.mount
    table = {f"{name}/{kind}/{location.path}": feared for kind, feared in DANGEROUS.items()}
    checkpoint = _checkpoint(location)
    table |= {f"{name}/{kind}/{checkpoint}": feared for kind, feared in DANGEROUS_AT_CHECKPOINTS.items()}
    table |= {where.format(mount=name, somebody=SOMEBODY): feared for where, feared in DANGEROUS_ELSEWHERE.items()}
    found = _capabilities(connection, {where: where for where in table})
    excess = [
        f"{right} at {where}" for where, feared in table.items() for right in ("root", *feared) if right in found[where]
    ]
    if excess:
        return Check(
            "no dangerous rights",
            Verdict.WARN,
            f"the token could {'; '.join(excess[:3])}" + (f" and {len(excess) - 3} more" if len(excess) > 3 else ""),
            "Give the role the policy of policies/agent.hcl and no other",
        )
    return Check(
        "no dangerous rights",
        Verdict.OK,
        "the token cannot delete or destroy records, change checkpoints of the audit log, nor reach other prefixes or "
        f"Vault's own settings: {len(table)} paths were asked for",
    )


def strictly(check: Check) -> Check:
    """Return a check with a dangerous right as a failure: enrolling may go on with one, a check of rights may not."""
    feared = check.verdict is Verdict.WARN and check.name == "no dangerous rights"
    return replace(check, verdict=Verdict.FAIL) if feared else check


CHECKS: tuple[tuple[str, Callable[[Connection, Location], Check]], ...] = (
    ("reachable", reachable),
    ("login", login),
    ("mount", mount),
    ("rights", rights),
    ("no dangerous rights", no_dangerous_rights),
)
"""Name → check, in the order in which they are made. After one that fails, the rest would say nothing."""


def _checkpoint(location: Location) -> str:
    """Return the path of a checkpoint of the audit log that nobody has made."""
    return f"{location.prefix}/{AUDIT}/{SOMEBODY}/0"


def _capabilities(connection: Connection, paths: dict[str, str]) -> dict[str, set[str]]:
    """Ask for our token's rights at several paths in one call; return them under the keys of ``paths``."""
    answer = _data(
        connection.call("asking for our rights", lambda client: client.sys.get_capabilities(paths=[*paths.values()]))
    )
    return {key: set(answer.get(path) or ()) for key, path in paths.items()}


def _data(answer: Any) -> dict[str, Any]:
    """Return the part ``data`` of an answer of Vault."""
    data = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(data, dict):
        raise VaultError("What answers is not Vault", next_step="Check vault.address")
    return data
