"""What each step of the table does. An act looks outside, and returns what it found; the engine commits it.

No act changes the journal's rows; the one thing that acts write there are the service's answers, as they came, before
they are interpreted. Acts that ask for a certificate are in :mod:`varmenne.enrollment.submission`, those for
certificates that are in use in :mod:`varmenne.enrollment.upkeep`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from datetime import timedelta
from http import HTTPStatus
from typing import Any

from varmenne.domain import calendar
from varmenne.domain.enrollment import Enrollment
from varmenne.domain.forms import colon_hex
from varmenne.domain.steps import State, StepName
from varmenne.enrollment import facts
from varmenne.enrollment.activation import activate
from varmenne.enrollment.preflight import probe_name
from varmenne.enrollment.revoked import look_up
from varmenne.enrollment.submission import lapsed, renew, settle, sign_csr, sign_renewal_csr, submit
from varmenne.enrollment.upkeep import destroy, retire, tend
from varmenne.enrollment.work import Outcome, Work, verified
from varmenne.errors import (
    InputError,
    OutcomeUncertain,
    ServiceRefused,
    ServiceUnreachable,
    VerificationError,
)
from varmenne.service.certificates import IssuedCertificate, SubjectPolicy, verify_certificate
from varmenne.service.error_codes import Kind, advice
from varmenne.service.interface import Operation
from varmenne.vault.record import index_strings

POLL_GROWTH = 1.5
"""Each wait for the certificate is this much longer than the one before, up to `service.longest_poll_seconds`."""

MOST_GROWTH = 30
"""Tries after which it grows no more: by then any first wait has become the longest that the settings allow."""

LONGEST_RETRY_AFTER = timedelta(hours=1)

USUAL_ISSUING = timedelta(hours=1)
LONG_ISSUING = timedelta(days=1)
"""Issuing takes minutes at most, by the service's documentation. Later it is asked for seldom; then it is a problem."""

NO_ANSWER = frozenset({"size", "encoding", "xml", "doctype", "envelope", "fault"})
"""Checks that fail because something else than the service spoke: a gateway, a maintenance page, half an answer."""


def generate(work: Work, row: Enrollment) -> Outcome:
    """Make the key in the token, or find the one that an earlier try made there, and keep what was read back.

    There is no use for a key whose credentials are over.
    """
    if (end := lapsed(work, row)) is not None:
        return end
    key = work.parts.token.generate(row.key_id, row.key_label)
    for deviation in key.deviations:
        work.warn(deviation)
    return Outcome(
        State.KEYED,
        changes={
            "public_key": key.public_key,
            "token": key.token.digest,
            "custody": facts.custody(key, work.parts.journal.latest_probe(probe_name(work.parts, key.token))),
        },
        detail={"key_id": key.key_id.hex(), "public_key_sha256": facts.sha256(key.public_key)},
        told=f"key {key.key_id.hex()}, not extractable, read back from the token",
    )


def retrieve(work: Work, row: Enrollment) -> Outcome:
    """Ask for the certificate and verify it. While it is not there, say when to ask again."""
    if row.retrieval_id is None:
        raise InputError(f"Enrollment {row.id} has no RetrievalId")
    again = _poll_delay(work, row)
    try:
        raw = work.parts.service.get_certificate(row.customer_id, row.customer_name, row.retrieval_id)
    except (ServiceUnreachable, OutcomeUncertain) as exc:
        return _not_yet(work, row, again, f"the service did not answer: {exc.why or exc.what}")
    stored = work.parts.journal.record_answer(
        row, work.parts.now, operation=Operation.GET, http_status=raw.status, body=raw.body
    )
    try:
        answer = verified(work, stored)
    except VerificationError as exc:
        if raw.problem or exc.check in NO_ANSWER or raw.status != HTTPStatus.OK:
            why = raw.problem or exc.why
            return _not_yet(work, row, max(again, _retry_after(raw.retry_after)), f"the service is disturbed: {why}")
        raise
    told = advice(Operation.GET, answer.errors)
    if not answer.ok and told.kind is not Kind.TRY_AGAIN:
        refused = ServiceRefused(
            "The certificate service does not give the certificate",
            errors=answer.errors,
            why=facts.error_text(answer.errors),
            next_step=f"{told.next_step}. If the RetrievalId is wrong: varmenne resolve {row.id} --retrieval-id R",
        )
        return Outcome(row.state, detail={"answer": stored.id, "errors": answer.errors}, error=refused)
    if not answer.ok or answer.certificate is None:
        return _not_yet(work, row, again, f"not ready yet ({facts.error_text(answer.errors) or 'no reason given'})")
    return issued(work, row, answer.certificate)


def issued(work: Work, row: Enrollment, certificate: bytes) -> Outcome:
    """Verify a certificate against the enrollment, whichever way it came."""
    if row.public_key is None:
        raise InputError(f"Enrollment {row.id} has no key yet")
    found: IssuedCertificate = verify_certificate(
        certificate,
        public_key=row.public_key,
        customer=row.customer_id,
        trust=work.parts.trust(),
        at=work.parts.now,
        subject=SubjectPolicy(work.parts.settings.trust.subject),
        older_serials=_older_serials(work, row),
    )
    for warning in found.warnings:
        work.warn(warning)
    serial = colon_hex(found.serial_number)
    return Outcome(
        State.ISSUED,
        changes={
            "certificate": facts.der_to_pem(found.certificate),
            "chain": "".join(map(facts.der_to_pem, found.chain)),
            "serial_number": serial,
            "not_before": found.not_before,
            "not_after": found.not_after,
            "usable_from": calendar.usable_from(row.channel, work.parts.now),
        },
        detail={"serial_number": serial, "fingerprint_sha256": facts.sha256(found.certificate)},
        told=f"certificate {serial}, valid until {found.not_after:%Y-%m-%d}, verified",
    )


def _older_serials(work: Work, row: Enrollment) -> frozenset[int]:
    """Return the serial numbers of the certificates that the new one stands beside or takes the place of."""
    rows = [*work.parts.journal.current(row.environment, row.customer_id, row.channel)]
    if row.replaces is not None:
        rows.append(work.parts.journal.get(row.replaces))
    return frozenset(
        int(old.serial_number.replace(":", ""), 16) for old in rows if old.serial_number and old.id != row.id
    )


def _poll_delay(work: Work, row: Enrollment) -> timedelta:
    """Return the wait before the next getCertificate: growing, bounded, with jitter, so that clients spread out.

    A certificate that is not there after an hour is not to be expected within minutes any more.
    """
    limits = work.parts.settings.service
    seconds = min(limits.longest_poll_seconds, limits.first_poll_seconds * POLL_GROWTH ** min(row.tries, MOST_GROWTH))
    wait = timedelta(seconds=seconds)
    since = timedelta() if row.sent_at is None else work.parts.now - row.sent_at
    if since > USUAL_ISSUING:
        wait = max(wait, min(since / 10, calendar.LONGEST_DELAY))
    return wait * random.uniform(0.9, 1.1)  # noqa: S311 - politeness, not secrecy


def _retry_after(header: str) -> timedelta:
    """Return the wait that the service asked for in seconds (RFC 9110, 10.2.3), at most an hour; a date counts as 0."""
    if not re.fullmatch(r"[0-9]{1,9}", header.strip()):
        return timedelta()
    return min(timedelta(seconds=int(header)), LONGEST_RETRY_AFTER)


def _not_yet(work: Work, row: Enrollment, wait: timedelta, told: str) -> Outcome:
    """The enrollment stays as it is; look again later. After a day that is a problem."""
    changes: dict[str, Any] = {"tries": row.tries + 1}
    if row.sent_at is not None and work.parts.now - row.sent_at > LONG_ISSUING:
        error = ServiceRefused(
            f"The certificate of enrollment {row.id} has not come within a day of its request",
            why=told,
            next_step=f"Ask the service's support, with RetrievalId {row.retrieval_id}. It is asked for meanwhile",
        )
        changes["problem"] = facts.problem(error)
    return Outcome(row.state, changes=changes, detail={"told": told}, told=told, wait=wait)


def store(work: Work, row: Enrollment) -> Outcome:
    """Put the certificate beside its key in the token, and its generation into Vault. Both may be repeated."""
    if row.certificate is None:
        raise InputError(f"Enrollment {row.id} has no certificate yet")
    for warning in look_up(
        work.parts, [facts.pem_to_der(text) for text in facts.split_pem(f"{row.certificate}{row.chain or ''}")]
    ):
        work.warn(warning)
    work.parts.token.store_certificate(row.key_id, row.key_label, facts.pem_to_der(row.certificate))
    location = facts.place(work.parts.settings, row.customer_id, row.channel).generation(row.generation)
    record = facts.record(row)
    version = work.parts.store.publish(
        location, record, operation=row.id, custom_metadata=index_strings(record), expected_version=0
    )
    return Outcome(
        State.STORED,
        detail={"vault_path": location.path, "vault_version": version},
        told=f"in the token, and in Vault at {location.path}",
    )


ACTS: dict[StepName, Callable[[Work, Enrollment], Outcome]] = {
    StepName.GENERATE: generate,
    StepName.SUBMIT: submit,
    StepName.RENEW: renew,
    StepName.SETTLE: settle,
    StepName.RETRIEVE: retrieve,
    StepName.STORE: store,
    StepName.ACTIVATE: activate,
    StepName.TEND: tend,
    StepName.RETIRE: retire,
    StepName.DESTROY: destroy,
}

BEFOREHAND: dict[StepName, Callable[[Work, Enrollment], dict[str, Any] | Outcome]] = {
    StepName.SUBMIT: sign_csr,
    StepName.RENEW: sign_renewal_csr,
}
"""For steps with an intent: what is done and committed with the intent, before the act itself; or how it ended."""
