"""A worker that carries out one verb that needs no login, and ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from varmenne.token import messages as say
from varmenne.token.client import _in_our_words, _Refused
from varmenne.token.process import Lost, WorkerProcess

R = TypeVar("R")


def ask_once(setup: say.Setup, verb: say.Verb[R], *, environment: Mapping[str, str], timeout_seconds: float) -> R:
    """Start a worker, have the verb carried out, end the worker.

    Raises:
        TokenUnavailable: the module cannot be loaded, crashed, or did not answer in time.
        TokenError: the token or module refused.
    """
    worker = WorkerProcess(environment)
    try:
        for answer in (worker.setup(setup, timeout_seconds), None):
            done = answer if answer is not None else worker.ask(verb, timeout_seconds)
            if isinstance(done, say.Failed):
                raise _in_our_words(_Refused(done))
    except Lost as exc:
        raise exc.error from exc
    finally:
        worker.close()
    value: R = msgspec.msgpack.decode(done.value, type=verb.returns)
    return value
