"""A journal that is older than the token: told by the token's keys, before anything is made or spent."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from harness.stage import Listener, Stage, order_for
from harness.years import DAY, IN_THE_WINDOW, Years
from varmenne.clock import system_clock
from varmenne.domain.enrollment import Enrollment
from varmenne.domain.identifiers import RetrievalId, enrollment_of_label
from varmenne.domain.keys import new_key_id
from varmenne.domain.steps import State
from varmenne.enrollment.acts import ACTS
from varmenne.enrollment.enroll import enroll, go_on
from varmenne.enrollment.reconcile import without_row
from varmenne.enrollment.resolve import found, resend
from varmenne.errors import JournalError, OutcomeUncertain, ServiceUnreachable
from varmenne.journal.restore import restore
from varmenne.testbench.state import Order

WAIT = timedelta(seconds=20)
OTHERS = "20200101-00000000"


def copy_of(stage: Stage) -> Path:
    """Copy the whole state folder, as a snapshot of the machine does."""
    return Path(shutil.copytree(stage.state_dir, stage.folder / "snapshot"))


def put_back(stage: Stage, snapshot: Path) -> None:
    """Put the whole state folder back, journal and record together."""
    stage.state_dir.rename(stage.folder / "newer")
    snapshot.rename(stage.state_dir)


def enrolled(stage: Stage) -> tuple[Enrollment, Order]:
    """Get a certificate, and return its enrollment and the order that is spent now."""
    order = stage.order()
    with stage.parts() as parts:
        return enroll(parts, Listener(), order_for(), stage.credentials(order), wait=WAIT), order


def enrolling(stage: Stage, order: Order) -> list[str]:
    """Return the command that spends an order, whatever is active."""
    file = str(stage.credentials_file(order))
    return ["enroll", "--customer-id", order.customer_id, "--credentials", file]


def test_a_whole_folder_that_went_back_is_refused_and_put_right_by_the_record(stage: Stage) -> None:
    """Spent credentials look unspent there; with the newer record, a restore finds out what was sent."""
    snapshot = copy_of(stage)
    row, order = enrolled(stage)
    put_back(stage, snapshot)
    stage.vault.root.secrets.kv.v2.delete_metadata_and_all_versions(
        row.vault_path, mount_point=stage.vault.settings.mount
    )
    before = stage.world()
    assert before.rows == ()
    for command in (
        enrolling(stage, order),
        ["csr", "--customer-id", "1111111-1", "--out", str(stage.folder / "csr.pem")],
    ):
        result = stage.run(*command)
        assert (result.code, row.id in result.err) == (12, True), result
        assert "varmenne journal restore" in result.err
        assert "varmenne journal acknowledge" in result.err
        assert stage.world() == before

    shutil.copy(stage.folder / "newer" / "journal.sent", stage.state_dir / "journal.sent")
    assert stage.run("journal", "restore").code == 0
    (back,) = stage.rows()
    assert (back.id, back.state) == (row.id, State.UNCERTAIN)
    assert stage.run(*enrolling(stage, order)).code == 9
    assert stage.sent(order.transfer_id) == 1
    assert stage.run(*enrolling(stage, stage.order("1111111-1"))).code == 0


def test_the_check_up_says_the_same(stage: Stage) -> None:
    """`doctor` fails by the sentence that stops an enrollment, until the keys are acknowledged."""
    with stage.parts() as parts:
        parts.token.generate(new_key_id(), f"varmenne-{OTHERS}")
        with pytest.raises(JournalError) as caught:
            enroll(parts, Listener(), order_for(), stage.credentials(stage.order()), wait=WAIT)
    result = stage.run("doctor", "--json")
    (told,) = [check for check in result.json if check["name"] == "journal and token"]
    assert (result.code, told["verdict"]) == (15, "fail")
    assert (told["detail"], told["next_step"]) == (str(caught.value), caught.value.next_step)
    assert stage.run("journal", "acknowledge", "--confirm", "1").code == 0
    assert stage.run("doctor").code == 0


def test_another_installations_keys_are_acknowledged_by_a_person(stage: Stage) -> None:
    """They are shown with their days; nothing is kept without a confirmation; new ones are asked for again."""
    with stage.token_client() as token:
        token.generate(new_key_id(), f"varmenne-{OTHERS}")
        token.generate(new_key_id(), "varmenne-20261101-0000abcd")
    asked = stage.run("journal", "acknowledge")
    assert (asked.code, "Add: --confirm 2" in asked.err) == (4, True)
    assert f"  {OTHERS}   begun on 2020-01-01\n" in asked.err
    assert stage.run("journal", "acknowledge", "--confirm", "3").code == 4
    with stage.parts() as parts:
        assert parts.journal.acknowledged() == ()

    done = stage.run("journal", "acknowledge", "--confirm", "2", "--json")
    assert [one["enrollment"] for one in done.json] == [OTHERS, "20261101-0000abcd"]
    with stage.parts() as parts:
        first, second = parts.journal.acknowledged()
        assert (first.enrollment, first.at) == (OTHERS, second.at)
        assert first.actor
        assert without_row(parts) == ()
    row, _order = enrolled(stage)
    assert row.state is State.ACTIVE
    assert [one["enrollment"] for one in stage.run("journal", "acknowledge", "--json").json] == [
        OTHERS,
        "20261101-0000abcd",
    ]
    with stage.token_client() as token:
        token.generate(new_key_id(), "varmenne-20261102-0000abcd")
    with stage.parts() as parts:
        assert without_row(parts) == ("20261102-0000abcd",)


@pytest.mark.parametrize(
    "label",
    ["vault-login-1234abcd", "varmenne probe, throw-away", "varmenne-demo", "varmenne-20261101-0000ABCD", "key"],
)
def test_other_keys_do_not_count(label: str) -> None:
    """Logins, throw-away keys and other programs' keys say nothing of enrollments."""
    assert enrollment_of_label(label) is None


def test_a_login_key_stops_nothing(stage: Stage) -> None:
    """A key that logs in to Vault is no enrollment's."""
    assert stage.run("vault", "login-key").code == 0
    assert enrolled(stage)[0].state is State.ACTIVE


def test_a_crash_alone_stops_nothing(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that was made and not noted yet has its row: the next command finds it and goes on."""
    order = stage.order()
    with stage.parts() as parts, monkeypatch.context() as patched:

        def made_and_lost(_work: object, row: Enrollment) -> object:
            parts.token.generate(row.key_id, row.key_label)
            raise KeyboardInterrupt

        patched.setitem(ACTS, next(iter(ACTS)), made_and_lost)
        with pytest.raises(KeyboardInterrupt):
            enroll(parts, Listener(), order_for(), stage.credentials(order), wait=WAIT)
        (row,) = parts.journal.list()
        assert row.state is State.PREPARED
    assert len(stage.keys()) == 1
    with stage.parts() as parts:
        assert enroll(parts, Listener(), order_for(), stage.credentials(order), wait=WAIT).state is State.ACTIVE
    assert len(stage.keys()) == 1


def test_an_enrollment_that_has_its_certificate_is_not_sent_for(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy knew the key already, so the key tells nothing; the certificate beside it does."""
    order = stage.order()
    credentials = stage.credentials(order)

    def unreachable(_self: object, *_arguments: object) -> None:
        raise ServiceUnreachable("not now")

    with stage.parts() as parts:
        with monkeypatch.context() as patched:
            patched.setattr(type(parts.service), "sign_new_certificate", unreachable)
            with pytest.raises(ServiceUnreachable):
                enroll(parts, Listener(), order_for(), credentials, wait=WAIT)
        (row,) = parts.journal.list()
    assert row.state is State.KEYED
    snapshot = copy_of(stage)
    with stage.parts() as parts:
        assert go_on(parts, Listener(), row, credentials=credentials, wait=WAIT).state is State.ACTIVE
    put_back(stage, snapshot)
    before = stage.world()
    with stage.parts() as parts:
        for given in (credentials, lambda: pytest.fail("they are fetched in vain")):
            with pytest.raises(JournalError, match="has its certificate in the token already") as caught:
                go_on(parts, Listener(), row, credentials=given, wait=WAIT)
        assert f"varmenne resolve {row.id} --abandon" in caught.value.next_step
    assert stage.world() == before
    assert stage.sent(order.transfer_id) == 1


def test_nor_is_its_request_sent_again(stage: Stage) -> None:
    """By the copy it is uncertain; the certificate in the token says that it was accepted."""
    order = stage.order()
    credentials = stage.credentials(order)
    stage.bench.state.fault("drop-after-receipt")
    with stage.parts() as parts:
        with pytest.raises(OutcomeUncertain):
            enroll(parts, Listener(), order_for(), credentials, wait=WAIT)
        (row,) = parts.journal.list()
    snapshot = copy_of(stage)
    issued = stage.bench.state.store.find_issued(by="transfer_id", value=order.transfer_id)
    assert issued is not None
    with stage.parts() as parts:
        assert found(parts, Listener(), row, RetrievalId(issued.retrieval_id), wait=WAIT).state is State.ACTIVE
    put_back(stage, snapshot)
    with stage.parts() as parts, pytest.raises(JournalError, match="has its certificate in the token already"):
        resend(parts, Listener(), row, credentials, wait=WAIT)
    assert stage.sent(order.transfer_id) == 1
    assert [one.state for one in stage.rows()] == [State.UNCERTAIN]


@pytest.mark.parametrize("came", [State.ACCEPTED, State.ACTIVE])
def test_a_renewal_goes_on_after_a_restore(stage: Stage, came: State) -> None:
    """The backup does not know the renewal, however far it had come: the agent asks again, and gets a certificate.

    The bench refuses a second certificate for the same key, so that renewal ends, and the next one has a new key.
    """
    years = Years(stage)
    first = years.first()
    years.pass_by(IN_THE_WINDOW)
    backup = stage.folder / "backup.sqlite"
    with years.parts() as parts:
        parts.journal.backup(backup)
    if came is State.ACCEPTED:
        stage.bench.state.fault("never-ready", count=None)
        years.once(timedelta())
    else:
        years.renewed(first)
    lost = years.rows()[-1]
    assert (lost.state, lost.replaces) == (came, first.id)
    stage.bench.state.clear_faults()
    done = restore(stage.state_dir, stage.settings.journal, backup, system_clock() + years.passed)
    assert done.doubts == ()
    assert (years.get(lost).state, years.get(lost).csr) == (State.KEYED, lost.csr)
    for _ in range(3):
        years.once(timedelta(seconds=10))
        years.pass_by(DAY)
    assert [row.state for row in years.rows()] == [State.SUPERSEDED, State.REJECTED, State.ACTIVE]
    assert years.record()["enrollment"] == years.rows()[-1].id
