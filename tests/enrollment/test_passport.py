"""A custody passport says all that is known of a key, and proves it to somebody who has nothing of ours.

It is verified as an auditor does it: by the verifier's one file, on a machine without varmenne, token and network. One
changed byte is found anywhere, and so is whatever an insider signs without the log, or records without the key.
"""

from __future__ import annotations

import base64
import json
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from harness.approvals import approve
from harness.auditor import Auditor, auditor
from harness.evidence import SoftwareLogSigner
from harness.objects import DECRYPT, EXTRACTABLE, set_flag
from harness.stage import CUSTOMER, NAME, Listener, Stage, order_for
from harness.years import IN_THE_WINDOW, WAIT, Years
from varmenne.audit import dsse, verifier
from varmenne.audit.passport import PREDICATE, STATEMENT
from varmenne.domain.audit import canonical, fingerprint
from varmenne.domain.enrollment import Enrollment
from varmenne.domain.identifiers import Channel, Environment
from varmenne.domain.keys import new_key_id
from varmenne.domain.steps import Method, State
from varmenne.enrollment.enroll import enroll
from varmenne.enrollment.evidence.checkpoints import log_signer
from varmenne.enrollment.evidence.live import vkeys
from varmenne.enrollment.evidence.passport import issue
from varmenne.enrollment.renew import activate, retire
from varmenne.errors import EvidenceError, InputError
from varmenne.journal import NewEnrollment

__all__ = ["auditor"]


@dataclass(frozen=True)
class Passport:
    """A passport on the disk, and the key that it is verified with."""

    stage: Stage
    row: Enrollment
    file: Path
    vkey: str

    @property
    def proof_file(self) -> Path:
        """The proof beside it."""
        return self.file.with_name(f"{self.file.name.removesuffix('.dsse.json')}.tlog-proof")

    @property
    def envelope(self) -> bytes:
        """The envelope."""
        return self.file.read_bytes()

    @property
    def proof(self) -> bytes:
        """The proof."""
        return self.proof_file.read_bytes()

    @property
    def statement(self) -> dict[str, Any]:
        """The statement, unverified."""
        found: dict[str, Any] = json.loads(base64.b64decode(json.loads(self.envelope)["payload"]))
        return found


def verified(passport: Passport, envelope: bytes | None = None, proof: bytes | None = None) -> dict[str, Any]:
    """Verify a passport as the verifier does, with changed parts."""
    read = verifier.parse_proof(passport.proof if proof is None else proof)
    keys = [verifier.parse_vkey(passport.vkey)]
    return verifier.verify_passport(passport.envelope if envelope is None else envelope, read, keys)[0]


def enrolled(stage: Stage, customer: str = CUSTOMER) -> Enrollment:
    """Get a certificate."""
    with stage.parts() as parts:
        given = stage.credentials(stage.order(customer, name=NAME))
        return enroll(parts, Listener(), order_for(customer, name=NAME), given, wait=WAIT)


@pytest.fixture(scope="module")
def passport(shared_stage: Stage) -> Passport:
    """The passport of a certificate in use, with two attestations."""
    row = enrolled(shared_stage)
    folder = shared_stage.folder
    (folder / "luna.p7b").write_bytes(b"\x30\x03\x02\x01\x2a")
    (folder / "attest").write_bytes(b'{"vendor": "says so"}')
    out = folder / "passport.dsse.json"
    files: list[str | Path] = ["--attestation", folder / "luna.p7b", "--attestation", folder / "attest"]
    result = shared_stage.run("audit", "passport", row.id, "--out", out, *files, "--json")
    assert (result.code, result.err.count("Warning")) == (0, 0), result.err
    with shared_stage.parts() as parts:
        (vkey,) = vkeys(parts)
        record = parts.journal.log.of(row.id)[-1]
    assert result.json["record"] == record[0]
    assert json.loads(record[1])["detail"] == {"sha256": fingerprint(out.read_bytes())}
    return Passport(shared_stage, row, out, vkey)


def test_an_auditor_verifies_it_with_nothing_of_ours(passport: Passport, auditor: Auditor) -> None:
    """The one file of the verifier, a bare environment, no network: proven, and not proven after one changed byte."""
    arguments = ("--proof", passport.proof_file, "--passport", passport.file, "--key", passport.vkey)
    done = auditor(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("PROVEN  varmenne/")
    changed = passport.file.with_name("changed.dsse.json")
    changed.write_bytes(passport.envelope.replace(b'"payload":"e', b'"payload":"f'))
    assert changed.read_bytes() != passport.envelope
    done = auditor("--proof", passport.proof_file, "--passport", changed, "--key", passport.vkey)
    assert done.returncode == 1
    stranger = SoftwareLogSigner().key(passport.vkey.partition("+")[0]).vkey
    assert auditor(*arguments[:-1], stranger).returncode == 1


def test_it_says_all_that_is_known(passport: Passport) -> None:
    """Attributes at birth and now, probes with return codes, token, CSR, answers, certificate, history, Vault."""
    said, row = verified(passport), passport.row
    assert (said["_type"], said["predicateType"]) == (STATEMENT, PREDICATE)
    assert said["subject"][0]["digest"] == {"sha256": fingerprint(row.public_key or b"")}
    told = said["predicate"]
    certificate = x509.load_pem_x509_certificate(told["certificate"]["pem"].encode())
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert base64.b64decode(told["key"]["public_key"]) == spki == row.public_key
    assert told["key"]["state"] == "active"
    assert told["birth"]["mechanism"] == "CKM_RSA_PKCS_KEY_PAIR_GEN"
    for reading in (told["birth"], told["now"]):
        assert reading["attributes"]["EXTRACTABLE"] is False
        assert reading["attributes"]["ALWAYS_SENSITIVE"] is True
    assert (told["now"]["changed"], told["now"]["unfit"]) == ([], None)
    assert told["token"]["boundary"] == "software token, no hardware boundary"
    assert told["token"]["firmware"]
    tries = {line["name"]: line["detail"] for line in told["probes"]["key"]["results"]}
    assert tries["read PRIVATE_EXPONENT"] == "CKR_ATTRIBUTE_SENSITIVE"
    assert told["probes"]["token"]["fit"] is True
    assert "wrap AES_KEY_WRAP" in {line["name"] for line in told["probes"]["token"]["results"]}
    assert x509.load_pem_x509_csr(told["csr"].encode()).is_signature_valid
    assert told["certificate"]["chain"].startswith("-----BEGIN CERTIFICATE-----")
    assert told["vault"] == {"path": row.vault_path, "version": 1}
    assert (told["enrollment"]["customer_id"], told["enrollment"]["customer_name"]) == (CUSTOMER, NAME)
    assert passport.stage.settings.token.pin not in passport.envelope.decode()


def test_its_history_is_that_of_the_log(passport: Passport) -> None:
    """Each change of state has the index and hash of its record, and the word of SP 800-57."""
    told = verified(passport)["predicate"]
    with passport.stage.parts() as parts:
        records = dict(parts.journal.log.of(passport.row.id))
    assert [line["target"] for line in told["history"]] == [
        "prepared", "keyed", "submitting", "accepted", "issued", "stored", "active",
    ]  # fmt: skip
    assert [line["key_state"] for line in told["history"]] == ["none", *["pre-activation"] * 5, "active"]
    for line in told["history"]:
        assert line["sha256"] == fingerprint(records[line["record"]])
        assert line["actor"] == json.loads(records[line["record"]])["actor"]
    assert told["birth"]["record"] == told["history"][1]["record"]


def test_it_carries_the_answers_as_they_came(passport: Passport) -> None:
    """Both answers are there to the byte, with their signatures, and are those that the log has the hashes of."""
    answers = verified(passport)["predicate"]["answers"]
    assert [(one["operation"], one["verdict"]) for one in answers] == [
        ("signNewCertificate", "verified"),
        ("getCertificate", "verified"),
    ]
    with passport.stage.parts() as parts:
        kept = parts.journal.answers(passport.row.id)[::-1]
        records = dict(parts.journal.log.of(passport.row.id))
    for one, stored in zip(answers, kept, strict=True):
        assert base64.b64decode(one["body"]) == stored.body
        assert b"SignatureValue" in stored.body
        assert json.loads(records[one["record"]])["detail"]["sha256"] == one["sha256"] == fingerprint(stored.body)


def test_it_carries_attestations_as_they_are(passport: Passport) -> None:
    """What a vendor's tool said is there to the byte, with its type: the suffix, unless a type was given."""
    found = verified(passport)["predicate"]["attestations"]
    assert [(one["type"], base64.b64decode(one["data"])) for one in found] == [
        ("p7b", b"\x30\x03\x02\x01\x2a"),
        ("unknown", b'{"vendor": "says so"}'),
    ]
    assert [one["sha256"] for one in found] == [fingerprint(base64.b64decode(one["data"])) for one in found]


@pytest.mark.parametrize("part", ["envelope", "proof"])
def test_one_changed_byte_is_found_anywhere(passport: Passport, part: str) -> None:
    """In the envelope every 50th byte and each of its kinds, in the proof every byte: changed, doubled, or left out."""
    whole: bytes = getattr(passport, part)
    kinds = {byte: place for place, byte in enumerate(whole)}
    places = range(len(whole)) if part == "proof" else sorted({*range(0, len(whole), 50), *kinds.values()})
    accepted = []
    for place in places:
        for change in (bytes([whole[place] ^ 1]), bytes([whole[place] ^ 0x20]), bytes([whole[place]] * 2), b""):
            changed = whole[:place] + change + whole[place + 1 :]
            if changed == whole:
                continue
            try:
                verified(passport, **{part: changed})
            except verifier.Refused:
                continue
            accepted.append((place, change))
    assert accepted == []
    for changed in (whole + b"\n", b" " + whole, b""):
        with pytest.raises(verifier.Refused):
            verified(passport, **{part: changed})


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the paths of all values in a document that hold no others."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = False
    for name, one in inner:
        found = True
        yield from _leaves(one, (*path, name))
    if not found:
        yield path


def test_one_changed_field_is_found_anywhere(passport: Passport) -> None:
    """Whichever value of the statement is another, the old signature does not fit, nor does an insider's own."""
    envelope = json.loads(passport.envelope)
    insider = SoftwareLogSigner()
    origin = passport.vkey.partition("+")[0]
    paths = list(_leaves(passport.statement))
    assert len(paths) > 150
    for path in paths:
        statement = passport.statement
        *above, last = path
        place: Any = statement
        for name in above:
            place = place[name]
        place[last] = "something else"
        content = canonical(statement)
        same_signature = {**envelope, "payload": base64.b64encode(content).decode()}
        for forged in (json.dumps(same_signature).encode(), dsse.envelope(insider, origin, content)):
            with pytest.raises(verifier.Refused):
                verified(passport, envelope=forged)


def test_the_key_alone_does_not_make_a_passport(passport: Passport) -> None:
    """Somebody who has the log's key sign something else cannot prove it with the record of the real one."""
    with passport.stage.parts() as parts:
        signer = log_signer(parts)
        statement = passport.statement
        statement["predicate"]["birth"]["attributes"]["EXTRACTABLE"] = True
        forged = dsse.envelope(signer, passport.vkey.partition("+")[0], canonical(statement))
    with pytest.raises(verifier.Refused, match="not that of this passport"):
        verified(passport, envelope=forged)


def test_files_are_private_and_nothing_is_overwritten(passport: Passport) -> None:
    """Both files are for their owner alone; if one of them is there, nothing is signed, recorded or written."""
    assert {stat.S_IMODE(path.stat().st_mode) for path in (passport.file, passport.proof_file)} == {0o600}
    with passport.stage.parts() as parts:
        before = parts.journal.log.head()
    taken = passport.stage.folder / "taken.tlog-proof"
    taken.write_text("mine")
    for out in (passport.file, taken.with_name("taken.dsse.json")):
        result = passport.stage.run("audit", "passport", passport.row.id, "--out", out)
        assert (result.code, "exists already" in result.err) == (InputError.exit_code, True)
    assert taken.read_text() == "mine"
    assert not taken.with_name("taken.dsse.json").exists()
    with passport.stage.parts() as parts:
        assert parts.journal.log.head() == before


def test_types_are_given_for_all_attestations_or_none(passport: Passport) -> None:
    """A type that could be meant for either of two files is refused."""
    path = passport.stage.folder / "luna.p7b"
    out = passport.stage.folder / "typed.dsse.json"
    files = ("--attestation", path, "--attestation", path)
    given = passport.stage.run("audit", "passport", passport.row.id, "--out", out, *files, "--attestation-type", "a")
    assert given.code == InputError.exit_code
    assert not out.exists()


def test_a_key_that_gave_way_says_so(stage: Stage) -> None:
    """A key whose attributes were changed has a passport that tells it; the command warns."""
    row = enrolled(stage)
    for flag, told in ((DECRYPT, ("changed", ["DECRYPT was false and is true"])), (EXTRACTABLE, ("attributes", None))):
        set_flag(stage.token.directory, flag, value=True)
        listener = Listener()
        with stage.parts() as parts:
            issued = issue(parts, listener, row.id)
        predicate = json.loads(base64.b64decode(json.loads(issued.envelope)["payload"]))["predicate"]
        assert predicate["now"][told[0]] == told[1]
        assert predicate["probes"]["key"]["fit"] is False
        assert "The passport says so" in listener.told("warns")[0]


def test_a_destroyed_key_has_its_passport(stage: Stage) -> None:
    """Its whole life to the end is in it; there is no key to read any more."""
    years = Years(stage)
    first = years.first()
    years.pass_by(IN_THE_WINDOW)
    second = years.renewed(first)
    with years.parts() as parts:
        if years.get(second).state is not State.ACTIVE:
            activate(parts, Listener(), years.get(second))
        approve(parts, years.get(first))
        retire(parts, Listener(), parts.journal.get(first.id), destroy=True)
        issued = issue(parts, Listener(), first.id)
        keys = [verifier.parse_vkey(vkey) for vkey in vkeys(parts)]
    said, _checkpoint = verifier.verify_passport(issued.envelope, verifier.parse_proof(issued.proof), keys)
    told = said["predicate"]
    assert (told["now"], told["key"]["state"]) == (None, "destroyed")
    assert [line["key_state"] for line in told["history"]][-4:] == ["active", "active", "deactivated", "destroyed"]


def test_nothing_is_vouched_for_that_the_log_does_not_say(stage: Stage) -> None:
    """A row or an answer that somebody changed in the journal gets no passport, and nothing is recorded."""
    row = enrolled(stage)
    with stage.parts() as parts:
        before = parts.journal.log.head()
    journal = stage.state_dir / "journal.sqlite"
    with closing(sqlite3.connect(journal)) as database, database:
        (body,) = database.execute("SELECT body FROM answer ORDER BY id DESC LIMIT 1").fetchone()
        database.execute("UPDATE answer SET body = (SELECT body FROM answer ORDER BY id LIMIT 1)")
    with stage.parts() as parts, pytest.raises(EvidenceError, match="not the one that was recorded"):
        issue(parts, Listener(), row.id)
    with closing(sqlite3.connect(journal)) as database, database:
        database.execute("UPDATE answer SET body = ? WHERE id = (SELECT max(id) FROM answer)", [body])
        database.execute("UPDATE enrollment SET customer_name = 'Somebody else Oy'")
    with stage.parts() as parts, pytest.raises(EvidenceError, match="does not say of enrollment"):
        issue(parts, Listener(), row.id)
    with stage.parts() as parts:
        assert parts.journal.log.head() == before


def test_answers_that_were_pruned_leave_their_hashes(stage: Stage) -> None:
    """An answer that is not kept any more is told by what the log has of it."""
    row = enrolled(stage)
    with closing(sqlite3.connect(stage.state_dir / "journal.sqlite")) as database, database:
        database.execute("UPDATE answer SET body = NULL")
    with stage.parts() as parts:
        issued = issue(parts, Listener(), row.id)
    answers = json.loads(base64.b64decode(json.loads(issued.envelope)["payload"]))["predicate"]["answers"]
    assert [(one["operation"], one["body"]) for one in answers] == [
        ("signNewCertificate", None),
        ("getCertificate", None),
    ]
    assert all(len(one["sha256"]) == 64 and one["record"] for one in answers)


def test_a_passport_waits_for_no_vault(stage: Stage) -> None:
    """With Vault away the passport is signed and proven; its checkpoint is anchored later, which is told."""
    row = enrolled(stage)
    stage.configure(vault={"address": "http://127.0.0.1:9"})
    out = stage.folder / "away.dsse.json"
    result = stage.run("audit", "passport", row.id, "--out", out)
    assert result.code == 0
    assert "The checkpoint is not in Vault yet" in result.err
    with stage.parts() as parts:
        (vkey,) = vkeys(parts)
    assert verified(Passport(stage, row, out, vkey))["predicate"]["certificate"]["pem"] == row.certificate


def test_without_a_key_there_is_no_passport(stage: Stage) -> None:
    """An enrollment that has no key yet is refused, and nothing is recorded."""
    new = NewEnrollment(
        environment=Environment.TEST,
        channel=Channel.WS,
        customer_id=CUSTOMER,
        customer_name=NAME,
        method=Method.API,
        key_id=new_key_id(),
    )
    with stage.parts() as parts:
        row = parts.journal.add(new, parts.now, lease=WAIT)
        before = parts.journal.log.head()
        with pytest.raises(InputError, match="has no key yet"):
            issue(parts, Listener(), row.id)
        assert parts.journal.log.head() == before
