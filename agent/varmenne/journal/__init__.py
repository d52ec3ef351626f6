"""Durable state: every enrollment, every transition, every answer, committed before anything else happens."""

from varmenne.journal.claims import Among
from varmenne.journal.journal import Journal, NewEnrollment
from varmenne.journal.owner import this_process

__all__ = ["Among", "Journal", "NewEnrollment", "this_process"]
