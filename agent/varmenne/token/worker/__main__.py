"""The worker's life: harden, load the module, answer one verb at a time, and end when the parent closes the socket."""

from __future__ import annotations

import os
import socket
import sys
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from varmenne.errors import VarmenneError
from varmenne.token import messages as say
from varmenne.token.worker.hardening import harden, leave_with_parent

if TYPE_CHECKING:
    from varmenne.token.worker.session import TokenSession

_ANSWER_TO_SETUP = "be reached"


class Worker:
    """Everything that the verbs work on. Imports the PKCS#11 library, so it is made only after hardening."""

    def __init__(self, setup: say.Setup) -> None:
        from varmenne.token.worker.objects import PrivateKeys
        from varmenne.token.worker.session import TokenSession

        self.token: TokenSession = TokenSession(setup)
        self.keys = PrivateKeys(self.token)

    def answer(self, verb: say.Verb[Any]) -> object:
        """Carry out one verb."""
        return _ANSWERS[type(verb)](self, verb)

    def generate(self, verb: say.Generate) -> say.Made:
        """Make a key pair."""
        from varmenne.domain.keys import KeyId
        from varmenne.token.worker import keys

        return keys.generate(self.token, self.keys, KeyId(verb.key_id), verb.label)

    def find(self, verb: say.Find) -> object:
        """Read back everything about a key."""
        from varmenne.domain.keys import KeyId
        from varmenne.token.worker import keys

        return keys.find(self.token, self.keys, KeyId(verb.key_id))

    def public_key(self, verb: say.PublicKey) -> bytes:
        """Give a key's public half."""
        from varmenne.token.worker import keys

        return keys.public_key(self.token, self.keys.cached(verb.key_id))

    def sign(self, verb: say.Sign) -> bytes:
        """Sign data."""
        from varmenne.token.worker import keys

        return keys.sign(self.token, self.keys, verb.key_id, verb.data)

    def make_log_key(self, verb: say.MakeLogKey) -> say.MadeLogKey:
        """Make the audit log's key."""
        from varmenne.domain.keys import KeyId
        from varmenne.token.worker import log_keys

        return log_keys.make(self.token, self.keys, KeyId(verb.key_id), verb.label)

    def find_log_key(self, verb: say.FindLogKey) -> object:
        """Read back everything about the audit log's key."""
        from varmenne.domain.keys import KeyId
        from varmenne.token.worker import log_keys

        return log_keys.find(self.token, self.keys, KeyId(verb.key_id))

    def sign_log(self, verb: say.SignLog) -> bytes:
        """Sign with the audit log's key."""
        from varmenne.token.log_keys import BY_NAME
        from varmenne.token.worker import log_keys

        return log_keys.sign(self.token, self.keys, BY_NAME[verb.kind], verb.key_id, verb.data)

    def store_certificate(self, verb: say.StoreCertificate) -> bool:
        """Put a certificate beside its key."""
        from varmenne.token.worker import keys, objects

        public_key = keys.public_key(self.token, self.keys.get(verb.key_id))
        return objects.store_certificate(self.token, verb.key_id, verb.label, verb.certificate, public_key=public_key)

    def destroy(self, verb: say.Destroy) -> bool:
        """Destroy a key."""
        from varmenne.token.worker.destruction import destroy

        return destroy(self.token, verb.key_id, verb.public_key)

    def certificates(self, verb: say.Certificates) -> tuple[bytes, ...]:
        """Give the certificates beside a key."""
        from varmenne.token.worker import objects

        return objects.certificates(self.token, verb.key_id)

    def list_keys(self) -> tuple[tuple[bytes, str], ...]:
        """Name every private key."""
        from pkcs11 import Attribute

        from varmenne.token.worker.objects import read

        return tuple((read(key, Attribute.ID) or b"", read(key, Attribute.LABEL) or "") for key in self.keys.all())

    def holds_key(self, verb: say.HoldsKey) -> bool:
        """Tell whether the anchor is in the token."""
        from varmenne.token.worker import keys

        return keys.holds(self.token, self.keys, verb.public_key_sha256)

    def probe(self, verb: say.Probe) -> say.Probed:
        """Try to get throw-away keys out of the token."""
        from varmenne.token.worker.probe import probe

        return say.Probed(status=self.token.status(), results=probe(self.token, verb.now))

    def probe_key(self, verb: say.ProbeKey) -> object:
        """Try on a live key what changes nothing."""
        from varmenne.token.worker.live_probe import probe_key

        return probe_key(self.token, self.keys, verb.key_id)

    def init_token(self, verb: say.InitToken) -> object:
        """Initialise a free slot."""
        from varmenne.token.worker.initialise import init_token

        return init_token(self.token, verb.label, pin_file=verb.pin_file, so_pin_file=verb.so_pin_file)


_ANSWERS: dict[type, Callable[[Worker, Any], object]] = {
    say.ListTokens: lambda worker, _: worker.token.list_tokens(),
    say.Identify: lambda worker, _: worker.token.status(),
    say.ReadPin: lambda worker, verb: worker.token.read_pin(verb.source),
    say.Login: lambda worker, _: worker.token.login(),
    say.Generate: Worker.generate,
    say.Find: Worker.find,
    say.PublicKey: Worker.public_key,
    say.Sign: Worker.sign,
    say.MakeLogKey: Worker.make_log_key,
    say.FindLogKey: Worker.find_log_key,
    say.SignLog: Worker.sign_log,
    say.StoreCertificate: Worker.store_certificate,
    say.Destroy: Worker.destroy,
    say.Certificates: Worker.certificates,
    say.Keys: lambda worker, _: worker.list_keys(),
    say.HoldsKey: Worker.holds_key,
    say.Probe: Worker.probe,
    say.ProbeKey: Worker.probe_key,
    say.InitToken: Worker.init_token,
}


def attempt(action: Callable[[], object], doing: str) -> say.Done | say.Failed:
    """Do something and put the outcome, whatever it is, into an answer. Warnings about secrets travel with it."""
    from pkcs11.exceptions import PKCS11Error

    from varmenne.secret_sources import ReadableByOthers
    from varmenne.token.worker import failures

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ReadableByOthers)
        try:
            outcome: say.Done | say.Failed = say.Done(msgspec.Raw(msgspec.msgpack.encode(action())))
        except VarmenneError as exc:
            outcome = failures.from_ours(exc)
        except PKCS11Error as exc:
            outcome = failures.from_library(exc, doing)
        except Exception as exc:  # noqa: BLE001 - the border: whatever it is, the parent must get an answer
            outcome = failures.from_defect(exc, doing)
    told = tuple(str(warning.message) for warning in caught if issubclass(warning.category, ReadableByOthers))
    return msgspec.structs.replace(outcome, warnings=told)


def serve(sock: socket.socket) -> None:
    """Answer the parent until it closes the socket."""
    frame = say.receive(sock)
    if frame is None:
        return
    setup = msgspec.msgpack.decode(frame, type=say.Setup)
    made: list[Worker] = []
    outcome = attempt(lambda: made.append(Worker(setup)), _ANSWER_TO_SETUP)
    sock.sendall(say.pack(outcome))
    if not made:
        return
    verbs = msgspec.msgpack.Decoder(say.AnyVerb)
    while (frame := say.receive(sock)) is not None:
        verb = verbs.decode(frame)
        sock.sendall(say.pack(attempt(lambda verb=verb: made[0].answer(verb), verb.doing)))  # type: ignore[misc]
    made[0].token.module.finalize()


def main() -> None:
    """Run as ``python -m varmenne.token.worker SOCKET PARENT THREAD``; see :mod:`varmenne.token.process`."""
    descriptor, parent, thread = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    harden(tied_to_thread=thread == "main", parent=parent)
    leave_with_parent(descriptor)
    with socket.socket(fileno=descriptor) as sock:
        serve(sock)
    # The module's own clean-up at exit is skipped: it has been finalised, and some modules crash when done twice.
    os._exit(0)


if __name__ == "__main__":
    main()
