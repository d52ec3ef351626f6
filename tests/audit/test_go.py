"""Go's own verifier of its checksum database, which is not ours, reads our checkpoints and believes our proofs."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.evidence import Story, root, subtrees, told
from varmenne.domain import merkle

Ask = Callable[[list[dict[str, Any]]], list[str]]


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Ask:
    """Build the program from Debian's Go and its packages, with no network; return how to ask it."""
    folder = tmp_path_factory.mktemp("go")
    program = folder / "verify"
    environment = os.environ | {
        "GO111MODULE": "off",
        "GOPATH": "/usr/share/gocode",
        "GOPROXY": "off",
        "GOFLAGS": "",
        "GOCACHE": str(folder / "cache"),
        "HOME": str(folder),
    }
    source = Path(__file__).parent / "outsiders" / "main.go"
    subprocess.run(["go", "build", "-o", program, source], env=environment, check=True, timeout=170)

    def ask(questions: list[dict[str, Any]]) -> list[str]:
        lines = "".join(json.dumps(question) + "\n" for question in questions)
        done = subprocess.run([program], input=lines, capture_output=True, text=True, check=True, timeout=60)
        return done.stdout.splitlines()

    return ask


@pytest.fixture(scope="module")
def story() -> Story:
    """A log, signed with Ed25519: Go knows no other type."""
    return told()


def b64(data: bytes) -> str:
    """Base64 as the program reads hashes."""
    return base64.b64encode(data).decode()


def test_go_opens_our_checkpoints_and_refuses_changed_ones(ask: Ask, story: Story) -> None:
    """Key ID, signature and form are as ``sumdb/note`` has them; a changed byte, CRLF or another line is refused."""
    note = story.checkpoints[-1].note
    changes = {
        "as it is": note,
        "another size": note.replace("\n16\n", "\n17\n"),
        "with CRLF": note.replace("\n", "\r\n"),
        "with an extension line": note.replace("\n\n", "\nextension\n\n"),
        "without its last line feed": note[:-1],
        "with a hyphen": note.replace("\N{EM DASH}", "-"),
    }
    told = ask([{"Kind": "note", "Vkey": story.vkey, "Note": changed} for changed in changes.values()])
    assert [name for name, word in zip(changes, told, strict=True) if word == "ok"] == ["as it is"], told


def test_go_accepts_our_proofs_of_every_record_and_size(ask: Ask, story: Story) -> None:
    """``CheckRecord`` and ``CheckTree`` take every proof, and none for another record or size."""
    records, right, wrong = story.records, [], []
    for size in range(1, len(records) + 1):
        tree = subtrees(records[:size])
        for index in range(size):
            proof = [b64(part) for part in merkle.inclusion(index, size, tree)]
            facts = {"Kind": "record", "Size": size, "Root": b64(root(records[:size])), "Proof": proof, "Index": index}
            right.append(facts | {"Record": records[index].decode()})
            wrong.append(facts | {"Record": records[index].decode() + " "})
            proof = [b64(part) for part in merkle.consistency(index + 1, size, tree)]
            facts = {"Kind": "tree", "Size": size, "Root": b64(root(records[:size])), "Proof": proof}
            right.append(facts | {"OldSize": index + 1, "OldRoot": b64(root(records[: index + 1]))})
            wrong.append(facts | {"OldSize": index + 1, "OldRoot": b64(root(records[:index]))})
    assert {*ask(right)} == {"ok"}
    assert "ok" not in ask(wrong)
