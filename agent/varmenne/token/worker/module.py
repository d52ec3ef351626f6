"""A PKCS#11 module: initialised by hand, because python-pkcs11 does not do it as we need it.

The library calls ``C_Initialize(NULL)``, which means "no locking" (SoftHSM and openCryptoki were seen to crash and to
damage their store under threads) and leaves no way to pass the parameter that NSS needs. So the function list is
fetched with ctypes, and ``C_Initialize``, ``C_GetInfo``, ``C_InitToken`` and ``C_Finalize`` are called through it; all
the rest goes through the library, which gets the same, already initialised module.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import TYPE_CHECKING

from varmenne.errors import TokenError, TokenUnavailable
from varmenne.token.worker.failures import code

if TYPE_CHECKING:
    from pkcs11 import _pkcs11
    from pkcs11.types import Slot

_CKF_OS_LOCKING_OK = 0x2
_CKR_OK = 0x0
_CKR_ARGUMENTS_BAD = 0x7
_CKR_CANT_LOCK = 0xA

_INITIALIZE_FAILURES = {
    0x2: "CKR_HOST_MEMORY",
    0x5: "CKR_GENERAL_ERROR",
    0x6: "CKR_FUNCTION_FAILED",
    0x9: "CKR_NEED_TO_CREATE_THREADS",
    0xA: "CKR_CANT_LOCK",
    0x191: "CKR_CRYPTOKI_ALREADY_INITIALIZED",
}
"""What ``C_Initialize`` may return (PKCS#11 2.40, 5.4), besides the two that are looked for."""

_C_INITIALIZE, _C_FINALIZE, _C_GET_INFO, _C_INIT_TOKEN = 0, 1, 2, 9
"""Positions in ``CK_FUNCTION_LIST`` (PKCS#11 2.40, 5.2), behind its version."""


class _Version(ctypes.Structure):
    """``CK_VERSION``."""

    _fields_ = (("major", ctypes.c_ubyte), ("minor", ctypes.c_ubyte))


class _Info(ctypes.Structure):
    """``CK_INFO``."""

    _fields_ = (
        ("cryptoki_version", _Version),
        ("manufacturer", ctypes.c_char * 32),
        ("flags", ctypes.c_ulong),
        ("description", ctypes.c_char * 32),
        ("library_version", _Version),
    )


class _FunctionList(ctypes.Structure):
    """The beginning of ``CK_FUNCTION_LIST``: version and the first functions."""

    _fields_ = (("version", _Version), ("functions", ctypes.c_void_p * (_C_INIT_TOKEN + 1)))


class _InitializeArguments(ctypes.Structure):
    """``CK_C_INITIALIZE_ARGS``, as NSS extends it: ``pReserved`` is followed by a word of NSS, which others ignore."""

    _fields_ = (
        ("mutex_functions", ctypes.c_void_p * 4),
        ("flags", ctypes.c_ulong),
        ("parameters", ctypes.c_char_p),
        ("reserved", ctypes.c_void_p),
    )


class Module:
    """One loaded and initialised module; there is one in the life of a worker process.

    Raises:
        TokenUnavailable: there is no such file, it cannot be loaded, or it does not initialise.
        TokenError: it is not a PKCS#11 module, or it needs ``init_parameters``.
    """

    def __init__(self, path: str, init_parameters: str = "") -> None:
        self._path = path
        self._list = self._load()
        # NOTE: NSS keeps pointers into the parameters, so they live as long as the module.
        self._parameters = init_parameters.encode() or None
        self._initialize()
        self.library = self._describe()
        self._binding = self._bind()

    def slots(self) -> list[Slot]:
        """Return the slots that hold a token."""
        return list(self._binding.get_slots(token_present=True))

    def init_token(self, slot: int, so_pin: str, label: str) -> None:
        """Initialise the token in a slot: everything in it is destroyed (``C_InitToken``).

        Raises:
            TokenError: the token refused.
        """
        pin = so_pin.encode()
        padded = label.encode().ljust(32, b" ")
        result = self._call(
            _C_INIT_TOKEN,
            ctypes.c_ulong(slot),
            ctypes.c_char_p(pin),
            ctypes.c_ulong(len(pin)),
            ctypes.c_char_p(padded),
        )
        if result != _CKR_OK:
            raise TokenError("The token could not be initialised", why=f"C_InitToken returned {result:#x}")

    def finalize(self) -> None:
        """Tell the module that it is no longer needed; sessions and logins end with it."""
        self._call(_C_FINALIZE, None)

    def _load(self) -> ctypes.Array[ctypes.c_void_p]:
        """Load the shared library and fetch its function list."""
        if "/" in self._path and not Path(self._path).is_file():
            raise TokenUnavailable(
                f"There is no PKCS#11 module {self._path}",
                next_step="Correct token.module in the settings, or install the token's software",
                module=self._path,
            )
        try:
            shared = ctypes.CDLL(self._path)
        except OSError as exc:
            raise TokenUnavailable(
                f"The PKCS#11 module {self._path} cannot be loaded", why=str(exc), module=self._path
            ) from exc
        pointer = ctypes.POINTER(_FunctionList)()
        try:
            result = shared.C_GetFunctionList(ctypes.byref(pointer))
        except AttributeError as exc:
            raise TokenError(
                f"{self._path} is not a PKCS#11 module", why="it has no C_GetFunctionList", module=self._path
            ) from exc
        if result != _CKR_OK or not pointer:
            raise TokenUnavailable(f"The PKCS#11 module {self._path} gives no functions", why=f"code {result:#x}")
        functions: ctypes.Array[ctypes.c_void_p] = pointer.contents.functions
        return functions

    def _call(self, position: int, *arguments: object) -> int:
        """Call a function of the list and return its return code."""
        address = self._list[position]
        prototype = ctypes.CFUNCTYPE(ctypes.c_ulong, *(_argument_type(argument) for argument in arguments))
        return int(prototype(address)(*arguments))  # type: ignore[arg-type]  # an address, as c_void_p arrays give it

    def _initialize(self) -> None:
        """Call ``C_Initialize`` with the operating system's locks, or without where the module cannot have them."""
        for flags in (_CKF_OS_LOCKING_OK, 0):
            arguments = _InitializeArguments(flags=flags, parameters=self._parameters)
            result = self._call(_C_INITIALIZE, ctypes.pointer(arguments))
            if result != _CKR_CANT_LOCK:
                break
        if result == _CKR_ARGUMENTS_BAD:
            raise TokenError(
                f"The PKCS#11 module {self._path} does not initialise",
                why="it does not accept the parameters (CKR_ARGUMENTS_BAD)",
                next_step="NSS softokn needs token.init_parameters in the settings",
                module=self._path,
            )
        if result != _CKR_OK:
            raise TokenUnavailable(
                f"The PKCS#11 module {self._path} does not initialise",
                why=f"C_Initialize returned {_INITIALIZE_FAILURES.get(result, hex(result))}",
                next_step="Check that the token's daemon runs and that token.environment has what the module needs",
                module=self._path,
            )

    def _describe(self) -> str:
        """Return the library's manufacturer, description and version."""
        info = _Info()
        if self._call(_C_GET_INFO, ctypes.pointer(info)) != _CKR_OK:
            return ""
        words = [raw.decode("utf-8", errors="replace").strip() for raw in (info.manufacturer, info.description)]
        return " ".join([*words, f"{info.library_version.major}.{info.library_version.minor}"])

    def _bind(self) -> _pkcs11.lib:
        """Give the module to python-pkcs11 without letting it initialise again, which its ``__init__`` would.

        p11-kit's client gives everybody who asks a function list with a state of its own, so that there the library's
        own list is still to be initialised.
        """
        from pkcs11 import _pkcs11, exceptions

        binding = _pkcs11.lib.__new__(_pkcs11.lib, self._path)  # type: ignore[call-arg]  # a Cython class loads there
        try:
            binding.get_slots()
        except exceptions.PKCS11Error as exc:
            if code(exc) == "CKR_CRYPTOKI_NOT_INITIALIZED":
                binding.initialize()
        return binding


def _argument_type(argument: object) -> type:
    """Return the ctypes type by which an argument is passed."""
    return ctypes.c_void_p if argument is None else type(argument)
