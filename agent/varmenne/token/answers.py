"""From a worker's answer to a value or to one of our errors."""

from __future__ import annotations

import warnings
from typing import Any, Final

import msgspec

from varmenne import errors
from varmenne.secret_sources import ReadableByOthers
from varmenne.token import messages as say

_ERRORS: Final[dict[str, type[errors.VarmenneError]]] = {
    cls.__name__: cls for cls in (*errors.family(errors.TokenError), errors.ConfigError, errors.InputError)
}
"""The errors that a worker may send."""


class Refused(Exception):
    """An answer that is a refusal, before it is put into one of our errors."""

    def __init__(self, failed: say.Failed) -> None:
        super().__init__(failed.what)
        self.failed = failed

    @property
    def error(self) -> errors.VarmenneError:
        """The error of our tree that this refusal stands for."""
        failed = self.failed
        kind = _ERRORS.get(failed.error, errors.TokenError)
        return kind(failed.what, why=failed.why, next_step=failed.next_step, **failed.facts)


def unpack(answer: say.Done | say.Failed, returns: Any) -> Any:
    """Return the value of an answer as the type that the verb promises.

    Raises:
        Refused: there is no value.

    Warns:
        ReadableByOthers: the worker was warned so while it read the PIN.
    """
    for message in answer.warnings:
        warnings.warn(message, ReadableByOthers, stacklevel=2)
    if isinstance(answer, say.Failed):
        raise Refused(answer)
    return msgspec.msgpack.decode(answer.value, type=returns)
