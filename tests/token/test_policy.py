"""The tables: what is ordered, what is demanded, and what each return code means."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
from pkcs11 import Attribute, exceptions
from pkcs11.constants import DEFAULT

import varmenne.token
from varmenne.errors import PinError, TokenError
from varmenne.token.key_policy import CONCEDED_ON, EXPECTATIONS, FORMS, PRIVATE_KEY_ORDER, Verdict, judge
from varmenne.token.worker import failures
from varmenne.token.worker.templates import checked, from_names

GOOD = {row.attribute: row.wanted for row in EXPECTATIONS}


def test_exports_are_the_ones_promised() -> None:
    """The package exports what other rooms use, and nothing by accident."""
    assert sorted(varmenne.token.__all__) == [
        "CreatedToken",
        "Token",
        "TokenStatus",
        "create_softhsm_token",
        "find_modules",
        "list_tokens",
    ]


def test_a_perfect_key_has_no_remarks() -> None:
    """Attributes as wanted make a key that is used without deviation."""
    assert judge(GOOD) == replace(judge(GOOD), unfit=(), deviations=())


@pytest.mark.parametrize("row", EXPECTATIONS, ids=lambda row: row.attribute)
def test_each_expectation_has_its_consequence(row: varmenne.token.key_policy.Expectation) -> None:
    """A value that is otherwise, and one that is not told, lead to the verdict of the table and name the attribute."""
    other = not row.wanted if isinstance(row.wanted, bool) else row.wanted + 1
    for value, verdict in ((other, row.if_other), (None, row.if_untold)):
        judgement = judge({**GOOD, row.attribute: value})
        assert len(judgement.unfit) == (verdict is Verdict.UNFIT)
        assert len(judgement.deviations) == (verdict is Verdict.DEVIATION)
        assert all(row.attribute in sentence for sentence in judgement.unfit + judgement.deviations)


def test_secrecy_is_demanded_and_never_conceded() -> None:
    """What keeps a key in the token is ordered in every form, and a key without it is not used."""
    secret = {"TOKEN": True, "PRIVATE": True, "SENSITIVE": True, "EXTRACTABLE": False}
    assert secret.items() <= PRIVATE_KEY_ORDER.items()
    assert not any(set(secret) & form.leave_out for form in FORMS)
    demanded = {row.attribute for row in EXPECTATIONS if row.if_other is Verdict.UNFIT}
    assert set(secret) | {"ALWAYS_SENSITIVE", "NEVER_EXTRACTABLE", "LOCAL", "MODULUS_BITS"} <= demanded


def test_what_is_ordered_is_read_back() -> None:
    """No attribute is ordered whose value nobody looks at afterwards."""
    assert set(PRIVATE_KEY_ORDER) <= {row.attribute for row in EXPECTATIONS}


def library_errors() -> list[type[exceptions.PKCS11Error]]:
    """Return every exception class of the library."""
    return [
        value
        for value in vars(exceptions).values()
        if isinstance(value, type) and issubclass(value, exceptions.PKCS11Error)
    ]


def test_every_library_error_has_a_meaning() -> None:
    """The table has a row for each exception class of python-pkcs11, and none for a class that is not there."""
    assert set(failures.MEANINGS) == {cls.__name__ for cls in library_errors()}


@pytest.mark.parametrize("cls", library_errors(), ids=lambda cls: cls.__name__)
def test_every_library_error_becomes_one_of_ours(cls: type[exceptions.PKCS11Error]) -> None:
    """A library error turns into a TokenError with a cause and a next step, and its own text is not passed on."""
    failed = failures.from_library(cls("text of the library"), "do a thing")
    assert failed.what == "The token could not do a thing"
    assert failed.why
    assert failed.next_step
    assert "text of the library" not in repr(failed)
    kinds = {kind.value.__name__ for kind in failures.Kind}
    assert failed.error in kinds


def test_codes_are_told_apart() -> None:
    """Each return code stands in one row only, so that a report names the right one."""
    codes = [meaning.code for meaning in failures.MEANINGS.values() if meaning.code.startswith("CKR_")]
    assert len(codes) == len(set(codes))
    assert set(codes) >= CONCEDED_ON
    assert set(codes) >= failures.REFUSED_PIN | failures.LOST_OBJECT
    assert {failures.MEANINGS[name].kind.value for name in ("PinIncorrect", "PinLocked")} == {PinError}


@pytest.mark.parametrize(
    ("text", "code", "discard"),
    [
        ("Unmapped error code 0x1b", "CKR_ACTION_PROHIBITED", False),
        ("Unmapped error code 0x80000001", "CKR 0x80000001", False),
        ("Initialisation error (not initialized). Should never see this.", "CKR_CRYPTOKI_NOT_INITIALIZED", True),
        ("something else", "unknown", False),
    ],
)
def test_codes_that_the_library_gives_as_text(text: str, code: str, *, discard: bool) -> None:
    """Codes without a class of their own are read from the text, which itself goes no further."""
    failed = failures.from_library(exceptions.PKCS11Error(text), "do a thing")
    assert (failed.facts["code"], failed.discard) == (code, discard)


def test_a_subclass_of_a_later_library_has_its_parent_s_meaning() -> None:
    """A class that a later version of the library adds is taken for what it derives from."""
    later = type("PinIncorrectToo", (exceptions.PinIncorrect,), {})
    assert failures.code(later()) == "CKR_PIN_INCORRECT"


def test_a_defect_is_told_by_its_class_alone() -> None:
    """The text of an unexpected error could hold anything, so it stays in the worker."""
    failed = failures.from_defect(ZeroDivisionError("PIN 1234"), "do a thing")
    assert "1234" not in repr(failed)
    assert failed.error == TokenError.__name__
    assert failed.discard


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        (Attribute.LABEL, None),
        (Attribute.LABEL, 5),
        (Attribute.LABEL, "\ud800"),
        (Attribute.ID, "text"),
        (Attribute.ID, None),
        (Attribute.SIGN, 1),
        (Attribute.EXTRACTABLE, None),
        (Attribute.MODULUS_BITS, -1),
        (Attribute.MODULUS_BITS, True),
        (Attribute.ALLOWED_MECHANISMS, [1]),
        (Attribute.START_DATE, None),
    ],
)
def test_a_template_that_would_end_the_interpreter_is_refused(attribute: Attribute, value: object) -> None:
    """Values that the library cannot pack are found in Python; the library would crash on them."""
    with pytest.raises(TypeError, match="cannot hold"):
        checked({attribute: value})


def test_what_is_left_out_is_marked() -> None:
    """Attributes that a form leaves to the token do not get the library's default instead."""
    template = from_names({"SIGN": True, "DECRYPT": False}, leave_out=frozenset({"DECRYPT"}))
    assert template == {Attribute.SIGN: True, Attribute.DECRYPT: DEFAULT}
    assert checked(template) is template


def test_the_tables_are_free_of_the_library() -> None:
    """The policy can be read, by the audit log or the documentation, where python-pkcs11 is not installed."""
    program = "import sys; sys.modules['pkcs11'] = None; import varmenne.token.key_policy, varmenne.token.messages"
    subprocess.run([sys.executable, "-c", program], check=True)
