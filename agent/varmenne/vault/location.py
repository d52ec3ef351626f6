"""Where a record lives under the KV mount. Paths stand in clear in Vault's audit log, so they hold no secret."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from varmenne.errors import ConfigError, InputError

if TYPE_CHECKING:
    from varmenne.domain.identifiers import Channel, CustomerId, Environment

CURRENT = "current"
"""Last segment of the record that holds the certificate in use."""

GENERATION = "generation-"
"""Begin of the last segment of the records that hold one generation each, for ever; its number follows."""

AUDIT = "audit"
"""Segment below the prefix where the checkpoints of the audit log are. No environment and no customer has it."""

SERVED = "served"
"""Last segment of the folder where consumers tell what they serve."""

_SEGMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HASHED = re.compile(r"id-[0-9a-f]{32}")
_HASH_DIGITS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """The place of one customer's certificate for one channel in one environment.

    Attributes:
        prefix: ``vault.prefix`` of the settings; one segment or several.
        environment: test or production; the two never share a path.
        customer: the customer ID as the service knows it.
        channel: what the certificate is for.
        record: which of the records there; that of the certificate in use, unless a method below says otherwise.

    Raises:
        ConfigError: the prefix has a segment that is not of letters, digits, ``.``, ``_`` and ``-``.
    """

    prefix: str
    environment: Environment
    customer: CustomerId
    channel: Channel
    record: str = CURRENT

    def __post_init__(self) -> None:
        checked_path(self.prefix, "vault.prefix")

    @property
    def path(self) -> str:
        """The record's path under the mount, such as ``PREFIX/ENVIRONMENT/CUSTOMER/CHANNEL/current``."""
        return "/".join(
            (self.prefix, self.environment.value, customer_segment(self.customer), self.channel.value, self.record)
        )

    def generation(self, number: int) -> Location:
        """Return the place of the record of one generation, which stays when another one becomes the current one."""
        return replace(self, record=f"{GENERATION}{number}")

    def served(self) -> Location:
        """Return the folder where consumers tell what they serve."""
        return replace(self, record=SERVED)

    def served_by(self, consumer: str) -> Location:
        """Return the place where one consumer tells what it serves.

        Raises:
            InputError: its name cannot be part of a path.
        """
        return replace(self, record=f"{SERVED}/{consumer_name(consumer)}")


def customer_segment(customer: CustomerId) -> str:
    """Return a customer ID as a path segment.

    The service has no rule for the form of foreign IDs. One that is not a safe segment is replaced by ``id-`` and the
    first 32 hexadecimal digits of its SHA-256; so is one that looks like such a replacement, lest it be taken for
    another customer's, and :data:`AUDIT`. The record itself always holds the ID as it is.
    """
    if is_segment(customer) and customer != AUDIT and not _HASHED.fullmatch(customer):
        return customer
    return f"id-{hashlib.sha256(customer.encode()).hexdigest()[:_HASH_DIGITS]}"


def consumer_name(name: str) -> str:
    """Return a consumer's name if it can be part of a path.

    Raises:
        InputError: it cannot.
    """
    if is_segment(name):
        return name
    raise InputError(
        f"{name!r} cannot be a consumer's name",
        why="it has 1 to 64 letters, digits, '.', '_' or '-', begins with a letter or digit and has no '..'",
    )


def checked_path(value: str, setting: str) -> str:
    """Return ``value`` if it is safe to put into a URL: hvac and Vault would quietly rewrite ``..``, ``//`` and blanks.

    Raises:
        ConfigError: a segment is empty, too long, or has another character than letters, digits, ``.``, ``_``, ``-``.
    """
    if all(is_segment(segment) for segment in value.split("/")):
        return value
    raise ConfigError(
        f"The setting {setting} is not a usable path: {value!r}",
        why="each part is 1 to 64 letters, digits, '.', '_' or '-', begins with a letter or digit and has no '..'",
        next_step=f"Change {setting} in the settings file; write it without a leading or trailing slash",
    )


def is_segment(value: str) -> bool:
    """Tell whether ``value`` can be one segment of a path as it is."""
    return _SEGMENT.fullmatch(value) is not None and ".." not in value
