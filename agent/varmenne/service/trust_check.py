"""A check-up of the trust folder: is it whole, is each CA believed for a reason, and how long do they last?"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from varmenne.domain.check import Check, Verdict
from varmenne.errors import VarmenneError, VerificationError
from varmenne.service.trust import load_trust, validate_path
from varmenne.service.trust_store import LOG_NAME, Stored, TrustStore, in_pairs

if TYPE_CHECKING:
    from pathlib import Path

END_WARNING = timedelta(days=365)
"""A CA that ends sooner is warned of: its successor has to be there before certificates outlive it."""

ANCHORS = ("services", "providers")


def check_trust(store: TrustStore, now: datetime) -> Iterator[Check]:
    """Look at the whole trust folder, and yield what was found."""
    try:
        stored = store.stored()
        load_trust(store.directory, store.environment, now)
    except VarmenneError as exc:
        yield Check("trust folder", Verdict.FAIL, str(exc), exc.next_step)
        return
    yield _private(store.directory, stored)
    noted = _noted(store.directory / LOG_NAME)
    for item in stored:
        yield _lasting(item, now)
        yield _grounded(item, noted)
    roots = tuple(item.authority.der for item in stored if item.role == "chain" and item.authority.self_signed)
    chain = tuple(item.authority.der for item in stored if item.role == "chain")
    for item in stored:
        if item.role in ANCHORS:
            yield _chained(item, roots, chain, now)


def _private(directory: Path, stored: tuple[Stored, ...]) -> Check:
    """Whoever can write here decides who is believed."""
    places = {directory, *(item.path.parent for item in stored), *(item.path for item in stored)}
    writable = sorted(str(place) for place in places if stat.S_IMODE(place.stat().st_mode) & 0o022)
    if writable:
        return Check(
            "trust folder", Verdict.FAIL, f"others may write {writable[0]}", f"chmod go-w {' '.join(writable)}"
        )
    return Check("trust folder", Verdict.OK, f"{directory}, {len(stored)} certificates")


def _noted(log: Path) -> str:
    """Return the log's text, in which the fingerprints of what people brought in are noted."""
    try:
        return log.read_text(encoding="utf-8")
    except OSError:
        return ""


def _lasting(item: Stored, now: datetime) -> Check:
    """How long does it last?"""
    name, end = f"{item.role}: {item.authority.subject}", item.authority.not_after
    if end <= now:
        return Check(
            name,
            Verdict.WARN,
            f"it ended on {end:%Y-%m-%d} and is not used",
            f"varmenne trust remove {item.authority.fingerprint[:16]}",
        )
    if end - now < END_WARNING:
        return Check(
            name,
            Verdict.WARN,
            f"it ends on {end:%Y-%m-%d}",
            f"varmenne trust import its successor with --role {item.role}; both are trusted side by side until then",
        )
    return Check(name, Verdict.OK, f"until {end:%Y-%m-%d}")


def _grounded(item: Stored, noted: str) -> Check:
    """Why is it believed?"""
    name, fingerprint = f"{item.role}: {item.authority.subject}", item.authority.fingerprint
    if item.authority.published_as is not None:
        return Check(name, Verdict.OK, f"SHA-256 {in_pairs(fingerprint)}, as published")
    if fingerprint in noted:
        return Check(name, Verdict.OK, f"SHA-256 {in_pairs(fingerprint)}, confirmed by a person: see {LOG_NAME}")
    return Check(
        name,
        Verdict.WARN,
        f"varmenne does not know the fingerprint {in_pairs(fingerprint)}, and nobody has confirmed it",
        "Compare it with the one that its owner publishes; a bench has CAs of its own",
    )


def _chained(item: Stored, roots: tuple[bytes, ...], chain: tuple[bytes, ...], now: datetime) -> Check:
    """Does it lead to a root that is there too? Trust does not need that, but whoever publishes the chain does."""
    name = f"{item.role}: {item.authority.subject}"
    try:
        path = validate_path(item.authority.der, roots, now, what="The issuing CA", others=chain)
    except VerificationError as exc:
        return Check(
            name, Verdict.WARN, f"there is no whole chain to a root: {exc.why}", "varmenne trust import --from-aia"
        )
    return Check(name, Verdict.OK, f"its chain leads to a root, {len(path)} certificates")
