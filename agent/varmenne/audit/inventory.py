"""The inventory of keys: what a report on their custody is made from, as values. No I/O.

Everything in it was read somewhere: rows and history in the journal, records in the audit log, attributes and probes
in the token. What was not read is ``None``, and a :class:`Finding` says so. It is a statement of this installation;
what proves it is the log, by the indexes of its records and by the checkpoint.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from varmenne.domain.key_states import KEY_STATES, KeyState
from varmenne.domain.keys import TokenIdentity
from varmenne.domain.steps import State

SOFTWARE_MODELS = ("SoftHSM", "NSS", "Kryoptic")
"""How the models of tokens begin that are software: whoever runs as their user can read the keys."""

SECURITY_BITS = {2048: 112, 3072: 128}
"""Bits of an RSA modulus → strength in bits (NIST SP 800-57 part 1, table 2)."""


def is_software(token: TokenIdentity) -> bool:
    """Tell whether a token is known to be software, with no hardware boundary. Of others nothing is proven by this."""
    return token.model.startswith(SOFTWARE_MODELS)


class Kind(StrEnum):
    """Exceptions that only a report tells of: what the evidence itself lacks."""

    UNFIT = "unfit-token"
    NO_CHECKPOINT = "no-checkpoint"
    NOT_ANCHORED = "not-anchored"
    SOFTWARE = "software"
    DEVIATION = "deviation"
    NO_PROBE = "no-probe"
    NO_CONTACT = "no-contact"
    UNCOVERED = "uncovered"
    NO_WITNESS = "no-witness"
    KEYS_UNSEEN = "keys-unseen"
    VAULT_UNSEEN = "vault-unseen"


@dataclass(frozen=True, slots=True)
class Finding:
    """An exception.

    Attributes:
        kind: a word for its kind, for which the report has texts: one of :class:`Kind`, of the kinds of differences
            that the reconciliation finds, or a reason of ``varmenne status``.
        subject: the enrollment, key or token that it is about; empty if it is about all.
        told: what was found in words, as the rest of varmenne has them; empty where the kind says it all.
        next_step: what to do about it, likewise.
        needs_person: whether a person has to act; the others are to be known.
    """

    kind: str
    subject: str = ""
    told: str = ""
    next_step: str = ""
    needs_person: bool = False


@dataclass(frozen=True, slots=True)
class Try:
    """One try to get a key out of a token: ``refused``, ``allowed`` or ``not applicable``, and the return code."""

    name: str
    outcome: str
    detail: str


@dataclass(frozen=True, slots=True)
class Probe:
    """The last time that a token was tried, with throw-away keys of the template of real ones."""

    at: datetime
    fit: bool
    tries: tuple[Try, ...]


@dataclass(frozen=True, slots=True)
class TokenEntry:
    """A token as it named itself when a key was made in it, and its last probe. ``software``: no hardware boundary."""

    identity: TokenIdentity
    software: bool
    probe: Probe | None


@dataclass(frozen=True, slots=True)
class Custody:
    """What the token said of a key when it was made. Keys of which it said the same share one.

    Attributes:
        token: the token.
        attributes: name without ``CKA_`` and value as read, in order of the names; ``None``: not told.
        deviations: in which ways the token could not do as it was ordered.
    """

    token: TokenIdentity
    attributes: tuple[tuple[str, bool | int | None], ...]
    deviations: tuple[str, ...]

    def number(self, name: str) -> int | None:
        """Return an attribute that is a number, if the token told it."""
        value = dict(self.attributes).get(name)
        return None if value is None or isinstance(value, bool) else value


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate that was verified when it was issued. ``sha256`` is of its DER, in hexadecimal."""

    serial: str
    sha256: str
    subject: str
    issuer: str
    not_before: datetime
    not_after: datetime
    signature: str


@dataclass(frozen=True, slots=True)
class Transition:
    """An act on a key, with its record's index in the log; ``None`` where only the journal's history has it."""

    at: datetime
    actor: str
    act: str
    source: State | None
    target: State | None
    outcome: str
    reason: str | None
    record: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dates:
    """What lies before a key."""

    credentials_until: datetime | None = None
    renewal_opens: datetime | None = None
    order_by: datetime | None = None
    retired_at: datetime | None = None
    rehearsed_at: datetime | None = None
    rehearsal_ok: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One key and its enrollment.

    Attributes:
        public_key: SHA-256 of the DER ``SubjectPublicKeyInfo``, in hexadecimal; ``None`` before the key is made.
        made_by: who ordered the key's making, and on which host.
        contact: the technical contact person, as somebody noted it.
        timeline: its acts, oldest first.
        records: how many records the log has of it.
        last_record: index of the last of them.
    """

    enrollment: str
    environment: str
    channel: str
    customer_id: str
    customer_name: str | None
    contact: str | None
    method: str
    generation: int
    replaces: str | None
    state: State
    created_at: datetime
    key_id: str
    label: str
    public_key: str | None
    custody: Custody | None
    certificate: Certificate | None
    vault_path: str | None
    vault_version: int | None
    dates: Dates
    made_by: str | None
    timeline: tuple[Transition, ...]
    records: int
    last_record: int | None

    @property
    def key_state(self) -> KeyState:
        """The key's state in the words of NIST SP 800-57."""
        return KEY_STATES[self.state]

    @property
    def in_grace(self) -> bool:
        """Tell whether the key is active only until those who use it have its successor."""
        return self.state is State.SUPERSEDED

    @property
    def bits(self) -> int | None:
        """The size of the key."""
        return None if self.custody is None else self.custody.number("MODULUS_BITS")

    @property
    def strength(self) -> int | None:
        """The key's strength in bits, by NIST SP 800-57."""
        return SECURITY_BITS.get(self.bits or 0)

    @property
    def is_parked(self) -> bool:
        """Tell whether there is a key that has no certificate."""
        return self.public_key is not None and self.certificate is None and self.key_state is not KeyState.DESTROYED


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFacts:
    """The audit log that the inventory rests on.

    Attributes:
        origin: its name.
        size: number of records.
        root: hash of the tree over them, in hexadecimal.
        vkeys: keys that sign its checkpoints, as C2SP writes them, those of its present name first.
        note: its newest checkpoint, a signed note; ``None`` if there is none.
        checkpoint_size: how many records that one covers.
        checkpoint_root: hash of the tree over those, in hexadecimal.
        checkpoint_at: when it was signed.
        anchored_at: since when it stands in Vault.
        anchor_mount: the mount in Vault where it stands.
        anchor_path: the path there.
        cosignatures: how many signatures it bears besides the log's own.
    """

    origin: str
    size: int
    root: str
    vkeys: tuple[str, ...] = ()
    note: str | None = None
    checkpoint_size: int = 0
    checkpoint_root: str = ""
    checkpoint_at: datetime | None = None
    anchored_at: datetime | None = None
    anchor_mount: str = ""
    anchor_path: str = ""
    cosignatures: int = 0

    def covers(self, record: int | None) -> bool:
        """Tell whether the checkpoint covers a record."""
        return record is not None and record < self.checkpoint_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """All keys of one environment that the journal knows of, at one moment.

    Attributes:
        made_at: that moment.
        host: where it was made.
        version: of varmenne.
        keys: in order of their enrollments.
        tokens: those that the keys are in.
        findings: the exceptions, those that need a person first.
        asked: what was asked beside the journal (``token``, ``vault``).
    """

    made_at: datetime
    host: str
    environment: str
    version: str
    keys: tuple[Key, ...]
    tokens: tuple[TokenEntry, ...]
    findings: tuple[Finding, ...]
    log: LogFacts
    asked: tuple[str, ...] = ()

    def counts(self) -> dict[KeyState, int]:
        """Return how many keys are in each state, zeros included."""
        found = Counter(key.key_state for key in self.keys)
        return {state: found[state] for state in KeyState}


def ordered(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return exceptions in their order: those that need a person first, then by kind and subject."""
    return tuple(sorted(findings, key=lambda one: (not one.needs_person, one.kind, one.subject, one.told)))
