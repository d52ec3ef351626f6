"""Finds PKCS#11 modules that are installed on this computer, and the tokens in them."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from varmenne.token import messages as say
from varmenne.token.one_shot import ask_once

if TYPE_CHECKING:
    from varmenne.token.status import TokenStatus

_LIBRARIES: Final = f"/usr/lib/{platform.machine()}-linux-gnu"

WELL_KNOWN: Final = (
    "/usr/lib/softhsm/libsofthsm2.so",
    f"{_LIBRARIES}/softhsm/libsofthsm2.so",
    f"{_LIBRARIES}/pkcs11/libopencryptoki.so",
    f"{_LIBRARIES}/pkcs11/libtpm2_pkcs11.so",
    f"{_LIBRARIES}/libtpm2_pkcs11.so.1",
    f"{_LIBRARIES}/opensc-pkcs11.so",
    f"{_LIBRARIES}/pkcs11/opensc-pkcs11.so",
    f"{_LIBRARIES}/pkcs11/yubihsm_pkcs11.so",
    f"{_LIBRARIES}/libykcs11.so",
    "/usr/safenet/lunaclient/lib/libCryptoki2_64.so",
    "/opt/nfast/toolkits/pkcs11/libcknfast.so",
    "/opt/cloudhsm/lib/libcloudhsm_pkcs11.so",
    "/opt/utimaco/lib/libcs_pkcs11_R3.so",
)
"""Where Debian's packages and makers of HSMs put their modules. NSS softokn is left out: it gives keys away."""

_MODULE_CONFIGS: Final = ("/etc/pkcs11/modules", "/usr/share/p11-kit/modules")
_MODULE_FOLDER: Final = f"{_LIBRARIES}/pkcs11"
_NO_KEYS: Final = ("p11-kit-trust.so", "p11-kit-proxy.so")
"""Modules that hold no keys of their own."""


def find_modules(
    *, well_known: tuple[str, ...] = WELL_KNOWN, module_configs: tuple[str, ...] = _MODULE_CONFIGS
) -> tuple[Path, ...]:
    """Return the modules that are installed, each once, by well-known paths and the module configs of p11-kit.

    Nothing is loaded, so it is not established that they work.
    """
    found: dict[Path, Path] = {}
    for path in [*map(Path, well_known), *_configured(module_configs)]:
        if path.is_file() and path.name not in _NO_KEYS:
            found.setdefault(path.resolve(), path)
    return tuple(found.values())


def list_tokens(
    module: str,
    *,
    environment: Mapping[str, str] = {},
    init_parameters: str = "",
    timeout_seconds: float = 30.0,
) -> tuple[TokenStatus, ...]:
    """Return what the tokens of a module say of themselves, by a worker that lives only for this.

    Raises:
        TokenUnavailable: the module cannot be loaded, crashed, or did not answer in time.
        TokenError: it is not a PKCS#11 module, or needs ``init_parameters``.
    """
    setup = say.Setup(module=module, init_parameters=init_parameters)
    return ask_once(setup, say.ListTokens(), environment=environment, timeout_seconds=timeout_seconds)


def _configured(folders: tuple[str, ...]) -> Iterator[Path]:
    """Yield the modules that p11-kit is configured with (``pkcs11.conf(5)``), trust modules excepted."""
    for folder in folders:
        for config in sorted(Path(folder).glob("*.module")):
            try:
                lines = config.read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError):
                continue
            fields = dict(line.partition(":")[::2] for line in lines if not line.startswith("#"))
            name = fields.get("module", "").strip()
            if name and fields.get("trust-policy", "").strip() != "yes":
                yield Path(_MODULE_FOLDER) / name
