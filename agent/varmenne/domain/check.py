"""One line of a check-up, as ``doctor`` and the preflight show it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """What was looked at and found, and what to do about it.

    Attributes:
        name: what was looked at, a few words.
        verdict: how it ended.
        detail: what was found.
        next_step: what the reader can do, unless all is well.
    """

    name: str
    verdict: Verdict
    detail: str
    next_step: str = ""
