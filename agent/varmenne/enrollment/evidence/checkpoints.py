"""Signs how far the audit log has come, with a key of its own in the token, and anchors that in Vault.

A checkpoint is made after every command and every piece of the agent's work that acted on a key, and is never made for
a log that does not go on from the last one: that would vouch for a rewritten log.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from varmenne.audit import note
from varmenne.audit.note import folder
from varmenne.domain.audit import fingerprint
from varmenne.errors import EvidenceError, VarmenneError, VaultError
from varmenne.journal.log import Checkpoint, Head, ours

if TYPE_CHECKING:
    from collections.abc import Callable

    from varmenne.domain.keys import LogSigner
    from varmenne.enrollment.parts import Parts

LABEL = "varmenne-log-"
NEXT = "Find out what happened before anything else: varmenne audit verify"


def checkpoint(parts: Parts) -> Checkpoint | None:
    """Sign the log as it is, and anchor that in Vault; do nothing of what is done already. ``None``: it is empty.

    Raises:
        EvidenceError: the log does not go on from what was signed or anchored before.
        TokenError: the key of the log cannot be made or used.
        VaultError: it is signed, but was not anchored; the next checkpoint is tried again.
    """
    log = parts.journal.log
    head, last = log.head(), log.latest()
    if head.size == 0:
        return None
    if last is None or last.size < head.size or last.root != head.root:
        if last is not None:
            _refuse_other(parts, head, last.size, last.root, "was signed before")
        seen = parts.last_signed
        if seen is not None and seen.origin == head.origin:
            _refuse_other(parts, head, seen.size, seen.root, "was signed by this very process")
        _refuse_new_name(parts, head)
        with contextlib.suppress(VaultError):  # It is signed without, and compared before it is anchored.
            _compare_with_vault(parts, head)
        signer = log_signer(parts)  # Its birth is a record, so the log may have grown.
        head = log.head()
        signed = note.checkpoint(head.origin, head.size, head.root, signer)
        last = log.save(Checkpoint(head.origin, head.size, head.root, parts.now, signed))
        parts.last_signed = head
    if last.anchored_at is None:
        _compare_with_vault(parts, head)
        parts.store.anchors.put(folder(last.origin), last.size, last.note)
        log.anchored(last, parts.now)
    return last


def after_acts(parts: Parts, warn: Callable[[str], None]) -> None:
    """Make a checkpoint if something was done to a key; what hinders it is told, and the next one makes up for it."""
    if not parts.journal.log.grew:
        return
    try:
        checkpoint(parts)
        parts.journal.log.grew = False
    except VaultError as exc:
        warn(f"The audit log's checkpoint is not in Vault yet, and comes there with the next one: {exc}")
    except VarmenneError as exc:
        warn(f"The audit log could not be signed: {exc}. {exc.next_step}".rstrip())


def log_signer(parts: Parts) -> LogSigner:
    """Return the signer of the log's key in this token, which is made when it is needed first; its birth is recorded.

    Raises:
        TokenError: it cannot be made, or is not as ordered.
    """
    log, token = parts.journal.log, parts.token.identity().digest
    key_id = log.key_of(token)
    key = parts.token.find_log_key(key_id)
    if key is None:
        with log.making_key(token):
            key = parts.token.make_log_key(key_id, f"{LABEL}{key_id.hex()[:8]}")
    origin = log.head().origin
    log.tell_key(
        token,
        origin,
        ours(
            "log_key",
            parts.now,
            key_id=key_id.hex(),
            public_key=fingerprint(key.public_key),
            detail={
                "vkey": note.vkey(origin, key.kind, key.public_key),
                "token": token,
                "model": key.token.model,
                "attributes": dict(sorted(key.attributes.items())),
                "deviations": list(key.deviations),
            },
        ),
    )
    return parts.token.log_signer(key_id)


def details(records: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Yield what records tell in detail, without those that somebody has put something else in the place of."""
    for body in records:
        with contextlib.suppress(ValueError, AttributeError):
            found = json.loads(body).get("detail")
            if isinstance(found, dict):
                yield found


def _refuse_new_name(parts: Parts, head: Head) -> None:
    """Refuse a log that goes by another name than before, unless a restore in it tells of that.

    Raises:
        EvidenceError: it does.
    """
    log = parts.journal.log
    restores = {str(detail.get("origin")) for detail in details(log.acts("restore"))}
    former = {str(detail.get("vkey")).partition("+")[0] for detail in details(log.acts("log_key"))} - {head.origin}
    if former - restores:
        raise EvidenceError(
            "The audit log goes by another name than before, and no restore in it tells of that",
            why=f"it was {', '.join(sorted(former - restores))}, and is {head.origin}",
            next_step=NEXT,
        )


def _compare_with_vault(parts: Parts, head: Head) -> None:
    """Compare with the newest checkpoint in Vault, once; after that this process knows what it signed itself.

    Raises:
        EvidenceError: Vault knows of more, or of something else.
        VaultError: Vault cannot be asked.
    """
    if parts.anchor_seen == head.origin:
        return
    newest = parts.store.anchors.newest(folder(head.origin))
    if newest is not None:
        try:
            found = note.read_checkpoint(newest.note)
        except EvidenceError as exc:
            raise EvidenceError(
                f"What stands in Vault at {parts.store.anchors.path(newest)} is no checkpoint",
                why=exc.why,
                next_step="Find out who wrote it. An administrator of Vault can remove it; varmenne's policy cannot",
            ) from exc
        _refuse_other(parts, head, found.size, found.root, "stands in Vault")
    parts.anchor_seen = head.origin


def _refuse_other(parts: Parts, head: Head, size: int, root: bytes, where: str) -> None:
    """Refuse a log that was not, when it had so many records, what was signed.

    Raises:
        EvidenceError: it was not.
    """
    if size > head.size:
        raise EvidenceError(
            "The audit log has become shorter",
            why=f"a checkpoint of {size} records {where}, and the journal has {head.size}",
            next_step=NEXT,
        )
    if parts.journal.log.root(size) != root:
        raise EvidenceError(
            "The audit log was rewritten",
            why=f"its first {size} records are not those of the checkpoint that {where}",
            next_step=NEXT,
        )
