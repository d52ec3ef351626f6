"""What a token tells about itself before anybody logs in."""

from __future__ import annotations

from dataclasses import dataclass

from varmenne.domain.keys import TokenIdentity


@dataclass(frozen=True, slots=True)
class TokenStatus:
    """A token's own words (``CK_TOKEN_INFO``) and abilities, read without logging in.

    Attributes:
        identity: label, serial number and so on.
        slot: the slot's number, for diagnosis only: slot numbers move.
        initialized: the token has been initialised.
        pin_initialized: the user PIN has been set.
        pin_count_low: a wrong PIN was given since the last successful login.
        pin_final_try: one more wrong PIN locks the token.
        pin_locked: the PIN is locked.
        write_protected: nothing can be stored in the token.
        can_generate: it can make RSA key pairs of the size that varmenne needs.
        can_sign: it has a mechanism for RSASSA-PKCS1-v1_5 signatures that varmenne uses.
    """

    identity: TokenIdentity
    slot: int
    initialized: bool
    pin_initialized: bool
    pin_count_low: bool
    pin_final_try: bool
    pin_locked: bool
    write_protected: bool
    can_generate: bool
    can_sign: bool
