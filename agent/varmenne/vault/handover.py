"""One-time credentials on their way from the person who got the mail to the agent that spends them.

The person wraps them (:func:`hand_over`), and only whoever has the wrapping token can open them, once. The agent looks
the token up early, which consumes nothing, and opens it at the last moment (:class:`HandedOver`).
"""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from varmenne.domain.credentials import LIFETIME, Credentials, parse_credentials
from varmenne.errors import InputError, VaultDenied, VaultUnavailable
from varmenne.vault import wrapping
from varmenne.vault.connection import Connection, Patience
from varmenne.vault.login import GivenToken
from varmenne.vault.policies import needs_policy

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from varmenne.clock import Clock
    from varmenne.domain.secret import Secret
    from varmenne.settings import VaultSettings

Answer = TypeVar("Answer")

FROM_THE_MAIL = "Put them there again from the mail: varmenne credentials put --to FILE"
"""What helps when they were opened and not sent: who put them there has the mail still."""


def hand_over(
    connection: Connection, credentials: Credentials, now: datetime, ttl: timedelta
) -> tuple[Secret, datetime]:
    """Wrap credentials and return the wrapping token, and when its time is over: never later than theirs.

    Raises:
        InputError: the time is longer than credentials live, or they have expired.
        VaultError: Vault refuses.
    """
    if not timedelta(seconds=1) <= ttl <= LIFETIME:
        raise InputError(
            "The credentials cannot be kept for that long",
            why=f"they live {LIFETIME.days} days at most, and what is kept longer than needed is a risk",
        )
    credentials.refuse_expired(now)
    if credentials.valid_until is not None:
        ttl = min(ttl, credentials.valid_until - now)
    with needs_policy("credentials-writer"):
        return wrapping.wrap(connection, plain_values(credentials), max(1, int(ttl.total_seconds()))), now + ttl


def plain_values(credentials: Credentials) -> dict[str, str]:
    """Return credentials, password and all, as :func:`parse_credentials` reads them; for handing to Vault only."""
    values = {"transfer_id": str(credentials.transfer), "one_time_password": credentials.password.reveal()}
    if credentials.customer is not None:
        values["customer_id"] = credentials.customer
    if credentials.valid_until is not None:
        values["valid_until"] = credentials.valid_until.isoformat()
    return values


class HandedOver:
    """Credentials that wait in Vault; a callable that opens them. No login is needed: the token is the right.

    Args:
        settings: where Vault is.
        token: the wrapping token.
        clock: the time of day.
        opened: called when they have been opened, such as to remove the token's file. It may not fail: they are here.
    """

    def __init__(self, settings: VaultSettings, token: Secret, clock: Clock, opened: Callable[[], None]) -> None:
        self._connection = Connection(settings, clock, Patience(), GivenToken(token))
        self._token = token
        self._opened = opened

    def check(self) -> None:
        """Make sure that they are there, unopened, and were put there as such. Consumes nothing.

        Raises:
            VaultDenied: somebody has opened them, their time is over, or the token is another one.
            VaultError: Vault cannot be asked.
        """
        found = self._ask("looking for the credentials", lambda client: wrapping.look_up(client, self._token))
        wrapping.refuse_other_origin(found, wrapping.WRAP_PATH)

    def __call__(self) -> Credentials:
        """Open them. From now on nobody else can, and we cannot again.

        Raises:
            VaultDenied: somebody has opened them in the meantime.
            VaultUnavailable: Vault did not answer; they may be lost.
            VaultError: Vault refuses.
            InputError: what was wrapped are no credentials.
        """
        try:
            values = self._ask("opening the credentials", lambda client: wrapping.open_once(client, self._token))
        except VaultUnavailable as exc:
            lost = "executed" in exc.facts
            raise VaultUnavailable(
                exc.what,
                why=exc.why,
                next_step=f"They may have been opened all the same. {FROM_THE_MAIL}" if lost else exc.next_step,
                **exc.facts,
            ) from exc
        try:
            return parse_credentials(json.dumps(values))
        finally:
            self._opened()

    def _ask(self, doing: str, function: Callable[[Any], Answer]) -> Answer:
        """Ask Vault; what it says of a token that is spent is said in terms of the credentials."""
        try:
            return self._connection.anonymous(doing, function)
        except VaultDenied as exc:
            if exc.facts.get("reason") != "opened":
                raise
            raise VaultDenied(
                "ALARM: somebody has opened the one-time credentials before us, or their time in Vault is over",
                why="they can be opened once; Vault's audit log tells when and from where that was done",
                next_step="Nothing was sent. If their time was not over, somebody else knows them: have the service "
                "cancel the order, and find out who it was",
                **exc.facts,
            ) from exc
