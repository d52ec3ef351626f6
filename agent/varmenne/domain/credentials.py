"""The one-time credentials of a certificate order, as they come from a mail, a file or a prompt."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from varmenne.domain.identifiers import CustomerId, TransferId, checked_text, customer_id, transfer_id
from varmenne.domain.secret import Secret
from varmenne.errors import InputError

LIFETIME = timedelta(days=14)
"""How long transfer IDs and one-time passwords are valid, counted from the earliest known date."""

MAX_FILE_BYTES = 16 * 1024

_NAMES = {
    "customer_id": (
        "customer_id",
        "customerid",
        "asiakastunnus",
        "kundbeteckning",
        "business_id",
        "y_tunnus",
        "ytunnus",
    ),
    "transfer_id": ("transfer_id", "transferid", "siirtotunnus", "overforings_id", "overforingsid", "overforingskod"),
    "one_time_password": (
        "one_time_password",
        "onetimepassword",
        "transfer_password",
        "transferpassword",
        "password",
        "kertakayttosalasana",
        "kertakayttoinen_salasana",
        "salasana",
        "engangslosenord",
        "losenord",
    ),
    "valid_until": ("valid_until", "voimassa", "voimassa_asti", "giltig_till"),
}
_WORDS = {
    "customer_id": "customer ID",
    "transfer_id": "transfer ID",
    "one_time_password": "one-time password",
    "valid_until": "end of their validity",
}
_FIELD_OF = {alias: field for field, aliases in _NAMES.items() for alias in aliases}


@dataclass(frozen=True, slots=True)
class Credentials:
    """Transfer ID and one-time password of one order; they can be spent once, within 14 days.

    Attributes:
        transfer: names the order at the service.
        password: the one-time password, 1 to 16 characters.
        customer: the customer that the order is for, where the source says so.
        valid_until: the end of the 14 days, where the source says so; timezone-aware.
    """

    transfer: TransferId
    password: Secret
    customer: CustomerId | None = None
    valid_until: datetime | None = None

    def refuse_expired(self, now: datetime) -> None:
        """Refuse credentials whose 14 days are known to be over.

        Raises:
            InputError: ``valid_until`` is known and has passed.
        """
        if self.valid_until is not None and self.valid_until <= now:
            raise InputError(
                "The one-time credentials have expired",
                why=f"they were valid until {self.valid_until:%Y-%m-%d %H:%M} UTC",
                next_step="Order a new certificate in the e-service; the old order serves as its template",
            )


def transfer_hash(transfer: TransferId) -> str:
    """SHA-256 of a transfer ID, hexadecimal: tells a repeated one without keeping it in the journal."""
    return hashlib.sha256(f"varmenne transfer ID\n{transfer}".encode()).hexdigest()


def parse_credentials(text: str) -> Credentials:
    """Read credentials from a JSON object or from ``name: value`` lines pasted from a mail.

    Names are taken in English, Finnish or Swedish, in any case; other lines of a mail are passed over.

    Raises:
        InputError: a value is missing, occurs twice with different contents, or breaks the service's limits. The
            message names the field, never its value.
    """
    fields = _from_json(text) if text.lstrip().startswith("{") else _from_lines(text)
    missing = [_WORDS[name] for name in ("transfer_id", "one_time_password") if name not in fields]
    if missing:
        raise InputError(
            f"The credentials lack the {' and the '.join(missing)}",
            next_step='Give JSON such as {"transfer_id": …, "one_time_password": …}, or lines such as "transfer ID: …"',
        )
    return Credentials(
        transfer=transfer_id(fields["transfer_id"]),
        password=Secret(checked_text("one-time password", fields["one_time_password"])),
        customer=customer_id(fields["customer_id"]) if "customer_id" in fields else None,
        valid_until=_moment(fields["valid_until"]) if "valid_until" in fields else None,
    )


def _from_json(text: str) -> dict[str, str]:
    """Take the known fields out of a JSON object; the parser's own message could quote the secret, so it is dropped."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError(
            "The credentials are not valid JSON", next_step="Paste the whole object, or use name: value lines"
        ) from None
    fields: dict[str, str] = {}
    for name, value in document.items():
        field = _FIELD_OF.get(_plain(name))
        if field is None or value is None:
            continue
        if not isinstance(value, str):
            raise InputError(f"The credentials' {name} is not a text", next_step="Put the value in quotes")
        _put(fields, field, value)
    return fields


def _from_lines(text: str) -> dict[str, str]:
    """Take the known fields out of ``name: value`` (or ``name = value``) lines."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, *values = re.split("[:=]", line, maxsplit=1)
        value = values[0].strip() if values else ""
        field = _FIELD_OF.get(_plain(name))
        if field is not None and value:
            _put(fields, field, value)
    return fields


def _put(fields: dict[str, str], field: str, value: str) -> None:
    """Set a field once; two different values for it are a refusal, since either could be the wrong one."""
    if fields.setdefault(field, value) != value:
        raise InputError(f"The credentials give the {_WORDS[field]} twice, with different values")


def _plain(name: str) -> str:
    """Fold a field's name: lower case, no diacritics, blanks and hyphens as underscores."""
    folded = unicodedata.normalize("NFKD", name.strip().lower())
    letters = "".join(char for char in folded if not unicodedata.combining(char))
    return re.sub(r"[\s\-]+", "_", letters)


def _moment(value: str) -> datetime:
    """Parse a date or time, ISO 8601 or as Finns write it (8.12.2026).

    A bare date means its beginning, so that we never count on a day too many.
    """
    try:
        finnish = re.fullmatch(r"(\d{1,2})\.(\d{1,2})\.(\d{4})", value, re.ASCII)
        if finnish is None:
            moment = datetime.fromisoformat(value)
        else:
            moment = datetime(int(finnish[3]), int(finnish[2]), int(finnish[1]), tzinfo=UTC)
    except ValueError:
        raise InputError(
            "The credentials' end of validity is not a date",
            next_step="Write it as 2026-12-08, or take the line out: it is not needed",
        ) from None
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
