"""What is away or unfit before the one-time credentials are spent, or after: nothing is spent, or nothing is lost."""

from __future__ import annotations

from datetime import timedelta

import pytest

from harness.stage import Listener, Stage, order_for
from varmenne.clock import system_clock
from varmenne.domain.credentials import Credentials
from varmenne.domain.enrollment import Enrollment
from varmenne.domain.keys import CustodyProbe, ProbeResult
from varmenne.domain.steps import State
from varmenne.enrollment.enroll import enroll, go_on, unfinished
from varmenne.enrollment.preflight import probe_name
from varmenne.errors import (
    ConfigError,
    InputError,
    NotFinished,
    ServiceUnreachable,
    TokenError,
    TokenUnfit,
    VarmenneError,
    VaultUnavailable,
)
from varmenne.service.transport import Endpoint
from varmenne.token import Token

WAIT = timedelta(seconds=20)


def test_the_service_is_not_there(stage: Stage) -> None:
    """An unreachable service is found out before a row or a key is made."""
    before = stage.world()
    stage.configure(service={"endpoint": "https://127.0.0.1:9/", "connect_timeout_seconds": 1.0})
    with stage.parts() as parts, pytest.raises(ServiceUnreachable, match="could not be reached"):
        enroll(parts, Listener(), order_for(), stage.credentials(stage.order()), wait=WAIT)
    assert stage.world() == before


def left_keyed(stage: Stage, credentials: Credentials, monkeypatch: pytest.MonkeyPatch) -> Enrollment:
    """Leave an enrollment after its key was made: the service answers the greeting and is gone for the request."""
    stage.configure(service={"endpoint": "https://127.0.0.1:9/", "connect_timeout_seconds": 1.0})
    with monkeypatch.context() as patched, stage.parts() as parts:
        patched.setattr(Endpoint, "greet", lambda _self: None)
        with pytest.raises(ServiceUnreachable, match="could not be reached") as caught:
            enroll(parts, Listener(), order_for(), credentials, wait=WAIT)
    assert "Nothing was sent" in caught.value.next_step
    stage.configure()
    (row,) = stage.rows()
    return row


def test_the_service_goes_away_before_the_request(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was certainly not sent leaves the key and asks for the credentials again; then it goes on."""
    credentials = stage.credentials(stage.order())
    row = left_keyed(stage, credentials, monkeypatch)
    assert (row.state, row.sent_at, row.owner) == (State.KEYED, None, None)
    assert row.due_at is not None
    assert row.problem is not None
    assert row.problem["kind"] == "ServiceUnreachable"
    with stage.parts() as parts:
        with pytest.raises(NotFinished, match="needs its one-time credentials") as asked:
            go_on(parts, Listener(), row, wait=WAIT)
        assert asked.value.next_step == f"varmenne resume {row.id} --credentials FILE"
        row = parts.journal.get(row.id)
        assert (row.state, row.owner) == (State.KEYED, None)
        with pytest.raises(InputError, match="are not those of"):
            go_on(parts, Listener(), row, credentials=stage.credentials(stage.order()), wait=WAIT)
        row = go_on(parts, Listener(), row, credentials=credentials, wait=WAIT)
    assert (row.state, row.problem) == (State.ACTIVE, None)
    assert stage.keys_of(row) == stage.sent() == 1


def test_a_request_that_cannot_be_made_is_not_uncertain(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting that goes bad between greeting and request stops before the first byte, and that is known."""
    credentials = stage.credentials(stage.order())
    stage.configure(service={"ca_file": str(stage.folder / "missing.pem")})
    with monkeypatch.context() as patched, stage.parts() as parts:
        patched.setattr(Endpoint, "greet", lambda _self: None)
        with pytest.raises(ConfigError, match=r"missing\.pem"):
            enroll(parts, Listener(), order_for(), credentials, wait=WAIT)
    stage.configure()
    with stage.parts() as parts:
        (row,) = parts.journal.list()
        assert (row.state, row.sent_at, row.owner) == (State.KEYED, None, None)
        assert go_on(parts, Listener(), row, credentials=credentials, wait=WAIT).state is State.ACTIVE
    assert stage.sent() == 1


def test_credentials_that_expire_before_they_are_sent(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The enrollment ends as expired, and the only thing that was made is a key."""
    credentials = stage.credentials(stage.order())
    row = left_keyed(stage, credentials, monkeypatch)
    with stage.parts(clock=lambda: system_clock() + timedelta(days=15)) as parts:
        with pytest.raises(InputError, match="have expired") as caught:
            go_on(parts, Listener(), row, credentials=credentials, wait=WAIT)
        row = parts.journal.get(row.id)
        assert unfinished(parts) == ()
    assert "nothing was ever sent" in caught.value.why
    assert (row.state, row.owner, row.due_at) == (State.EXPIRED, None, None)
    assert stage.sent() == 0


@pytest.mark.parametrize("trouble", ["down", "denied", "wrong mount"])
def test_vault_trouble_before_spending(stage: Stage, trouble: str) -> None:
    """Whatever is wrong with Vault is found out before a row or a key is made."""
    before = stage.world()
    if trouble == "down":
        stage.configure(vault={"address": "http://127.0.0.1:9"})
    elif trouble == "wrong mount":
        stage.configure(vault={"mount": "no-such-mount"})
    else:
        policy = f"varmenne-agent-{stage.vault.settings.mount}"
        stage.vault.root.sys.create_or_update_policy(policy, 'path "sys/nothing" { capabilities = ["read"] }')
    with stage.parts() as parts, pytest.raises(VarmenneError) as caught:
        enroll(parts, Listener(), order_for(), stage.credentials(stage.order()), wait=WAIT)
    assert caught.value.exit_code == 11
    assert stage.world() == before


def test_vault_goes_down_after_issuing(stage: Stage) -> None:
    """The certificate stays durable in the journal, and going on publishes it once."""
    order = stage.order()
    with stage.parts() as parts, pytest.raises(NotFinished):
        enroll(parts, Listener(), order_for(), stage.credentials(order), wait=timedelta())
    stage.configure(vault={"address": "http://127.0.0.1:9", "connect_timeout_seconds": 0.2})
    with stage.parts() as parts:
        (row,) = parts.journal.list()
        with pytest.raises(VaultUnavailable):
            go_on(parts, Listener(), row, wait=WAIT)
        row = parts.journal.get(row.id)
        assert (row.state, row.owner) == (State.ISSUED, None)
        assert row.certificate is not None
        assert row.due_at is not None
        assert len(parts.token.certificates(row.key_id)) == 1
    stage.configure()
    with stage.parts() as parts:
        row = go_on(parts, Listener(), row, wait=WAIT)
        assert len(parts.token.certificates(row.key_id)) == 1
    assert (row.state, row.vault_version, row.problem) == (State.ACTIVE, 1, None)
    assert list(stage.versions()) == ["1"]


@pytest.mark.parametrize("outcome", ["allowed", "not applicable"])
def test_an_unfit_token_spends_nothing(stage: Stage, monkeypatch: pytest.MonkeyPatch, outcome: str) -> None:
    """A token that lets a key out, or of which nothing could be proven, ends the enrollment before anything is made."""
    before = stage.world()
    credentials = stage.credentials(stage.order())
    later = timedelta(days=8)  # The probe that the stage knows is too old then.
    with stage.parts(clock=lambda: system_clock() + later) as parts:
        result = ProbeResult("wrap AES_KEY_WRAP", outcome, "CKR_OK")
        identity = parts.token.identity()
        monkeypatch.setattr(
            Token, "probe", lambda _self: CustodyProbe(token=identity, at=system_clock(), results=(result,))
        )
        with pytest.raises(TokenUnfit, match="does not keep private keys inside") as caught:
            enroll(parts, Listener(), order_for(), credentials, wait=WAIT)
        latest = parts.journal.latest_probe(probe_name(parts, identity))
        with pytest.raises(TokenUnfit):
            enroll(parts, Listener(), order_for(), credentials, wait=WAIT)
    assert ("wrap AES_KEY_WRAP" in caught.value.why) is (outcome == "allowed")
    assert latest is not None
    assert latest[1] is False
    assert stage.world() == before


def test_a_token_that_lost_our_keys_is_refused(stage: Stage) -> None:
    """A token of the same names that does not hold our newest key is another one: nothing is made there."""
    with stage.parts() as parts:
        enroll(parts, Listener(), order_for(), stage.credentials(stage.order()), wait=WAIT)
    for path in stage.token.directory.glob("tokens/*/*.object"):
        if path.name != "token.object":
            path.unlink()
    before = stage.world()
    with stage.parts() as parts, pytest.raises(TokenError, match="does not hold the key that it is known by"):
        enroll(parts, Listener(), order_for("7654321-0"), stage.credentials(stage.order("7654321-0")), wait=WAIT)
    assert stage.world() == before


def test_an_anchor_in_the_settings_is_asked_for(stage: Stage) -> None:
    """A new journal knows no key; the settings may name one."""
    stage.configure(token={"anchor": "0" * 64})
    before = stage.world()
    with stage.parts() as parts, pytest.raises(TokenError, match="does not hold the key"):
        enroll(parts, Listener(), order_for(), stage.credentials(stage.order()), wait=WAIT)
    assert stage.world() == before
