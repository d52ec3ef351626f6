"""Signed notes, checkpoints, keys and policies: what is of its form is read, and nothing else is."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest

from harness.evidence import ORIGIN, SoftwareLogSigner
from varmenne.audit import note, verifier
from varmenne.audit.verifier import Key, Refused
from varmenne.errors import EvidenceError

ROOT = b"\x5a" * 32
KINDS = ("ed25519", "ecdsa-p256")
SIGNERS = {kind: SoftwareLogSigner(kind) for kind in KINDS}
SIGNER = SIGNERS["ed25519"]
NOTE = note.checkpoint(ORIGIN, 16, ROOT, SIGNER)
OTHER_LINE = f"\N{EM DASH} elsewhere {base64.b64encode(b'0123signature').decode()}\n"


def test_a_published_note_is_opened() -> None:
    """The example in the documentation of Go's ``sumdb/note``: its key's ID, its form and its signature."""
    key = verifier.parse_vkey("PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")
    text = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
    line = (
        "\N{EM DASH} PeterNeumann "
        "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
    )
    found = verifier.parse_note(f"{text}\n{line}".encode())
    assert (found.text.decode(), [*found.signers([key])]) == (text, [key])
    with pytest.raises(Refused):
        verifier.parse_note(f"{text.replace('you', 'I')}\n{line}".encode()).signers([key])


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_of_ours_is_read_and_its_key_can_be_handed_on(kind: str) -> None:
    """Of either kind of key: the note says what was signed, and the key as text is the key again."""
    signer = SIGNERS[kind]
    key = verifier.parse_vkey(note.vkey(ORIGIN, kind, signer.public_key))
    found = note.read_checkpoint(note.checkpoint(ORIGIN, 16, ROOT, signer), [key])
    assert (found.origin, found.size, found.root) == (ORIGIN, 16, ROOT)
    assert key == signer.key()
    assert key.vkey == note.vkey(ORIGIN, kind, signer.public_key)


def test_a_signer_that_signs_something_else_is_noticed() -> None:
    """A checkpoint leaves us only if its signature verifies."""

    class Broken(SoftwareLogSigner):
        def sign(self, data: bytes) -> bytes:
            return super().sign(data + b"!")

    with pytest.raises(EvidenceError, match="does not verify"):
        note.checkpoint(ORIGIN, 16, ROOT, Broken())


CHANGES: dict[str, Callable[[str], str]] = {
    "another size": lambda text: text.replace("\n16\n", "\n17\n"),
    "another name": lambda text: text.replace(ORIGIN, f"{ORIGIN}1"),
    "another root": lambda text: text.replace(
        base64.b64encode(ROOT).decode(), base64.b64encode(ROOT[::-1]).decode()[::-1]
    ),
    "a root of 31 bytes": lambda text: text.replace(
        base64.b64encode(ROOT).decode(), base64.b64encode(ROOT[1:]).decode()
    ),
    "a root of 33 bytes": lambda text: text.replace(
        base64.b64encode(ROOT).decode(), base64.b64encode(ROOT + b"1").decode()
    ),
    "a root that is not canonical base64": lambda text: text.replace("Wlo=\n", "Wlp=\n"),
    "a root in other letters": lambda text: text.replace("WlpaWlpa", "Wlpa-lpa", 1),
    "a size with a zero before it": lambda text: text.replace("\n16\n", "\n016\n"),
    "a size with a sign": lambda text: text.replace("\n16\n", "\n+16\n"),
    "a negative size": lambda text: text.replace("\n16\n", "\n-16\n"),
    "a size with a space": lambda text: text.replace("\n16\n", "\n16 \n"),
    "a size in other digits": lambda text: text.replace("\n16\n", "\n\N{ARABIC-INDIC DIGIT ONE}6\n"),
    "a size that no log has": lambda text: text.replace("\n16\n", "\n9223372036854775808\n"),
    "size 0 with a root": lambda text: text.replace("\n16\n", "\n0\n"),
    "an extension line": lambda text: text.replace("\n\n", "\nextension\n\n"),
    "an empty extension line": lambda text: text.replace("\n\n", "\n\n\n"),
    "a line before": lambda text: f"before\n{text}",
    "CRLF": lambda text: text.replace("\n", "\r\n"),
    "CRLF in one line": lambda text: text.replace("\n16\n", "\n16\r\n"),
    "no last line feed": lambda text: text[:-1],
    "a line feed more": lambda text: f"{text}\n",
    "something after it": lambda text: f"{text}trailing",
    "a line after it": lambda text: f"{text}trailing\n",
    "a hyphen for the dash": lambda text: text.replace("\N{EM DASH}", "-"),
    "an en dash for the dash": lambda text: text.replace("\N{EM DASH}", "\N{EN DASH}"),
    "two spaces": lambda text: text.replace("\N{EM DASH} ", "\N{EM DASH}  "),
    "a space at the end": lambda text: text[:-1] + " \n",
    "no signature": lambda text: text[: text.index("\n\n") + 2],
    "no empty line": lambda text: text.replace("\n\n", "\n"),
    "a NUL": lambda text: text.replace("varmenne", "varme\0ne"),
    "a tab": lambda text: text.replace("\n16\n", "\n16\t\n"),
    "an empty name": lambda text: text.replace(f"{ORIGIN}\n", "\n", 1),
    "a name with a plus": lambda text: text.replace(ORIGIN, "varmenne/+"),
    "a name with a space": lambda text: text.replace(f"{ORIGIN}\n", "varmenne /\n", 1),
    "a name with a no-break space": lambda text: text.replace(ORIGIN, "varmenne/\N{NO-BREAK SPACE}"),
    "a changed signature": lambda text: text[:-6] + ("A" if text[-6] != "A" else "B") + text[-5:],
    "a signature that is cut": lambda text: text[: text.rindex(" ") + 5] + "\n",
    "a signature with a comma": lambda text: text[:-2] + ",\n",
    "the signature twice": lambda text: text + text[text.index("\N{EM DASH}") :],
    "another's signature alone": lambda text: text[: text.index("\N{EM DASH}")] + OTHER_LINE,
    "too many signatures": lambda text: text + OTHER_LINE * 64,
    "too long": lambda text: (
        text.replace("\N{EM DASH}", "\N{EM DASH} a QUFBQUFB\n\N{EM DASH}") + "\N{EM DASH} a " + "QUFB" * 20_000 + "\n"
    ),
    "nothing": lambda _text: "",
    "a line feed alone": lambda _text: "\n",
    "two line feeds": lambda _text: "\n\n",
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_checkpoint_is_refused(name: str) -> None:
    """Whatever is done to its text, its form or its signature, it is not a checkpoint that the log signed."""
    changed = CHANGES[name](NOTE)
    assert changed != NOTE
    with pytest.raises(EvidenceError):
        note.read_checkpoint(changed, [SIGNER.key()])


def test_signatures_of_others_change_nothing() -> None:
    """Lines by keys that are not known are passed over, wherever they stand, and however often."""
    text, line = NOTE.split("\N{EM DASH}")
    for lines in (OTHER_LINE + f"\N{EM DASH}{line}", f"\N{EM DASH}{line}" + OTHER_LINE * 63):
        assert note.read_checkpoint(text + lines, [SIGNER.key()]).size == 16


def test_bytes_that_are_not_utf8_are_refused() -> None:
    """Not every byte is a letter."""
    with pytest.raises(Refused, match="UTF-8"):
        verifier.parse_note(b"\xff" + NOTE.encode())


def test_the_signature_of_a_checkpoint_is_not_that_of_another_log_or_kind() -> None:
    """A key signs under the name of a log; as a witness it signs something else."""
    for key in (SIGNER.key("varmenne/0000000000000000"), Key(ORIGIN, verifier.COSIGNATURE, SIGNER.key().material)):
        assert verifier.parse_note(NOTE.encode()).signers([key]) == {}


VKEY = SIGNER.key().vkey
NAME, ID, CODED = VKEY.split("+", 2)
VKEYS = {
    "nothing": "",
    "a name alone": NAME,
    "without its ID": f"{NAME}+{CODED}",
    "another ID": f"{NAME}+00000000+{CODED}",
    "an ID in capitals": f"{NAME}+{'ABCDEF01'}+{CODED}",
    "a space at the end": f"{VKEY} ",
    "a line feed at the end": f"{VKEY}\n",
    "a name with a space": f"a b+{ID}+{CODED}",
    "no name": f"+{ID}+{CODED}",
    "base64 that is not canonical": VKEY[:-1],
    "no key": f"{NAME}+{ID}+",
    "an unknown type": Key(NAME, 0x03, b"\0" * 32).vkey,
    "ML-DSA-44, which is not known yet": Key(NAME, 0x06, b"\0" * 1312).vkey,
}


@pytest.mark.parametrize("name", VKEYS)
def test_what_is_not_a_key_is_refused(name: str) -> None:
    """A key as people hand it on has a name, its ID and a type that is known."""
    with pytest.raises(Refused):
        verifier.parse_vkey(VKEYS[name])


def test_a_key_of_another_curve_or_length_verifies_nothing() -> None:
    """Where the bytes of a key are none of its type, its signatures are refused in words."""
    text = verifier.parse_note(NOTE.encode()).text
    for kind, material in ((1, b"\0" * 31), (2, b"\0" * 91), (2, SIGNER.public_key), (4, b"\0" * 33)):
        with pytest.raises(Refused):
            Key(ORIGIN, kind, material).verify(text, b"\0" * 72)


WITNESSES = {f"w{number}": Key(f"witness-{number}", 4, SoftwareLogSigner().key().material) for number in range(4)}
LINES = "".join(f"witness {name} {key.vkey}\n" for name, key in WITNESSES.items())
QUORUMS = {
    # Policy after its witnesses → which sets of witnesses are enough.
    "quorum none": {"", "0", "123"},
    "quorum w0": {"0", "01", "0123"},
    "group g any w0 w1\nquorum g": {"0", "1", "13"},
    "group g all w0 w1\nquorum g": {"01", "012"},
    "group g 2 w0 w1 w2\nquorum g": {"01", "02", "12", "012"},
    "group g 2 w0 w1 w2\ngroup h all g w3\nquorum h": {"013", "123", "0123"},
}
SETS = ("", "0", "1", "2", "3", "01", "02", "12", "13", "23", "012", "013", "123", "0123")


@pytest.mark.parametrize("rule", QUORUMS)
def test_a_quorum_is_reached_by_those_whom_the_policy_names(rule: str) -> None:
    """One witness, any, all or some of a group, and groups of groups (C2SP tlog-policy)."""
    policy = verifier.parse_policy(f"# Trust\n\nlog {VKEY}\n{LINES}{rule}\n".encode())
    reached = {one for one in SETS if policy.reached(WITNESSES[f"w{number}"] for number in one)}
    assert policy.logs == [SIGNER.key()]
    assert reached >= QUORUMS[rule]
    assert all(any({*small} <= {*one} for small in QUORUMS[rule]) for one in reached)


POLICIES = {
    "no quorum": LINES,
    "two quorums": f"{LINES}quorum w0\nquorum w1",
    "an unknown quorum": f"{LINES}quorum w9",
    "a witness twice": f"{LINES}{LINES}quorum w0",
    "a key twice": f"{LINES}witness other {WITNESSES['w0'].vkey}\nquorum w0",
    "a witness called none": f"witness none {WITNESSES['w0'].vkey}\nquorum none",
    "a log as a witness": f"witness w {VKEY}\nquorum w",
    "a witness as a log": f"log {WITNESSES['w0'].vkey}\nquorum none",
    "a group of itself": f"{LINES}group g any g\nquorum g",
    "a group of none": f"{LINES}group g any none\nquorum g",
    "an empty group": f"{LINES}group g any\nquorum g",
    "a member twice": f"{LINES}group g 2 w0 w0\nquorum g",
    "more than there are": f"{LINES}group g 3 w0 w1\nquorum g",
    "none of a group": f"{LINES}group g 0 w0 w1\nquorum g",
    "less than none": f"{LINES}group g -1 w0 w1\nquorum g",
    "an unknown word": f"{LINES}trust w0\nquorum w0",
    "a quorum before its group": f"{LINES}quorum g\ngroup g any w0",
    "a word too many": f"{LINES}quorum w0 w1",
}


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_that_says_nothing_clear_is_refused(name: str) -> None:
    """Nobody should trust more than was written down."""
    with pytest.raises(Refused):
        verifier.parse_policy(POLICIES[name].encode())
