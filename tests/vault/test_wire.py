"""The client's manners: no redirect off TLS, reading what was written, and an end to all patience."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
import requests

from varmenne.vault import Patience
from varmenne.vault.wire import InsecureRedirect, new_client

if TYPE_CHECKING:
    from harness.openbao import Vault


def answer(url: str, status: int, **headers: str) -> requests.Response:
    """An answer as requests hands it to hooks."""
    made = requests.Response()
    made.url, made.status_code = url, status
    made.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    return made


def hooked(vault: Vault, response: requests.Response) -> requests.Session:
    """Put an answer through the hooks of a new client, and return its session."""
    client = new_client(vault.settings)
    session: requests.Session = client.session
    for hook in session.hooks["response"]:
        hook(response)
    session.close()
    return session


def test_a_redirect_off_tls_is_refused(vault: Vault) -> None:
    """Requests would send our token along, in clear."""
    with pytest.raises(InsecureRedirect):
        hooked(vault, answer("https://a.example/v1/x", 307, Location="http://b.example/v1/x"))


@pytest.mark.parametrize("target", ["https://b.example/v1/x", "/v1/x", "//b.example/v1/x"])
def test_a_redirect_that_stays_on_tls_is_followed(vault: Vault, target: str) -> None:
    """A standby that cannot forward leads us to the active node."""
    hooked(vault, answer("https://a.example/v1/x", 307, Location=target))


def test_the_state_that_we_have_seen_is_sent_back(vault: Vault) -> None:
    """A standby that lags behind then passes the request on, so that we read what we have written."""
    session = hooked(vault, answer("https://a.example/v1/x", 200, X_Vault_Index="state-7"))
    assert session.headers["X-Vault-Index"] == "state-7"
    assert session.headers["X-Vault-Inconsistent"] == "forward-active-node"


def test_patience_ends_by_number() -> None:
    """Waits double, are cut by chance to half at most, and there is one less than tries."""
    waits = list(Patience(attempts=5, first_wait_seconds=1, longest_wait_seconds=4, total_seconds=100).waits())
    assert len(waits) == 4
    for wait, longest in zip(waits, (1, 2, 4, 4), strict=True):
        assert longest / 2 <= wait <= longest


def test_patience_ends_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """No try is begun after the total time, however many are left."""
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    waits = Patience(attempts=1000, total_seconds=10).waits()
    next(waits)
    now += 11
    assert list(waits) == []
