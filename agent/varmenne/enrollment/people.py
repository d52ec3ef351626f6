"""What people tell of a certificate, and no interface does: the SFTP channel's user ID, and the technical contact.

Both are of a customer's channel rather than of one certificate: they are noted at all of its generations that are on
their way, in use, or may be put back to use, and each later one inherits them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from varmenne.domain import identifiers as ids
from varmenne.domain.enrollment import Enrollment
from varmenne.domain.identifiers import Channel
from varmenne.domain.steps import ENDED, IN_USE, State
from varmenne.enrollment import facts
from varmenne.enrollment.engine import lease
from varmenne.errors import InputError, StateError

if TYPE_CHECKING:
    from varmenne.enrollment.parts import Parts

LIVING = frozenset(State) - ENDED | IN_USE
"""States whose certificate is coming, in use, or may be put back to use."""


def set_sftp_user(parts: Parts, row: Enrollment, user: str) -> Enrollment:
    """Note the user ID of an SFTP channel, which comes by mail once, and stays for all of its later certificates.

    Raises:
        InputError: the enrollment is not of an SFTP channel, or the user ID cannot be one.
        StateError: the enrollment is over, or another process is at work on it.
    """
    if row.channel is not Channel.SFTP:
        raise InputError(
            f"Enrollment {row.id} is for {row.channel}",
            why="only the SFTP channel has user IDs",
            next_step="`varmenne list` shows the channel of each",
        )
    return _note(parts, row, "sftp_user", ids.sftp_user(user))


def set_contact(parts: Parts, row: Enrollment, contact: str) -> Enrollment:
    """Note who the technical contact person is. The authority learns of it in the e-service, from a person.

    Raises:
        InputError: the text is empty, too long, or holds what cannot be printed.
        StateError: the enrollment is over, or another process is at work on it.
    """
    return _note(parts, row, "contact", ids.contact(contact))


def _note(parts: Parts, row: Enrollment, name: str, value: str) -> Enrollment:
    """Write a value to an enrollment, and to the others of its customer's channel that live; each once.

    A crash in between leaves some without it: the same command again completes it.
    """
    facts.refuse_other_environment(parts.settings, row)
    if row.state not in LIVING:
        raise StateError(
            f"Nothing is noted at enrollment {row.id} any more",
            why=f"it is {row.state}",
            next_step="`varmenne list` shows the one in use",
        )
    others = (
        one
        for one in parts.journal.every(states=LIVING, customer=row.customer_id, documents=False)
        if (one.environment, one.channel) == (row.environment, row.channel) and one.id != row.id
    )
    for one in [row, *others]:
        if getattr(one, name) != value:
            _write(parts, one, name, value)
    return parts.journal.get(row.id)


def _write(parts: Parts, row: Enrollment, name: str, value: str) -> None:
    """Write one value, with a line in the history. The row is held meanwhile, lest a step of somebody else be lost."""
    due = parts.journal.get(row.id).due_at
    held = parts.journal.claim(row, parts.now, lease=lease(parts))
    parts.journal.commit(
        held,
        parts.now,
        held.state,
        step=name.replace("_", "-"),
        changes={name: value, "owner": None, "due_at": due},
        detail={name: value},
    )
