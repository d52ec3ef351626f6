"""What an act works with and what it returns, and what several acts need: a CSR, and an answer that is proven."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from varmenne.csr import build_csr, to_pem
from varmenne.domain.enrollment import Enrollment, StoredAnswer
from varmenne.domain.steps import NOT_SENT, Method, State
from varmenne.enrollment import facts
from varmenne.enrollment.revoked import look_up_signer
from varmenne.errors import KeyNotFound, VarmenneError, VerificationError
from varmenne.service.answers import Answer, verify_answer
from varmenne.service.interface import Operation

if TYPE_CHECKING:
    from varmenne.domain.credentials import Credentials
    from varmenne.enrollment.parts import Parts

REQUESTS = {Method.API: Operation.SIGN_NEW, Method.RENEWAL: Operation.RENEW}
"""How an enrollment came about → the operation that its certificate is asked for by."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an act found.

    Attributes:
        target: the state that the enrollment is in now; its present one means "not yet".
        changes: values for the row.
        detail: facts for its history.
        told: a sentence for people.
        wait: when to look again, counted from now.
        error: what the caller is told after the outcome is durable.
    """

    target: State
    changes: Mapping[str, Any] = field(default_factory=dict)
    detail: Mapping[str, Any] = field(default_factory=dict)
    told: str = ""
    wait: timedelta | None = None
    error: VarmenneError | None = None


@dataclass(frozen=True, slots=True)
class Work:
    """What an act works with.

    Attributes:
        parts: journal, token, service and Vault.
        credentials: the one-time credentials, where a person has given them.
        warn: hears a sentence about what is unusual.
        before: the enrollment before a person ordered its request to be sent again; ``None`` for the first time.
        stopping: tells whether to park the enrollment before its next step.
        at_once: a person has ordered the certificate to be put to use now, whatever windows and channel say.
    """

    parts: Parts
    credentials: Credentials | None = None
    warn: Callable[[str], None] = lambda _sentence: None
    before: Enrollment | None = None
    stopping: Callable[[], bool] = lambda: False
    at_once: bool = False

    def not_sent(self, row: Enrollment, error: VarmenneError) -> Outcome:
        """Say that certainly nothing was sent: the enrollment is as it was before, and one try older."""
        state, sent_at = (State.KEYED, None) if self.before is None else (self.before.state, self.before.sent_at)
        detail = {**facts.problem(error), NOT_SENT: True}
        return Outcome(state, changes={"sent_at": sent_at, "tries": row.tries}, detail=detail, error=error)


def make_csr(work: Work, row: Enrollment) -> str:
    """Build the CSR, signed by the enrollment's key in the token, and return it in PEM."""
    key = work.parts.token.find(row.key_id)
    signer = work.parts.token.signer(row.key_id)
    if key is None or key.public_key != row.public_key or signer.public_key != row.public_key:
        raise KeyNotFound(
            f"The key {row.key_id.hex()} in the token is not the one that this enrollment made",
            next_step="Do not go on with this token: find out who changed it. `varmenne doctor` shows which one it is",
        )
    return to_pem(build_csr(signer, row.customer_id, row.customer_name))


def verified(work: Work, stored: StoredAnswer) -> Answer:
    """Verify a stored answer, look up whether its signer is revoked, and note the verdict beside it.

    Raises:
        VerificationError: it is not proven.
        NotFinished: the settings demand to know that the signer is not revoked, and it is not known.
    """
    try:
        answer = verify_answer(stored.body, Operation(stored.operation), work.parts.trust().services, work.parts.now)
        for warning in look_up_signer(work.parts, answer):
            work.warn(warning)
    except VerificationError as exc:
        work.parts.journal.judge_answer(stored, f"refused: {exc.check}")
        raise
    work.parts.journal.judge_answer(stored, "verified")
    return answer
