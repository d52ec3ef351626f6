"""Gathers the inventory of keys from journal, log, token and Vault. It only reads; what cannot be asked is told."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from varmenne import __version__
from varmenne.audit.inventory import (
    Certificate,
    Custody,
    Dates,
    Finding,
    Inventory,
    Key,
    Kind,
    LogFacts,
    Probe,
    TokenEntry,
    Transition,
    Try,
    is_software,
    ordered,
)
from varmenne.audit.note import folder
from varmenne.domain.audit import fingerprint, row_document
from varmenne.domain.forms import colon_hex
from varmenne.domain.key_states import KeyState
from varmenne.domain.keys import TokenIdentity
from varmenne.domain.steps import State
from varmenne.enrollment import facts
from varmenne.enrollment.evidence.live import vkeys
from varmenne.enrollment.evidence.reconciliation import differences
from varmenne.enrollment.preflight import probe_name
from varmenne.enrollment.reconcile import Kind as Difference
from varmenne.enrollment.standing import standing
from varmenne.errors import VarmenneError
from varmenne.journal.owner import this_host
from varmenne.vault.anchors import DIGITS
from varmenne.vault.location import AUDIT

if TYPE_CHECKING:
    from varmenne.domain.enrollment import Enrollment
    from varmenne.domain.outlook import Outlook
    from varmenne.enrollment.parts import Parts
    from varmenne.enrollment.progress import Progress
    from varmenne.journal.log import Head

TOLD = frozenset({"adopt", "approve", "acknowledge", "csr", "import", "order", "resolve", "restore", "supersede"})
"""Acts that are told in a key's time line although they need not change its state."""

UNSEEN = {Kind.KEYS_UNSEEN: "token", Kind.VAULT_UNSEEN: "vault"}
"""The exceptions that say what was not asked."""


@dataclass(slots=True)
class _Logged:
    """What the log has of one enrollment."""

    timeline: list[Transition] = field(default_factory=list)
    records: int = 0
    last: int | None = None
    row: str | None = None
    adopted_at: datetime | None = None


def gather(parts: Parts, progress: Progress | None) -> Inventory:
    """Read everything that a report on the custody of keys tells, of the settings' environment.

    Args:
        parts: journal, token and Vault.
        progress: hears how the comparison of token, journal, Vault and log goes; ``None``: neither the token nor
            Vault is asked.

    Raises:
        JournalError: the journal cannot be read.
    """
    head = parts.journal.log.head()
    log = _read_log(parts.journal.log.records(0, head.size))
    view = standing(parts)
    rows = _Rows(parts, log, view)
    keys = tuple(rows.keys())
    found = [*rows.findings, *_concerns(view)]
    found += [Finding(kind) for kind in UNSEEN] if progress is None else _compared(parts, progress)
    unseen = {one.kind for one in found}
    tokens = _tokens(parts, keys)
    about = _log_facts(parts, head)
    found += [*_token_gaps(tokens), *_log_gaps(about)]
    return Inventory(
        made_at=parts.now,
        host=this_host(),
        environment=parts.settings.environment.value,
        version=__version__,
        keys=keys,
        tokens=tokens,
        findings=ordered({(one.kind, one.subject, one.told): one for one in found}.values()),
        log=about,
        asked=tuple(name for kind, name in UNSEEN.items() if kind not in unseen),
    )


def _read_log(records: Iterable[tuple[int, bytes]]) -> dict[str, _Logged]:
    """Read the whole log once, and keep of each enrollment what its time line tells."""
    found: defaultdict[str, _Logged] = defaultdict(_Logged)
    for index, body in records:
        record = json.loads(body)
        if record["enrollment"] is None:
            continue
        logged = found[record["enrollment"]]
        logged.records += 1
        logged.last = index
        logged.row = record["row"] or logged.row
        if record["act"] == "adopt":
            logged.adopted_at = datetime.fromisoformat(record["at"])
        if record["source"] != record["target"] or record["act"] in TOLD or record["outcome"] == "failed":
            logged.timeline.append(_transition(index, record))
    return found


def _transition(index: int, record: dict[str, Any]) -> Transition:
    """Return a record as a line of a time line."""
    return Transition(
        at=datetime.fromisoformat(record["at"]),
        actor=f"{record['actor']}@{record['host']}",
        act=record["act"],
        source=_state(record["source"]),
        target=_state(record["target"]),
        outcome=record["outcome"],
        reason=record["reason"],
        record=index,
    )


def _state(value: str | None) -> State | None:
    return None if value is None else State(value)


class _Rows:
    """Makes keys of the journal's rows. ``findings`` has what was noticed, once :meth:`keys` has ended."""

    def __init__(self, parts: Parts, log: dict[str, _Logged], view: Outlook) -> None:
        self._parts = parts
        self._log = log
        self._prospects = {one.row.id: one for one in view.prospects}
        self._custodies: dict[str, Custody] = {}
        self._issuers: dict[bytes, str] = {}
        self.findings: list[Finding] = []

    def keys(self) -> Iterator[Key]:
        """Yield the keys of the environment, in order of their enrollments."""
        environment = self._parts.settings.environment
        for row in self._parts.journal.every():
            if row.environment is environment:
                key = self._key(row)
                self.findings += _key_gaps(key)
                yield key

    def _key(self, row: Enrollment) -> Key:
        """Make the key of a row."""
        logged = self._log.get(row.id)
        if logged is None:
            self.findings.append(_of(row, Difference.NO_RECORD, "the log has no record of it"))
            logged = _Logged()
        elif logged.row != fingerprint(row_document(row)):
            self.findings.append(_of(row, Difference.ROW_CHANGED, "its row is not as the last record left it"))
        timeline = (*self._before_log(row, logged), *logged.timeline)
        certificate = None if row.certificate is None else self._certificate(row.certificate)
        return Key(
            enrollment=row.id,
            environment=row.environment.value,
            channel=row.channel.value,
            customer_id=row.customer_id,
            customer_name=row.customer_name,
            contact=row.contact,
            method=row.method.value,
            generation=row.generation,
            replaces=row.replaces,
            state=row.state,
            created_at=row.created_at,
            key_id=row.key_id.hex(),
            label=row.key_label,
            public_key=None if row.public_key is None else facts.sha256(row.public_key),
            custody=None if row.custody is None else self._custody(row.custody),
            certificate=certificate,
            vault_path=row.vault_path,
            vault_version=row.vault_version,
            dates=self._dates(row),
            made_by=next((one.actor for one in timeline if one.target is State.KEYED), None),
            timeline=timeline,
            records=logged.records,
            last_record=logged.last,
        )

    def _before_log(self, row: Enrollment, logged: _Logged) -> Iterator[Transition]:
        """Yield what only the journal's history has: acts from before there was a log."""
        if logged.records and logged.adopted_at is None:
            return
        for event in self._parts.journal.history(row.id):
            is_earlier = logged.adopted_at is None or event.at < logged.adopted_at
            if is_earlier and (event.source is not event.target or event.step in TOLD):
                reason = event.detail.get("what") or event.detail.get("why")
                outcome = "failed" if "what" in event.detail else "done"
                yield Transition(
                    event.at, event.actor, event.step, event.source, event.target, outcome, reason, record=None
                )

    def _custody(self, told: dict[str, Any]) -> Custody:
        """Return what a token said of a key; the same object for all keys of which it said the same."""
        known = json.dumps([told["token"], told["attributes"], told["deviations"]], sort_keys=True)
        if known not in self._custodies:
            self._custodies[known] = Custody(
                token=TokenIdentity(**told["token"]),
                attributes=tuple(sorted(told["attributes"].items())),
                deviations=tuple(told["deviations"]),
            )
        return self._custodies[known]

    def _certificate(self, pem: str) -> Certificate:
        """Read a certificate that was verified when it was issued."""
        from cryptography import x509

        found = x509.load_pem_x509_certificate(pem.encode("ascii"))
        issuer = found.issuer.public_bytes()
        if issuer not in self._issuers:
            self._issuers[issuer] = found.issuer.rfc4514_string()
        algorithm = found.signature_hash_algorithm
        kind = type(found.public_key()).__name__.strip("_").removesuffix("PublicKey")
        return Certificate(
            serial=colon_hex(found.serial_number),
            sha256=facts.sha256(facts.pem_to_der(pem)),
            subject=found.subject.rfc4514_string(),
            issuer=self._issuers[issuer],
            not_before=found.not_valid_before_utc,
            not_after=found.not_valid_after_utc,
            signature=f"{kind} {'' if algorithm is None else algorithm.name.upper()}".strip(),
        )

    def _dates(self, row: Enrollment) -> Dates:
        """Return what lies before a row."""
        dates = Dates()
        if row.state in {State.PREPARED, State.KEYED}:
            dates = replace(dates, credentials_until=row.valid_until)
        if row.state is State.SUPERSEDED:
            dates = replace(dates, retired_at=row.due_at)
        before = self._prospects.get(row.id)
        if before is None:
            return dates
        rehearsal = row.rehearsal or {}
        return replace(
            dates,
            renewal_opens=before.renewal_due,
            order_by=before.order_by,
            rehearsed_at=datetime.fromisoformat(rehearsal["at"]) if rehearsal else None,
            rehearsal_ok=rehearsal.get("ok"),
        )


def _of(row: Enrollment, kind: Difference, told: str) -> Finding:
    """Tell of a difference between a row and the log."""
    return Finding(kind.value, row.id, told, kind.next_step, needs_person=kind.matters)


def _key_gaps(key: Key) -> Iterator[Finding]:
    """Yield what is to be known of one key."""
    if key.is_parked:
        kind = Difference.PARKED
        yield Finding(kind.value, key.enrollment, f"it is {key.state}", kind.next_step)
    if key.custody is not None and key.key_state is not KeyState.DESTROYED:
        yield from (Finding(Kind.DEVIATION, key.enrollment, told) for told in key.custody.deviations)
    if key.key_state is KeyState.ACTIVE and not key.contact:
        yield Finding(Kind.NO_CONTACT, key.enrollment)


def _concerns(view: Outlook) -> Iterator[Finding]:
    """Yield what `status` would tell."""
    for one in view.concerns:
        yield Finding(one.reason.value, one.enrollment or "", one.told, one.next_step, needs_person=one.reason.person)


def _compared(parts: Parts, progress: Progress) -> Iterator[Finding]:
    """Yield the differences between token, journal, Vault and log; if one cannot be asked, what was found until then.

    The comparison goes key by key through all of them, so it ends for all where one fails. Certificates that have
    ended are among the concerns already.
    """
    try:
        for one in differences(parts, progress):
            if one.kind is not Difference.EXPIRED:
                subject = one.enrollment or one.key_id or ""
                yield Finding(one.kind.value, subject, one.what, one.kind.next_step, needs_person=one.kind.matters)
    except VarmenneError as exc:
        yield from (Finding(kind, told=str(exc), next_step=exc.next_step) for kind in UNSEEN)


def _tokens(parts: Parts, keys: tuple[Key, ...]) -> tuple[TokenEntry, ...]:
    """Return the tokens that keys are in, with their last probes, in order of their labels."""
    known = {key.custody.token for key in keys if key.custody is not None}
    order = sorted(known, key=lambda one: (one.label, one.digest_with_versions))
    return tuple(TokenEntry(one, is_software(one), _probe(parts, one)) for one in order)


def _probe(parts: Parts, token: TokenIdentity) -> Probe | None:
    """Return the last probe of a token, as the settings lead to it."""
    found = parts.journal.latest_probe(probe_name(parts, token))
    if found is None:
        return None
    at, fit, result = found
    return Probe(at, fit, tuple(Try(line["name"], line["outcome"], line["detail"]) for line in result["results"]))


def _token_gaps(tokens: tuple[TokenEntry, ...]) -> Iterator[Finding]:
    """Yield what is to be known of the tokens."""
    for one in tokens:
        name = f"{one.identity.label} ({one.identity.serial})"
        if one.software:
            yield Finding(Kind.SOFTWARE, name)
        if one.probe is None:
            yield Finding(Kind.NO_PROBE, name)
        elif not one.probe.fit:
            allowed = ", ".join(line.name for line in one.probe.tries if line.outcome == "allowed")
            yield Finding(Kind.UNFIT, name, allowed, needs_person=True)


def _log_facts(parts: Parts, head: Head) -> LogFacts:
    """Return what is known of the log, with its newest checkpoint."""
    told = LogFacts(origin=head.origin, size=head.size, root=head.root.hex(), vkeys=vkeys(parts))
    latest = parts.journal.log.latest()
    if latest is None:
        return told
    vault = parts.settings.vault
    return replace(
        told,
        note=latest.note,
        checkpoint_size=latest.size,
        checkpoint_root=latest.root.hex(),
        checkpoint_at=latest.at,
        anchored_at=latest.anchored_at,
        anchor_mount=vault.mount,
        anchor_path=f"{vault.prefix}/{AUDIT}/{folder(head.origin)}/{latest.size:0{DIGITS}}",
        cosignatures=latest.note.rpartition("\n\n")[2].count("\n") - 1,
    )


def _log_gaps(log: LogFacts) -> Iterator[Finding]:
    """Yield what the log does not prove."""
    if log.note is None:
        yield Finding(Kind.NO_CHECKPOINT, next_step="varmenne audit checkpoint", needs_person=True)
        return
    if log.size > log.checkpoint_size:
        yield Finding(Kind.UNCOVERED, told=str(log.size - log.checkpoint_size))
    if log.anchored_at is None:
        yield Finding(Kind.NOT_ANCHORED)
    if not log.cosignatures:
        yield Finding(Kind.NO_WITNESS)
