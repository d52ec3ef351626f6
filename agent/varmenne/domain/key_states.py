"""Where a key stands in its life, in the words of NIST SP 800-57 part 1, section 7, by the state of its enrollment.

A signature on a CSR is proof of possession, which a key may give before it is active.
"""

from __future__ import annotations

from enum import StrEnum

from varmenne.domain.steps import State


class KeyState(StrEnum):
    """The states of a key. ``NONE``: it was not made yet."""

    NONE = "none"
    PRE_ACTIVATION = "pre-activation"
    ACTIVE = "active"
    DEACTIVATED = "deactivated"
    DESTROYED = "destroyed"


KEY_STATES: dict[State, KeyState] = {
    State.PREPARED: KeyState.NONE,
    **dict.fromkeys(
        (
            State.KEYED,
            State.SUBMITTING,
            State.ACCEPTED,
            State.ISSUED,
            State.STORED,
            State.UNCERTAIN,
            State.REJECTED,
            State.EXPIRED,
            State.ABANDONED,
        ),
        KeyState.PRE_ACTIVATION,
    ),
    State.ACTIVE: KeyState.ACTIVE,
    State.SUPERSEDED: KeyState.ACTIVE,
    State.RETIRED: KeyState.DEACTIVATED,
    State.DESTROYED: KeyState.DESTROYED,
}
"""State of an enrollment → that of its key. A replaced certificate's key stays active through its grace."""
