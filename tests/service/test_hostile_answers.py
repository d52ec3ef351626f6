"""No hostile answer gets in, and each is refused by the check that it names, in bounded time and memory."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from harness import hostile_answers, hostile_bytes, hostile_signers
from harness.forge import Forge
from harness.hostile_answers import Attack, family
from varmenne.errors import VerificationError
from varmenne.service.answers import CHECKS, verify_answer

ATTACKS: dict[str, Attack] = {
    **family("wrapping", hostile_answers.WRAPPING),
    **family("reference", hostile_answers.REFERENCES),
    **family("transform", hostile_answers.TRANSFORMS),
    **family("algorithm", hostile_signers.ALGORITHMS),
    **family("trust", hostile_signers.TRUST),
    **family("parser", hostile_bytes.PARSER),
    **family("envelope", hostile_bytes.ENVELOPE),
    **family("content", hostile_bytes.CONTENT),
}
MAX_SECONDS = 1.0
MAX_BYTES = 100_000_000


@pytest.mark.parametrize("name", ATTACKS)
def test_hostile_answer_is_refused_by_its_check(forge: Forge, name: str) -> None:
    """Refused by the named check; the reason holds nothing that a terminal would obey."""
    attack = ATTACKS[name]
    sample = attack.sample(forge)
    services = forge.anchors if sample.services is None else sample.services
    began = time.process_time()
    with pytest.raises(VerificationError) as caught:
        verify_answer(sample.body, sample.operation, services, sample.at)
    assert time.process_time() - began < MAX_SECONDS
    assert caught.value.check == attack.check, str(caught.value)
    assert caught.value.why.isprintable()
    assert len(caught.value.why) < 400
    assert caught.value.next_step


def test_there_are_enough_of_each_family() -> None:
    """At least 150 attacks, and many in each family."""
    families = Counter(attack.family for attack in ATTACKS.values())
    assert sum(families.values()) >= 150
    assert len(families) == 8
    assert min(families.values()) >= 20


def test_every_check_refuses_something() -> None:
    """A check that no attack needs would be a check that nobody has seen to work."""
    assert {attack.check for attack in ATTACKS.values()} == set(CHECKS)


def test_memory_is_bounded() -> None:
    """A process that verifies every hostile answer grows by less than 100 MB, the parser's own memory included."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert int(done.stdout) * 1024 < MAX_BYTES


MEASURE = """
import importlib
from harness.forge import AT, Forge
from varmenne.errors import VerificationError
from varmenne.service.answers import verify_answer
from varmenne.service.interface import Operation

attacks = [
    attack
    for module, tables in {
        "hostile_answers": ("WRAPPING", "REFERENCES", "TRANSFORMS"),
        "hostile_signers": ("ALGORITHMS", "TRUST"),
        "hostile_bytes": ("PARSER", "ENVELOPE", "CONTENT"),
    }.items()
    for table in tables
    for _check, attack in getattr(importlib.import_module(f"harness.{module}"), table).values()
]
forge = Forge()
samples = [getattr(built, "body", built) for built in (attack(forge) for attack in attacks)]

def memory(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(name))

before = memory("VmRSS")
with open("/proc/self/clear_refs", "w") as peak:
    peak.write("5")  # begins the peak (VmHWM) anew: proc(5)
for body in samples:
    try:
        verify_answer(body, Operation.SIGN_NEW, forge.anchors, AT)
    except VerificationError:
        pass
print(memory("VmHWM") - before)
"""
"""Prints by how many kibibytes the process has grown, its libraries included."""
