"""Rehearses a renewal: everything that it will need is tried, with the live key, and nothing is sent or changed.

A lost PIN, a lost key, a policy that was tightened or trust anchors that are gone show months before they matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from varmenne.csr import build_csr
from varmenne.domain.check import Check, Verdict
from varmenne.domain.enrollment import Enrollment
from varmenne.domain.forms import iso
from varmenne.enrollment import facts
from varmenne.enrollment.preflight import probe, prove_token
from varmenne.enrollment.progress import Silent
from varmenne.errors import InputError, VarmenneError, VerificationError
from varmenne.service.renewal import verify_renewal

if TYPE_CHECKING:
    from varmenne.enrollment.parts import Parts


def rehearsed_request(parts: Parts, row: Enrollment) -> bytes:
    """Build and sign a real renewal request with the live key, and verify it. It asks for the same key again.

    Raises:
        InputError: the enrollment has no certificate.
        TokenError: the key cannot be used.
        VerificationError: what was signed does not verify.
    """
    if row.certificate is None:
        raise InputError(f"Enrollment {row.id} has no certificate yet")
    signer = parts.token.signer(row.key_id)
    certificate = facts.pem_to_der(row.certificate)
    csr = build_csr(signer, row.customer_id, row.customer_name)
    document = parts.service.renewal_document(
        row.customer_id, row.customer_name, csr, certificate=certificate, signer=signer
    )
    said = verify_renewal(document, certificate)
    if (said.environment, said.customer, said.csr) != (row.environment, row.customer_id, csr):
        raise VerificationError("The renewal request says something else than was ordered", check="content")
    return document


def rehearse(parts: Parts, row: Enrollment) -> Iterator[Check]:
    """Try all that the renewal of a certificate will need, and yield what was found. Nothing is sent or changed."""
    for name, tried in REHEARSED:
        try:
            yield Check(name, Verdict.OK, tried(parts, row))
        except VarmenneError as exc:
            yield Check(name, Verdict.FAIL, str(exc), exc.next_step)


def told(parts: Parts, found: list[Check]) -> dict[str, object]:
    """Return what a rehearsal found, in the form that the journal keeps."""
    failed = {check.name: check.detail for check in found if check.verdict is Verdict.FAIL}
    return {"at": iso(parts.now), "ok": not failed, "failed": failed}


def _request(parts: Parts, row: Enrollment) -> str:
    """Sign a request with the live key."""
    return f"signed by the key {row.key_id.hex()} and verified, {len(rehearsed_request(parts, row))} bytes"


def _token(parts: Parts, _row: Enrollment) -> str:
    """Prove, once a week for each token, that it lets no key out."""
    return f"{prove_token(parts, Silent()).label} lets no key out"


def _key(parts: Parts, row: Enrollment) -> str:
    """Try on the live key itself what its token must refuse."""
    refused = [line for line in probe(parts, row).results if line.outcome == "refused"]
    return f"{len(refused)} tries on the key {row.key_id.hex()} were refused"


def _trust(parts: Parts, row: Enrollment) -> str:
    """Read the trust anchors."""
    anchors = parts.trust()
    return f"{len(anchors.services)} for answers and {len(anchors.providers)} for certificates of {row.environment}"


def _service(parts: Parts, _row: Enrollment) -> str:
    """Greet the service."""
    greeting = parts.service.endpoint.greet()
    return f"{parts.service.endpoint.url} answers, {greeting.tls_version}"


def _vault(parts: Parts, row: Enrollment) -> str:
    """Ask Vault whether the records could be written."""
    place = facts.place(parts.settings, row.customer_id, row.channel)
    parts.store.preflight(place)
    return f"{place.path} may be written"


REHEARSED: tuple[tuple[str, Callable[[Parts, Enrollment], str]], ...] = (
    ("token", _token),
    ("live key", _key),
    ("request", _request),
    ("trust anchors", _trust),
    ("service", _service),
    ("vault", _vault),
)
"""What is tried, in this order; one that fails does not keep the others from being tried."""
