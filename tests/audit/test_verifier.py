"""The verifier on whole logs: what an insider does to the records, the journal's rows or the checkpoints is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from harness.evidence import AT, ORIGIN, SoftwareLogSigner, Story, told
from harness.evidence import root as merkle_root
from varmenne.audit import note, verifier
from varmenne.audit.bundle import NoteFile
from varmenne.audit.verifier import Key, Report
from varmenne.audit.witness import add_cosignatures, make_request
from varmenne.domain.audit import canonical, fingerprint, moment

FIRST, SECOND = "20261124-00000001", "20261124-00000002"
LATER = "varmenne/ffeeddccbbaa9988"
BETWEEN = "varmenne/1111111111111111"


@pytest.fixture
def story() -> Story:
    """Record 0 is the birth of the log's key; 1 to 7 are the first enrollment; 8 to 14 the second; 15 its passport."""
    return told()


def errors(report: Report) -> list[str]:
    """What is not proven, with where."""
    return [f"{found.where}: {found.what}" for found in report.findings if found.severity == "error"]


def notices(report: Report) -> list[str]:
    """What is to be known, with where."""
    return [f"{found.where}: {found.what}" for found in report.findings if found.severity == "notice"]


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa-p256"])
def test_an_honest_log_is_proven(kind: str) -> None:
    """Records, rows, checkpoints, anchors and the passport are counted, and there is nothing to remark."""
    story = told(kind)
    report = story.verified()
    assert (report.ok, report.findings) == (True, [])
    assert (report.origin, report.size, report.signed, report.rows, report.passports) == (ORIGIN, 16, 16, 2, 1)
    assert report.checkpoints == 7
    assert report.root == merkle_root(story.records).hex()


def test_without_a_key_from_outside_it_says_loudly_that_nobody_vouches(story: Story) -> None:
    """The bundle's own key proves that the bundle fits together, and not whose it is."""
    report = story.verified(keys=[])
    assert report.ok
    assert [one for one in notices(report) if "NOT TRUSTED" in one.upper()]
    assert notices(story.verified()) == []


def test_a_log_forged_with_another_key_passes_only_without_one_from_outside(story: Story) -> None:
    """Somebody who makes all of it anew, key included, is found by whoever knows the log's key."""
    forged = told()
    assert forged.verified(keys=[]).ok
    report = forged.verified(keys=[story.signer.key()])
    assert (report.ok, report.checkpoints, report.passports) == (False, 0, 0)
    assert [one for one in errors(report) if "not signed by a key that is trusted" in one]


# --- What somebody does who can write to everything but does not have the log's key. --------------------------------


def _swap(story: Story) -> None:
    story.records[9], story.records[10] = story.records[10], story.records[9]


def _shared_key(story: Story) -> None:
    for index in range(9, 16):
        story.change(index, public_key=json.loads(story.records[7])["public_key"])


def _insert(story: Story) -> None:
    story.records.insert(4, story.records[3])


def _rerowed(story: Story) -> None:
    story.rows[FIRST] = canonical(json.loads(story.rows[FIRST]) | {"customer_name": "Another Oy"})


def _hidden_row(story: Story) -> None:
    story.rows[FIRST] = canonical(json.loads(story.rows[FIRST]) | {"customer_name": "Another Oy"})
    story.change(7, row=fingerprint(story.rows[FIRST]))


def _truncate(story: Story) -> None:
    del story.records[9:]
    story.rows.pop(SECOND)
    story.checkpoints = [one for one in story.checkpoints if one.size <= 9]
    story.passports = []


def _renamed(story: Story) -> None:
    story.origin = LATER
    story.add("probe")
    story.checkpoint()


def _false_restore(story: Story) -> None:
    story.add("restore", detail={"origin": LATER})
    story.origin = "varmenne/0123456789abcdef"
    story.checkpoint()


# Name → (what is done, the first bad record if one is named, words of the finding).
MANIPULATIONS: dict[str, tuple[Callable[[Story], Any], int | None, str]] = {
    "an actor is changed": (lambda story: story.change(3, actor="nobody"), None, "its records 0 to 7"),
    "an actor is changed later": (lambda story: story.change(9, actor="nobody"), None, "its records 8 to 14"),
    "a time is changed": (
        lambda story: story.change(3, at=moment(AT + timedelta(seconds=3.5))),
        None,
        "its records 0 to 7",
    ),
    "a time goes back": (lambda story: story.change(9, at=moment(AT - timedelta(hours=1))), 9, "the clock went back"),
    "a time that is none": (lambda story: story.change(9, at="2026-02-30T17:00:00.000000Z"), 9, "there is no time"),
    "an outcome is changed": (lambda story: story.change(3, outcome="failed"), None, "its records 0 to 7"),
    "a state is skipped": (lambda story: story.change(3, source="prepared"), 3, "was keyed, and this act begins with"),
    "a state is made up": (lambda story: story.change(3, target="issued"), 5, "was issued, and this act begins with"),
    "a certificate is swapped": (lambda story: story.change(6, certificate="ab" * 32), 6, "certificate"),
    "a key is swapped": (lambda story: story.change(4, public_key="ab" * 32), 4, "public key"),
    "a key's ID is swapped": (lambda story: story.change(4, key_id="ab" * 16), 4, "key ID"),
    "a key is taken away": (lambda story: story.change(4, public_key=None), 4, "public key"),
    "a birth is taken away": (lambda story: story.records.pop(2), 2, "begins with keyed"),
    "a birth is renamed": (lambda story: story.change(2, act="tend"), 2, "without having been born"),
    "a key is given to two": (_shared_key, 9, f"was born before, for {FIRST}"),
    "a record is taken away": (lambda story: story.records.pop(4), None, "its records 0 to 7"),
    "a record is there twice": (_insert, 4, "was accepted, and this act begins with keyed"),
    "two records are swapped": (_swap, 9, "was prepared, and this act begins with keyed"),
    "the first record is taken away": (lambda story: story.records.pop(0), None, "its records 0 to 7"),
    "the last record is taken away": (lambda story: story.records.pop(), None, "the end is missing"),
    "the end is taken away, with its checkpoints": (_truncate, None, "anchors/00000000000000000015"),
    "everything is taken away": (lambda story: story.records.clear(), None, "the end is missing"),
    "a row is changed": (_rerowed, None, f"the row of {FIRST} is not the one"),
    "a row is changed, and its record": (_hidden_row, None, "its records 0 to 7"),
    "a row is taken away": (lambda story: story.rows.pop(FIRST), None, f"the row of {FIRST} is missing"),
    "a row is put in": (
        lambda story: story.rows.update({"20261124-00000003": canonical({"id": "20261124-00000003"})}),
        None,
        "the row of 20261124-00000003 is not the one",
    ),
    "the log is renamed": (_renamed, None, "without a record of a restore"),
    "a restore of another log is put in": (_false_restore, 16, "it says that the log was called"),
}


@pytest.mark.parametrize("name", MANIPULATIONS)
def test_a_manipulation_is_found(name: str, story: Story) -> None:
    """Each is an error, in words that lead to it; where a record is wrong by itself, the first such is named."""
    change, index, words = MANIPULATIONS[name]
    change(story)
    report = story.verified()
    assert not report.ok
    assert [one for one in errors(report) if words in one], errors(report)
    assert report.first_bad_record == index


FORMS: dict[str, Callable[[bytes], bytes]] = {
    # What is done to the bytes of a record, with a checkpoint signed over them: somebody wrote what is not a record.
    "a space": lambda raw: raw.replace(b'"act":', b'"act": '),
    "a key twice": lambda raw: raw.replace(b'{"act":"answer",', b'{"act":"answer","act":"answer",'),
    "a key twice in the detail": lambda raw: raw.replace(b'{"answer":7,', b'{"answer":7,"answer":7,'),
    "keys out of order in the detail": lambda raw: raw.replace(b'"answer":7,"ok":true', b'"ok":true,"answer":7'),
    "a fraction": lambda raw: raw.replace(b'"answer":7', b'"answer":7.0'),
    "an exponent": lambda raw: raw.replace(b'"answer":7', b'"answer":7e0'),
    "minus zero": lambda raw: raw.replace(b'"answer":7', b'"answer":-0'),
    "NaN": lambda raw: raw.replace(b'"answer":7', b'"answer":NaN'),
    "a huge number": lambda raw: raw.replace(b'"answer":7', b'"answer":9007199254740992'),
    "a number of a thousand digits": lambda raw: raw.replace(b'"answer":7', b'"answer":' + b"7" * 5000),
    "a key less": lambda raw: raw.replace(b'"host":"hsm-1",', b""),
    "a key more": lambda raw: raw.replace(b'"host":', b'"hostage":null,"host":'),
    "keys out of order": lambda raw: raw.replace(b'"actor":"maija",', b"").replace(
        b'"host":"hsm-1"', b'"actor":"maija","host":"hsm-1"'
    ),
    "an escape that is not needed": lambda raw: raw.replace(b"maija", rb"m\u0061ija"),
    "a slash escaped": lambda raw: raw.replace(b"maija", rb"mai\/ja"),
    "a tab": lambda raw: raw.replace(b"maija", b"mai\tja"),
    "a byte that is no letter": lambda raw: raw.replace(b"maija", b"mai\xffja"),
    "another version": lambda raw: raw.replace(b'"v":1', b'"v":2'),
    "a time without its fraction": lambda raw: raw.replace(b".000000Z", b"Z"),
    "a time elsewhere": lambda raw: raw.replace(b".000000Z", b".000000+02:00"),
    "a hash of 31 bytes": lambda raw: (
        raw.replace(b'"public_key":"', b'"public_key":"', 1)[:-1]
        if b'"public_key":null' in raw
        else raw.replace(b'"public_key":"' + raw.partition(b'"public_key":"')[2][:2], b'"public_key":"')
    ),
    "something after it": lambda raw: raw + b" ",
    "a list": lambda raw: b"[" + raw + b"]",
    "deep nesting": lambda raw: raw.replace(b'"answer":7', b'"answer":' + b"[" * 5000 + b"]" * 5000),
    "nothing": lambda _raw: b"",
    "another thing": lambda _raw: b"{}",
}


@pytest.mark.parametrize("name", FORMS)
def test_a_record_that_could_be_written_otherwise_is_named(name: str, story: Story) -> None:
    """Even where the log's key signed it: there is one form of a record, so two readers cannot read it differently."""
    assert b'"answer":7,"ok":true,"signer":"Vero"' in story.records[4]
    changed = FORMS[name](story.records[4])
    assert changed != story.records[4]
    story.records[4] = changed
    story.passports = []
    story.checkpoints = [story.signed(8), story.signed(16)]
    story.anchors = []
    report = story.verified()
    assert report.first_bad_record == 4
    assert [one for one in errors(report) if one.startswith("record 4: ")]


def test_unusual_records_that_are_canonical_are_accepted() -> None:
    """Escapes, letters of every kind, nested details and large numbers are read as our encoder writes them."""
    story = Story()
    texts = ["".join(map(chr, range(0x20))), '"\\/\x7f', "Öljy \N{LINE SEPARATOR} \U0001f511", "", "\ud7ff\ue000"]
    story.add("log_key", detail={"vkey": story.vkey})
    for text in texts:
        story.add("probe", actor=text, host=text, reason=text, detail={"a": text, "b": None, "c": -12, "d": True})
        story.add("probe", detail={"one": text})
        story.add("probe", detail={"a": {"b": [text, {"c": 2**53 - 1}]}, "d": [], "e": {}, "enrollment": {}})
    story.add("probe", detail={"big": 1 - 2**53, "UPPER": 1})
    story.checkpoint()
    report = story.verified()
    assert (report.ok, report.size) == (True, len(story.records)), errors(report)


@pytest.mark.parametrize(
    ("back", "ok"), [(timedelta(seconds=30), True), (timedelta(seconds=61), False), (timedelta(days=30), False)]
)
def test_a_clock_that_goes_back_is_named_and_clocks_that_differ_a_little_are_not(back: timedelta, *, ok: bool) -> None:
    """Hosts of one journal may differ by a minute; more is told, once, even if everything is signed."""
    story = Story()
    story.add("log_key", detail={"vkey": story.vkey})
    story.add("probe", at=AT + timedelta(days=60))
    story.add("probe", at=AT + timedelta(days=60) - back)
    story.add("probe", at=AT + timedelta(days=60) - back)
    story.checkpoint()
    report = story.verified()
    assert (report.errors, report.first_bad_record) == (0 if ok else 1, None if ok else 2)
    assert ok or "before you accept it with --known 2" in errors(report)[0]


def test_a_clock_that_went_back_is_a_notice_to_whoever_knows_of_it() -> None:
    """Of that record alone: each of several is to be known, and what was known once excuses nothing else."""
    story = Story()
    story.add("log_key", detail={"vkey": story.vkey})
    for days in (60, 30, 10):
        story.add("probe", at=AT + timedelta(days=days))
    story.checkpoint()
    for known, wrong in (((), 2), ((1,), 2), ((3,), 1), ((2,), 1), ((2, 3), 0)):
        report = story.verified(known=frozenset(known))
        assert report.errors == wrong, known
        assert len([one for one in notices(report) if "the clock went back" in one]) == 2 - wrong
    story.change(1, act="tend")
    assert not story.verified(known=frozenset({2, 3})).ok


# --- Restores, anchors and checkpoints. ------------------------------------------------------------------------------


def test_a_declared_restore_that_lost_nothing_changes_only_the_name(story: Story) -> None:
    """The tree goes on under a new name, which one record explains; the old key is trusted for itself."""
    story.passports = []
    story.restore(16, LATER)
    story.checkpoint()
    report = story.verified(keys=[story.signer.key(ORIGIN)])
    assert (report.ok, report.findings, report.origin, report.size) == (True, [], LATER, 17)


def test_a_restore_that_lost_records_is_an_error_until_somebody_knows_of_it(story: Story) -> None:
    """An anchor of the log as it was reaches beyond the restore: what it covered is gone, whoever declared it."""
    story.passports = []
    story.restore(8, LATER)
    story.rows.pop(SECOND)
    story.checkpoint()
    words = f"the records 8 to 15 of {ORIGIN} are gone: a restore, record 8, took them away"
    report = story.verified()
    assert [words in one for one in errors(report)] == [True]
    assert [words in one for one in errors(story.verified(known=frozenset({7})))] == [True]
    report = story.verified(known=frozenset({8}))
    assert report.ok
    assert [words in one for one in notices(report)] == [True]


def test_what_was_signed_since_another_restore_is_lost_with_that_restore(story: Story) -> None:
    """An older backup was restored, and then the right one: the log never was what was signed between the two."""
    story.passports = []
    between = story.copy()
    between.restore(3, BETWEEN)
    story.anchors.append(between.checkpoint())
    for names in ([], [ORIGIN], ["varmenne/0000000000000000"]):
        other = story.copy()
        other.restore(16, LATER, known=names)
        other.checkpoint()
        assert ["the log is not the one that was signed" in one for one in errors(other.verified())] == [True]
        assert not other.verified(known=frozenset({16})).ok
    story.restore(16, LATER, known=[ORIGIN, BETWEEN])
    story.checkpoint()
    words = f"the 4 records of {BETWEEN} are gone: a restore, record 16, took them away"
    assert [words in one for one in errors(story.verified())] == [True]
    report = story.verified(known=frozenset({16}))
    assert (report.ok, [words in one for one in notices(report)]) == (True, [True])


def test_a_restore_does_not_excuse_two_logs_of_the_name_that_it_ended(story: Story) -> None:
    """What the log was called until the restore is proven up to there, whatever else the record says."""
    story.passports = []
    fork = story.copy()
    fork.restore(3, ORIGIN)
    story.anchors.append(fork.checkpoint())
    story.restore(16, LATER, known=[ORIGIN])
    story.checkpoint()
    assert not story.verified(known=frozenset({16})).ok


@pytest.mark.parametrize("known", [7, "abc", None, {"a": 1}, [[], {}, 7, None]])
def test_names_that_are_none_are_passed_over(story: Story, known: Any) -> None:
    """Whoever writes a record may write anything into it."""
    story.passports = []
    story.restore(16, LATER, known=known)
    story.checkpoint()
    assert story.verified().ok


def test_a_restore_that_nobody_signed_excuses_nothing(story: Story) -> None:
    """Somebody who cuts the log and writes a record of a restore has no checkpoint over it, even if it is expected."""
    story.passports = []
    story.restore(8, LATER)
    story.rows.pop(SECOND)
    report = story.verified(known=frozenset({8}))
    assert not report.ok
    assert story.verified().errors == report.errors == 1


def test_an_older_database_put_back_by_hand_is_found_by_its_anchors_alone(story: Story) -> None:
    """Without anchors a log that went back whole is a good log: that needs somebody outside who remembers."""
    old = Story(story.signer, records=story.records[:8], rows={FIRST: story.rows[FIRST]})
    old.checkpoints = story.checkpoints[:1]
    assert old.verified().ok
    anchor = ("anchor.note", story.checkpoints[1].note.encode())
    report = old.verified(anchors=(anchor,))
    assert [one for one in errors(report) if "of 15 records, and there are 8: the end is missing" in one]


def test_a_log_rewritten_with_its_own_key_is_found_by_an_anchor_alone(story: Story) -> None:
    """Whoever has the key too can rewrite it all; a checkpoint kept from before shows it."""
    before = ("kept.note", story.checkpoints[0].note.encode())
    forged = Story(story.signer)
    forged.add("log_key", detail={"vkey": forged.vkey})
    forged.live(FIRST)
    forged.live(SECOND)
    forged.change(3, actor="nobody")
    forged.checkpoint()
    assert forged.verified().ok
    report = forged.verified(anchors=(before,))
    (error,) = errors(report)
    assert error.startswith("kept.note: the log is not the one that was signed: of its records 0 to 7, one or more")


def test_what_no_checkpoint_covers_is_told(story: Story) -> None:
    """Records after the last checkpoint are not proven yet, and that is said."""
    story.add("probe")
    report = story.verified()
    assert report.ok
    assert [one for one in notices(report) if "the records from 16 on" in one]


def test_a_log_without_any_checkpoint_proves_nothing(story: Story) -> None:
    """That is an error: anybody could have written it."""
    story.checkpoints, story.anchors, story.passports = [], [], []
    assert errors(story.verified()) == ["log: no checkpoint is proven, so no record is"]


def test_a_key_that_signs_without_a_record_of_its_birth_is_told(story: Story) -> None:
    """The log itself tells which key may sign it, from when on."""
    fresh = Story(story.signer)
    fresh.live(FIRST)
    fresh.checkpoint()
    report = fresh.verified()
    assert report.ok
    assert [one for one in notices(report) if "birth of the key" in one]


CHECKPOINTS: dict[str, tuple[Callable[[Story], str], str]] = {
    "by another key": (
        lambda _story: note.checkpoint(ORIGIN, 8, b"\0" * 32, SoftwareLogSigner()),
        "not signed by a key that is trusted",
    ),
    "of another root": (
        lambda story: note.checkpoint(ORIGIN, 8, b"\0" * 32, story.signer),
        "the log is not the one that was signed",
    ),
    "of a changed size": (lambda story: story.checkpoints[0].note.replace("\n8\n", "\n9\n"), "does not verify"),
    "with an extension": (lambda story: story.checkpoints[0].note.replace("\n\n", "\nx\n\n"), "three lines"),
    "with CRLF": (lambda story: story.checkpoints[0].note.replace("\n", "\r\n"), "not a signed note"),
    "with its signature twice": (
        lambda story: story.checkpoints[0].note + story.checkpoints[0].note.partition("\n\n")[2],
        "two signatures",
    ),
    "of nothing, with a root": (
        lambda _story: note.checkpoint_text(ORIGIN, 0, b"\0" * 32).decode() + "\n\N{EM DASH} x QUFBQUFB\n",
        "without records has another root",
    ),
    "empty": (lambda _story: "", "not a signed note"),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
@pytest.mark.parametrize("where", ["checkpoints", "anchors"])
def test_a_bad_checkpoint_is_named_by_its_file(name: str, where: str, story: Story) -> None:
    """In the journal or in Vault: its name and what is wrong with it are told, and the others still count."""
    make, words = CHECKPOINTS[name]
    getattr(story, where)[0] = NoteFile(ORIGIN, 8, make(story))
    report = story.verified()
    assert [one for one in errors(report) if one.startswith(f"{where}/00000000000000000008-") and words in one]
    assert (report.checkpoints, report.signed) == (6, 16)


def test_an_anchor_that_nobody_trusted_signed_proves_nothing(story: Story) -> None:
    """Somebody who can write to Vault cannot make a log look shortened with a note of their own making."""
    far = note.checkpoint(ORIGIN, 99, b"\0" * 32, SoftwareLogSigner())
    report = story.verified(anchors=(("forged.note", far.encode()),))
    assert errors(report) == ["forged.note: it is not signed by a key that is trusted"]


# --- Witnesses. -------------------------------------------------------------------------------------------------------


class _Cosigner:
    """A witness in one line: it signs anything."""

    def __init__(self, name: str) -> None:
        self.signer = SoftwareLogSigner()
        self.key = Key(name, verifier.COSIGNATURE, self.signer.key().material)

    def sign(self, checkpoint: NoteFile, seconds: int = 1_795_539_600) -> NoteFile:
        """Return the checkpoint with a cosignature."""
        text = verifier.parse_note(checkpoint.note.encode()).text
        signature = self.signer.sign(b"cosignature/v1\ntime %d\n" % seconds + text)
        line = note.signature_line(self.key, seconds.to_bytes(8) + signature)
        signed = add_cosignatures(checkpoint.note, f"{line}\n".encode(), [self.key])
        return NoteFile(checkpoint.origin, checkpoint.size, signed)


WITNESSES = [_Cosigner(f"w{number}.example") for number in range(3)]
POLICY = verifier.parse_policy(
    "".join(f"witness w{number} {one.key.vkey}\n" for number, one in enumerate(WITNESSES)).encode()
    + b"group g 2 w0 w1 w2\nquorum g\n"
)


@pytest.mark.parametrize(
    ("signed", "ok", "witnessed"),
    [
        ({0: (0, 1), 2: (0, 2)}, True, 16),
        ({0: (0, 1), 1: (2,)}, True, 8),
        ({0: (0,), 1: (1,), 2: (2,)}, False, 0),
        ({}, False, 0),
    ],
)
def test_a_quorum_of_witnesses_is_demanded_by_the_policy(
    signed: dict[int, tuple[int, ...]], witnessed: int, story: Story, *, ok: bool
) -> None:
    """One checkpoint needs enough signatures; how far they reach is told, and what is not witnessed yet."""
    for place, witnesses in signed.items():
        for number in witnesses:
            story.checkpoints[place] = WITNESSES[number].sign(story.checkpoints[place])
    report = story.verified(policy=POLICY)
    assert (report.ok, report.witnessed) == (ok, witnessed), errors(report)
    assert bool([one for one in notices(report) if "not witnessed yet" in one]) == (0 < witnessed < 16)


def test_a_false_cosignature_is_an_error_and_not_only_missing(story: Story) -> None:
    """A line in a known witness's name that does not verify was put there by somebody."""
    line = WITNESSES[0].sign(story.checkpoints[0]).note.splitlines()[-1]
    false = line[:-8] + ("A" if line[-8] != "A" else "B") + line[-7:]
    story.checkpoints[0] = NoteFile(ORIGIN, 8, f"{story.checkpoints[0].note}{false}\n")
    report = story.verified(policy=POLICY)
    assert [one for one in errors(report) if one.startswith("checkpoints/00000000000000000008-") and "verify" in one]


def test_the_logs_of_a_policy_are_trusted_like_keys(story: Story) -> None:
    """An auditor's policy file is enough to know whom to trust."""
    policy = verifier.parse_policy(f"log {story.vkey}\nquorum none\n".encode())
    assert story.verified(keys=[], policy=policy).findings == []


# --- Other sources than bundles, and many errors. ---------------------------------------------------------------------


class _Direct:
    """Evidence from somewhere else than a bundle, such as the journal."""

    def __init__(self, story: Story) -> None:
        self.story = story

    def manifest(self) -> dict[str, Any]:
        return {"origin": self.story.origin, "size": len(self.story.records), "vkeys": [self.story.vkey]}

    def records(self) -> list[bytes]:
        return self.story.records

    def rows(self) -> list[bytes]:
        return list(self.story.rows.values())

    def checkpoints(self) -> list[verifier.Named]:
        return [(one.name, one.note.encode()) for one in self.story.checkpoints]

    def anchors(self) -> list[verifier.Named]:
        return []

    def passports(self) -> list[tuple[str, bytes, bytes]]:
        return []


def test_evidence_may_come_from_anywhere(story: Story) -> None:
    """The same verification serves the journal itself, and names between which checkpoints something was changed."""
    trust = verifier.Trust((story.signer.key(),))
    assert verifier.verify(_Direct(story), trust).findings == []
    story.change(11, actor="nobody")
    report = verifier.verify(_Direct(story), trust)
    assert len([one for one in errors(report) if "its records 8 to 14" in one]) == 1


def test_checkpoints_may_come_in_any_order(story: Story) -> None:
    """Each is compared with the log at its size, and none is passed over."""
    story.checkpoints.reverse()
    report = verifier.verify(_Direct(story), verifier.Trust((story.signer.key(),)))
    assert (report.findings, report.checkpoints, report.signed) == ([], 3, 16)


def test_thousands_of_errors_are_counted_and_a_hundred_are_told() -> None:
    """A report of a log that is wrong everywhere stays one that can be read, and fits in memory."""
    story = Story()
    story.records = [b"{}"] * 3_000
    story.checkpoints = [story.signed()]
    report = story.verified()
    assert (report.errors, len(errors(report)), report.first_bad_record) == (3_000, 100, 0)
    assert "and 2900 more" in verifier.told(report)


def test_a_request_to_a_witness_has_the_form_of_the_protocol(story: Story) -> None:
    """Old size, proof, an empty line and the checkpoint as it is (C2SP tlog-witness)."""
    assert make_request(8, [b"\0" * 32], story.checkpoints[1].note) == (
        b"old 8\n" + b"A" * 43 + b"=\n\n" + story.checkpoints[1].note.encode()
    )


def test_a_life_goes_on_after_failures_and_answers(story: Story) -> None:
    """Acts that change no state, and acts that fail, leave the way as it was."""
    story.live(
        FIRST,
        [
            ("probe", None, None),
            ("problem", "active", "active"),
            ("tend", "active", "active"),
            ("supersede", "active", "superseded"),
            ("put back", "superseded", "stored"),
        ],
    )
    for index in range(len(story.records) - 5, len(story.records)):
        last = json.loads(story.records[7])
        story.change(index, certificate=last["certificate"], public_key=last["public_key"])
    story.checkpoint()
    assert errors(story.verified()) == []


def test_a_log_that_began_after_its_keys_adopts_them() -> None:
    """A journal that had no log begins one with each enrollment as it stands, whatever its state."""
    story = Story()
    story.add("log_key", detail={"vkey": story.vkey})
    story.live(FIRST, [("adopt", None, "active"), ("supersede", "active", "superseded")])
    story.change(2, certificate=json.loads(story.records[1])["certificate"])
    story.checkpoint()
    assert story.verified().findings == []
