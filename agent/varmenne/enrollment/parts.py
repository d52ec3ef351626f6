"""The parts that a use case works with, opened when first needed and closed together."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Self

from varmenne.clock import Clock, system_clock
from varmenne.service.trust import TrustAnchors, load_trust

if TYPE_CHECKING:
    from varmenne.domain.keys import KeyId, Signer
    from varmenne.journal import Journal
    from varmenne.journal.log import Head
    from varmenne.service.client import CertificateService
    from varmenne.settings import Settings
    from varmenne.token import Token
    from varmenne.vault import CertificateStore


class Parts:
    """Journal, token, service and Vault of one settings file. Use as a context manager."""

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Clock = system_clock,
        sleep: Callable[[float], None] = time.sleep,
        retry_pin: bool = False,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.sleep = sleep
        self._retry_pin = retry_pin
        self.signers_looked_up: dict[bytes, datetime] = {}
        """Certificate that signs the service's answers → when to look again whether it is revoked."""
        self.anchor_seen: str | None = None
        """Name under which the audit log was compared with its newest checkpoint in Vault."""
        self.last_signed: Head | None = None
        """How far the audit log had come when this process signed it last."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close whatever was opened."""
        for name in ("store", "service", "token", "journal"):
            part = self.__dict__.pop(name, None)
            if part is not None:
                part.close()

    def has(self, name: str) -> bool:
        """Tell whether one of the parts was opened."""
        return name in self.__dict__

    @property
    def now(self) -> datetime:
        """The present moment."""
        return self.clock()

    @functools.cached_property
    def journal(self) -> Journal:
        """Durable state."""
        from varmenne.journal import Journal

        return Journal(Path(self.settings.state_dir), self.settings.journal)

    @functools.cached_property
    def token(self) -> Token:
        """The PKCS#11 token; its worker process starts with the first call."""
        from varmenne.token import Token

        return Token(
            self.settings.token, state_dir=Path(self.settings.state_dir), clock=self.clock, retry_pin=self._retry_pin
        )

    @functools.cached_property
    def service(self) -> CertificateService:
        """The certificate service of the settings' environment."""
        from varmenne.service.client import CertificateService

        return CertificateService(self.settings.environment, self.settings.service)

    @functools.cached_property
    def store(self) -> CertificateStore:
        """Vault."""
        from varmenne.vault import CertificateStore

        return CertificateStore(self.settings.vault, clock=self.clock, signer=self._signer)

    def _signer(self, key_id: KeyId) -> Signer:
        """Return the signer of a key in the token, which is not opened unless a login to Vault needs it."""
        return self.token.signer(key_id)

    def trust(self) -> TrustAnchors:
        """Read the trust anchors of the settings' environment, valid at present."""
        return load_trust(self.settings.trust_dir, self.settings.environment, self.now)
