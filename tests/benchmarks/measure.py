"""Measuring for the benchmarks: medians of interleaved runs, and ratios with their goals."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping


def medians(calls: Mapping[str, Callable[[], object]], *, rounds: int) -> dict[str, float]:
    """Time each call in turn, round after round, so that other load falls on all alike; return medians in seconds."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, call in calls.items():
                began = time.perf_counter()
                call()
                taken[name].append(time.perf_counter() - began)
    finally:
        gc.enable()
    return {name: statistics.median(times) for name, times in taken.items()}


def report(what: str, value: float, goal: float, detail: str, *, unit: str = "") -> None:
    """Print one line: what was measured, the value, its goal, and what it was made from."""
    verdict = "ok  " if value <= goal else "over"
    print(f"{verdict}  {what}: {value:.2f}{unit}  (goal ≤ {goal:g}{unit}; {detail})")
