"""What is proven before one-time credentials are spent: journal, trust, token, custody, service, Vault."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import TYPE_CHECKING

from varmenne.domain.steps import Method
from varmenne.enrollment import facts
from varmenne.enrollment.reconcile import refuse_older_journal
from varmenne.errors import StateError, TokenUnfit

if TYPE_CHECKING:
    from varmenne.domain.enrollment import Enrollment
    from varmenne.domain.identifiers import Channel, CustomerId
    from varmenne.domain.keys import CustodyProbe, TokenIdentity
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


def probe(parts: Parts) -> CustodyProbe:
    """Try to get a throw-away key out of the token, keep the result, and refuse a token that gives it.

    Raises:
        TokenUnfit: the token let key material or an unsafe copy out, or nothing was proven.
    """
    result = parts.token.probe()
    parts.journal.save_probe(
        probe_name(parts, result.token),
        result.at,
        fit=result.fit,
        result={"results": [dataclasses.asdict(line) for line in result.results]},
    )
    if not result.fit:
        allowed = [line.name for line in result.results if line.outcome == "allowed"]
        raise TokenUnfit(
            f"The token {result.token.label!r} does not keep private keys inside",
            why=f"it allowed: {', '.join(allowed)}" if allowed else "no refusal could be proven with a control key",
            next_step="Use another token. Nothing was sent, and the keys made for the try were destroyed",
        )
    return result
