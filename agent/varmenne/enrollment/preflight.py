"""What is proven before one-time credentials are spent: journal, trust, token, custody, service, Vault."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import TYPE_CHECKING

from varmenne.domain.keys import CustodyProbe, ProbeResult
from varmenne.domain.steps import Method
from varmenne.enrollment import facts
from varmenne.enrollment.reconcile import refuse_older_journal
from varmenne.errors import KeyNotFound, StateError, TokenUnfit
from varmenne.monitoring.events import Event, log_event

if TYPE_CHECKING:
    from varmenne.domain.enrollment import Enrollment
    from varmenne.domain.identifiers import Channel, CustomerId
    from varmenne.domain.keys import TokenIdentity
    from varmenne.enrollment.parts import Parts
    from varmenne.enrollment.progress import Progress

PROBE_LIFETIME = timedelta(days=7)
"""How long a custody probe of a token stands while neither its firmware nor its library changes."""


def before_spending(
    parts: Parts, progress: Progress, customer: CustomerId, channel: Channel, method: Method = Method.API
) -> None:
    """Prove everything that can be proven without spending anything.

    The service is greeted only if we are to speak to it ourselves: a handshake and an empty request, no operation.

    Raises:
        VarmenneError: whatever cannot be used, in the order of this function.
    """
    greets = method is Method.API
    progress.begins(f"Check journal, trust anchors, token, {'service ' if greets else ''}and Vault")
    parts.journal.check()
    parts.journal.prune(parts.now)
    parts.trust()
    prove_token(parts, progress)
    refuse_older_journal(parts)
    if greets:
        parts.service.endpoint.greet()
    parts.store.preflight(facts.place(parts.settings, customer, channel))
    progress.done("nothing has been spent so far, and everything needed is there")


def prove_token(parts: Parts, progress: Progress) -> TokenIdentity:
    """Prove that the token is the one we know, takes our PIN, and lets no key out.

    A probe that failed is repeated, with throw-away keys or with the live key that failed; until it passes, the token
    is not used for anything new.

    Raises:
        TokenError: the token cannot be used, is not the one that holds our keys, or is unfit.
    """
    parts.token.login()
    identity = parts.token.identity()
    refuse_other_token(parts)
    stands = parts.journal.latest_probe(probe_name(parts, identity))
    if stands is None or not stands[1] or not timedelta() <= parts.now - stands[0] <= PROBE_LIFETIME:
        progress.begins("Try to get a key out of the token, with throw-away keys")
        probe(parts)
        progress.done("every try was refused")
    for row in unfit_keys(parts, identity):
        progress.begins(f"Try the key of enrollment {row.id} again, which was found unfit")
        probe(parts, row)
        progress.done("every try was refused")
    return identity


def probe_name(parts: Parts, token: TokenIdentity) -> str:
    """Name what a probe is about: the token, its firmware and library, and the module that leads to it."""
    settings = parts.settings.token
    return facts.sha256(f"{token.digest_with_versions}\n{settings.module}\n{settings.init_parameters}".encode())


def refuse_other_token(parts: Parts) -> None:
    """Refuse a token that answers to the right names but lacks the key that we know to be in ours.

    The known key is the one that the settings name, or else the newest that the journal has for this token. Serial
    numbers are not unique, and re-initialising a token keeps them.

    Raises:
        TokenError: the key is not there.
    """
    anchor = parts.settings.token.anchor
    if anchor is None:
        known = parts.journal.newest_key(parts.token.identity().digest)
        anchor = facts.sha256(known.public_key) if known is not None and known.public_key is not None else None
    if anchor is not None:
        parts.token.check_anchor(anchor)


def refuse_key_elsewhere(parts: Parts, row: Enrollment) -> None:
    """Refuse to use or destroy an enrollment's key here if it is in another token than ours, such as another host's.

    Raises:
        StateError: it is.
        TokenError: our token cannot say which one it is.
    """
    if row.token not in {None, parts.token.identity().digest}:
        raise StateError(
            f"The key of enrollment {row.id} is in another token",
            why=f"the [token] settings here lead to {parts.token.identity().label!r}",
            next_step="Run this on the host that has its token, or name that host's settings with --config",
        )


def key_probe_name(row: Enrollment) -> str:
    """Name what a probe of a live key is about: a key stays the same when firmware, library or module do not."""
    return f"{row.token}/{row.id}"


def unfit_keys(parts: Parts, token: TokenIdentity) -> tuple[Enrollment, ...]:
    """Return the enrollments whose live keys in a token did not pass their newest probe and are not destroyed."""
    return tuple(map(parts.journal.get, parts.journal.unfit_keys(token.digest)))


def probe(parts: Parts, row: Enrollment | None = None) -> CustodyProbe:
    """Make a custody probe as :func:`tried` does, and refuse what does not pass it.

    Raises:
        TokenUnfit: the token let key material or an unsafe copy out, used the key otherwise, or nothing was proven.
        KeyNotFound: the live key is not in the token.
    """
    result = tried(parts, row)
    if (error := unfit(result, row)) is not None:
        raise error
    return result


def tried(parts: Parts, row: Enrollment | None = None) -> CustodyProbe:
    """Try to get a throw-away key out of the token; or, on a live key, only what is harmless. Keep and tell the result.

    Args:
        parts: the parts.
        row: the enrollment whose live key is tried; ``None``: throw-away keys.

    Raises:
        KeyNotFound: the live key is not in the token.
        StateError: the live key is in another token.
    """
    if row is None:
        result = parts.token.probe()
        name = probe_name(parts, result.token)
    else:
        refuse_key_elsewhere(parts, row)
        results = (*parts.token.probe_key(row.key_id), _as_at_birth(parts, row))
        result = CustodyProbe(parts.token.identity(), parts.now, results)
        name = key_probe_name(row)
    lines = [dataclasses.asdict(line) for line in result.results]
    parts.journal.save_probe(name, result.at, fit=result.fit, result={"results": lines}, row=row)
    if (error := unfit(result, row)) is not None:
        log_event(Event.CUSTODY_FAILED, row, error=error)
    return result


def _as_at_birth(parts: Parts, row: Enrollment) -> ProbeResult:
    """Compare a key's attributes with those of its birth: the token's policy may allow what this key was not born with.

    Raises:
        KeyNotFound: the key is not in the token.
    """
    name = "attributes as at birth"
    try:
        key = parts.token.find(row.key_id)
    except TokenUnfit as exc:
        return ProbeResult(name, "allowed", exc.why or exc.what)
    if key is None:
        raise KeyNotFound(f"The key {row.key_id.hex()} is not in the token", matches=0)
    if key.public_key != row.public_key:
        return ProbeResult(name, "allowed", "it is another key than the one that was made")
    if differing := facts.changed(row, key):
        return ProbeResult(name, "allowed", "; ".join(differing))
    return ProbeResult(name, "refused", "they read as at the key's birth")


def unfit(result: CustodyProbe, row: Enrollment | None = None) -> TokenUnfit | None:
    """Make the error for a probe that did not pass; ``None`` if it did."""
    if result.fit:
        return None
    label = result.token.label
    allowed = [f"{line.name} ({line.detail})" for line in result.results if line.outcome == "allowed"]
    why = f"it allowed: {', '.join(allowed)}" if allowed else "no refusal could be proven"
    if row is None:
        return TokenUnfit(
            f"The token {label!r} does not keep private keys inside",
            why=why,
            next_step="Use another token. Nothing was sent, and the keys made for the try were destroyed",
        )
    return TokenUnfit(
        f"The token {label!r} does not keep the key of enrollment {row.id} as it must",
        why=why,
        next_step="Nothing new is begun with this token until the key passes. Take it for compromised: order a "
        f"certificate with a key in another token, and have this one revoked. Again: varmenne audit probe {row.id}",
    )
