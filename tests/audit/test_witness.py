"""A witness signs only that a log grew, remembers it, and never signs anything that contradicts what it signed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from harness.evidence import SoftwareLogSigner, Story, subtrees, told
from varmenne.audit import note, verifier
from varmenne.audit.bundle import NoteFile
from varmenne.audit.witness import Reply, Witness, WitnessKey, add_cosignatures, make_request, read_witness_key
from varmenne.domain import merkle
from varmenne.errors import EvidenceError, InputError, JournalError

NOW = datetime(2026, 11, 24, 18, 0, tzinfo=UTC)
NAME = "witness.example/1"


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """A witness's key, made as the help says."""
    path = tmp_path / "witness.pem"
    old = os.umask(0o077)
    try:
        subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", path], check=True, capture_output=True)
    finally:
        os.umask(old)
    return path


@pytest.fixture
def key(key_file: Path) -> WitnessKey:
    """The key, read."""
    return read_witness_key(NAME, key_file)


@pytest.fixture
def story() -> Story:
    """A log with checkpoints of 8, 15 and 16 records."""
    return told()


@pytest.fixture
def witness(key: WitnessKey, story: Story, tmp_path: Path) -> Witness:
    """A witness that knows the log."""
    return Witness(key, [story.signer.key()], tmp_path / "state")


def request(story: Story, old: int, checkpoint: NoteFile) -> bytes:
    """What the log sends, with the right proof."""
    proof = merkle.consistency(old, checkpoint.size, subtrees(story.records[: checkpoint.size]))
    return make_request(old, proof, checkpoint.note)


def words(reply: Reply) -> tuple[int, bytes]:
    """Status, and the body where it is for programs."""
    return reply.status, reply.body if reply.status == 409 else b""


def test_a_log_that_grows_is_signed_each_time(witness: Witness, key: WitnessKey, story: Story) -> None:
    """From nothing on, and again at the same size; the signature stands in the note, and satisfies a policy."""
    old = 0
    policy = verifier.parse_policy(f"log {story.vkey}\nwitness w {key.public.vkey}\nquorum w\n".encode())
    for checkpoint in (*story.checkpoints, story.checkpoints[-1]):
        reply = witness.add_checkpoint(request(story, old, checkpoint), NOW)
        assert (reply.status, witness.size_of(story.origin)) == (200, checkpoint.size)
        signed = note.read_checkpoint(add_cosignatures(checkpoint.note, reply.body, [key.public]))
        assert {*signed.note.signers([key.public, story.signer.key()])} == {key.public, story.signer.key()}
        assert policy.reached(signed.note.signers([key.public]))
        old = checkpoint.size


def test_a_cosignature_says_when_it_was_made(witness: Witness, key: WitnessKey, story: Story) -> None:
    """Eight bytes of time stand before the signature, and are signed with it (C2SP tlog-cosignature)."""
    checkpoint = story.checkpoints[0]
    reply = witness.add_checkpoint(request(story, 0, checkpoint), NOW)
    _name, _id, signature = verifier.parse_signature(reply.body.decode().rstrip("\n"))
    assert (int.from_bytes(signature[:8]), len(signature)) == (int(NOW.timestamp()), 8 + 64)
    text = verifier.parse_note(checkpoint.note.encode()).text
    with pytest.raises(verifier.Refused):
        key.public.verify(text, (int(NOW.timestamp()) + 1).to_bytes(8) + signature[8:])


def _forked(story: Story) -> Story:
    """The same log with its third record changed, signed by the log's own key."""
    other = story.copy()
    other.change(3, actor="nobody")
    other.checkpoints = [other.signed(one.size) for one in story.checkpoints]
    return other


# What is asked after the log was signed at its first checkpoint, of 8 records → what the witness says.
REFUSALS: dict[str, tuple[Callable[[Story], bytes], tuple[int, bytes]]] = {
    "an old size of 0 again": (lambda story: request(story, 0, story.checkpoints[1]), (409, b"8\n")),
    "another old size": (lambda story: request(story, 7, story.checkpoints[1]), (409, b"8\n")),
    "a smaller checkpoint": (lambda story: request(story, 5, story.signed(5)), (409, b"8\n")),
    "a smaller checkpoint than the old size": (lambda story: make_request(8, [], story.signed(5).note), (400, b"")),
    "no log any more": (lambda story: make_request(0, [], story.signed(0).note), (409, b"8\n")),
    "a fork of the same size": (lambda story: make_request(8, [], _forked(story).checkpoints[0].note), (409, b"8\n")),
    "a fork that grew": (lambda story: request(_forked(story), 8, _forked(story).checkpoints[1]), (422, b"")),
    "no proof": (lambda story: make_request(8, [], story.checkpoints[1].note), (422, b"")),
    "a proof with one hash more": (
        lambda story: make_request(
            8, [*merkle.consistency(8, 15, subtrees(story.records[:15])), b"\0" * 32], story.checkpoints[1].note
        ),
        (422, b""),
    ),
    "a proof of 64 hashes": (lambda story: make_request(8, [b"\0" * 32] * 64, story.checkpoints[1].note), (400, b"")),
    "a hash of 31 bytes": (lambda story: make_request(8, [b"\0" * 31], story.checkpoints[1].note), (400, b"")),
    "another log": (lambda story: request(story, 0, story.signed(15, "varmenne/ffffffffffffffff")), (404, b"")),
    "another's signature": (
        lambda story: make_request(8, [], note.checkpoint(story.origin, 15, b"\0" * 32, SoftwareLogSigner())),
        (403, b""),
    ),
    "a changed text": (
        lambda story: request(story, 8, story.checkpoints[1]).replace(b"\n15\n", b"\n16\n"),
        (403, b""),
    ),
    "an extension line": (
        lambda story: request(story, 8, story.checkpoints[1]).replace(b"\n\n\xe2", b"\nmore\n\n\xe2"),
        (400, b""),
    ),
    "CRLF": (lambda story: request(story, 8, story.checkpoints[1]).replace(b"\n", b"\r\n"), (400, b"")),
    "an old size with a zero before it": (
        lambda story: request(story, 8, story.checkpoints[1]).replace(b"old 8", b"old 08"),
        (400, b""),
    ),
    "no old size": (lambda story: request(story, 8, story.checkpoints[1])[6:], (400, b"")),
    "no empty line": (lambda story: request(story, 8, story.checkpoints[1]).replace(b"\n\n", b"\n", 1), (400, b"")),
    "nothing": (lambda _story: b"", (400, b"")),
    "not UTF-8": (lambda _story: b"\xff\n\n\xff\n", (400, b"")),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_does_not_prove_growth_is_not_signed(name: str, witness: Witness, story: Story, tmp_path: Path) -> None:
    """The reply is that of the protocol; what was signed last stays, and the right request is signed afterwards."""
    assert witness.add_checkpoint(request(story, 0, story.checkpoints[0]), NOW).status == 200
    before = {path.name: path.read_bytes() for path in (tmp_path / "state").iterdir()}
    ask, expected = REFUSALS[name]
    assert words(witness.add_checkpoint(ask(story), NOW)) == expected
    assert {path.name: path.read_bytes() for path in (tmp_path / "state").iterdir()} == before
    assert witness.add_checkpoint(request(story, 8, story.checkpoints[1]), NOW).status == 200


def test_what_was_signed_is_kept_for_its_owner_alone_before_the_signature_is_given(
    witness: Witness, story: Story, key: WitnessKey, tmp_path: Path
) -> None:
    """Another process of the same witness goes on from it; nobody else can read or change it."""
    witness.add_checkpoint(request(story, 0, story.checkpoints[0]), NOW)
    state = tmp_path / "state"
    assert {path.stat().st_mode & 0o777 for path in state.iterdir()} == {0o600}
    assert state.stat().st_mode & 0o777 == 0o700
    later = Witness(key, [story.signer.key()], state)
    assert words(later.add_checkpoint(request(story, 0, story.checkpoints[1]), NOW)) == (409, b"8\n")


@pytest.mark.parametrize("damage", [b"", b"varmenne/00112233445566aa\n8\n", b"x\n8\nAAAA\n", b"\xff"])
def test_nothing_is_signed_when_what_was_signed_last_cannot_be_read(
    damage: bytes, witness: Witness, story: Story, tmp_path: Path
) -> None:
    """A witness that forgot must not begin anew by itself."""
    witness.add_checkpoint(request(story, 0, story.checkpoints[0]), NOW)
    (place,) = (tmp_path / "state").glob("*.checkpoint")
    place.write_bytes(damage)
    with pytest.raises(JournalError, match="cannot be read"):
        witness.add_checkpoint(request(story, 0, story.checkpoints[1]), NOW)
    assert place.read_bytes() == damage


def test_nothing_is_signed_that_cannot_be_kept(key: WitnessKey, story: Story, tmp_path: Path) -> None:
    """Where the folder cannot be, no signature leaves."""
    (tmp_path / "file").write_text("")
    witness = Witness(key, [story.signer.key()], tmp_path / "file" / "state")
    with pytest.raises(JournalError):
        witness.add_checkpoint(request(story, 0, story.checkpoints[0]), NOW)


def test_of_two_forks_at_once_one_is_signed(witness: Witness, story: Story) -> None:
    """Looking and keeping are one: two requests at the same time cannot both be the first."""
    bodies = [request(one, 0, one.checkpoints[1]) for one in (story, _forked(story))] * 8
    replies: list[int] = []
    start = threading.Barrier(len(bodies))

    def ask(body: bytes) -> None:
        start.wait()
        replies.append(witness.add_checkpoint(body, NOW).status)

    threads = [threading.Thread(target=ask, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(replies) == [200, *[409] * 15]


def test_a_witness_that_is_killed_has_kept_what_it_gave_out(story: Story, key_file: Path, tmp_path: Path) -> None:
    """The signature is printed after it is durable: whoever has seen it finds it remembered."""
    script = (
        "import os, signal, sys\n"
        "from datetime import UTC, datetime\n"
        "from pathlib import Path\n"
        "from varmenne.audit import verifier\n"
        "from varmenne.audit.witness import Witness, read_witness_key\n"
        "key, state, vkey = sys.argv[1:]\n"
        f"one = Witness(read_witness_key({NAME!r}, Path(key)), [verifier.parse_vkey(vkey)], Path(state))\n"
        "one.add_checkpoint(sys.stdin.buffer.read(), datetime.now(UTC))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    state = tmp_path / "state"
    done = subprocess.run(
        [sys.executable, "-c", script, key_file, state, story.vkey],
        input=request(story, 0, story.checkpoints[0]),
        check=False,
        timeout=60,
    )
    assert done.returncode == -9
    assert Witness(read_witness_key(NAME, key_file), [], state).size_of(story.origin) == 8


def test_a_key_that_others_may_read_is_not_used(key_file: Path) -> None:
    """Whoever can read it can sign for the witness."""
    key_file.chmod(0o640)
    with pytest.raises(InputError, match="may read"):
        read_witness_key(NAME, key_file)


@pytest.mark.parametrize("content", ["", "no key", "rsa", "encrypted"])
def test_another_key_is_not_used(content: str, key_file: Path) -> None:
    """Cosignatures are made with Ed25519, with a key that needs no password."""
    orders: dict[str, list[str | Path]] = {
        "rsa": ["openssl", "genpkey", "-algorithm", "rsa", "-out", key_file],
        "encrypted": ["openssl", "pkey", "-in", key_file, "-aes256", "-passout", "pass:x", "-out", f"{key_file}.new"],
    }
    if content in orders:
        subprocess.run(orders[content], check=True, capture_output=True, timeout=60)
        if content == "encrypted":
            Path(f"{key_file}.new").replace(key_file)
    else:
        key_file.write_text(content)
    key_file.chmod(0o600)
    with pytest.raises(InputError, match="no Ed25519 key"):
        read_witness_key(NAME, key_file)


def test_a_key_that_is_not_there_and_a_name_that_cannot_be(key_file: Path, tmp_path: Path) -> None:
    """What is wrong is said in words."""
    with pytest.raises(InputError, match="cannot be read"):
        read_witness_key(NAME, tmp_path / "none")
    with pytest.raises(InputError, match="name"):
        read_witness_key("a + b", key_file)


REPLIES: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda _line: b"",
    "a sentence": lambda _line: b"the log is not known here\n",
    "another's signature": lambda line: line.replace(NAME.encode(), b"other.example"),
    "a changed signature": lambda line: line[:-8] + bytes([line[-8] ^ 1]) + line[-7:],
    "the signature twice": lambda line: line + line,
    "not UTF-8": lambda line: b"\xff" + line,
}


@pytest.mark.parametrize("name", REPLIES)
def test_a_reply_that_proves_nothing_is_not_put_into_the_note(
    name: str, witness: Witness, key: WitnessKey, story: Story
) -> None:
    """The log keeps only cosignatures that auditors will believe."""
    checkpoint = story.checkpoints[0]
    line = witness.add_checkpoint(request(story, 0, checkpoint), NOW).body
    with pytest.raises(EvidenceError):
        add_cosignatures(checkpoint.note, REPLIES[name](line), [key.public])


def test_a_newer_cosignature_takes_the_place_of_the_older(witness: Witness, key: WitnessKey, story: Story) -> None:
    """A note has one signature by each key: verifiers refuse two."""
    checkpoint = story.checkpoints[0]
    signed = checkpoint.note
    for old, now in ((0, NOW), (8, NOW.replace(hour=19))):
        reply = witness.add_checkpoint(request(story, old, checkpoint), now)
        signed = add_cosignatures(signed, reply.body, [key.public])
    (signature,) = note.read_checkpoint(signed).note.signers([key.public]).values()
    assert int.from_bytes(signature[:8]) == int(NOW.replace(hour=19).timestamp())
    assert note.read_checkpoint(signed, [story.signer.key()]).size == 8
