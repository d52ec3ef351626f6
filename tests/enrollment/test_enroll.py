"""From the key's birth to the record in Vault, on real parts."""

from __future__ import annotations

import dataclasses
import itertools
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from harness.stage import NAME, Listener, Stage, order_for
from varmenne.clock import system_clock
from varmenne.domain.identifiers import Channel, EnrollmentId
from varmenne.domain.secret import Secret
from varmenne.domain.steps import STEPS, State
from varmenne.enrollment.enroll import enroll, go_on, unfinished
from varmenne.errors import (
    InputError,
    NotFinished,
    ServiceRefused,
    StateError,
    VerificationError,
)
from varmenne.service.interface import Operation

WAIT = timedelta(seconds=20)

_numbers = itertools.count(1)


@pytest.fixture
def customer() -> str:
    """A customer that no other test knows."""
    return f"{next(_numbers):07d}-0"


def states(stage: Stage, customer: str) -> list[State]:
    """Return the states of a customer's enrollments."""
    return [row.state for row in stage.rows() if row.customer_id == customer]


@pytest.mark.parametrize("channel", list(Channel))
def test_a_certificate_for_each_channel(shared_stage: Stage, channel: Channel, customer: str) -> None:
    """Key, certificate beside it, record in Vault and row of the journal agree, and all is told in order."""
    order = shared_stage.order(customer, name=NAME, channel=channel)
    listener = Listener()
    with shared_stage.parts() as parts:
        row = enroll(
            parts, listener, order_for(customer, name=NAME, channel=channel), shared_stage.credentials(order), wait=WAIT
        )
        (beside,) = parts.token.certificates(row.key_id)
        key = parts.token.find(row.key_id)
        history = parts.journal.history(row.id)
    assert row.state is State.ACTIVE
    assert row.certificate is not None
    certificate = x509.load_pem_x509_certificate(row.certificate.encode())
    assert x509.load_der_x509_certificate(beside) == certificate
    assert key is not None
    assert key.public_key == row.public_key
    assert row.not_after == certificate.not_valid_after_utc
    assert (row.owner, row.problem, row.tries) == (None, None, 0)
    assert row.due_at is not None  # Its renewal is rehearsed from time to time, and begun when it is due.
    assert timedelta(days=6) < row.due_at - row.updated_at < timedelta(days=8)
    path = f"varmenne/test/{customer}/{channel}/current"
    assert (row.vault_path, row.vault_version) == (path, 1)
    record = shared_stage.vault.root.secrets.kv.v2.read_secret_version(
        path, mount_point=shared_stage.vault.settings.mount, raise_on_deleted_version=True
    )["data"]["data"]
    assert record["certificate"].strip() == row.certificate.strip()
    assert record["enrollment"] == row.id
    assert shared_stage.keys_of(row) == shared_stage.sent(order.transfer_id) == 1
    route = [State.PREPARED, State.KEYED, State.SUBMITTING, State.ACCEPTED, State.ISSUED, State.STORED, State.ACTIVE]
    assert listener.told("reached") == route
    assert [event.target for event in history] == route
    steps = [STEPS[state].doing for state in route if state in STEPS and state is not State.SUBMITTING]
    assert listener.told("begins")[-5:] == steps
    words = [way for way, _text in listener.heard if way in {"begins", "done"}]
    assert words == ["begins", "done"] * 6


def test_waiting_tells_what_is_awaited_and_grows(stage: Stage, customer: str) -> None:
    """While the service is not ready each wait is longer than the last, up to the limit, and the reason is told."""
    stage.bench.state.fault("never-ready", count=4, operation=Operation.GET)
    stage.configure(service={"first_poll_seconds": 10.0, "longest_poll_seconds": 30.0})
    slept: list[float] = []

    def clock() -> datetime:
        return system_clock() + timedelta(seconds=sum(slept))

    listener = Listener()
    with stage.parts(clock=clock, sleep=slept.append) as parts:
        order = stage.order(customer)
        row = enroll(parts, listener, order_for(customer), stage.credentials(order), wait=timedelta(minutes=10))
    assert row.state is State.ACTIVE
    waits = listener.told("waits")
    assert len(waits) == 5
    assert waits[0].startswith("accepted, RetrievalId")
    assert all("not ready yet" in wait for wait in waits[1:])
    assert max(slept) <= 1
    assert 60 < sum(slept) <= 10 + 11 + 16.5 + 24.75 + 33  # What the calls themselves take is waited less.
    assert requests(stage, "getCertificate") == 5


def requests(stage: Stage, operation: str) -> int:
    """Return how many requests of an operation the bench has received."""
    return sum(request.as_json()["operation"] == operation for request in stage.bench.state.log())


def test_not_there_in_time(shared_stage: Stage, customer: str) -> None:
    """Without time to wait, the enrollment is left with a due time and no owner, and going on finishes it."""
    order = shared_stage.order(customer)
    credentials = shared_stage.credentials(order)
    with shared_stage.parts() as parts:
        before = parts.now
        with pytest.raises(NotFinished, match="is not there yet") as caught:
            enroll(parts, Listener(), order_for(customer), credentials, wait=timedelta())
        (row,) = [one for one in parts.journal.list() if one.customer_id == customer]
        assert (row.state, row.owner, row.problem) == (State.ACCEPTED, None, None)
        assert row.due_at == caught.value.facts["due_at"]
        assert row.due_at is not None
        assert before < row.due_at <= parts.now + timedelta(seconds=1)
        assert f"varmenne resume {row.id}" in caught.value.next_step
        assert row in unfinished(parts)
        done = go_on(parts, Listener(), row, wait=WAIT)
    assert done.state is State.ACTIVE
    assert shared_stage.sent(order.transfer_id) == 1


@pytest.mark.parametrize(
    ("fault", "count"),
    [("http-503", 2), ("drop-unread", 2), ("temporary-error", 2), ("half-answer", 1), ("slow", 1), ("html-page", 2)],
)
def test_a_disturbed_service_is_waited_for(stage: Stage, customer: str, fault: str, count: int) -> None:
    """Asking for the certificate may be repeated: a service that is disturbed for a while only costs time."""
    stage.bench.state.fault(fault, count=count, operation=Operation.GET)
    if fault == "slow":
        stage.configure(service={"read_timeout_seconds": 1.0})
    with stage.parts() as parts:
        row = enroll(parts, Listener(), order_for(customer), stage.credentials(stage.order(customer)), wait=WAIT)
    assert row.state is State.ACTIVE
    assert requests(stage, "getCertificate") == count + 1


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ("tampered", ""),
        ("unsigned", ""),
        ("wrong-signer", "chain"),
        ("customer-signs", "chain"),
        ("another-key", "key"),
        ("wrong-issuer", "chain"),
        ("expired-certificate", "validity"),
    ],
)
def test_unproven_certificates_are_refused(shared_stage: Stage, customer: str, fault: str, check: str) -> None:
    """An answer or certificate that is not proven is kept as evidence, used for nothing, and asked for again later."""
    stage = shared_stage
    stage.bench.state.fault(fault, operation=Operation.GET)
    order = stage.order(customer)
    with stage.parts() as parts:
        with pytest.raises(VerificationError) as caught:
            enroll(parts, Listener(), order_for(customer), stage.credentials(order), wait=WAIT)
        (row,) = [one for one in parts.journal.list() if one.customer_id == customer]
        assert (row.state, row.certificate, row.owner) == (State.ACCEPTED, None, None)
        assert row.problem is not None
        assert row.problem["kind"] == "VerificationError"
        (answer,) = parts.journal.answers(row.id, Operation.GET)
        assert answer.verdict in {f"refused: {caught.value.check}", "verified"}
        assert parts.token.certificates(row.key_id) == ()
        assert stage.versions(customer) == {}
        assert go_on(parts, Listener(), row, wait=WAIT).state is State.ACTIVE
    assert check in {"", caught.value.check}  # How an answer is refused is the business of the service's tests.
    assert stage.sent(order.transfer_id) == 1


def test_refused_by_the_service(shared_stage: Stage, customer: str) -> None:
    """A wrong password ends the enrollment; code and message come as they came, the password does not."""
    order = shared_stage.order(customer)
    wrong = dataclasses.replace(shared_stage.credentials(order), password=Secret("wr0ng-Passw0rd"))
    with shared_stage.parts() as parts:
        with pytest.raises(ServiceRefused) as caught:
            enroll(parts, Listener(), order_for(customer), wrong, wait=WAIT)
        (row,) = [one for one in parts.journal.list() if one.customer_id == customer]
        assert row.state is State.REJECTED
        assert row.problem is not None
        assert row.problem["why"] == "PKI112: The one-time password is wrong."
        assert go_on(parts, Listener(), row, wait=WAIT) == row
        kept = repr(parts.journal.history(row.id)) + repr(row) + repr(parts.journal.answers(row.id))
    assert caught.value.errors == (("PKI112", "The one-time password is wrong."),)
    assert "wr0ng-Passw0rd" not in kept + repr(caught.value.__dict__)
    assert shared_stage.versions(customer) == {}


def test_nothing_happens_with_expired_credentials(shared_stage: Stage, customer: str) -> None:
    """Credentials that are over are refused before a row or a key is made."""
    before = shared_stage.world()
    old = dataclasses.replace(
        shared_stage.credentials(shared_stage.order(customer)), valid_until=datetime(2026, 1, 1, tzinfo=UTC)
    )
    with shared_stage.parts() as parts, pytest.raises(InputError, match="have expired"):
        enroll(parts, Listener(), order_for(customer), old, wait=WAIT)
    assert shared_stage.world() == before


def test_credentials_of_another_customer(shared_stage: Stage, customer: str) -> None:
    """Credentials that name their customer are used for that one only."""
    before = shared_stage.world()
    credentials = shared_stage.credentials(shared_stage.order(customer))
    with shared_stage.parts() as parts, pytest.raises(InputError, match="for another customer"):
        enroll(parts, Listener(), order_for("7654321-0"), credentials, wait=WAIT)
    assert shared_stage.world() == before


def test_the_same_transfer_id_again(shared_stage: Stage, customer: str) -> None:
    """Unfinished it goes on with the same key; for another channel or when finished it is refused."""
    order = shared_stage.order(customer)
    credentials = shared_stage.credentials(order)
    with shared_stage.parts() as parts:
        with pytest.raises(NotFinished):
            enroll(parts, Listener(), order_for(customer), credentials, wait=timedelta())
        with pytest.raises(StateError, match="belongs to another enrollment"):
            enroll(parts, Listener(), order_for(customer, channel=Channel.SFTP), credentials, wait=WAIT)
        without = dataclasses.replace(credentials, customer=None)
        with pytest.raises(StateError, match="belongs to another enrollment"):
            enroll(parts, Listener(), order_for("7654321-0"), without, wait=WAIT)
        row = enroll(parts, Listener(), order_for(customer), credentials, wait=WAIT)
        assert row.state is State.ACTIVE
        world = shared_stage.world()
        with pytest.raises(StateError, match="has been used") as caught:
            enroll(parts, Listener(), order_for(customer), credentials, wait=WAIT)
    assert row.id in caught.value.why
    assert states(shared_stage, customer) == [State.ACTIVE]
    assert shared_stage.world() == world
    assert shared_stage.sent(order.transfer_id) == 1


def test_an_active_certificate_is_replaced_by_name_only(shared_stage: Stage, customer: str) -> None:
    """A second certificate needs the name of the first, which then is superseded; Vault keeps both versions."""
    stage = shared_stage
    with stage.parts() as parts:
        first = enroll(parts, Listener(), order_for(customer), stage.credentials(stage.order(customer)), wait=WAIT)
        before = stage.world()
        second = stage.credentials(stage.order(customer))
        with pytest.raises(StateError, match="has an active certificate") as caught:
            enroll(parts, Listener(), order_for(customer), second, wait=WAIT)
        assert f"--replaces {first.id}" in caught.value.next_step
        other = stage.credentials(stage.order("1111111-1"))
        with pytest.raises(InputError, match="cannot be replaced by this one"):
            enroll(parts, Listener(), order_for("1111111-1", replaces=first.id), other, wait=WAIT)
        nobody = EnrollmentId("20200101-00000000")
        with pytest.raises(InputError, match="There is no enrollment"):
            enroll(parts, Listener(), order_for(customer, replaces=nobody), second, wait=WAIT)
        assert stage.world() == before
        row = enroll(parts, Listener(), order_for(customer, replaces=first.id), second, wait=WAIT)
        old = parts.journal.get(first.id)
        assert [event.step for event in parts.journal.history(first.id)][-1] == "supersede"
        assert parts.journal.current(row.environment, row.customer_id, row.channel) == (row,)
    assert (old.state, row.state) == (State.SUPERSEDED, State.ACTIVE)
    assert (row.replaces, row.generation, row.vault_version) == (first.id, 2, 2)
    assert sorted(stage.versions(customer)) == ["1", "2"]
    assert stage.keys_of(row) == stage.keys_of(old) == 1


def test_nothing_secret_stays(stage: Stage) -> None:
    """Neither transfer ID, nor password, PIN or Vault's secrets are in the journal's files or in what was told."""
    order = stage.order()
    listener = Listener()
    with stage.parts() as parts:
        row = enroll(parts, listener, order_for(), stage.credentials(order), wait=WAIT)
        told = f"{listener.heard}{row}{parts.journal.history(row.id)}"
        token = parts.store._connection._client.token
    secrets = [
        order.transfer_id,
        order.one_time_password,
        stage.token.pin,
        (stage.token.directory / "pin").read_text().strip(),
        (stage.token.directory / "so-pin").read_text().strip(),
        (stage.folder / "secret-id").read_text().strip(),
        token,
    ]
    kept = b"".join(path.read_bytes() for path in stage.state_dir.rglob("*") if path.is_file())
    assert kept
    for secret in secrets:
        assert secret.encode() not in kept
        assert secret not in told


def test_two_begun_side_by_side_leave_one_current(stage: Stage) -> None:
    """Of two enrollments for one customer and channel, the one that becomes active later takes the other's place."""
    first, second = stage.order(), stage.order()
    with stage.parts() as parts:
        stage.bench.state.fault("never-ready", count=None)
        for order in (first, second):
            with pytest.raises(NotFinished):
                enroll(parts, Listener(), order_for(), stage.credentials(order), wait=timedelta())
        stage.bench.state.clear_faults()
        for row in sorted(parts.journal.list(), key=lambda row: row.created_at):
            assert go_on(parts, Listener(), row, wait=WAIT).state is State.ACTIVE
        assert sorted(row.state for row in parts.journal.list()) == [State.ACTIVE, State.SUPERSEDED]
        (current,) = parts.journal.current(row.environment, row.customer_id, row.channel)
    assert len(stage.versions()) == 2
    assert current.vault_version == 2


def test_another_installations_certificate_is_replaced_by_name_only(stage: Stage) -> None:
    """What Vault has from a journal that is not ours is not replaced by accident, and nothing is spent on it."""
    with stage.parts() as parts:
        theirs = enroll(parts, Listener(), order_for(), stage.credentials(stage.order()), wait=WAIT)
    stage.configure(state_dir=str(stage.folder / "another-state"))
    order = stage.order()
    with stage.parts() as parts:
        with pytest.raises(StateError, match="that this journal does not know") as caught:
            enroll(parts, Listener(), order_for(), stage.credentials(order), wait=WAIT)
        assert parts.journal.list() == ()
        assert f"--replaces {theirs.id}" in caught.value.next_step
        assert stage.sent(order.transfer_id) == 0
        named = order_for(replaces=theirs.id)
        parts.journal.acknowledge([theirs.id], parts.now)  # Their key is in our token.
        ours = enroll(parts, Listener(), named, stage.credentials(order), wait=WAIT)
    assert (ours.state, ours.vault_version) == (State.ACTIVE, 2)
