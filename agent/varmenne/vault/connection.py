"""A session with Vault: logs in when needed, keeps the token alive, translates every error, tries again within bounds.

The rules of a call, in order: a token is obtained or renewed if it is due. The call is made. If Vault answers 403, its
words do not tell a dead token from a policy: the token looks itself up, and only if that is refused too there is one
new login and one more try. What may pass by itself is tried again with growing, jittered waits until the patience ends.
"""

from __future__ import annotations

import logging
import random
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from varmenne.errors import VaultDenied
from varmenne.measure import Part, measured
from varmenne.vault.login import Grant, Login, Means, granted
from varmenne.vault.methods import METHODS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from varmenne.clock import Clock
    from varmenne.domain.keys import KeyId, Signer
    from varmenne.settings import VaultSettings

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

RENEW_BELOW = 1 / 3
"""A renewable token is renewed when less than this part of its life is left."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How often and how long a call is tried while its failure may pass by itself.

    Attributes:
        attempts: most tries.
        first_wait_seconds: wait after the first; it doubles from try to try. Each is cut by chance to half at most, so
            that many agents do not come back in step.
        longest_wait_seconds: longest wait.
        total_seconds: no new try is begun later than this after the first.
    """

    attempts: int = 6
    first_wait_seconds: float = 0.2
    longest_wait_seconds: float = 5.0
    total_seconds: float = 45.0

    def waits(self) -> Iterator[float]:
        """Yield the wait before each further try, until there shall be none."""
        end = time.monotonic() + self.total_seconds
        for attempt in range(self.attempts - 1):
            longest = min(self.longest_wait_seconds, self.first_wait_seconds * 2**attempt)
            wait = random.uniform(longest / 2, longest)  # noqa: S311 - not for cryptography
            if time.monotonic() + wait > end:
                return
            yield wait


class Connection:
    """One session of one process with Vault; not for several threads at once."""

    def __init__(
        self,
        settings: VaultSettings,
        clock: Clock,
        patience: Patience,
        login: Login | None = None,
        signer: Callable[[KeyId], Signer] | None = None,
    ) -> None:
        self.settings = settings
        self._clock = clock
        self._patience = patience
        self._login = METHODS[settings.login.method](settings.login, Means(clock, signer)) if login is None else login
        self._client_made: Any = None
        self._grant: Grant | None = None
        self._granted_at: datetime | None = None

    def close(self) -> None:
        """Revoke the token if it is ours, and close the connections. Never raises for what Vault says."""
        from varmenne.vault.failures import LIBRARY_ERRORS, error_of

        client, grant = self._client_made, self._grant
        self._client_made = self._grant = None
        if client is None:
            return
        try:
            if grant is not None and self._login.ours:
                client.auth.token.revoke_self()
                log.debug("Vault token revoked")
        except LIBRARY_ERRORS as exc:
            log.warning("The Vault token was not revoked and lives to its end: %s", error_of(exc, "revoking", ""))
        finally:
            client.token = ""
            client.adapter.close()

    def call(self, doing: str, function: Callable[[Any], Answer]) -> Answer:
        """Call ``function`` with a logged-in client of hvac and return what it returns.

        It is called again after failures that may pass, so it must be harmless to repeat: a read, or a write with
        check-and-set, of which only one can succeed.

        Args:
            doing: words for the error, such as "reading the record".
            function: what to do with the client.

        Raises:
            VaultUnavailable: sealed, unreachable or overloaded, until the patience ended. The fact ``executed`` is
                there if the last try may have been carried out.
            VaultDenied: the login or the policy refuses.
            VaultConflict: check-and-set failed.
            VaultError: anything else that Vault refuses, or a failure of TLS.
            ConfigError: settings or a secret's source cannot be used.
        """
        with measured(Part.VAULT, doing.partition(" ")[0]):  # The rest of the words names paths.
            return self._patiently(doing, lambda: self._authorised(function), login=False)

    def anonymous(self, doing: str, function: Callable[[Any], Answer]) -> Answer:
        """Call ``function`` once, with a client that has no token and shares nothing with the session.

        Raises:
            VaultError: the call failed, see :meth:`call`.
            ConfigError: the settings cannot be used.
        """
        from varmenne.vault.wire import new_client

        client = new_client(self.settings)
        try:
            return self._translated(doing, lambda: function(client))
        finally:
            client.adapter.close()

    def _patiently(self, doing: str, act: Callable[[], Answer], *, login: bool) -> Answer:
        """Do ``act`` again while its failure may pass; for a login only if it cannot have been carried out."""
        from varmenne.vault.failures import LIBRARY_ERRORS, error_of, failure_of, scrubbed

        waits = self._patience.waits()
        while True:
            try:
                return act()
            except LIBRARY_ERRORS as exc:
                failure, error = failure_of(exc), error_of(exc, doing, self.settings.address)
                wait = next(waits, None) if failure.retry and not (login and failure.executed) else None
                if wait is None:
                    raise error from scrubbed(exc)
                log.info("%s; trying again in %.1f s", error, wait)
            time.sleep(wait)

    def _translated(self, doing: str, act: Callable[[], Answer]) -> Answer:
        """Do ``act`` once and translate its failure."""
        from varmenne.vault.failures import LIBRARY_ERRORS, error_of, scrubbed

        try:
            return act()
        except LIBRARY_ERRORS as exc:
            raise error_of(exc, doing, self.settings.address) from scrubbed(exc)

    def _authorised(self, function: Callable[[Any], Answer]) -> Answer:
        """Call ``function`` with a valid token; after a 403, find out whether the token or the policy is the cause."""
        from hvac.exceptions import Forbidden

        self._keep_token()
        try:
            return function(self._client)
        except Forbidden:
            if self._token_lives():
                raise
        self._replace_token()
        return function(self._client)

    @property
    def _client(self) -> Any:
        """The client of this session, made at its first use."""
        if self._client_made is None:
            from varmenne.vault.wire import new_client

            self._client_made = new_client(self.settings)
        return self._client_made

    def _keep_token(self) -> None:
        """Log in if there is no token or the file has a newer one; renew ours when it is due."""
        if self._grant is None or self._login.changed():
            self._log_in()
        elif self._login.ours and self._grant.renewable and self._left() < self._grant.ttl_seconds * RENEW_BELOW:
            self._renew()

    def _left(self) -> float:
        """Return how many seconds the token has left, by our clock."""
        if self._grant is None or self._granted_at is None:
            return 0.0
        end = self._granted_at + timedelta(seconds=self._grant.ttl_seconds)
        return (end - self._clock()).total_seconds()

    def _log_in(self) -> None:
        """Obtain a token."""
        self._grant = None
        self._client.token = ""
        grant = self._patiently("logging in", lambda: self._login.obtain(self._client), login=True)
        self._hold(grant)
        log.info("Logged in to Vault by %s", self.settings.login.method)

    def _hold(self, grant: Grant) -> None:
        """Use a token from now on."""
        self._grant, self._granted_at = grant, self._clock()
        self._client.token = grant.token.reveal()

    def _renew(self) -> None:
        """Prolong our token. If that fails it is used to its end, and then the 403 leads to a new login."""
        from varmenne.vault.failures import LIBRARY_ERRORS, error_of

        try:
            self._hold(granted(self._client.auth.token.renew_self()))
        except LIBRARY_ERRORS as exc:
            log.warning("The Vault token was not renewed: %s", error_of(exc, "renewing the token", ""))
        else:
            log.debug("Vault token renewed")

    def _token_lives(self) -> bool:
        """Ask Vault about our token; only a refusal counts as dead."""
        from hvac.exceptions import Forbidden

        try:
            self._client.auth.token.lookup_self()
        except Forbidden:
            return False
        return True

    def _replace_token(self) -> None:
        """Log in again in place of a token that Vault no longer takes.

        Raises:
            VaultDenied: the token file still holds the dead token.
        """
        dead = self._grant
        self._log_in()
        if dead is not None and self._grant is not None and dead.token == self._grant.token:
            self._grant = None
            raise VaultDenied(
                f"Vault no longer takes the token {self._login.origin}",
                why="it has expired, was revoked, or never was one",
                next_step=self._login.next_step,
                reason="token",
            )
