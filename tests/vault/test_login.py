"""Logging in, staying logged in, and leaving no token behind: in Vault, in memory dumps of errors, or in logs."""

from __future__ import annotations

import logging
import os
import traceback
import warnings
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from varmenne.clock import system_clock
from varmenne.domain.secret import Secret
from varmenne.errors import ConfigError, InputError, VaultDenied, VaultUnavailable
from varmenne.secret_sources import ReadableByOthers
from varmenne.testbench.openbao import make_role
from varmenne.vault import CertificateStore, Location, policy_text
from vault.conftest import IMPATIENT, Fault, Meddler

if TYPE_CHECKING:
    from harness.openbao import Vault
    from varmenne.settings import VaultSettings

RECORD = {"certificate": "one", "enrollment": "20261124-00000001"}


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return system_clock() + self.ahead


def secret_id_of(vault: Vault) -> str:
    """The secret ID that a test's role has."""
    return Path(str(vault.settings.login.secret_id).removeprefix("file:")).read_text(encoding="ascii")


def with_role(vault: Vault, tmp_path: Path, **options: object) -> VaultSettings:
    """Settings for another role with the agent's policy and other terms."""
    name = f"{vault.settings.mount}-special"
    role_id, secret_id = make_role(vault.root, name, policy_text("agent", mount=vault.settings.mount), **options)
    file = tmp_path / "secret-id"
    file.touch(0o600)
    file.write_text(secret_id.reveal())
    login = msgspec.structs.replace(vault.settings.login, role_id=role_id, secret_id=f"file:{file}")
    return msgspec.structs.replace(vault.settings, login=login)


def with_token_file(vault: Vault, file: Path) -> VaultSettings:
    """Settings that take the token from a file."""
    login = msgspec.structs.replace(vault.settings.login, method="token-file", token_file=str(file))
    return msgspec.structs.replace(vault.settings, login=login)


def new_token(vault: Vault) -> str:
    """A token with the agent's policy, made by root."""
    policy = f"varmenne-agent-{vault.settings.mount}"
    answer = vault.root.auth.token.create(policies=[policy], no_default_policy=True, ttl="10m")
    return str(answer["auth"]["client_token"])


def put(file: Path, token: str) -> None:
    """Replace a token file as an agent does: a new file, moved into place."""
    draft = file.with_name("draft")
    draft.touch(0o600)
    draft.write_text(token + "\n")
    draft.replace(file)


def held(store: CertificateStore) -> str:
    """The token that a store holds."""
    grant = store._connection._grant
    assert grant is not None
    return grant.token.reveal()


def lives(vault: Vault, token: str) -> bool:
    """Ask the server about a token."""
    client = vault.server.client(Secret(token))
    status = client.adapter.get("/v1/auth/token/lookup-self", raise_exception=False)
    client.adapter.close()
    return isinstance(status, dict)


def test_close_revokes_our_own_token(vault: Vault, where: Location) -> None:
    """A token that we logged in for does not outlive us."""
    store = CertificateStore(vault.settings, clock=system_clock)
    store.read(where)
    token = held(store)
    assert lives(vault, token)
    store.close()
    assert not lives(vault, token)
    store.close()


def test_close_leaves_the_token_of_a_file_alone(vault: Vault, where: Location, tmp_path: Path) -> None:
    """That token belongs to whoever wrote the file."""
    put(tmp_path / "token", token := new_token(vault))
    with CertificateStore(with_token_file(vault, tmp_path / "token"), clock=system_clock) as store:
        assert store.publish(where, RECORD, operation="op-1") == 1
    assert lives(vault, token)


def test_close_does_not_raise_when_vault_is_gone(vault: Vault, meddler: Meddler, where: Location) -> None:
    """An unreachable server at the end must not hide what happened before."""
    store = CertificateStore(meddler.settings(vault.settings), clock=system_clock, patience=IMPATIENT)
    store.read(where)
    meddler.faults.append(Fault("POST", "drop", executed=False))
    store.close()


def test_a_changed_token_file_is_read_again(vault: Vault, where: Location, tmp_path: Path) -> None:
    """A Vault Agent that renews its sink needs no word to us."""
    put(tmp_path / "token", new_token(vault))
    with CertificateStore(with_token_file(vault, tmp_path / "token"), clock=system_clock) as store:
        store.read(where)
        put(tmp_path / "token", second := new_token(vault))
        store.read(where)
        assert held(store) == second


def test_a_token_file_replaced_while_we_ask_helps_at_once(vault: Vault, where: Location, tmp_path: Path) -> None:
    """If the token dies and the file has a new one, the call succeeds."""
    put(tmp_path / "token", first := new_token(vault))
    with CertificateStore(with_token_file(vault, tmp_path / "token"), clock=system_clock) as store:
        store.read(where)
        vault.root.auth.token.revoke(first)
        put(tmp_path / "token", new_token(vault))
        assert store.publish(where, RECORD, operation="op-1") == 1


def test_an_expired_token_is_told_apart_from_a_policy(vault: Vault, where: Location, tmp_path: Path) -> None:
    """Vault answers both alike; we ask what the token is, and say which of the two it was."""
    put(tmp_path / "token", token := new_token(vault))
    foreign = msgspec.structs.replace(vault.settings, prefix="foreign").prefix
    with CertificateStore(with_token_file(vault, tmp_path / "token"), clock=system_clock) as store:
        elsewhere = Location(
            prefix=foreign, environment=where.environment, customer=where.customer, channel=where.channel
        )
        with pytest.raises(VaultDenied, match="policy does not allow"):
            store.publish(elsewhere, RECORD, operation="op-1")
        vault.root.auth.token.revoke(token)
        with pytest.raises(VaultDenied, match="no longer takes the token") as caught:
            store.publish(where, RECORD, operation="op-1")
    assert caught.value.facts["reason"] == "token"
    assert vault.versions(elsewhere.path) == vault.versions(where.path) == {}


def test_our_own_token_that_died_is_replaced_once(vault: Vault, where: Location) -> None:
    """A revoked or expired token of an AppRole leads to one new login, and the call goes on."""
    with CertificateStore(vault.settings, clock=system_clock) as store:
        store.read(where)
        vault.root.auth.token.revoke(first := held(store))
        assert store.publish(where, RECORD, operation="op-1") == 1
        assert held(store) != first


def test_a_token_is_renewed_below_a_third_of_its_life(vault: Vault, where: Location) -> None:
    """Not at every call, and not when it is too late."""
    clock = Clock()
    with CertificateStore(vault.settings, clock=clock) as store:
        store.read(where)
        token, granted_at = held(store), store._connection._granted_at
        clock.ahead = timedelta(minutes=10)
        store.read(where)
        assert store._connection._granted_at == granted_at
        clock.ahead = timedelta(minutes=15)
        store.read(where)
        assert store._connection._granted_at != granted_at
        assert held(store) == token


def test_a_renewal_that_fails_is_no_failure_yet(vault: Vault, meddler: Meddler, where: Location) -> None:
    """The token still lives; the next call shows whether it does."""
    clock = Clock()
    with CertificateStore(meddler.settings(vault.settings), clock=clock, patience=IMPATIENT) as store:
        store.read(where)
        clock.ahead = timedelta(minutes=15)
        meddler.faults.append(Fault("POST", 500, executed=False))
        assert store.read(where) is None
        assert meddler.faults == []


def test_a_used_up_secret_id_is_refused_with_the_reason(vault: Vault, where: Location, tmp_path: Path) -> None:
    """Vault says the same to a wrong, expired and used-up secret ID; so do we, and it is not tried again."""
    settings = with_role(vault, tmp_path, secret_id_num_uses=1)
    with CertificateStore(settings, clock=system_clock) as store:
        store.read(where)
    with CertificateStore(settings, clock=system_clock) as store, pytest.raises(VaultDenied, match="used up"):
        store.publish(where, RECORD, operation="op-1")
    assert vault.versions(where.path) == {}


def test_a_new_secret_id_in_the_file_is_taken(vault: Vault, where: Location, tmp_path: Path) -> None:
    """The secret ID is read when it is needed, not once for all."""
    settings = with_role(vault, tmp_path, secret_id_num_uses=1)
    with CertificateStore(settings, clock=system_clock) as store:
        store.read(where)
        vault.root.auth.token.revoke(held(store))
        fresh = vault.root.auth.approle.generate_secret_id(f"{vault.settings.mount}-special")["data"]["secret_id"]
        (tmp_path / "secret-id").write_text(fresh)
        assert store.publish(where, RECORD, operation="op-1") == 1


def test_a_secret_id_that_comes_only_once_is_kept_for_another_login(vault: Vault, where: Location) -> None:
    """A descriptor is empty after the first reading; a later login must not fail for that."""
    reader, writer = os.pipe()
    os.write(writer, secret_id_of(vault).encode())
    os.close(writer)
    login = msgspec.structs.replace(vault.settings.login, secret_id=f"fd:{reader}")
    with CertificateStore(msgspec.structs.replace(vault.settings, login=login), clock=system_clock) as store:
        store.read(where)
        vault.root.auth.token.revoke(held(store))
        assert store.publish(where, RECORD, operation="op-1") == 1
    os.close(reader)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"method": "token-file", "token_file": ""}, ConfigError, "token_file is missing"),
        ({"method": "token-file", "token_file": "/nowhere/token"}, ConfigError, "cannot be read"),
        ({"role_id": ""}, ConfigError, "role_id is missing"),
        ({"role_id": "wrong"}, VaultDenied, "AppRole login"),
        ({"secret_id": None}, VaultDenied, "needs a secret ID"),
        ({"secret_id": "file:/nowhere/secret-id"}, ConfigError, "cannot be read"),
        ({"mount": "nowhere"}, VaultDenied, "refused the login"),
    ],
)
def test_a_login_that_cannot_work_says_why(
    vault: Vault, where: Location, changes: dict[str, Any], error: type[Exception], words: str
) -> None:
    """Settings and secrets that are missing or wrong are told by name."""
    login = msgspec.structs.replace(vault.settings.login, **changes)
    with pytest.raises(error, match=words):
        CertificateStore(msgspec.structs.replace(vault.settings, login=login), clock=system_clock).read(where)


def test_an_empty_token_file_is_refused(vault: Vault, where: Location, tmp_path: Path) -> None:
    """A file that an agent has not filled yet is told as such."""
    put(tmp_path / "token", "")
    with (
        CertificateStore(with_token_file(vault, tmp_path / "token"), clock=system_clock) as store,
        pytest.raises(InputError, match="empty"),
    ):
        store.read(where)


def test_a_token_file_that_others_may_read_is_a_warning(vault: Vault, where: Location, tmp_path: Path) -> None:
    """It works, and the person is told how to close it."""
    put(tmp_path / "token", new_token(vault))
    (tmp_path / "token").chmod(0o644)
    with (
        CertificateStore(with_token_file(vault, tmp_path / "token"), clock=system_clock) as store,
        pytest.warns(ReadableByOthers, match="chmod 600"),
    ):
        assert store.read(where) is None


def test_no_secret_is_told(vault: Vault, meddler: Meddler, where: Location, caplog: pytest.LogCaptureFixture) -> None:
    """Neither token nor secret ID is in logs, errors, their causes and frames, or what the store says of itself."""
    caplog.set_level(logging.DEBUG)
    told: list[str] = []
    store = CertificateStore(meddler.settings(vault.settings), clock=system_clock, patience=IMPATIENT)
    with store:
        for fault in (Fault("POST", "drop", executed=True), Fault("POST", 500, executed=True)):
            meddler.faults += [fault]
            with pytest.raises(VaultUnavailable) as at_login:
                store.read(where)
            told += _all_of(at_login.value)
        told += [repr(check) for check in store.check(where)]
        token = held(store)
        meddler.faults += [Fault("POST", "drop", executed=True)] * IMPATIENT.attempts
        with pytest.raises(VaultUnavailable) as at_write:
            store.publish(where, RECORD, operation="op-1")
        told += [*_all_of(at_write.value), repr(store), repr(store._connection), repr(store._connection._grant)]
    meddler.faults.clear()
    told += [record.getMessage() for record in caplog.records]
    assert any("trying again" in line for line in told)
    for secret in (token, secret_id_of(vault)):
        assert [line for line in told if secret in line] == []


def _all_of(exc: BaseException) -> list[str]:
    """Everything that a handler could print of an exception, local variables of all frames of its causes included."""
    told = [str(exc), repr(exc), repr(vars(exc))]
    seen: BaseException | None = exc
    while seen is not None:
        stack = traceback.TracebackException.from_exception(seen, capture_locals=True).stack
        told += [line for frame in stack if frame.filename != __file__ for line in [str(frame.locals)]]
        seen = seen.__cause__ or seen.__context__
    return told


def test_warnings_are_errors_here() -> None:
    """The suite notices what hvac deprecates."""
    with pytest.raises(DeprecationWarning):
        warnings.warn("x", DeprecationWarning, stacklevel=1)
