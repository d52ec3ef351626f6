"""The languages of the report: one table of texts for each, and how moments are written in both."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

Texts = Callable[..., str]
"""Returns a text by its key, with fields filled in."""


class Language(StrEnum):
    """A language that the report can be written in."""

    ENGLISH = "en"
    FINNISH = "fi"


@functools.cache
def table(language: Language) -> dict[str, str]:
    """Return all texts of a language by their keys."""
    path = Path(__file__).with_name("texts") / f"{language.value}.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))


def texts(language: Language) -> Texts:
    """Return how to look texts up in a language. A key or a field that there is not raises KeyError: a defect."""
    found = table(language)

    def look_up(key: str, **fields: object) -> str:
        return found[key].format_map(fields) if fields else found[key]

    return look_up


NOTHING = "\N{EN DASH}"


def day(moment: datetime | None) -> str:
    """Write a day in UTC as ISO 8601 does; a dash for none."""
    return NOTHING if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d}"


def minute(moment: datetime | None) -> str:
    """Write a moment in UTC to the minute."""
    return NOTHING if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}"
