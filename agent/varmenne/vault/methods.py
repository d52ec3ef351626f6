"""The table of the ways to log in to Vault.

==============  =============================================  ====================  ==========
method          what it needs                                  the token belongs to  at close
==============  =============================================  ====================  ==========
``token-file``  a file that somebody else keeps fresh          its writer            left alone
``approle``     a role ID, and a secret ID, plain or wrapped   us                    revoked
``jwt``         a key in the PKCS#11 token, and nothing else   us                    revoked
``cert``        a TLS client certificate and its key, in files us                    revoked
``kubernetes``  the pod's service account token                us                    revoked
==============  =============================================  ====================  ==========
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from varmenne.vault.approle import AppRole
from varmenne.vault.identity import ClientCertificate, Kubernetes, SignedToken
from varmenne.vault.login import TokenFile

if TYPE_CHECKING:
    from collections.abc import Callable

    from varmenne.settings import LoginSettings
    from varmenne.vault.login import Login, Means

METHODS: dict[str, Callable[[LoginSettings, Means], Login]] = {
    "token-file": TokenFile,
    "approle": AppRole,
    "jwt": SignedToken,
    "cert": ClientCertificate,
    "kubernetes": Kubernetes,
}
"""``vault.login.method`` → how it is done."""
