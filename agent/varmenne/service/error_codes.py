"""What a signed refusal means for whoever asked. Codes and messages are kept as they came; this only adds advice.

The service's list of codes is not public: observed are ``PKI`` and three digits, in whatever language. The table holds
what has been seen, which so far is the test bench's own list, and it decides nothing by itself: no code makes varmenne
send one-time credentials again. A code that is not in the table is shown whole and left to a person, or, where asking
again is harmless, asked again.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from varmenne.service.interface import Operation


class Kind(StrEnum):
    """What can be done about a refusal."""

    PERMANENT = "permanent"
    """The same request will always be refused."""
    TRY_AGAIN = "try again"
    """It may pass by itself, and asking again is harmless."""
    ASK = "ask a person"
    """Nobody here knows."""


@dataclass(frozen=True, slots=True)
class Advice:
    """What a refusal means, and what to do."""

    kind: Kind
    next_step: str


NEW_ORDER = "Order a new certificate in the e-service; the old order serves as its template"
COMPARE = "Compare customer ID, transfer ID and one-time password with the mail"
UNKNOWN_CODE = Advice(
    Kind.ASK,
    "varmenne does not know this code. Compare customer ID, transfer ID and one-time password with the mail. The "
    "credentials may be spent: if they are, order a new certificate in the e-service. Otherwise ask its support",
)
UNKNOWN_RENEWAL = Advice(
    Kind.ASK,
    "varmenne does not know this code. Ask the service's support what stands in the way of the renewal; a new order in "
    "the e-service is always possible",
)
NOT_YET = Advice(Kind.TRY_AGAIN, "Ask again later: asking for a certificate spends nothing")

KNOWN: dict[str, Advice] = {
    "PKI001": Advice(Kind.TRY_AGAIN, "A passing fault of the service, by its own words. Try again later"),
    "PKI101": Advice(Kind.PERMANENT, "Check `environment` and `service.endpoint`: test and production are never mixed"),
    "PKI110": Advice(Kind.PERMANENT, COMPARE),
    "PKI111": Advice(Kind.PERMANENT, COMPARE),
    "PKI112": Advice(Kind.ASK, f"{COMPARE}. Do not guess: nobody knows how many tries there are"),
    "PKI113": Advice(Kind.PERMANENT, NEW_ORDER),
    "PKI114": Advice(Kind.PERMANENT, NEW_ORDER),
    "PKI120": Advice(Kind.PERMANENT, "A defect in varmenne or in the token: please report it with this answer"),
    "PKI121": Advice(Kind.PERMANENT, "A defect in varmenne or in the token: please report it with this answer"),
    "PKI122": Advice(Kind.PERMANENT, "The service takes RSA keys of 2048 bits only"),
    "PKI123": Advice(Kind.PERMANENT, "The token made a wrong signature: run `varmenne doctor`"),
    "PKI124": Advice(Kind.ASK, "This key has a certificate already: look for it with `varmenne list`"),
    "PKI130": Advice(Kind.ASK, "The service does not know the RetrievalId: ask its support what became of the order"),
    "PKI131": Advice(Kind.ASK, "The RetrievalId belongs to another customer: check the customer ID"),
    "PKI132": NOT_YET,
    "PKI143": Advice(Kind.PERMANENT, f"The certificate has expired and cannot be renewed. {NEW_ORDER}"),
    "PKI145": Advice(Kind.TRY_AGAIN, "Renewal is possible at the earliest 60 days before the certificate expires"),
    "PKI146": Advice(Kind.PERMANENT, f"The certificate is revoked and cannot be renewed. {NEW_ORDER}"),
}
"""Code → advice."""


def advice(operation: Operation, errors: tuple[tuple[str, str], ...]) -> Advice:
    """Return the most careful advice of a refusal's codes.

    Args:
        operation: what was asked; only getCertificate may always be repeated.
        errors: (code, message) pairs as they came.
    """
    known = [KNOWN.get(code) for code, _message in errors]
    for kind in (Kind.ASK, Kind.PERMANENT, Kind.TRY_AGAIN):
        if None in known:
            break
        for found in known:
            if found is not None and found.kind is kind:
                return found
    return {Operation.GET: NOT_YET, Operation.RENEW: UNKNOWN_RENEWAL}.get(operation, UNKNOWN_CODE)
