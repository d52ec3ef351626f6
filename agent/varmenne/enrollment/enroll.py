"""The use cases that get a certificate: by the service's API, or carried by a person through the e-service."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from varmenne.domain.credentials import Credentials, transfer_hash
from varmenne.domain.enrollment import Enrollment
from varmenne.domain.identifiers import Channel, CustomerId, CustomerName, EnrollmentId
from varmenne.domain.keys import new_key_id
from varmenne.domain.steps import ENDED, Method, State
from varmenne.enrollment import facts, hooks
from varmenne.enrollment.acts import issued
from varmenne.enrollment.engine import Engine, lease, next_step
from varmenne.enrollment.preflight import before_spending
from varmenne.enrollment.progress import Silent
from varmenne.enrollment.reconcile import refuse_certified
from varmenne.enrollment.work import Work, make_csr
from varmenne.errors import (
    InputError,
    ServiceError,
    StateError,
    TokenError,
    VarmenneError,
    VaultError,
    VerificationError,
)
from varmenne.journal import NewEnrollment

if TYPE_CHECKING:
    from varmenne.enrollment.parts import Parts
    from varmenne.enrollment.progress import Progress


Given = Credentials | Callable[[], Credentials]
"""One-time credentials, or a way to get them that works only once: it is used at the last moment."""


OPENED_UNSENT = (
    "The credentials were opened, so they wait in Vault no more, and they were not sent. Put them there again from the "
    "mail (`varmenne credentials put`), then go on with the new file"
)


UNSPENT = "Nothing was spent; the credentials are still good"


LAST_DAYS = timedelta(days=3)
"""From when on the end of the credentials' 14 days is worth a warning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be got: whose certificate, for which channel, in the place of which other one."""

    customer: CustomerId
    name: CustomerName | None
    channel: Channel = Channel.WS
    replaces: EnrollmentId | None = None


def template(parts: Parts, replaces: EnrollmentId) -> Enrollment | None:
    """Return the enrollment that a new order is to be like; ``None`` if it is another installation's."""
    return parts.journal.get(replaces) if facts.known(parts.journal, replaces) else None


def enroll(parts: Parts, progress: Progress, order: Order, credentials: Given, *, wait: timedelta) -> Enrollment:
    """Get a certificate with one-time credentials, from the key's birth to the record in Vault.

    The same transfer ID again goes on where it was left; one that has been used up is refused.

    Raises:
        InputError: the credentials are expired, or for another customer.
        StateError: the transfer ID was used up, or there is an active certificate and none is to be replaced.
        VarmenneError: whatever failed on the way; the journal tells how far it came.
    """
    if isinstance(credentials, Credentials):
        return _enroll(parts, progress, order, credentials, wait)
    # They can be fetched once: everything that needs no knowledge of them is proven first, and not once more.
    with _unspent():
        _to_be_replaced(parts, order)
        before_spending(parts, progress, order.customer, order.channel)
    with _fetched(parts, progress, credentials) as fetched:
        return _enroll(parts, progress, order, fetched, wait, proven=True)


def _enroll(
    parts: Parts, progress: Progress, order: Order, credentials: Credentials, wait: timedelta, *, proven: bool = False
) -> Enrollment:
    """Enroll with credentials that are here; ``proven`` if all else was proven a moment ago."""
    if credentials.customer is not None and credentials.customer != order.customer:
        raise InputError(
            "The credentials are for another customer",
            why=f"they say {credentials.customer}, the command says {order.customer}",
        )
    row = parts.journal.by_transfer(parts.settings.environment, transfer_hash(credentials.transfer))
    if row is not None and row.state is State.EXPIRED and _valid_still(row, credentials, parts.now):
        _free_transfer(parts, row)
        row = None
    if row is not None:
        _refuse_other_order(row, order)
        progress.reached(row)
        return _go_on(parts, progress, row, credentials, wait, proven=proven)
    credentials.refuse_expired(parts.now)
    if credentials.valid_until is not None and credentials.valid_until - parts.now < LAST_DAYS:
        progress.warns(f"The one-time credentials are valid only until {credentials.valid_until:%Y-%m-%d %H:%M} UTC")
    with _unspent():
        old = _to_be_replaced(parts, order)
        if not proven:
            before_spending(parts, progress, order.customer, order.channel)
    row = _begin(
        parts,
        order,
        Method.API,
        old,
        transfer=transfer_hash(credentials.transfer),
        valid_until=credentials.valid_until,
    )
    progress.reached(row)
    return _walk(parts, progress, row, credentials, wait)


def go_on(
    parts: Parts, progress: Progress, row: Enrollment, *, credentials: Given | None = None, wait: timedelta
) -> Enrollment:
    """Finish what can be finished of an enrollment; nothing is done where nothing is left to do.

    Credentials that can be fetched only once are left where they are if they are not needed any more.

    Raises:
        InputError: the credentials given are not this enrollment's.
        VarmenneError: whatever failed on the way.
    """
    facts.refuse_other_environment(parts.settings, row)
    if credentials is None or isinstance(credentials, Credentials):
        return _go_on(parts, progress, row, credentials, wait)
    if row.state not in {State.PREPARED, State.KEYED} or next_step(row) is None:
        return _go_on(parts, progress, row, None, wait)
    _expire(parts, row)
    before_spending(parts, progress, row.customer_id, row.channel, row.method)
    refuse_certified(parts, row)
    with _fetched(parts, progress, credentials) as fetched:
        return _go_on(parts, progress, row, fetched, wait, proven=True)


def _go_on(
    parts: Parts,
    progress: Progress,
    row: Enrollment,
    credentials: Credentials | None,
    wait: timedelta,
    *,
    proven: bool = False,
) -> Enrollment:
    """Go on with credentials that are here, or without; ``proven`` if all else was proven a moment ago."""
    if credentials is not None and transfer_hash(credentials.transfer) != row.transfer_hash:
        raise InputError(f"The credentials are not those of enrollment {row.id}", why="its transfer ID is another one")
    if next_step(row) is None:
        hooks.finish(parts, progress, row)
        return _with_csr(parts, progress, row)
    if row.state in {State.PREPARED, State.KEYED}:
        _expire(parts, row)
        if not proven:
            before_spending(parts, progress, row.customer_id, row.channel, row.method)
        refuse_certified(parts, row)
    return _with_csr(parts, progress, _walk(parts, progress, row, credentials, wait))


@contextlib.contextmanager
def _fetched(parts: Parts, progress: Progress, fetch: Callable[[], Credentials]) -> Iterator[Credentials]:
    """Fetch credentials, which works once, and tell what helps if they are not sent after all."""
    credentials = fetch()
    try:
        yield credentials
    except (VarmenneError, KeyboardInterrupt):
        row = parts.journal.by_transfer(parts.settings.environment, transfer_hash(credentials.transfer))
        if row is None or row.sent_at is None:
            progress.warns(OPENED_UNSENT)
        raise


@contextlib.contextmanager
def _unspent() -> Iterator[None]:
    """Tell where something is down before the credentials are sent that they are still good."""
    try:
        yield
    except (TokenError, ServiceError, VaultError) as exc:
        exc.next_step = f"{exc.next_step.rstrip('.')}. {UNSPENT}".removeprefix(". ")
        raise


def unfinished(parts: Parts, *, at_most: int | None = None) -> tuple[Enrollment, ...]:
    """Return the enrollments that can go on: neither ended nor waiting for a certificate from the e-service's form."""
    rows = parts.journal.every(states=frozenset(State) - ENDED)
    ours = (row for row in rows if row.environment is parts.settings.environment)
    waiting = (row for row in ours if next_step(row) is not None or _lacks_csr(row))
    return tuple(itertools.islice(waiting, at_most))


def make_request(parts: Parts, progress: Progress, order: Order) -> Enrollment:
    """Make a key and a CSR for the e-service's form. The certificate comes back by :func:`import_certificate`.

    Raises:
        VarmenneError: whatever failed on the way.
    """
    old = _to_be_replaced(parts, order)
    before_spending(parts, progress, order.customer, order.channel, Method.E_SERVICE)
    row = _begin(parts, order, Method.E_SERVICE, old)
    progress.reached(row)
    return _with_csr(parts, progress, _walk(parts, progress, row, None, timedelta()))


def _lacks_csr(row: Enrollment) -> bool:
    """Tell whether a person is to carry a CSR that has not been made yet."""
    return row.method is Method.E_SERVICE and row.state is State.KEYED and row.csr is None


def _with_csr(parts: Parts, progress: Progress, row: Enrollment) -> Enrollment:
    """Make the CSR of an enrollment that a person is to carry, unless it is there already."""
    if not _lacks_csr(row):
        return row
    csr = make_csr(Work(parts), row)
    row = parts.journal.commit(row, parts.now, row.state, step="csr", changes={"csr": csr})
    progress.reached(row)
    return row


def import_certificate(
    parts: Parts, progress: Progress, row: Enrollment, certificates: tuple[bytes, ...], *, wait: timedelta
) -> Enrollment:
    """Bring in the certificate of a CSR that a person carried, verified and stored like any other.

    Of the certificates (DER), the one that belongs to our key is taken; the others may be its chain.

    Raises:
        StateError: the enrollment does not wait for a certificate.
        VerificationError: none of the certificates belongs to our key, or it does not verify. Nothing is changed.
    """
    facts.refuse_other_environment(parts.settings, row)
    if row.state is not State.KEYED or row.method is not Method.E_SERVICE:
        raise StateError(
            f"Enrollment {row.id} does not wait for a certificate from the e-service",
            why=f"it is {row.state}, by {row.method}",
        )
    progress.begins("Verify the certificate")
    outcome = None
    for certificate in certificates:
        try:
            outcome = issued(Work(parts, warn=progress.warns), row, certificate)
        except VerificationError as exc:
            if exc.check != "key":
                raise
            foreign = exc
    if outcome is None:
        raise foreign
    progress.done(outcome.told)
    return Engine(Work(parts, warn=progress.warns), progress).order(
        row, outcome.target, changes=outcome.changes, detail=outcome.detail, until=parts.now + wait, act="import"
    )


def _expire(parts: Parts, row: Enrollment) -> None:
    """End an enrollment whose credentials were never sent and are over.

    Raises:
        InputError: that is so.
    """
    if row.valid_until is None or row.valid_until > parts.now:
        return
    Engine(Work(parts), Silent()).order(row, State.EXPIRED, changes={}, until=parts.now, act="expire")
    raise facts.credentials_expired(row)


def _valid_still(row: Enrollment, credentials: Credentials, now: datetime) -> bool:
    """Tell whether credentials are valid by the present clock: one that was ahead may have ended their enrollment."""
    until = credentials.valid_until or row.valid_until
    return until is not None and until > now


def _free_transfer(parts: Parts, row: Enrollment) -> None:
    """Let a transfer ID begin anew whose enrollment expired, as only those do that never sent anything."""
    parts.journal.commit(
        row,
        parts.now,
        row.state,
        step="free",
        changes={"transfer_hash": None},
        detail={"transfer_hash": row.transfer_hash},
    )


def _begin(
    parts: Parts,
    order: Order,
    method: Method,
    old: Enrollment | None,
    *,
    transfer: str | None = None,
    valid_until: datetime | None = None,
) -> Enrollment:
    """Write the new enrollment, with its token and its key's CKA_ID reserved, before anything is made or sent."""
    new = NewEnrollment(
        environment=parts.settings.environment,
        channel=order.channel,
        customer_id=order.customer,
        customer_name=order.name,
        method=method,
        key_id=new_key_id(),
        transfer_hash=transfer,
        valid_until=valid_until,
        replaces=None if old is None else old.id,
        generation=parts.journal.latest_generation(parts.settings.environment, order.customer, order.channel) + 1,
        token=parts.token.identity().digest,
        sftp_user=None if old is None else old.sftp_user,
        contact=None if old is None else old.contact,
    )
    return parts.journal.add(new, parts.now, lease=lease(parts))


def _walk(
    parts: Parts, progress: Progress, row: Enrollment, credentials: Credentials | None, wait: timedelta
) -> Enrollment:
    """Let the engine take the enrollment as far as it goes."""
    work = Work(parts, credentials, warn=progress.warns)
    return Engine(work, progress).walk(row, until=parts.now + wait)


def _to_be_replaced(parts: Parts, order: Order) -> Enrollment | None:
    """Return the enrollment that the new one replaces; an active one is never replaced without being named."""
    published = parts.store.read(facts.place(parts.settings, order.customer, order.channel))
    theirs = None if published is None else published.data.get("enrollment")
    if order.replaces is not None and theirs == order.replaces and not facts.known(parts.journal, order.replaces):
        return None  # Another installation's: the person has named it, so it may be replaced.
    if order.replaces is not None:
        old = parts.journal.get(order.replaces)
        if (old.customer_id, old.channel, old.environment, old.state) != (
            order.customer,
            order.channel,
            parts.settings.environment,
            State.ACTIVE,
        ):
            raise InputError(
                f"Enrollment {old.id} cannot be replaced by this one",
                why=f"it is for {old.customer_id}, {old.channel}, {old.environment}, and {old.state}",
            )
        return old
    active = parts.journal.current(parts.settings.environment, order.customer, order.channel)
    if active:
        raise StateError(
            f"Customer {order.customer} has an active certificate for {order.channel} already",
            why=f"enrollment {active[0].id}",
            next_step=f"To put a new one in its place, add: --replaces {active[0].id}",
        )
    if isinstance(theirs, str) and not facts.known(parts.journal, EnrollmentId(theirs)):
        raise StateError(
            f"Vault has a certificate of customer {order.customer} for {order.channel} that this journal does not know",
            why=f"it is of enrollment {theirs}, of another installation or of a journal that was lost",
            next_step=f"To put a new one in its place, add: --replaces {theirs}",
        )
    return None


def _refuse_other_order(row: Enrollment, order: Order) -> None:
    """The same transfer ID goes on only with the same order, and only while it is not used up."""
    unsent = row.state in {State.PREPARED, State.KEYED}
    free = f"varmenne resolve {row.id} --abandon, and then this command again"
    if (row.customer_id, row.channel) != (order.customer, order.channel):
        raise StateError(
            "This transfer ID belongs to another enrollment",
            why=f"{row.id} for {row.customer_id}, channel {row.channel}, which is {row.state}",
            next_step=f"If it was mistyped there: {free}"
            if unsent or row.state is State.REJECTED
            else f"Compare the transfer ID with the mail, and --customer-id and --channel with varmenne show {row.id}",
        )
    if unsent and (order.name not in {None, row.customer_name} or order.replaces not in {None, row.replaces}):
        raise StateError(
            f"Enrollment {row.id} was begun with another name or another enrollment to replace",
            why=f"name {row.customer_name or '-'}, replaces {row.replaces or '-'}",
            next_step=f"Leave the options out to go on with it. To begin anew: {free}",
        )
    if row.state is State.REJECTED:
        raise StateError(
            "The service has refused this transfer ID",
            why=f"enrollment {row.id} is rejected; credentials are not sent a second time by themselves",
            next_step=f"After a mistyped password: varmenne resolve {row.id} --resend --credentials FILE",
        )
    if row.state is State.EXPIRED:
        raise facts.credentials_expired(row)
    if row.state in ENDED:
        raise StateError(
            "This transfer ID has been used",
            why=f"enrollment {row.id} is {row.state}",
            next_step=f"`varmenne show {row.id}` tells more; for another certificate, order one in the e-service",
        )
