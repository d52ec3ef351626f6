"""What is told about enrollments, and how urgent it is. Words and values, no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Self

from varmenne.domain.identifiers import Channel, CustomerId, EnrollmentId


class Reason(StrEnum):
    """Why an enrollment is told of, the most urgent first; ``person`` tells whether one is needed."""

    person: bool
    meaning: str

    def __new__(cls, value: str, meaning: str, person: bool = True) -> Self:  # noqa: FBT001, FBT002 - a table's column
        """Make a member of its line."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning, member.person = meaning, person
        return member

    EXPIRED = "expired", "The certificate in use has expired; only a new order helps."
    ORDER = "order", "The day has come by which new credentials must be ordered."
    UNCERTAIN = "uncertain", "A request with one-time credentials was sent, and its answer is lost."
    POISONED = "poisoned", "Processes ended again and again at this work."
    REJECTED = "rejected", "The service refused an order."
    LAPSED = "lapsed", "One-time credentials ran out before they were sent."
    CREDENTIALS = "credentials", "It waits for its one-time credentials."
    E_SERVICE = "e-service", "It waits for a person who carries its CSR to the e-service."
    BLOCKED = "blocked", "It failed, and will not get on by itself, or has not for a day."
    RENEWAL_FAILING = "renewal-failing", "The renewal has failed for three days."
    RENEW = "renew", "The renewal is due, and nothing begins it, since `renewal.automatic` is off."
    REHEARSAL = "rehearsal", "The renewal would not succeed today."
    SFTP_USER = "sftp-user", "The user ID of the SFTP channel is not known yet."
    HOOKS = "hooks", "A hook was given up."
    APPROVAL = "approval", "Destroying a key waits for another person's approval."
    TRUST = "trust", "A trust anchor ends soon, or cannot be used."
    OVERDUE = "overdue", "Work has been due for an hour, and nothing takes it: is the agent running?"
    RENEWING = "renewing", "The renewal is under way.", False
    WAITING = "waiting", "It goes on by itself.", False
    STAGED = "staged", "The new certificate is ready, and waits for its time.", False
    GRACE = "grace", "The certificate was replaced; its key stays usable for a while.", False


@dataclass(frozen=True, slots=True)
class Concern:
    """One thing to tell.

    Attributes:
        reason: why.
        told: a sentence for people, without a full stop.
        next_step: the command to type, or what else to do; empty where nothing is to be done.
        enrollment: which one, with its customer and channel; ``None`` if it is about none in particular.
        at: the moment that it is about: since when, or until when.
    """

    reason: Reason
    told: str
    next_step: str = ""
    enrollment: EnrollmentId | None = None
    customer_id: CustomerId | None = None
    channel: Channel | None = None
    at: datetime | None = None

    @property
    def urgency(self) -> tuple[int, str, str]:
        """Sorts the most urgent first."""
        return _ORDER[self.reason], "" if self.at is None else self.at.isoformat(), self.enrollment or ""


_ORDER = {reason: number for number, reason in enumerate(Reason)}
