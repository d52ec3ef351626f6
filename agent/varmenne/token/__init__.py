"""The PKCS#11 token: keys are born in it, sign in it, and are shown not to be able to leave it.

The module is loaded by a worker process only (:mod:`varmenne.token.worker`); this side speaks to it through a socket,
and holds neither the module nor the PIN. Importing this package does not import python-pkcs11.
"""

from varmenne.token.client import Token
from varmenne.token.discovery import find_modules, list_tokens
from varmenne.token.softhsm import CreatedToken, create_softhsm_token
from varmenne.token.status import TokenStatus

__all__ = [
    "CreatedToken",
    "Token",
    "TokenStatus",
    "create_softhsm_token",
    "find_modules",
    "list_tokens",
]
