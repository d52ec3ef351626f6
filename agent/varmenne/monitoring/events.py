"""The one vocabulary of events: what the log may say, how loud, and what it means. Other words are impossible.

The states of an enrollment are events by their own names. Each event is counted as well, in ``varmenne_events_total``.
"""

from __future__ import annotations

import logging
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

from varmenne.domain.forms import iso
from varmenne.measure import happened

if TYPE_CHECKING:
    from varmenne.domain.enrollment import Enrollment
    from varmenne.errors import VarmenneError

log = logging.getLogger("varmenne.events")

DEBUG, INFO, WARNING, ERROR = logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR


class Event(StrEnum):
    """What may happen. The value is its name in the log; ``level`` and ``meaning`` are in the table below."""

    level: int
    meaning: str

    def __new__(cls, value: str, level: int, meaning: str) -> Self:
        """Make a member of its line."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.level, member.meaning = level, meaning
        return member

    # The agent itself.
    STARTED = "started", INFO, "the agent has started"
    STOPPING = "stopping", INFO, "the agent takes nothing new; what is under way is finished or parked"
    STOPPED = "stopped", INFO, "the agent has ended"
    RELOADED = "reloaded", INFO, "the settings were read anew"
    RELOAD_REFUSED = "reload-refused", ERROR, "new settings cannot be used; the old ones stay"
    JOURNAL_FAILED = "journal-failed", ERROR, "the journal cannot be read or written; nothing is done until it can"
    TOKEN_FAILED = (
        "token-failed",
        ERROR,
        "which rows are ours cannot be told without the token; nothing is done until it can",
    )
    WORKER_STUCK = "worker-stuck", ERROR, "a worker hangs; the watchdog will restart the agent"
    DEFECT = "defect", ERROR, "an unexpected error, which is a defect in varmenne; the other work goes on"
    METRICS_FAILED = "metrics-failed", WARNING, "metrics could not be read or written; the work goes on"
    WOKE = "woke", DEBUG, "the agent looked for work"
    NOTE = "note", INFO, "something that has no event of its own, told in words"

    # One piece of work.
    CLAIMED = "claimed", DEBUG, "the agent has taken an enrollment that is due"
    DONE = "done", INFO, "a step was done, and its result is durable"
    WAITS = "waits", INFO, "the enrollment waits, and is looked at again when it is due"
    FAILED = "failed", WARNING, "a step failed; it is tried again, unless it is said that a person is needed"
    UNUSUAL = "unusual", WARNING, "something is unusual, but no reason to stop"
    ATTENTION = "attention", ERROR, "a person is needed"

    # Upkeep.
    REHEARSAL_FAILED = "rehearsal-failed", ERROR, "the renewal would not succeed today"
    HOOK_DONE = "hook-done", INFO, "a hook ended well"
    HOOK_FAILED = "hook-failed", WARNING, "a hook failed, or took too long"

    # Evidence.
    CUSTODY_FAILED = "custody-failed", ERROR, "a key could leave the token, or was used for what it is not for"
    CHECKPOINT_FAILED = "checkpoint-failed", WARNING, "the audit log could not be signed or anchored; tried again later"
    AUDIT_FAILED = "audit-failed", ERROR, "the audit log is not as it was signed: it was rewritten, cut, or put back"

    # The states of an enrollment.
    PREPARED = "prepared", INFO, "the renewal of a certificate has begun"
    KEYED = "keyed", INFO, "its key is in the token"
    SUBMITTING = "submitting", INFO, "its request is about to be sent"
    ACCEPTED = "accepted", INFO, "the service has accepted the request"
    ISSUED = "issued", INFO, "its certificate is here, and is verified"
    STORED = "stored", INFO, "its certificate is in the token and in Vault, staged"
    ACTIVE = "active", INFO, "its certificate is the current one"
    UNCERTAIN = "uncertain", ERROR, "its request was sent, and the answer is lost: a person decides"
    REJECTED = "rejected", ERROR, "the service refused the request"
    EXPIRED = "expired", WARNING, "its credentials, or the certificate that was to sign for it, ran out"
    ABANDONED = "abandoned", INFO, "it was given up, or is not needed any more"
    SUPERSEDED = "superseded", INFO, "another certificate took its place; its key stays usable for a while"
    RETIRED = "retired", INFO, "its key is retired"
    DESTROYED = "destroyed", INFO, "its key is destroyed in the token"


def log_event(
    event: Event, row: Enrollment | None = None, *, error: VarmenneError | None = None, **facts: object
) -> None:
    """Log an event, and count it.

    Args:
        event: what happened.
        row: the enrollment that it is about. Of it the ID, channel, generation and state are told, no customer.
        error: what went wrong; its sentences are told.
        facts: more, for people and programs. They are written as text, and a :class:`varmenne.domain.secret.Secret`
            does not show in it.
    """
    happened(event)
    if not log.isEnabledFor(event.level):
        return
    about: dict[str, Any] = {}
    if row is not None:
        about = {"enrollment": row.id, "channel": row.channel, "generation": row.generation, "state": row.state}
    if error is not None:
        sentences = {"what": error.what, "why": error.why, "next_step": error.next_step}
        about |= {"error": type(error).__name__, **{name: text for name, text in sentences.items() if text}}
    about |= {name: _plain(value) for name, value in facts.items() if value is not None}
    log.log(event.level, "%s", event.meaning, extra={"event": event, "facts": about})


def _plain(value: object) -> str | int | float | bool:
    """Return a value as JSON has it, or as its text."""
    if isinstance(value, (int, float)):  # A bool is an int.
        return value
    return iso(value) if isinstance(value, datetime) else str(value)
