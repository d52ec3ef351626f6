"""One-time credentials come as JSON or as lines of a mail, in three languages; nothing repeats the password."""

from __future__ import annotations

import json
import time
import traceback
from datetime import UTC, datetime, timedelta

import pytest

from varmenne.domain.credentials import Credentials, parse_credentials, transfer_hash
from varmenne.domain.identifiers import CustomerId, TransferId
from varmenne.domain.secret import Secret
from varmenne.errors import InputError

PASSWORD = "s3cRet:x=9"
TRANSFER = "12345678901"

ENGLISH = f"""\
Hello,
your order: see https://example.invalid/order?id=1

Customer ID: 0123456-7
Transfer ID: {TRANSFER}
One-time password: {PASSWORD}
Valid until: 2026-12-08

Regards: the office
"""
FINNISH = f"""\
Hei! Varmennetilauksesi tiedot:\r
\r
  Asiakastunnus : 0123456-7\r
  Siirtotunnus:\t{TRANSFER}\r
  Kertakäyttöinen salasana = {PASSWORD}\r
  Voimassa asti: 8.12.2026\r
\r
Terveisin\r
"""
SWEDISH = f"""\
ÖVERFÖRINGS-ID: {TRANSFER}
Engångslösenord: {PASSWORD}
"""
JSON = json.dumps(
    {
        "customer_id": "0123456-7",
        "transfer_id": TRANSFER,
        "one_time_password": PASSWORD,
        "valid_until": "2026-12-08T02:00:00+02:00",
        "something else": [1],
    }
)


@pytest.mark.parametrize("text", [ENGLISH, FINNISH, JSON, f"\n {JSON}\n"])
def test_all_is_found(text: str) -> None:
    """Customer, transfer ID, password and end are found, with other text around them."""
    assert parse_credentials(text) == Credentials(
        transfer=TransferId(TRANSFER),
        password=Secret(PASSWORD),
        customer=CustomerId("0123456-7"),
        valid_until=datetime(2026, 12, 8, tzinfo=UTC),
    )


def test_least_is_enough() -> None:
    """Only transfer ID and password have to be there."""
    assert parse_credentials(SWEDISH) == Credentials(transfer=TransferId(TRANSFER), password=Secret(PASSWORD))


def test_decomposed_letters_are_the_same_names() -> None:
    """A mail may write ä as a and a combining mark."""
    import unicodedata

    assert parse_credentials(unicodedata.normalize("NFD", FINNISH)).transfer == TRANSFER


@pytest.mark.parametrize("document", ["[1]", '"text"', "7", "no names here", "", "Transfer ID:\nPassword:\n"])
def test_nothing_usable_names_both(document: str) -> None:
    """What is missing is named, and how it should look."""
    with pytest.raises(InputError, match="lack the transfer ID and the one-time password") as caught:
        parse_credentials(document)
    assert "transfer ID: …" in caught.value.next_step


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"password: {PASSWORD}", "lack the transfer ID"),
        ("transfer ID: 1", "lack the one-time password"),
        (f"transfer ID: 1\npassword: {PASSWORD}\nsalasana: other", "one-time password twice"),
        (f"transfer ID: 1\nsiirtotunnus: 2\npassword: {PASSWORD}", "transfer ID twice"),
        (f"transfer ID: 1\npassword: {PASSWORD * 2}", "one-time password is too long"),
        (f"transfer ID: {'1' * 33}\npassword: {PASSWORD}", "transfer ID is too long"),
        (f"customer ID: {'1' * 31}\ntransfer ID: 1\npassword: {PASSWORD}", "customer ID is too long"),
        (f"transfer ID: 1\npassword: {PASSWORD[:3]}\u200b{PASSWORD[3:]}", "cannot be printed"),
        (f"transfer ID: 1\npassword: {PASSWORD}\nvalid until: next week", "is not a date"),
        (f"transfer ID: 1\npassword: {PASSWORD}\nvalid until: 31.2.2026", "is not a date"),
        (json.dumps({"transfer_id": "1", "one_time_password": [PASSWORD]}), "is not a text"),
        (json.dumps({"transfer_id": 1, "one_time_password": PASSWORD}), "transfer_id is not a text"),
        (json.dumps({"transfer_id": None, "one_time_password": PASSWORD}), "lack the transfer ID"),
        (f'{{"one_time_password": "{PASSWORD}", ', "not valid JSON"),
        ('{"a":' * 3000, "not valid JSON"),
    ],
)
def test_refusals_never_quote_the_secret(text: str, words: str) -> None:
    """Each mistake has a sentence of its own; neither it nor its traceback quotes what was given."""
    with pytest.raises(InputError, match=words) as caught:
        parse_credentials(text)
    shown = f"{caught.value}{caught.value.why}{caught.value.next_step}{caught.value.facts}{caught.value.__cause__!r}"
    shown += "".join(traceback.format_exception_only(caught.value))
    assert PASSWORD[:6] not in shown


def test_the_same_value_twice_is_no_conflict() -> None:
    """A mail may say the same thing twice."""
    assert parse_credentials(ENGLISH + ENGLISH).transfer == TRANSFER


def test_hostile_lines_take_no_time() -> None:
    """The longest input that is read, all blanks and separators, is done with at once."""
    began = time.monotonic()
    with pytest.raises(InputError):
        parse_credentials("a:" + " " * 16_000 + "x" + "\n" + ":" * 8_000 + " = " * 2_000)
    assert time.monotonic() - began < 1


def test_expired_credentials_are_refused() -> None:
    """The end itself is too late; without a known end nothing is refused."""
    now = datetime(2026, 12, 8, tzinfo=UTC)
    known = parse_credentials(ENGLISH)
    known.refuse_expired(now - timedelta(seconds=1))
    parse_credentials(SWEDISH).refuse_expired(now)
    with pytest.raises(InputError, match="have expired") as caught:
        known.refuse_expired(now)
    assert caught.value.why == "they were valid until 2026-12-08 00:00 UTC"
    assert "Order a new certificate" in caught.value.next_step


def test_repr_shows_no_password() -> None:
    """Credentials may be printed by mistake."""
    credentials = parse_credentials(ENGLISH)
    assert PASSWORD not in f"{credentials} {credentials!r} {[credentials]}"


def test_transfer_hash_tells_transfer_ids_apart() -> None:
    """The hash is the same for the same ID, another for another, and not the bare SHA-256 that others might have."""
    import hashlib

    assert transfer_hash(TransferId("1")) == transfer_hash(TransferId("1"))
    assert transfer_hash(TransferId("1")) != transfer_hash(TransferId("2"))
    assert transfer_hash(TransferId("1")) != hashlib.sha256(b"1").hexdigest()
