"""The Vault policies of ``policies/``, shipped with the package and fitted to a mount, a prefix and a customer."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from importlib import resources
from typing import TYPE_CHECKING

from varmenne.errors import InputError, VaultDenied
from varmenne.vault.location import checked_path, consumer_name, customer_segment

if TYPE_CHECKING:
    from varmenne.vault.location import Location

POLICIES = (
    "agent",
    "agent-own-prefix",
    "publisher",
    "consumer",
    "auditor",
    "credentials-writer",
    "credentials-reader",
    "credentials-kv-writer",
    "credentials-kv-reader",
    "setup",
)
"""Names of the policies, each a file ``NAME.hcl``."""

CONSUMER = "consumer"
"""The policy of consumers, and the name under which one tells what it serves where it is given no other."""

FOR_ONE_CUSTOMER = frozenset({"publisher", CONSUMER})
"""Policies whose paths name an environment, a customer and a channel."""

WRITTEN_FOR_MOUNT = "secret"
WRITTEN_FOR_PREFIX = "varmenne"
WRITTEN_FOR_CUSTOMER = "test/1234567-8/ws"

_RECORDS = re.compile(rf'^path "{WRITTEN_FOR_MOUNT}/(data|metadata)/{WRITTEN_FOR_PREFIX}/', re.MULTILINE)
_CUSTOMER = re.compile(rf'^(path "[^"]*/){WRITTEN_FOR_CUSTOMER}/', re.MULTILINE)
_CONSUMER = re.compile(rf'^(path "[^"]*/served/){CONSUMER}"', re.MULTILINE)
_MOUNT = re.compile(rf'^path "(sys/mounts/)?{WRITTEN_FOR_MOUNT}(/config)?"', re.MULTILINE)


@contextlib.contextmanager
def needs_policy(name: str, options: str = "") -> Iterator[None]:
    """Have a refusal of Vault's policy name the one of :data:`POLICIES` that the block's calls need.

    Args:
        name: the policy; calls that the agent's suffices for need no block.
        options: what else ``varmenne vault setup --for NAME`` has to be told.

    Raises:
        VaultDenied: as the block raised it, with the next step for this policy.
    """
    try:
        yield
    except VaultDenied as exc:
        if exc.facts.get("reason") != "policy":
            raise
        setup = " ".join(filter(None, ("varmenne vault setup --for", name, options)))
        next_step = f"Use a login that has the policy of policies/{name}.hcl; an administrator makes it: {setup}"
        raise VaultDenied(exc.what, why=exc.why, next_step=next_step, **exc.facts) from exc


def policy_text(
    name: str,
    *,
    mount: str = WRITTEN_FOR_MOUNT,
    prefix: str = WRITTEN_FOR_PREFIX,
    location: Location | None = None,
    consumer: str = CONSUMER,
) -> str:
    """Return a policy's HCL with its paths moved to ``mount`` and ``prefix`` and, where it is for one, to a customer.

    Args:
        name: one of :data:`POLICIES`.
        mount: the KV mount.
        prefix: the prefix of the records; for ``agent-own-prefix`` the part before the agent's own.
        location: whose record it is, for those of :data:`FOR_ONE_CUSTOMER`; without it the example's stays.
        consumer: the name under which a consumer may tell what it serves.

    Raises:
        ConfigError: mount or prefix cannot be part of a path.
        InputError: a policy for all customers is asked for one, or the consumer's name cannot be part of a path.
        KeyError: there is no such policy.
    """
    if name not in POLICIES:
        raise KeyError(name)
    checked_path(mount, "vault.mount")
    checked_path(prefix, "vault.prefix")
    text = resources.files("varmenne.vault").joinpath("policies", f"{name}.hcl").read_text(encoding="utf-8")
    if location is not None:
        if name not in FOR_ONE_CUSTOMER:
            raise InputError(f"The policy {name} is not for one customer")
        parts = (location.environment.value, customer_segment(location.customer), location.channel.value)
        text = _CUSTOMER.sub(rf"\g<1>{'/'.join(parts)}/", text)
    text = _CONSUMER.sub(rf'\g<1>{consumer_name(consumer)}"', text)
    text = _MOUNT.sub(lambda found: f'path "{found[1] or ""}{mount}{found[2] or ""}"', text)
    return _RECORDS.sub(rf'path "{mount}/\1/{prefix}/', text)
