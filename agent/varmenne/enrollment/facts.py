"""Facts of an enrollment in the forms that others take: PEM, fingerprints, custody, the Vault record."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import TYPE_CHECKING, Any

from varmenne.domain.enrollment import Enrollment
from varmenne.domain.forms import iso
from varmenne.domain.identifiers import Channel, CustomerId, EnrollmentId
from varmenne.domain.keys import KeyFacts, TokenIdentity
from varmenne.domain.pkcs11_uri import pkcs11_uri
from varmenne.errors import InputError, StateError, VarmenneError

if TYPE_CHECKING:
    from varmenne.journal import Journal
    from varmenne.settings import Settings
    from varmenne.vault import Location


def sha256(data: bytes) -> str:
    """Return the SHA-256 of data, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def der_to_pem(der: bytes) -> str:
    """Write a certificate in the textual form of RFC 7468."""
    from asn1crypto import pem

    text: bytes = pem.armor("CERTIFICATE", der)
    return text.decode("ascii")


def pem_to_der(text: str) -> bytes:
    """Read one PEM object that this program has written."""
    from asn1crypto import pem

    der: bytes = pem.unarmor(text.encode("ascii"))[2]
    return der


def problem(error: VarmenneError) -> dict[str, str]:
    """Return an error's sentences for the journal."""
    return {"kind": type(error).__name__, "what": error.what, "why": error.why, "next_step": error.next_step}


def error_text(errors: tuple[tuple[str, str], ...]) -> str:
    """Join the service's codes and messages as they came."""
    return "; ".join(f"{code}: {message}" for code, message in errors)


def custody(key: KeyFacts, probe: tuple[datetime, bool, dict[str, Any]] | None) -> dict[str, Any]:
    """Return what is known about a key's custody: attributes as read back, deviations, and its token's probe."""
    return {
        "attributes": dict(sorted(key.attributes.items())),
        "deviations": list(key.deviations),
        "token": {name: getattr(key.token, name) for name in TokenIdentity.__slots__},
        "made_at": None if key.made_at is None else iso(key.made_at),
        "probe": None
        if probe is None
        else {
            "at": iso(probe[0]),
            "fit": probe[1],
            "tries": {line["name"]: line["outcome"] for line in probe[2]["results"]},
        },
    }


def changed(row: Enrollment, key: KeyFacts) -> tuple[str, ...]:
    """Return in words which attributes of a key read differently from what was read at its birth.

    What the token did not tell then, or does not tell now, is no change.
    """
    born = row.custody["attributes"] if row.custody is not None else {}
    pairs = ((name, born.get(name), value) for name, value in sorted(key.attributes.items()))
    return tuple(
        f"{name} was {str(then).lower()} and is {str(now).lower()}"
        for name, then, now in pairs
        if then is not None and now is not None and then != now
    )


def identity(row: Enrollment) -> TokenIdentity:
    """Return the token that holds the key of an enrollment.

    Raises:
        InputError: the enrollment has no key yet.
    """
    if row.custody is None:
        raise InputError(f"Enrollment {row.id} has no key yet")
    return TokenIdentity(**row.custody["token"])


def key_uri(row: Enrollment) -> str:
    """Return the PKCS#11 URI (RFC 7512) of an enrollment's private key; it never holds a PIN.

    Raises:
        InputError: the enrollment has no key yet.
    """
    return pkcs11_uri(identity(row), row.key_id, row.key_label)


def refuse_other_environment(settings: Settings, row: Enrollment) -> None:
    """Refuse to work on an enrollment of one environment with the settings of the other.

    Raises:
        StateError: they differ.
    """
    if row.environment is not settings.environment:
        raise StateError(
            f"Enrollment {row.id} is of the {row.environment} environment, the settings are of {settings.environment}",
            why="test and production are kept apart: endpoint, trust and Vault paths never mix",
            next_step=f"Name the settings of the {row.environment} environment with --config",
        )


def known(journal: Journal, enrollment_id: EnrollmentId) -> bool:
    """Tell whether the journal has an enrollment; others are another installation's, or of a journal that was lost."""
    try:
        journal.get(enrollment_id)
    except InputError:
        return False
    return True


def refuse_unnamed_replacement(journal: Journal, row: Enrollment) -> None:
    """Refuse to go on beside an active certificate that this enrollment was not begun to replace.

    Raises:
        StateError: there is one; nothing has been sent.
    """
    for active in journal.current(row.environment, row.customer_id, row.channel):
        if active.id not in {row.id, row.replaces}:
            raise StateError(
                f"Customer {row.customer_id} has got an active certificate for {row.channel} meanwhile",
                why=f"enrollment {active.id}; this one was not begun to replace it, and nothing has been sent",
                next_step=f"Give this one up by `varmenne resolve {row.id} --abandon`, or begin anew with --replaces",
            )


def place(settings: Settings, customer: CustomerId, channel: Channel) -> Location:
    """Return where in Vault the current certificate of a customer's channel is published."""
    from varmenne.vault import Location

    return Location(prefix=settings.vault.prefix, environment=settings.environment, customer=customer, channel=channel)


def record(row: Enrollment) -> dict[str, Any]:
    """Return the Vault record of an enrollment that has its certificate.

    Raises:
        InputError: it has no certificate yet.
    """
    from varmenne.vault.record import build_record

    if row.certificate is None or row.custody is None:
        raise InputError(f"Enrollment {row.id} has no certificate yet")
    return build_record(
        certificate=row.certificate,
        chain=split_pem(row.chain or ""),
        key_ref=key_uri(row),
        key_id=row.key_id,
        token=identity(row),
        custody={name: row.custody[name] for name in ("attributes", "deviations", "probe")},
        enrollment=row.id,
        generation=row.generation,
        environment=row.environment,
        customer=row.customer_id,
        channel=row.channel,
    )


def publication(row: Enrollment) -> str:
    """Return the ID of the act of publishing an enrollment as the current one; each time that it is put back, another.

    It stays the same until the journal knows the version that came of it.
    """
    return row.id if row.vault_version is None else f"{row.id}@{row.vault_version}"


def credentials_expired(row: Enrollment) -> InputError:
    """Make the error for one-time credentials that are over and were never sent."""
    return InputError(
        f"The one-time credentials of enrollment {row.id} have expired",
        why=f"they were valid until {row.valid_until:%Y-%m-%d %H:%M} UTC; nothing was ever sent",
        next_step="Order a new certificate in the e-service; the old order serves as its template",
    )


def certificate_expired(row: Enrollment) -> StateError:
    """Make the error for a certificate that is over."""
    return StateError(
        f"The certificate of enrollment {row.id} has expired, and cannot be renewed any more",
        why=f"it was valid until {row.not_after:%Y-%m-%d %H:%M} UTC" if row.not_after else "it has no certificate",
        next_step=f"Order a new one in the e-service, then: varmenne enroll --replaces {row.id} --credentials FILE",
    )


def moment(due: datetime, now: datetime) -> str:
    """Write a moment for people: the time of day, with the day if it is another one."""
    return f"{due:%H:%M:%S} UTC" if due.date() == now.date() else f"{due:%Y-%m-%d %H:%M} UTC"


def split_pem(text: str) -> list[str]:
    """Split PEM text into its objects."""
    end = "-----END CERTIFICATE-----\n"
    return [part + end for part in text.split(end) if part.strip()]
