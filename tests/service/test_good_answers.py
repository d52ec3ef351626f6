"""Every genuine form of answer is accepted, and says what it says."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from harness.forge import AT, Forge, envelope
from harness.good_answers import GOOD, XSI
from varmenne.service.answers import verify_answer
from varmenne.service.interface import NAMESPACE, Operation
from varmenne.testbench.family import pem

OTHER_VALUES = {
    "character data section": "12345",
    "character references": "12345",
    "blanks around the value": "12345",
    "longest RetrievalId": "R" * 32,
    "RetrievalId of strange characters": "ä/€ & {1}",
}


@pytest.mark.parametrize("name", GOOD)
def test_genuine_answer_is_accepted(forge: Forge, name: str) -> None:
    """Signed by hand, by signxml or by xmlsec1, in any dress: it verifies, and its values are the signed ones."""
    if name.startswith("xmlsec1") and not shutil.which("xmlsec1"):
        pytest.fail("the Debian package xmlsec1 is not installed")
    sample = GOOD[name](forge)
    answer = verify_answer(sample.body, sample.operation, sample.services or forge.anchors, sample.at)
    if name.startswith("refusal"):
        assert (answer.ok, answer.retrieval_id, answer.certificate) == (False, None, None)
    elif sample.operation is Operation.GET:
        assert answer.certificate == forge.certificate
    else:
        assert answer.retrieval_id == OTHER_VALUES.get(name, forge.retrieval)


@pytest.mark.parametrize("name", [name for name in GOOD if "," in name and "signxml" not in name])
def test_a_stranger_agrees(forge: Forge, tmp_path: Path, name: str) -> None:
    """xmlsec1 verifies the same message outside its envelope, so that forge and verifier share no mistake."""
    if not shutil.which("xmlsec1"):
        pytest.fail("the Debian package xmlsec1 is not installed")
    text = GOOD[name](forge).body.decode()
    begin = re.search(r"<[^<>]*CertificateResponse", text)
    end = re.search(r"</[^<>]*CertificateResponse>", text)
    assert begin is not None
    assert end is not None
    (tmp_path / "message.xml").write_text(text[begin.start() : end.end()], encoding="utf-8")
    (tmp_path / "signer.pem").write_bytes(pem(forge.signer.certificate))
    command = ["xmlsec1", "--verify", "--pubkey-cert-pem", "signer.pem", "message.xml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, done.stderr


def test_nothing_is_fetched(forge: Forge) -> None:
    """A message may say where its schema is; nobody goes there."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        place = f"http://127.0.0.1:{listener.getsockname()[1]}/x.xsd"
        declared = f' xmlns:xsi="{XSI}" xsi:schemaLocation="{NAMESPACE} {place} urn:x {place}"'
        message = forge.message(declared=declared + f' xsi:noNamespaceSchemaLocation="{place}"')
        assert verify_answer(envelope(forge.signed(message=message)), Operation.SIGN_NEW, forge.anchors, AT).ok
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_there_are_enough() -> None:
    """At least forty forms, from three makers."""
    assert len(GOOD) >= 40
    assert {maker for maker in ("signxml", "xmlsec1") if any(name.startswith(maker) for name in GOOD)} == {
        "signxml",
        "xmlsec1",
    }
