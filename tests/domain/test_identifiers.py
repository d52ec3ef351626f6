"""Identifiers are parsed once at the border, by the limits of the service's schema."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from varmenne.domain import identifiers as ids
from varmenne.errors import InputError

PARSERS: dict[str, tuple[Callable[[str], str], int]] = {
    "customer ID": (ids.customer_id, 30),
    "customer name": (ids.customer_name, 100),
    "transfer ID": (ids.transfer_id, 32),
    "RetrievalId": (ids.retrieval_id, 32),
    "one-time password": (lambda value: ids.checked_text("one-time password", value), 16),
}


@pytest.mark.parametrize("kind", PARSERS)
def test_limits_are_those_of_the_schema(kind: str) -> None:
    """The longest value is taken as it is, one character more is refused with both numbers."""
    parse, limit = PARSERS[kind]
    assert parse("Ä" * limit) == "Ä" * limit
    with pytest.raises(InputError, match=f"The {kind} is too long") as caught:
        parse("x" * (limit + 1))
    assert caught.value.why == f"{limit + 1} characters; at most {limit} are taken"


@pytest.mark.parametrize("kind", PARSERS)
@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("", "is empty"),
        (" ", "begins or ends with a blank"),
        (" secret", "begins or ends with a blank"),
        ("secret\u00a0", "begins or ends with a blank"),
        ("secret\n", "begins or ends with a blank"),
        ("sec\tret", "cannot be printed"),
        ("sec\nret", "cannot be printed"),
        ("sec\x00ret", "cannot be printed"),
        ("sec\u200bret", "cannot be printed"),
        ("sec\ud800ret", "cannot be printed"),
    ],
)
def test_mistakes_of_pasting_are_refused(kind: str, value: str, words: str) -> None:
    """Blanks around a value and characters that nobody sees are refused, and the message never repeats the value."""
    with pytest.raises(InputError, match=words) as caught:
        PARSERS[kind][0](value)
    assert "sec" not in f"{caught.value} {caught.value.why} {caught.value.next_step} {caught.value.facts}"


@pytest.mark.parametrize("value", ["0123456-7", "FI01234567", "Åkerlund & Öljy <Oy>", "株式会社", "a b"])
def test_any_script_and_inner_blanks_are_kept(value: str) -> None:
    """What the schema allows is not second-guessed."""
    assert ids.customer_id(value) == value


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        ("0245437-2", False),  # The Finnish Tax Administration's own, 7·0 + 9·2 + 10·4 + 5·5 + 8·4 + 4·3 + 2·7 = 141.
        ("0245437-3", True),
        ("1572860-0", False),  # The remainder is 0, and so is the check digit.
        ("1572860-1", True),
        ("0123456-7", True),  # An artificial one, as in the service's own examples.
        ("FI02454372", False),  # Not the form of a business ID: nothing is said about it.
        ("245437-2", False),
        ("0245437-22", False),
    ],
)
def test_check_digit_of_business_ids(value: str, wrong: bool) -> None:
    """A wrong check digit is noticed, and other forms of customer IDs are left alone."""
    assert ids.business_id_looks_wrong(value) is wrong


def test_remainder_one_is_never_given_out() -> None:
    """No check digit makes a business ID whose remainder is 1 right."""
    body = next(
        f"{number:07d}"
        for number in range(1000)
        if sum(int(d) * w for d, w in zip(f"{number:07d}", (7, 9, 10, 5, 8, 4, 2), strict=True)) % 11 == 1
    )
    assert all(ids.business_id_looks_wrong(f"{body}-{check}") for check in range(10))


def test_enrollment_ids_are_made_and_parsed() -> None:
    """An ID holds the day, differs each time, and is taken back as it was."""
    made = [ids.new_enrollment_id(datetime(2026, 11, 24, tzinfo=UTC)) for _ in range(100)]
    assert len(set(made)) == 100
    assert all(re.fullmatch(r"20261124-[0-9a-f]{8}", one) for one in made)
    assert [ids.enrollment_id(one) for one in made] == made


@pytest.mark.parametrize("value", ["", "7", "20261124-7F3A9C21", "20261124-7f3a9c2", " 20261124-7f3a9c21", "../etc"])
def test_other_forms_of_enrollment_ids_are_refused(value: str) -> None:
    """The refusal shows what one looks like and where to find them."""
    with pytest.raises(InputError, match="is not an enrollment ID") as caught:
        ids.enrollment_id(value)
    assert "20261124-7f3a9c21" in caught.value.why
    assert "varmenne list" in caught.value.next_step


def test_environment_on_the_wire() -> None:
    """The message element has its own spelling."""
    assert [one.on_the_wire for one in ids.Environment] == ["PRODUCTION", "TEST"]
