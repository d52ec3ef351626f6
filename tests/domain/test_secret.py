"""A secret shows itself to nobody who does not ask for it by name."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import traceback
from dataclasses import dataclass

import pytest

from varmenne.domain.secret import Secret

TEXT = "s3cRet"


@dataclass
class Holder:
    """Has a secret."""

    secret: Secret


def test_no_way_of_printing_shows_it() -> None:
    """Neither str, repr nor any format does, alone or inside of something else."""
    secret = Secret(TEXT)
    ways = [str(secret), repr(secret), f"{secret}", f"{secret:>30}", f"{secret!a}", "%s %r" % (secret, secret)]  # noqa: UP031
    ways += [repr(Holder(secret)), repr([secret]), repr({secret: secret}), str(vars(Holder(secret)))]
    assert all("***" in way and TEXT not in way for way in ways)
    assert secret.reveal() == TEXT


def test_no_log_shows_it(caplog: pytest.LogCaptureFixture) -> None:
    """A log record may hold it as an argument."""
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("varmenne.test").debug("got %s and %r in %s", Secret(TEXT), Secret(TEXT), [Secret(TEXT)])
    assert caplog.text.count("***") == 3
    assert TEXT not in caplog.text


def test_it_cannot_be_written_down() -> None:
    """Pickle, copy by pickle and JSON refuse it, without quoting it."""
    for write in (pickle.dumps, copy.copy, copy.deepcopy, json.dumps):
        with pytest.raises(TypeError) as caught:
            write(Secret(TEXT))
        assert TEXT not in "".join(traceback.format_exception(caught.value))


def test_it_has_no_attributes_to_list() -> None:
    """A debugger's or a library's walk over ``__dict__`` finds nothing."""
    with pytest.raises(TypeError):
        vars(Secret(TEXT))


def test_it_compares_with_secrets_only() -> None:
    """Equal texts are equal secrets; a plain text never is."""
    assert Secret(TEXT) == Secret(TEXT)
    assert hash(Secret(TEXT)) == hash(Secret(TEXT))
    assert Secret(TEXT) != Secret("other")
    assert Secret(TEXT) != TEXT
    assert (bool(Secret("")), bool(Secret(TEXT))) == (False, True)
