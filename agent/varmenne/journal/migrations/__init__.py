"""Alembic migrations of the journal, run at opening in one transaction; see :mod:`varmenne.journal.upgrade`."""
