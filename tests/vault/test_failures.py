"""The table from the libraries' exceptions to ours: complete, in people's words, and without secrets."""

from __future__ import annotations

import inspect
import socket
import threading
from typing import TYPE_CHECKING

import hvac.exceptions
import msgspec
import pytest
import requests
import urllib3

from varmenne.clock import system_clock
from varmenne.domain.identifiers import Channel, CustomerId, Environment
from varmenne.errors import ConfigError, VarmenneError, VaultConflict, VaultDenied, VaultError, VaultUnavailable
from varmenne.settings import LoginSettings, VaultSettings
from varmenne.testbench.openbao import OpenBaoServer, provision
from varmenne.vault import CertificateStore, Patience
from varmenne.vault.failures import BY_CLASS, BY_STATUS, BY_WORDS, LIBRARY_ERRORS, error_of, failure_of, scrubbed
from varmenne.vault.wire import new_client

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.openbao import Vault

HVAC = [cls for _, cls in inspect.getmembers(hvac.exceptions, inspect.isclass) if issubclass(cls, Exception)]
REQUESTS = [
    cls
    for _, cls in inspect.getmembers(requests.exceptions, inspect.isclass)
    if issubclass(cls, requests.RequestException)
]
ROWS = [*BY_CLASS.values(), *BY_STATUS.values(), *(row for _, row in BY_WORDS)]

ONCE = Patience(attempts=1)


def test_every_exception_of_hvac_has_a_row_of_its_own() -> None:
    """An exception that a new hvac brings makes this fail, before it reaches anybody."""
    assert {cls for cls in HVAC if cls not in BY_CLASS} == set()


@pytest.mark.parametrize("cls", [*HVAC, *REQUESTS, urllib3.exceptions.HTTPError, OSError, ValueError])
def test_every_library_error_becomes_ours(cls: type[Exception]) -> None:
    """Whatever hvac, requests, urllib3 or the system raise is caught and has words."""
    exc = cls("words", "", 0) if issubclass(cls, requests.exceptions.JSONDecodeError) else cls("words")
    assert issubclass(cls, LIBRARY_ERRORS)
    error = error_of(exc, "reading", "http://vault.example")
    assert isinstance(error, VaultError)
    assert error.facts["doing"] == "reading"
    assert "(reading)" in error.what


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.what)
def test_rows_are_consistent(row: object) -> None:
    """What is tried again is what may pass; and all but a conflict tell what to do."""
    failure = row
    assert failure.retry <= issubclass(failure.error, VaultUnavailable)  # type: ignore[attr-defined]
    assert failure.next_step or failure.error is VaultConflict  # type: ignore[attr-defined]
    assert failure.executed <= failure.retry  # type: ignore[attr-defined]


def test_tls_failures_are_not_taken_for_lost_connections() -> None:
    """Requests makes them a kind of ConnectionError, but trying again does not make a certificate valid."""
    assert not failure_of(requests.exceptions.SSLError("x")).retry
    assert failure_of(requests.exceptions.ConnectionError("x")).retry


def test_a_status_that_hvac_lumps_together_is_told_apart() -> None:
    """412 and 405 are the same class of hvac; our adapter adds the status."""
    lagging, unsupported = hvac.exceptions.UnexpectedError("x"), hvac.exceptions.UnexpectedError("x")
    lagging.status, unsupported.status = 412, 405
    assert failure_of(lagging).retry
    assert not failure_of(unsupported).retry


def test_scrubbing_takes_request_and_answer_away() -> None:
    """The request holds our token in a header, the login's also the secret ID in its body."""
    request = requests.Request("POST", "http://vault.example", headers={"X-Vault-Token": "s.secret"}).prepare()
    inner = requests.exceptions.ConnectionError("inner", request=request)
    outer = requests.exceptions.ReadTimeout("outer", request=request)
    outer.__cause__ = inner
    assert scrubbed(outer) is outer
    assert (outer.request, inner.request) == (None, None)


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    """A file with something like a token, readable by its owner only."""
    file = tmp_path / "token"
    file.touch(0o600)
    file.write_text("s.token-of-the-test")
    return file


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that takes connections and never says anything."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.fixture
def babble() -> Iterator[int]:
    """A port that answers everything with words that are neither TLS nor HTTP, and hangs up."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(1000)
                    connection.sendall(b"220 mail.example ESMTP\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def failing(token_file: Path, **changes: object) -> VarmenneError:
    """Read with settings that cannot work, and return the error."""
    settings = VaultSettings(
        address="http://127.0.0.1:1",
        login=LoginSettings(token_file=str(token_file)),
        connect_timeout_seconds=0.5,
        read_timeout_seconds=0.5,
    )
    with CertificateStore(msgspec.structs.replace(settings, **changes), clock=system_clock, patience=ONCE) as store:
        where = store.location(Environment.TEST, CustomerId("1234567-8"), Channel.WS)
        found = store.check(where)
        assert (found[-1].name, found[-1].verdict.value) == ("reachable", "fail")
        assert found[-1].next_step
        with pytest.raises(VarmenneError) as early:
            store.preflight(where)
        with pytest.raises(VarmenneError) as caught:
            store.read(where)
        assert type(early.value) is type(caught.value)
    assert "s.token-of-the-test" not in repr([caught.value, early.value, caught.value.facts, found])
    return caught.value


def test_nobody_listens(token_file: Path) -> None:
    """A refused connection is an outage that may pass, and certainly nothing was done."""
    error = failing(token_file)
    assert isinstance(error, VaultUnavailable)
    assert (error.what.startswith("Vault cannot be reached"), error.why) == (True, "Connection refused")
    assert "executed" not in error.facts


def test_the_name_is_unknown(token_file: Path) -> None:
    """A name that does not resolve is told as such."""
    error = failing(token_file, address="http://vault.invalid:8200")
    assert isinstance(error, VaultUnavailable)
    assert error.what.startswith("Vault cannot be reached")


def test_nobody_answers(token_file: Path, silent: int) -> None:
    """The time limit of the settings ends the wait."""
    error = failing(token_file, address=f"http://127.0.0.1:{silent}")
    assert isinstance(error, VaultUnavailable)
    assert error.what.startswith("Vault did not answer in time")


def test_tls_to_a_port_without_tls(token_file: Path, babble: int) -> None:
    """https:// to a port that does not speak TLS is a mistake in the settings, and not tried again."""
    error = failing(token_file, address=f"https://127.0.0.1:{babble}")
    assert not error.transient
    assert "does not speak TLS" in error.what


def test_http_to_something_else(token_file: Path, babble: int) -> None:
    """A server that does not speak HTTP gives an error of ours."""
    assert isinstance(failing(token_file, address=f"http://127.0.0.1:{babble}"), VaultError)


@pytest.mark.parametrize("content", [None, "this is not PEM"])
def test_the_ca_file_is_unusable(token_file: Path, tmp_path: Path, content: str | None) -> None:
    """A CA file that is missing or is none is named, before anything is sent."""
    ca_file = tmp_path / "ca.pem"
    if content is not None:
        ca_file.write_text(content)
    error = failing(token_file, address="https://127.0.0.1:1", ca_file=str(ca_file))
    assert isinstance(error, ConfigError)
    assert str(ca_file) in error.what


def test_an_address_that_is_none(token_file: Path) -> None:
    """An address that cannot be parsed is a refusal, not a traceback."""
    assert isinstance(failing(token_file, address="http://[::1"), VaultError)


def test_an_unknown_namespace(vault: Vault) -> None:
    """A namespace that does not exist is told as such, not as a wrong secret ID."""
    settings = msgspec.structs.replace(vault.settings, namespace="nowhere")
    with CertificateStore(settings, clock=system_clock, patience=ONCE) as store:
        where = store.location(Environment.TEST, CustomerId("1234567-8"), Channel.WS)
        with pytest.raises(VaultError, match="namespace"):
            store.preflight(where)


def test_an_unknown_mount_is_denied_or_absent(vault: Vault) -> None:
    """Vault does not tell a stranger whether a mount exists; neither do we pretend to know."""
    settings = msgspec.structs.replace(vault.settings, mount="nowhere")
    with CertificateStore(settings, clock=system_clock, patience=ONCE) as store:
        where = store.location(Environment.TEST, CustomerId("1234567-8"), Channel.WS)
        with pytest.raises(VaultDenied, match="no mount nowhere"):
            store.publish(where, {"a": 1}, operation="op-1")
        assert [check.verdict.value for check in store.check(where)] == ["ok", "ok", "fail"]


def test_the_surroundings_have_no_say(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxies, CA bundles, netrc and Vault's own variables in the environment do not change where we go or as whom."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere")
    monkeypatch.setenv("VAULT_TOKEN", "s.from-the-environment")
    monkeypatch.setenv("VAULT_ADDR", "http://127.0.0.1:1")
    assert new_client(vault.settings).token == ""
    with CertificateStore(vault.settings, clock=system_clock, patience=ONCE) as store:
        where = store.location(Environment.TEST, CustomerId("1234567-8"), Channel.WS)
        assert store.publish(where, {"a": 1}, operation="op-1") == 1


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[OpenBaoServer, VaultSettings]]:
    """Run a server with TLS, and settings for it."""
    folder = tmp_path_factory.mktemp("bao")
    with OpenBaoServer(folder, tls=True) as server:
        yield server, provision(server, secret_id_file=folder / "secret-id")


def test_tls_with_the_right_ca(tls_server: tuple[OpenBaoServer, VaultSettings]) -> None:
    """The control for the refusals below."""
    with CertificateStore(tls_server[1], clock=system_clock, patience=ONCE) as store:
        where = store.location(Environment.TEST, CustomerId("1234567-8"), Channel.WS)
        assert store.publish(where, {"a": 1}, operation="op-1") == 1


def test_a_ca_that_did_not_sign_the_certificate(
    tls_server: tuple[OpenBaoServer, VaultSettings], tmp_path: Path
) -> None:
    """Neither another CA nor the system's is enough, it is not tried again, and no secret is sent."""
    with OpenBaoServer(tmp_path, tls=True) as other:
        for ca_file in (other.ca_file, ""):
            settings = msgspec.structs.replace(tls_server[1], ca_file=ca_file)
            with CertificateStore(settings, clock=system_clock) as store:
                where = store.location(Environment.TEST, CustomerId("1234567-8"), Channel.WS)
                with pytest.raises(VaultError, match="not trusted") as caught:
                    store.read(where)
            assert not caught.value.transient
            assert "vault.ca_file" in caught.value.next_step


def test_a_certificate_for_another_name(tls_server: tuple[OpenBaoServer, VaultSettings]) -> None:
    """A server with a good certificate under a wrong name is not the one that we want."""
    address = tls_server[1].address.replace("127.0.0.1", "localhost")
    settings = msgspec.structs.replace(tls_server[1], address=address)
    with CertificateStore(settings, clock=system_clock, patience=ONCE) as store:
        where = store.location(Environment.TEST, CustomerId("1234567-8"), Channel.WS)
        with pytest.raises(VaultError, match="not trusted"):
            store.preflight(where)


def test_http_to_a_port_with_tls(tls_server: tuple[OpenBaoServer, VaultSettings]) -> None:
    """http:// to a TLS port is a mistake in the settings, told before a secret is sent in clear."""
    settings = msgspec.structs.replace(
        tls_server[1], address=tls_server[1].address.replace("https:", "http:"), ca_file=""
    )
    with CertificateStore(settings, clock=system_clock, patience=ONCE) as store:
        where = store.location(Environment.TEST, CustomerId("1234567-8"), Channel.WS)
        with pytest.raises(VaultError, match="speaks TLS") as caught:
            store.preflight(where)
    assert not caught.value.transient
