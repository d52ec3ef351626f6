"""What people tell: the SFTP channel's user ID and the technical contact, noted once and inherited from then on."""

from __future__ import annotations

from datetime import timedelta

import pytest

from harness.stage import CUSTOMER, NAME, Listener, Stage, order_for
from harness.years import DAY, IN_THE_WINDOW, WAIT, Years
from varmenne.domain.enrollment import Enrollment
from varmenne.domain.identifiers import Channel
from varmenne.domain.steps import State
from varmenne.enrollment.enroll import enroll
from varmenne.enrollment.parts import Parts
from varmenne.enrollment.people import set_contact, set_sftp_user
from varmenne.enrollment.renew import activate, renew, retire
from varmenne.errors import InputError, NotFinished, StateError

PERSON = "Maija Meikäläinen, maija@example.org"


@pytest.fixture
def years(stage: Stage) -> Years:
    """Return a stage whose time can be moved on."""
    return Years(stage)


def staged(years: Years, first: Enrollment) -> Enrollment:
    """Renew an SFTP certificate, which is staged for a day."""
    years.pass_by(IN_THE_WINDOW)
    with years.parts() as parts, pytest.raises(NotFinished, match="not in use yet"):
        renew(parts, Listener(), first, wait=WAIT)
    with years.parts() as parts:
        (renewal,) = parts.journal.renewals(first.id)
    return renewal


def noted(parts: Parts, row: Enrollment) -> list[str]:
    """Return what the history tells was noted."""
    return [event.step for event in parts.journal.history(row.id) if event.step in {"sftp-user", "contact"}]


def test_noted_once_at_all_generations_and_inherited(years: Years) -> None:
    """The certificate in use, its open renewal and each later one have it; when they are due is as it was before."""
    first = years.first(Channel.SFTP)
    other = years.first()
    open_one = staged(years, first)
    due = {row.id: row.due_at for row in years.rows()}
    with years.parts() as parts:
        for _ in range(2):
            assert set_sftp_user(parts, parts.journal.get(open_one.id), "vero-user1").sftp_user == "vero-user1"
            set_contact(parts, parts.journal.get(first.id), PERSON)
        for row in (first, open_one):
            kept = parts.journal.get(row.id)
            assert (kept.sftp_user, kept.contact, kept.owner) == ("vero-user1", PERSON, None)
            assert noted(parts, row) == (["sftp-user", "contact"])
        assert noted(parts, other) == []
        assert {row.id: row.due_at for row in parts.journal.list()} == due
    years.pass_by(DAY)
    with years.parts() as parts:
        second = activate(parts, Listener(), parts.journal.get(open_one.id))
        with pytest.raises(StateError, match="any more"):
            set_contact(parts, retire(parts, Listener(), parts.journal.get(first.id)), PERSON)
    third = staged(years, second)
    assert (third.sftp_user, third.contact, third.generation) == ("vero-user1", PERSON, 3)


def test_a_new_order_inherits_it_too(years: Years) -> None:
    """Also after the certificate has expired, which is put out of use at once when the far end takes the new one."""
    first = years.first(Channel.SFTP)
    with years.parts() as parts:
        set_sftp_user(parts, first, "vero-user1")
    years.pass_by(timedelta(days=731))
    order = years.stage.order(CUSTOMER, name=NAME, channel=Channel.SFTP)
    wanted = order_for(CUSTOMER, name=NAME, channel=Channel.SFTP, replaces=first.id)
    with years.parts() as parts:
        new = enroll(parts, Listener(), wanted, years.stage.credentials(order), wait=WAIT)
    assert (new.state, new.sftp_user, years.get(first).state) == (State.ACTIVE, "vero-user1", State.SUPERSEDED)


@pytest.mark.parametrize("user", ["", "-oProxyCommand=x", "two words", "tab\there", "x" * 65, " x"])
def test_what_is_no_user_id_is_refused(years: Years, user: str) -> None:
    """It is for command lines of SSH; nothing is noted."""
    first = years.first(Channel.SFTP)
    before = years.stage.world()
    with years.parts() as parts, pytest.raises(InputError, match="SFTP user ID"):
        set_sftp_user(parts, first, user)
    assert years.stage.world() == before


def test_only_sftp_has_users_and_only_free_rows_are_written(years: Years) -> None:
    """A Web Service certificate has none; and what another process is at work on is left to it."""
    first = years.first()
    with years.parts() as parts:
        with pytest.raises(InputError, match="is for ws"):
            set_sftp_user(parts, first, "vero-user1")
        with pytest.raises(InputError, match="technical contact"):
            set_contact(parts, first, "line\nline")
    assert years.get(first).version == first.version
