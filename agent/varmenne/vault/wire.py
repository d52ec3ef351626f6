"""The edge to hvac and requests: the only module that builds a client. Imported where it is used, since it is heavy.

A client takes nothing from its surroundings: no token from ``VAULT_TOKEN`` or ``~/.vault-token``, no proxy, no netrc,
no CA bundle of other tools. It verifies TLS always, has a time limit on every call, and never repeats one by itself.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

import hvac
import hvac.adapters
import requests

from varmenne import __version__
from varmenne.errors import ConfigError

if TYPE_CHECKING:
    from varmenne.domain.secret import Secret
    from varmenne.settings import VaultSettings

INDEX_HEADER = "X-Vault-Index"
"""State of the node that answered. Sent back, it makes a standby that lags behind pass the request on."""

MERGE_PATCH = "application/merge-patch+json"
"""RFC 7396; the only content type that Vault's KV takes for PATCH."""


class InsecureRedirect(requests.RequestException):
    """The server would lead a request, and the token in it, from HTTPS to plain HTTP."""


class Adapter(hvac.adapters.JSONAdapter):  # type: ignore[misc]  # hvac has no types
    """hvac's adapter, except that its exceptions tell the HTTP status: several share one class."""

    def _raise_for_error(self, method: str, url: str, response: requests.Response) -> None:
        """Raise hvac's exception with the attribute ``status``."""
        try:
            super()._raise_for_error(method, url, response)
        except hvac.exceptions.VaultError as exc:
            exc.status = response.status_code
            raise


def new_client(settings: VaultSettings, token: Secret | None = None) -> hvac.Client:
    """Return a client for the settings' address; close its ``adapter`` when done. Not for several threads at once.

    Raises:
        ConfigError: the CA file cannot be used.
    """
    verify = _trusted(settings)
    session = requests.Session()
    session.trust_env = False
    session.verify = verify
    session.headers["User-Agent"] = f"varmenne/{__version__}"
    session.hooks["response"] += [_refuse_insecure_redirect, _follow_state(session)]
    return hvac.Client(
        url=settings.address,
        token=token.reveal() if token else "",
        verify=verify,
        cert=_client_certificate(settings),
        timeout=(settings.connect_timeout_seconds, settings.read_timeout_seconds),
        session=session,
        namespace=settings.namespace or None,
        adapter=Adapter,
    )


def _trusted(settings: VaultSettings) -> str | bool:
    """Return what TLS trusts: the CA file of the settings, else the system's store, else the one of requests."""
    if not settings.ca_file:
        system = ssl.get_default_verify_paths()
        return system.cafile or system.capath or True
    if settings.address.startswith("https:"):
        try:
            ssl.create_default_context(cafile=settings.ca_file)
        except (OSError, ssl.SSLError) as exc:
            raise ConfigError(
                f"The CA file {settings.ca_file} of Vault cannot be used",
                why=str(exc) if Path(settings.ca_file).is_file() else "there is no such file",
                next_step="Set vault.ca_file to a PEM file of the CA that signed Vault's TLS certificate",
            ) from exc
    return settings.ca_file


def _client_certificate(settings: VaultSettings) -> tuple[str, str] | None:
    """Return the files of the TLS client certificate and its key, for the login by it.

    Raises:
        ConfigError: they cannot be used together. (An encrypted key would have OpenSSL ask on the terminal.)
    """
    login = settings.login
    if login.method != "cert":
        return None
    try:
        ssl.create_default_context().load_cert_chain(login.cert_file, login.cert_key_file, password="")
    except (OSError, ssl.SSLError) as exc:
        raise ConfigError(
            f"The TLS client certificate {login.cert_file} and its key {login.cert_key_file} cannot be used",
            why=exc.strerror or str(exc),
            next_step="Set vault.login.cert_file and cert_key_file to PEM files that belong together, not encrypted",
        ) from exc
    return login.cert_file, login.cert_key_file


def _refuse_insecure_redirect(response: requests.Response, *_: Any, **__: Any) -> None:
    """Let a standby lead us to the active node, but never off TLS: the token would go along in clear."""
    if response.is_redirect and urlsplit(response.url).scheme == "https":
        target = urljoin(response.url, response.headers["Location"])
        if urlsplit(target).scheme != "https":
            raise InsecureRedirect(f"redirected to {target}")


def _follow_state(session: requests.Session) -> Any:
    """Return a hook that lets this session always read what it has written, also from a standby that lags behind."""

    def hook(response: requests.Response, *_: Any, **__: Any) -> None:
        if index := response.headers.get(INDEX_HEADER):
            session.headers[INDEX_HEADER] = index
            session.headers["X-Vault-Inconsistent"] = "forward-active-node"

    return hook
