"""The token as the rest of varmenne sees it: typed verbs, carried out by a worker process, one at a time."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from varmenne.clock import Clock, system_clock
from varmenne.domain.keys import (
    CustodyProbe,
    KeyFacts,
    KeyId,
    LogKey,
    LogSigner,
    ProbeResult,
    Signer,
    TokenIdentity,
)
from varmenne.errors import KeyNotFound, TokenError
from varmenne.measure import Part, measured
from varmenne.token import checks, pin_rules
from varmenne.token import messages as say
from varmenne.token.answers import Refused, unpack
from varmenne.token.log_keys import BY_NAME
from varmenne.token.login import Login
from varmenne.token.process import Lost, WorkerProcess
from varmenne.token.signer import VerifiedLogSigner, VerifiedSigner

if TYPE_CHECKING:
    from varmenne.settings import TokenSettings
    from varmenne.token.status import TokenStatus

R = TypeVar("R")


class Token:
    """A PKCS#11 token: the one that the settings select.

    Nothing happens until the first call, which starts the worker process; :meth:`close` (or leaving the ``with`` block)
    ends it. After a crash or an exceeded time limit, the next call starts a fresh worker by itself. Calls that only
    read, and signing, are repeated once when a worker was lost under them; making and destroying a key, storing and
    probing are not.

    May be used by several threads; they take turns. Every method raises
    :class:`~varmenne.errors.TokenUnavailable` when the module, the token or the worker fails in a way that may pass,
    and, if it needs a login, :class:`~varmenne.errors.PinError` when the PIN was refused or may not be tried
    (:mod:`varmenne.token.pin_rules`). After a refusal, every method that needs a login fails in the same way without
    touching the token.

    Args:
        settings: which module, which token, where the PIN comes from, and the time limits.
        state_dir: folder in which a refused PIN is remembered across processes. Without it, only this object remembers.
        clock: tells the time for records and for the age of leftovers.
        retry_pin: a person orders one login although the PIN was refused before, or one try is left.
    """

    def __init__(
        self,
        settings: TokenSettings,
        *,
        state_dir: Path | None = None,
        clock: Clock = system_clock,
        retry_pin: bool = False,
    ) -> None:
        self._settings = settings
        self._memory = pin_rules.PinMemory(state_dir)
        self._clock = clock
        self._login = Login(settings, self._memory, clock, self._ask, retry_pin=retry_pin)
        self._turn = threading.RLock()
        self._worker: WorkerProcess | None = None
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Log out and end the worker. May be called again."""
        with self._turn:
            self._closed = True
            if self._worker is not None:
                self._worker.close()
                self._worker = None

    def identity(self) -> TokenIdentity:
        """Return what the token says of itself, without logging in."""
        return self.status().identity

    def status(self) -> TokenStatus:
        """Return the token's identity, PIN flags and abilities, without logging in."""
        return self._call(say.Identify())

    def login(self) -> None:
        """Log in now. Other methods do it by themselves when they need it.

        Raises:
            PinError: the PIN was refused, or may not be tried.
            ConfigError, InputError: the PIN cannot be read from its source.

        Warns:
            ReadableByOthers: the PIN's source can be read by others.
        """
        with self._turn:
            try:
                self._login.ensure(self._ready())
            except (Lost, Refused) as exc:
                raise exc.error from exc

    def generate(self, key_id: KeyId, label: str) -> KeyFacts:
        """Make a key pair in the token and read it back; if a key with this ``CKA_ID`` is there, return that one.

        So the call can be made again after a crash: there is never a second key. ``made_at`` of the result tells the
        two cases apart.

        Raises:
            InputError: ``key_id`` is not 16 bytes, or the label is empty, too long or not printable.
            TokenUnfit: the key is not as ordered. If this call made it, it has been destroyed again.
            KeyNotFound: more than one key has this ``CKA_ID``.
            TokenError: the token makes no such keys.
        """
        checks.new_key(key_id, label)
        now = self._clock()
        made = self._call(say.Generate(key_id, label))
        return replace(made.facts, made_at=now) if made.made else made.facts

    def make_log_key(self, key_id: KeyId, label: str) -> LogKey:
        """Make the key that signs the audit log and read it back; if a key with this ``CKA_ID`` is there, return that.

        It is Ed25519 where the token makes such keys and signs with them, else ECDSA on P-256; :attr:`LogKey.kind`
        tells. That it signs is tried before it is returned.

        Raises:
            InputError: ``key_id`` is not 16 bytes, or the label is empty, too long or not printable.
            TokenUnfit: the key is not as ordered, is of another type, or does not sign. If this call made it, it has
                been destroyed again.
            KeyNotFound: more than one key has this ``CKA_ID``.
            TokenError: the token makes no such keys.
        """
        checks.new_key(key_id, label)
        now = self._clock()
        made = self._call(say.MakeLogKey(key_id, label))
        return replace(made.facts, made_at=now) if made.made else made.facts

    def find(self, key_id: KeyId) -> KeyFacts | None:
        """Read back everything about a key. ``None`` only if the token itself still answers and holds no such key.

        Raises:
            TokenUnfit: the key is not as varmenne orders keys.
            KeyNotFound: more than one key has this ``CKA_ID``.
        """
        checks.key_id(key_id)
        return self._call(say.Find(key_id))

    def signer(self, key_id: KeyId) -> Signer:
        """Return a signer for a key; it verifies every signature before it hands it out.

        Raises:
            KeyNotFound: no key, or more than one, has this ``CKA_ID``.
        """
        checks.key_id(key_id)
        return VerifiedSigner(
            key_id, self._call(say.PublicKey(key_id)), lambda data: self._call(say.Sign(key_id, data))
        )

    def find_log_key(self, key_id: KeyId) -> LogKey | None:
        """Read back everything about the audit log's key, and have it sign; ``None`` as :meth:`find`.

        Raises:
            TokenUnfit: the key is not as ordered, is of another type, does not sign, or its public half is not beside
                it.
            KeyNotFound: more than one key has this ``CKA_ID``.
        """
        checks.key_id(key_id)
        try:
            return self._call(say.FindLogKey(key_id))
        except KeyNotFound as exc:
            if exc.facts.get("matches") == 0:
                return None
            raise

    def log_signer(self, key_id: KeyId) -> LogSigner:
        """Return a signer for the audit log's key; it verifies every signature before it hands it out.

        The public key is not taken from the token's word: it is the one beside the key that a fresh signature verifies
        with.

        Raises:
            KeyNotFound: no key, or more than one, has this ``CKA_ID``.
            TokenUnfit: as :meth:`find_log_key`.
        """
        checks.key_id(key_id)
        key = self._call(say.FindLogKey(key_id))
        return VerifiedLogSigner(
            key_id, BY_NAME[key.kind], key.public_key, lambda data: self._call(say.SignLog(key_id, key.kind, data))
        )

    def store_certificate(self, key_id: KeyId, label: str, certificate: bytes) -> bool:
        """Put a certificate (DER) beside its key, under the same ``CKA_ID``. False if it was there already.

        Raises:
            InputError: it is not one DER certificate, or not for this key; or the label is not usable.
            KeyNotFound: no key, or more than one, has this ``CKA_ID``.
        """
        checks.key_id(key_id)
        checks.label(label)
        return self._call(say.StoreCertificate(key_id, label, certificate))

    def destroy(self, key_id: KeyId, public_key: bytes) -> bool:
        """Destroy a key of an enrollment for ever: private key, public key object and certificates with its ``CKA_ID``.

        Nothing is touched unless all of them are of this key, and the private key is labelled as an enrollment's. That
        nothing is left is read back from the token. A call that was cut off is not repeated by itself; made again, it
        finishes.

        Args:
            key_id: the key's ``CKA_ID``.
            public_key: the key's DER ``SubjectPublicKeyInfo``, as it is known from elsewhere.

        Returns:
            False if nothing with this ``CKA_ID`` was there, such as after a call that was cut off at its very end.

        Raises:
            TokenError: something with this ``CKA_ID`` is not of this key, or not an enrollment's, and nothing was
                touched; or the token refused to destroy, and the error tells what is left.
        """
        checks.key_id(key_id)
        return self._call(say.Destroy(key_id, public_key))

    def certificates(self, key_id: KeyId) -> tuple[bytes, ...]:
        """Return the certificates (DER) beside a key. Nothing about them is verified here."""
        checks.key_id(key_id)
        return self._call(say.Certificates(key_id))

    def keys(self) -> tuple[tuple[KeyId, str], ...]:
        """Return ``CKA_ID`` and label of every private key in the token, whoever made it."""
        return tuple((KeyId(key_id), label) for key_id, label in self._call(say.Keys()))

    def check_anchor(self, public_key_sha256: str) -> None:
        """Make sure that a known key is in the token; serial numbers do not show that a token was re-initialised.

        Args:
            public_key_sha256: SHA-256 of the key's DER ``SubjectPublicKeyInfo``, in hexadecimal.

        Raises:
            TokenError: no private key in the token has this hash.
        """
        if not self._call(say.HoldsKey(public_key_sha256.lower())):
            raise TokenError(
                f"The token {self._settings.label!r} does not hold the key that it is known by",
                why="it is another token with the same label, or it was initialised anew",
                next_step="Correct the [token] settings, or token.anchor if the token was replaced on purpose",
                anchor=public_key_sha256,
            )

    def probe(self) -> CustodyProbe:
        """Try to get throw-away keys out of the token by every known way, and report each try.

        Real keys are not touched. ``fit`` of the result is the verdict; a token that is not fit raises nothing here.
        """
        probed = self._call(say.Probe(self._clock()))
        # It may take minutes, in which others record what they do; what it found is so at its end.
        return CustodyProbe(token=probed.status.identity, at=self._clock(), results=probed.results)

    def probe_key(self, key_id: KeyId) -> tuple[ProbeResult, ...]:
        """Try on a live key what must be refused and changes nothing: reading its secret parts, decrypting, unwrapping.

        Copies, wrapping and changed attributes are tried on throw-away keys alone, by :meth:`probe`. A result
        ``allowed`` is an alarm; it raises nothing here.

        Raises:
            KeyNotFound: no key, or more than one, has this ``CKA_ID``.
        """
        checks.key_id(key_id)
        return self._call(say.ProbeKey(key_id))

    def _call(self, verb: say.Verb[R]) -> R:
        """Carry out a verb: start a worker and log in if need be, and repeat once where that is harmless."""
        with measured(Part.TOKEN, type(verb).__name__), self._turn:
            used = self._worker
            try:
                value = self._once(verb)
                if used is None or value is not None or not isinstance(verb, say.Find):
                    return value
                self._look_anew()
            except (Lost, Refused) as exc:
                if used is not None and _no_key(exc):
                    self._look_anew()
                elif not self._may_repeat(verb, exc):
                    raise exc.error from exc
            try:
                return self._once(verb)
            except (Lost, Refused) as exc:
                raise exc.error from exc

    def _may_repeat(self, verb: say.Verb[R], error: Lost | Refused) -> bool:
        """Tell whether the worker was lost under a verb that can be repeated. After a time limit it would only hang."""
        if not verb.repeatable:
            return False
        return not error.over_time if isinstance(error, Lost) else error.failed.stale

    def _look_anew(self) -> None:
        """Let the worker go that found no key, so that a fresh one looks: SoftHSM may miss what others have just made.

        A PIN that cannot be read a second time keeps its worker, which looks once more.
        """
        if self._worker is not None and not self._settings.pin.startswith(("fd:", "prompt")):
            self._worker.close()
            self._worker = None

    def _once(self, verb: say.Verb[R]) -> R:
        """Carry out a verb on the present worker or a fresh one."""
        worker = self._ready()
        if verb.needs_login:
            self._login.ensure(worker)
        value: R = self._ask(worker, verb, self._time_limit(verb))
        return value

    def _time_limit(self, verb: say.Verb[Any]) -> float:
        """Return how long a verb may take: a probe makes up to four key pairs, one of them for wrapping."""
        settings = self._settings
        if isinstance(verb, say.Generate | say.MakeLogKey):
            return settings.generate_timeout_seconds
        if isinstance(verb, say.Probe):
            return 4 * settings.generate_timeout_seconds + settings.call_timeout_seconds
        return settings.call_timeout_seconds

    def _ready(self) -> WorkerProcess:
        """Return a worker that lives and has loaded the module."""
        if self._closed:
            raise TokenError("The token has been closed", why="a call came after close()")
        if self._worker is not None and (self._worker.owner != os.getpid() or not self._worker.alive):
            self._worker.close()
            self._worker = None
        if self._worker is None:
            self._worker = self._started()
        return self._worker

    def _started(self) -> WorkerProcess:
        """Start a worker and have it load the module."""
        settings = self._settings
        worker = WorkerProcess(settings.environment, self._login.descriptor)
        setup = say.Setup(
            module=settings.module,
            init_parameters=settings.init_parameters,
            label=settings.label,
            serial=settings.serial,
            model=settings.model,
        )
        try:
            # SoftHSM writes a token's file anew at each login, and who reads it just then finds a token without a PIN.
            with self._memory.one_at_a_time():
                unpack(worker.setup(setup, settings.call_timeout_seconds), None)
        except BaseException:
            worker.kill()
            raise
        return worker

    def _ask(self, worker: WorkerProcess, verb: say.Verb[Any], timeout_seconds: float | None) -> Any:
        """Have one verb carried out, and let the worker go if its state is in doubt after it."""
        with self._discarded_on_failure(worker):
            return unpack(worker.ask(verb, timeout_seconds), verb.returns)

    @contextlib.contextmanager
    def _discarded_on_failure(self, worker: WorkerProcess) -> Iterator[None]:
        """Forget a worker that was lost, or end one that is in doubt, so that the next call starts a fresh one."""
        try:
            yield
        except Refused as exc:
            if exc.failed.discard:
                worker.kill()
                self._worker = None
            raise
        except (Lost, KeyboardInterrupt, SystemExit):
            self._worker = None
            raise


def _no_key(error: Lost | Refused) -> bool:
    """Tell whether the token was asked for a key and found none."""
    return isinstance(error, Refused) and isinstance(error.error, KeyNotFound) and error.error.facts.get("matches") == 0
