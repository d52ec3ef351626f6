"""Inventories for tests of the report: made up, with every state and kind of exception, of any size."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta

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
from varmenne.domain.concerns import Reason
from varmenne.domain.keys import TokenIdentity
from varmenne.domain.steps import State
from varmenne.enrollment.reconcile import Kind as Difference

NOW = datetime(2026, 11, 24, 17, 0, tzinfo=UTC)
HOSTILE = "<img src=x onerror=alert(1)> & \"Öljy\" '{{ 7*7 }}' </style><script>alert(2)</script>"
FORMULA = '=HYPERLINK("http://evil.example","Click")'
VKEY = "varmenne/5f0c1e9ab2d34c77+a1b2c3d4+AYN0Zm9yIHRlc3RzIG9ubHksIG5vdCBhIHJlYWwga2V5IQ=="
NOTE = (
    "varmenne/5f0c1e9ab2d34c77\n{size}\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
    "\N{EM DASH} varmenne/5f0c1e9ab2d34c77 obLD1OmmJ3yGdr8KzVYwQ2c0pd1hWJo4OTkqbQ1wH0XfTzM8L5U1u8dY4EwA7cyJ9WvqFqXo\n"
    "\N{EM DASH} witness.example 9k8mXwAAAABnQ2cR0pd1hWJo4OTkqbQ1wH0XfTzM8L5U1u8dY4EwA7cyJ9WvqFqXo4n2t\n"
)

SOFT = TokenIdentity("varmenne", "4d1b8f2a90c3e711", "SoftHSM v2", "SoftHSM project", "2.6", "SoftHSM 2.6")
HARD = TokenIdentity("sovinto-hsm", "1420907", "K7 Base", "SafeNet, Inc.", "7.8.4", "Chrystoki 10.7")

GOOD = {
    **dict.fromkeys(("ALWAYS_SENSITIVE", "LOCAL", "NEVER_EXTRACTABLE", "PRIVATE", "SENSITIVE", "SIGN", "TOKEN"), True),
    **dict.fromkeys(("DECRYPT", "DERIVE", "EXTRACTABLE", "MODIFIABLE", "SIGN_RECOVER", "UNWRAP"), False),
    "ALWAYS_AUTHENTICATE": None,
    "KEY_TYPE": 0,
    "MODULUS_BITS": 2048,
    "PRIVATE_EXPONENT": None,
    "PUBLIC_EXPONENT": 65537,
}
SOFT_CUSTODY = Custody(SOFT, tuple(sorted(GOOD.items())), ())
HARD_CUSTODY = Custody(
    HARD,
    tuple(sorted({**GOOD, "DERIVE": None, "MODIFIABLE": True}.items())),
    ("MODIFIABLE is true: attributes can be changed later", "DERIVE cannot be read, so possibly the key can derive"),
)
PROBE = Probe(
    NOW - timedelta(days=2),
    True,
    (
        Try("read PRIVATE_EXPONENT", "refused", "CKR_ATTRIBUTE_SENSITIVE"),
        Try("wrap AES_KEY_WRAP", "refused", "CKR_KEY_UNEXTRACTABLE"),
        Try("copy with EXTRACTABLE true", "refused", "CKR_ATTRIBUTE_READ_ONLY"),
        Try("wrap AES_KEY_WRAP_PAD", "not applicable", "the token has no such mechanism"),
        Try("wrap RSA_AES_KEY_WRAP", "not applicable", "the token has no such mechanism"),
    ),
)

WAY = (State.PREPARED, State.KEYED, State.SUBMITTING, State.ACCEPTED, State.ISSUED, State.STORED, State.ACTIVE)
ACTS = ("prepare", "generate", "submit", "submit", "retrieve", "store", "activate")
AFTER = (
    *(State.ACTIVE, State.ACTIVE, State.SUPERSEDED, State.RETIRED, State.DESTROYED, State.KEYED, State.UNCERTAIN),
    *(State.REJECTED, State.PREPARED, State.ACTIVE),
)


def key(number: int) -> Key:
    """Make up one key; ten in a row have all states that there are to tell apart."""
    state = AFTER[number % len(AFTER)]
    begin = NOW - timedelta(days=700 - number % 600, hours=number % 24)
    has_key = state is not State.PREPARED
    was_active = state in {State.ACTIVE, State.SUPERSEDED, State.RETIRED, State.DESTROYED}
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    custody = (SOFT_CUSTODY, HARD_CUSTODY)[number % 3 == 1] if has_key else None
    end = begin + timedelta(days=730)
    way = WAY if was_active else WAY[: WAY.index(state) + 1] if state in WAY else (*WAY[:3], state)
    if was_active and state is not State.ACTIVE:
        later = (State.SUPERSEDED, State.RETIRED, State.DESTROYED)
        way = (*way, *later[: later.index(state) + 1])
    return Key(
        enrollment=f"{begin:%Y%m%d}-{digest[:8]}",
        environment="test",
        channel="sftp" if number % 4 == 3 else "ws",
        customer_id=f"{1000000 + number // 2}-{number % 10}",
        customer_name=("Åkerlund & Öljy Oy", "Kunnanvaltuuston tilitoimisto Hämeenlinna Oy Ab", None)[number % 3],
        contact=None if number % 5 == 4 else "Maija Meikäläinen, maija.meikalainen@example.fi",
        method="api" if number % 2 else "renewal",
        generation=1 + number % 3,
        replaces=None,
        state=state,
        created_at=begin,
        key_id=digest[:32],
        label=f"varmenne-{begin:%Y%m%d}-{digest[:8]}",
        public_key=digest if has_key else None,
        custody=custody,
        certificate=_certificate(digest, begin, end) if was_active else None,
        vault_path=f"varmenne/test/{1000000 + number // 2}-{number % 10}/ws/current" if was_active else None,
        vault_version=1 + number % 3 if was_active else None,
        dates=Dates(
            credentials_until=NOW + timedelta(days=9) if state in {State.PREPARED, State.KEYED} else None,
            renewal_opens=end - timedelta(days=60) if state is State.ACTIVE else None,
            order_by=end - timedelta(days=30) if state is State.ACTIVE else None,
            retired_at=NOW + timedelta(days=5) if state is State.SUPERSEDED else None,
            rehearsed_at=NOW - timedelta(days=3) if state is State.ACTIVE else None,
            rehearsal_ok=bool(number % 7) if state is State.ACTIVE else None,
        ),
        made_by="maija@agentti-1.example",
        timeline=tuple(_timeline(number, way, begin)),
        records=len(way) + 3,
        last_record=number * 14 + len(way),
    )


def _certificate(digest: str, begin: datetime, end: datetime) -> Certificate:
    return Certificate(
        serial=bytes.fromhex(digest[:40]).hex(":"),
        sha256=digest[::-1],
        subject="CN=1000000-1,O=Verohallinto,C=FI",
        issuer="CN=Data Providers Test Issuing CA v1,O=Verohallinto,C=FI",
        not_before=begin,
        not_after=end,
        signature="RSA SHA256",
    )


def _timeline(number: int, way: tuple[State, ...], begin: datetime) -> list[Transition]:
    """Walk the way, with one failure on it."""
    acts = (*ACTS, "supersede", "retire", "destroy")
    found: list[Transition] = []
    source: State | None = None
    for index, target in enumerate(way):
        at = begin + timedelta(minutes=index * 7)
        record = number * 14 + index
        found.append(Transition(at, "maija@agentti-1.example", acts[index], source, target, "done", None, record))
        source = target
    failed = Transition(
        *(begin + timedelta(hours=2), "varmenne@agentti-1.example", "problem", source, source),
        *("failed", "The certificate service could not be reached", number * 14 + 12),
    )
    return [*found, failed]


def inventory(size: int = 10, *, hostile: bool = False) -> Inventory:
    """Make up an inventory with every kind of exception."""
    keys = tuple(key(number) for number in range(size))
    if hostile and keys:
        evil = replace(keys[0], customer_name=HOSTILE, contact=FORMULA, vault_path=HOSTILE)
        keys = (replace(evil, timeline=tuple(replace(one, actor=HOSTILE) for one in evil.timeline)), *keys[1:])
    size_of_log = max(1, size * 14)
    return Inventory(
        made_at=NOW,
        host=HOSTILE if hostile else "agentti-1.example",
        environment="test",
        version="1.0.0",
        keys=keys,
        tokens=tuple(TokenEntry(one, is_software(one), PROBE if one is SOFT else None) for one in (HARD, SOFT)),
        findings=ordered(_findings(keys, HOSTILE if hostile else "")),
        log=LogFacts(
            origin="varmenne/5f0c1e9ab2d34c77",
            size=size_of_log,
            root=hashlib.sha256(b"all").hexdigest(),
            vkeys=(VKEY,),
            note=NOTE.format(size=size_of_log - 1),
            checkpoint_size=size_of_log - 1,
            checkpoint_root=hashlib.sha256(b"but one").hexdigest(),
            checkpoint_at=NOW - timedelta(minutes=4),
            anchored_at=NOW - timedelta(minutes=3),
            anchor_mount="kv",
            anchor_path=f"varmenne/audit/5f0c1e9ab2d34c77/{size_of_log - 1:020}",
            cosignatures=1,
        ),
        asked=("token", "vault"),
    )


def _findings(keys: tuple[Key, ...], told: str) -> list[Finding]:
    """Make up an exception of each kind, about the first key, and some about each."""
    first = keys[0].enrollment if keys else "20261124-00000000"
    words = told or "the version went down from 3 to 2"
    every = [
        *(Finding(one.value, first, words, one.next_step, needs_person=one.matters) for one in Difference),
        *(Finding(one.value, first, words, "varmenne doctor", needs_person=one.person) for one in Reason),
        *(Finding(one.value, "", told) for one in Kind if one not in {Kind.NO_CHECKPOINT, Kind.NO_WITNESS}),
    ]
    return [
        *every,
        *(Finding(Kind.NO_CONTACT, one.enrollment) for one in keys if not one.contact),
        *(Finding(Difference.PARKED.value, one.enrollment) for one in keys if one.is_parked),
    ]
