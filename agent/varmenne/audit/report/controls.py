"""What a report can be evidence for: one table of controls, each with its proof and its gaps. Never compliance.

Sources: DORA RTS (EU) 2024/1774 article 7; NIS2 implementing regulation (EU) 2024/2690, annex, 9.2(c); PCI DSS 4.0.1;
NIST SP 800-57 part 1; ISO/IEC 27001:2022 annex A. What they ask for is told in our own words.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

from varmenne.audit.inventory import Inventory, Kind, LogFacts
from varmenne.audit.report.language import Texts
from varmenne.domain.concerns import Reason

_LOG: Final = (
    *("broken-log", "unlogged-key", "unlogged-row", "changed-row", "missing-row"),
    *(Kind.NO_CHECKPOINT, Kind.UNCOVERED, Kind.NOT_ANCHORED, Kind.NO_WITNESS),
)
_TOKEN: Final = (
    *(Kind.UNFIT, Kind.SOFTWARE, Kind.DEVIATION, Kind.NO_PROBE, Kind.KEYS_UNSEEN),
    *("unfit-key", "changed-attributes", "other-key", "missing-key", "orphan", "shared-id", "second-token"),
)
_REGISTER: Final = (
    *("parked-key", "missing-certificate", "other-certificate", "contradiction", "missing-record"),
    *("vault-behind", "vault-differs", Kind.NO_CONTACT, Kind.VAULT_UNSEEN),
)
_RENEWAL: Final = (Reason.EXPIRED, Reason.ORDER, Reason.RENEWAL_FAILING, Reason.RENEW, Reason.REHEARSAL)


@dataclass(frozen=True, slots=True)
class Control:
    """One line of the table.

    Attributes:
        key: names its texts: what it asks for, what the evidence is, and which gap there always is.
        framework: the act or standard.
        reference: the place in it.
        section: the section of the report that has the evidence.
        gaps: exceptions that weaken the evidence, where there are any.
    """

    key: str
    framework: str
    reference: str
    section: str
    gaps: tuple[str, ...]


_DORA, _NIS2, _PCI = "DORA RTS (EU) 2024/1774", "NIS2 (EU) 2024/2690, annex", "PCI DSS 4.0.1"
_NIST, _ISO = "NIST SP 800-57 part 1", "ISO/IEC 27001:2022"

CONTROLS: Final = (
    Control("dora-7-1", _DORA, "Art. 7(1)", "timelines", _LOG),
    Control("dora-7-2", _DORA, "Art. 7(2)", "custody", _TOKEN),
    Control("dora-7-3", _DORA, "Art. 7(3)", "dates", _RENEWAL),
    Control("dora-7-4", _DORA, "Art. 7(4)", "inventory", _REGISTER),
    Control("dora-7-5", _DORA, "Art. 7(5)", "dates", _RENEWAL),
    Control("nis2-lifecycle", _NIS2, "9.2(c)", "inventory", (*_TOKEN, *_REGISTER)),
    Control("nis2-logging", _NIS2, "9.2(c)", "timelines", _LOG),
    Control("nis2-dates", _NIS2, "9.2(c)", "timelines", _LOG),
    Control("pci-inventory", _PCI, "4.2.1.1", "inventory", _REGISTER),
    Control("pci-review", _PCI, "12.3.3", "inventory", _REGISTER),
    Control("nist-states", _NIST, "7", "timelines", _LOG),
    Control("nist-destroy", _NIST, "7, 8.3.4", "timelines", (*_LOG, "not-destroyed", Kind.SOFTWARE)),
    Control("iso-crypto", _ISO, "A.8.24", "inventory", (*_TOKEN, *_REGISTER)),
)


@dataclass(frozen=True, slots=True)
class Evidence:
    """A control with what this inventory has for it, in one language."""

    control: Control
    asks: str
    evidence: str
    proof: str
    gaps: tuple[str, ...]


def evidence(inventory: Inventory, t: Texts) -> tuple[Evidence, ...]:
    """Return the table for an inventory."""
    found = Counter(finding.kind for finding in inventory.findings)
    proof = _proof(inventory.log, t)
    return tuple(
        Evidence(
            control,
            asks=t(f"control.{control.key}.asks"),
            evidence=t(f"control.{control.key}.evidence"),
            proof=proof,
            gaps=(
                t(f"control.{control.key}.gap"),
                *(t("gap_count", what=t(f"kind.{kind}"), number=found[kind]) for kind in control.gaps if found[kind]),
            ),
        )
        for control in CONTROLS
    )


def _proof(log: LogFacts, t: Texts) -> str:
    """Say what of the log proves the rows."""
    if not log.size:
        return t("proof_empty")
    if log.note is None:
        return t("proof_unsigned", origin=log.origin, last=log.size - 1)
    last = min(log.size, log.checkpoint_size) - 1
    return t("proof_signed", origin=log.origin, last=last, size=log.checkpoint_size, root=log.checkpoint_root)
