"""Compares the token's keys with the journal's rows: what is in one and not in the other is told, never deleted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from varmenne.domain.check import Check, Verdict
from varmenne.domain.steps import State

if TYPE_CHECKING:
    from varmenne.enrollment.parts import Parts

LABEL_PREFIX = "varmenne-"
SHOWN = 5
KEY_GONE = frozenset({State.PREPARED, State.ABANDONED, State.RETIRED, State.REJECTED, State.EXPIRED})
"""States in which a missing key is no loss: it was not made yet, or is not needed any more."""


def reconcile(parts: Parts) -> Iterator[Check]:
    """Yield one check for each kind of difference, or one that says that there is none."""
    keys = parts.token.keys()
    in_token = {bytes(key_id): label for key_id, label in keys}
    here = parts.token.identity().digest
    rows = {bytes(row.key_id): row for row in parts.journal.every() if row.token in {None, here}}
    labels = {row.key_label: row for row in rows.values()}
    differences = (
        (
            "keys without a row",
            [label for key_id, label in in_token.items() if label.startswith(LABEL_PREFIX) and key_id not in rows],
            "Made by another installation, or by one whose journal was lost. They are left alone",
        ),
        (
            "rows without a key",
            [row.id for key_id, row in rows.items() if key_id not in in_token and row.state not in KEY_GONE],
            "The token has lost these keys, or is another one. Their certificates cannot be used: order new ones",
        ),
        (
            "strangers with our labels",
            [label for key_id, label in in_token.items() if label in labels and bytes(labels[label].key_id) != key_id],
            "Another key bears an enrollment's label. varmenne goes by CKA_ID; software that goes by label may err",
        ),
        (
            "keys that share a CKA_ID",
            [key_id.hex() for key_id, count in Counter(bytes(key_id) for key_id, _label in keys).items() if count > 1],
            "Nothing can tell such keys apart. Find out who made the second one",
        ),
        (
            "certificates stored half-way",
            [row.id for row in rows.values() if row.state is State.ISSUED],
            "varmenne resume --all",
        ),
    )
    told = [
        Check(name, Verdict.WARN, f"{', '.join(found[:SHOWN])}{' …' if len(found) > SHOWN else ''}", next_step)
        for name, found, next_step in differences
        if found
    ]
    yield from told or [Check("keys", Verdict.OK, f"{len(in_token)} in the token; token and journal agree")]
