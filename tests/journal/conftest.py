"""Fixtures of the journal's tests: each database in turn, empty."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.postgresql import new_postgresql_url, postgresql
from varmenne.journal import Journal
from varmenne.settings import JournalSettings

__all__ = ["database", "journal", "new_postgresql_url", "postgresql"]


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> JournalSettings:
    """Settings of an empty database: SQLite in the state folder, or PostgreSQL."""
    if request.param == "sqlite":
        return JournalSettings()
    return JournalSettings(url=request.getfixturevalue("new_postgresql_url")())


@pytest.fixture
def journal(tmp_path: Path, database: JournalSettings) -> Iterator[Journal]:
    """A new journal in each database."""
    with Journal(tmp_path / "state", database) as made:
        yield made
