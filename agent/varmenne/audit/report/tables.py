"""The inventory and the evidence for controls as JSON and CSV. What a spreadsheet could run is made harmless."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from datetime import datetime
from typing import Any, Final

from varmenne.audit.inventory import Custody, Inventory, Key
from varmenne.audit.report.controls import Evidence
from varmenne.audit.report.lines import document
from varmenne.domain.forms import iso

FORMAT: Final = "varmenne.inventory/1"

RISKY: Final = (
    *("=", "+", "-", "@", "\t", "\r", "\n", "\N{MINUS SIGN}"),
    *(
        "\N{FULLWIDTH EQUALS SIGN}",
        "\N{FULLWIDTH PLUS SIGN}",
        "\N{FULLWIDTH HYPHEN-MINUS}",
        "\N{FULLWIDTH COMMERCIAL AT}",
    ),
)
"""How a cell begins that spreadsheets may take for a formula (OWASP, CSV injection)."""


def inventory_json(inventory: Inventory) -> bytes:
    """Write the whole inventory for programs: each custody once, and with each key its number."""
    custodies: dict[Custody, int] = {}
    for key in inventory.keys:
        if key.custody is not None:
            custodies.setdefault(key.custody, len(custodies))
    head = {
        "format": FORMAT,
        **{name: _plain(getattr(inventory, name)) for name in ("made_at", "host", "environment", "version", "asked")},
        "log": _plain(inventory.log),
        "tokens": [_plain(token.identity) | _rest(token, "identity") for token in inventory.tokens],
        "custodies": [
            _plain(one.token) | {"attributes": dict(one.attributes), "deviations": list(one.deviations)}
            for one in custodies
        ],
        "findings": _plain(inventory.findings),
    }
    keys = (
        _rest(key, "custody")
        | {
            "key_state": key.key_state.value,
            "in_grace": key.in_grace,
            "bits": key.bits,
            "strength_bits": key.strength,
            "custody": None if key.custody is None else custodies[key.custody],
            "covered": inventory.log.covers(key.last_record),
        }
        for key in inventory.keys
    )
    return document(head, "keys", keys)


def _plain(value: Any) -> Any:
    """Write a value for JSON: moments as ISO 8601 in UTC, other values by their fields."""
    if isinstance(value, datetime):
        return iso(value)
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return _rest(value) if is_dataclass(value) else value


def _rest(value: Any, *without: str) -> dict[str, Any]:
    """Return the fields of a value but some."""
    return {one.name: _plain(getattr(value, one.name)) for one in fields(value) if one.name not in without}


COLUMNS: Final = (
    "enrollment",
    "environment",
    "customer_id",
    "customer_name",
    "channel",
    "generation",
    "method",
    "key_id",
    "public_key_sha256",
    "algorithm",
    "bits",
    "strength_bits",
    "token_label",
    "token_serial",
    "token_model",
    "software_token",
    "key_state",
    "in_grace",
    "state",
    "certificate_serial",
    "certificate_sha256",
    "issuer",
    "not_before",
    "not_after",
    "technical_contact",
    "key_made_by",
    "vault_path",
    "vault_version",
    "renewal_opens",
    "order_by",
    "records",
    "last_record",
    "checkpoint_size",
    "covered",
    "exceptions",
)


def inventory_csv(inventory: Inventory) -> bytes:
    """Write one line for each key."""
    software = {token.identity: token.software for token in inventory.tokens}
    exceptions: defaultdict[str, list[str]] = defaultdict(list)
    for finding in inventory.findings:
        exceptions[finding.subject].append(finding.kind)
    return _csv([COLUMNS, *(_line(key, inventory, software, exceptions[key.enrollment]) for key in inventory.keys)])


def _line(key: Key, inventory: Inventory, software: dict[Any, bool], exceptions: list[str]) -> Iterator[object]:
    """Yield the cells of one key, in order of :data:`COLUMNS`."""
    token = None if key.custody is None else key.custody.token
    certificate = key.certificate
    yield from (key.enrollment, key.environment, key.customer_id, key.customer_name, key.channel, key.generation)
    yield from (key.method, key.key_id, key.public_key, None if token is None else "RSA", key.bits, key.strength)
    yield from (None, None, None, None) if token is None else (token.label, token.serial, token.model, software[token])
    yield from (key.key_state.value, key.in_grace, key.state.value)
    yield from (
        (None,) * 5
        if certificate is None
        else (
            certificate.serial,
            certificate.sha256,
            certificate.issuer,
            certificate.not_before,
            certificate.not_after,
        )
    )
    yield from (key.contact, key.made_by, key.vault_path, key.vault_version)
    yield from (key.dates.renewal_opens, key.dates.order_by, key.records, key.last_record)
    yield from (inventory.log.checkpoint_size, inventory.log.covers(key.last_record))
    yield " ".join(dict.fromkeys(exceptions))


def controls_csv(found: Iterable[Evidence]) -> bytes:
    """Write one line for each control, in the language that the evidence is in."""
    lines = (
        (one.control.framework, one.control.reference, one.asks, one.evidence, one.proof, "\n".join(one.gaps))
        for one in found
    )
    return _csv([("framework", "reference", "asks", "evidence", "proof", "gaps"), *lines])


def _csv(lines: Iterable[Iterable[object]]) -> bytes:
    """Write lines by RFC 4180, in UTF-8 with the mark by which spreadsheets know it."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=csv.QUOTE_ALL)
    writer.writerows([harmless(cell) for cell in line] for line in lines)
    return text.getvalue().encode("utf-8-sig")


def harmless(value: object) -> str:
    """Write a cell, with an apostrophe before what a spreadsheet could take for a formula."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = iso(value) if isinstance(value, datetime) else str(value)
    return f"'{text}" if text.lstrip(" \N{NO-BREAK SPACE}\N{ZERO WIDTH NO-BREAK SPACE}").startswith(RISKY) else text
