"""Identifiers of the certificate service and of varmenne, each parsed once at the border.

Lengths are those of the service's schema (``CertificateServices.xsd``): the schema's types are ``normalizedString``,
so a value holds no line break and no tab. We also refuse surrounding blanks and control characters, which can only be
mistakes of pasting.
"""

from __future__ import annotations

import re
import secrets
from datetime import datetime
from enum import StrEnum
from typing import NewType

from varmenne.errors import InputError

CustomerId = NewType("CustomerId", str)
CustomerName = NewType("CustomerName", str)
TransferId = NewType("TransferId", str)
RetrievalId = NewType("RetrievalId", str)
EnrollmentId = NewType("EnrollmentId", str)

MAX_LENGTH = {
    "customer ID": 30,
    "customer name": 100,
    "transfer ID": 32,
    "RetrievalId": 32,
    "one-time password": 16,
    "SFTP user ID": 64,
    "technical contact": 200,
}
"""Longest values, in characters: those that the service's schema allows; the last two never go there, and are ours."""

_ENROLLMENT_ID = re.compile(r"[0-9]{8}-[0-9a-f]{8}")
_LABEL_PREFIX = "varmenne-"
_BUSINESS_ID = re.compile(r"(\d{7})-(\d)")
_BUSINESS_ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2)


class Environment(StrEnum):
    """The two worlds of the service. Trust anchors, journal rows and Vault paths never mix them."""

    PRODUCTION = "production"
    TEST = "test"

    @property
    def on_the_wire(self) -> str:
        """The value of the message element ``Environment``."""
        return self.value.upper()


class Channel(StrEnum):
    """What a certificate is for; one certificate is bound to one channel."""

    WS = "ws"
    SFTP = "sftp"


def checked_text(kind: str, value: str) -> str:
    """Return ``value`` if it can be a ``kind``, a key of :data:`MAX_LENGTH`, as the service's schema has it.

    Raises:
        InputError: the value is empty, too long, has surrounding blanks or control characters. The message never
            repeats the value, which may be secret.
    """
    limit = MAX_LENGTH[kind]
    if not value:
        raise InputError(f"The {kind} is empty", next_step="Give it in full and try again")
    if len(value) > limit:
        raise InputError(f"The {kind} is too long", why=f"{len(value)} characters; at most {limit} are taken")
    if value != value.strip():
        raise InputError(f"The {kind} begins or ends with a blank", next_step="Remove the blank and try again")
    if any(not char.isprintable() for char in value):
        raise InputError(
            f"The {kind} holds a character that cannot be printed",
            why="a line break, a tab or an invisible character, often left by copying from a mail",
            next_step="Type the value by hand and try again",
        )
    return value


def customer_id(value: str) -> CustomerId:
    """Parse a customer ID: a business ID, VAT number, Incomes Register or foreign identifier, 1 to 30 characters."""
    return CustomerId(checked_text("customer ID", value))


def customer_name(value: str) -> CustomerName:
    """Parse a customer name, 1 to 100 characters of any script."""
    return CustomerName(checked_text("customer name", value))


def transfer_id(value: str) -> TransferId:
    """Parse the transfer ID of a certificate order, 1 to 32 characters."""
    return TransferId(checked_text("transfer ID", value))


def retrieval_id(value: str) -> RetrievalId:
    """Parse the RetrievalId that the service gives for fetching a certificate, 1 to 32 characters."""
    return RetrievalId(checked_text("RetrievalId", value))


def sftp_user(value: str) -> str:
    """Parse the user ID of an SFTP channel, 1 to 64 characters without blanks.

    It is put on command lines of SSH, so it cannot be one of their options.
    """
    checked_text("SFTP user ID", value)
    if value.startswith("-") or " " in value:
        raise InputError(
            "The SFTP user ID begins with a hyphen or holds a blank",
            next_step="Compare it with the mail that brought it",
        )
    return value


def contact(value: str) -> str:
    """Parse the name and address of a technical contact person, one line of 1 to 200 characters."""
    return checked_text("technical contact", value)


def business_id_looks_wrong(value: str) -> bool:
    """Tell whether ``value`` has the form of a Finnish business ID but a wrong check digit (weights, modulo 11).

    The service's own artificial test IDs fail this check, so it is worth a warning in production and nothing more.
    """
    match = _BUSINESS_ID.fullmatch(value)
    if match is None:
        return False
    digits, check = match.groups()
    remainder = sum(int(d) * w for d, w in zip(digits, _BUSINESS_ID_WEIGHTS, strict=True)) % 11
    return remainder == 1 or int(check) != (11 - remainder if remainder else 0)


def new_enrollment_id(now: datetime) -> EnrollmentId:
    """Make an enrollment ID: the day and eight random hexadecimal digits, such as ``20261124-7f3a9c21``."""
    return EnrollmentId(f"{now:%Y%m%d}-{secrets.token_hex(4)}")


def enrollment_id(value: str) -> EnrollmentId:
    """Parse an enrollment ID as typed by a person.

    Raises:
        InputError: the value does not have the form ``YYYYMMDD-xxxxxxxx``.
    """
    if not _ENROLLMENT_ID.fullmatch(value):
        raise InputError(
            f"{value!r} is not an enrollment ID",
            why="it looks like 20261124-7f3a9c21",
            next_step="`varmenne list` shows the enrollments and their IDs",
        )
    return EnrollmentId(value)


def key_label(enrollment: EnrollmentId) -> str:
    """Return the ``CKA_LABEL`` of an enrollment's key, by which people and other installations know whose it is."""
    return f"{_LABEL_PREFIX}{enrollment}"


def enrollment_of_label(label: str) -> EnrollmentId | None:
    """Return the enrollment whose key bears a ``CKA_LABEL``, or ``None`` if it is not a label of ours."""
    value = label.removeprefix(_LABEL_PREFIX)
    return EnrollmentId(value) if value != label and _ENROLLMENT_ID.fullmatch(value) else None
