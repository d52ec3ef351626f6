"""A worker that carries out one verb that needs no login, and ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from varmenne.token import messages as say
from varmenne.token.answers import Refused, unpack
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
        unpack(worker.setup(setup, timeout_seconds), None)
        value: R = unpack(worker.ask(verb, timeout_seconds), verb.returns)
    except (Lost, Refused) as exc:
        raise exc.error from exc
    finally:
        worker.close()
    return value
