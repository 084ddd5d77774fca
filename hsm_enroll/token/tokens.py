"""This machine's tokens, each module in a worker of its own: the side of the token room that everybody else uses.

Nothing here loads a module, or imports a library that does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from hsm_enroll.errors import HsmEnrollError
from hsm_enroll.key import KeyOrigin, KeyType, TokenName
from hsm_enroll.secret import Secret
from hsm_enroll.token import login
from hsm_enroll.token.reports import ModuleReport, TokenReport
from hsm_enroll.token.worker import Worker

# Seconds. An RSA key takes a TPM half a minute, and SoftHSM on a small board longer than that.
_GENERATION_SECONDS = 180.0
# For a person to type the PIN at the token itself.
_PIN_PAD_SECONDS = 120.0
_CLOSE_SECONDS = 5.0
_HURRIED_SECONDS = 0.1

PinSource = Callable[[TokenName], Secret]
AtPinPad = Callable[[TokenName], None]


class Tokens:
    """The modules that a command uses; a context manager that ends their processes, and with them every login."""

    def __init__(self) -> None:
        self._workers: dict[Path, Worker] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _value: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        # Whoever is interrupted, or ended, is not kept waiting by a module that takes its time.
        hurried = kind is not None and not issubclass(kind, Exception)
        until = time.monotonic() + _HURRIED_SECONDS if hurried else None
        with ExitStack() as ends:
            for worker in self._workers.values():
                ends.callback(worker.end, until)
            self.dismiss()

    def dismiss(self) -> None:
        """Have every module's work ended while this process goes on; none of them can be asked any more."""
        for worker in self._workers.values():
            worker.dismiss()

    def look(self, modules: Iterable[Path]) -> Callable[[Path], list[TokenReport]]:
        """Have modules list their tokens, all at once, while this process goes on.

        Args:
            modules: their files.

        Returns:
            A function that waits for one module's tokens, uninitialised ones included, to be called once for each. It
            raises ModuleMissingError and ModuleUnusableError.
        """
        missing: dict[Path, HsmEnrollError] = {}
        for module in modules:
            try:
                self._worker(module).send("tokens")
            except HsmEnrollError as error:
                # One of several modules: the others answer nevertheless.
                missing[module] = error

        def reports(module: Path) -> list[TokenReport]:
            if module in missing:
                raise missing[module]
            return [TokenReport.from_json(document) for document in self._worker(module).answer()]

        return reports

    def listed(self, module: Path) -> list[TokenReport]:
        """Return a module's tokens; as :meth:`look`, for a caller who has nothing else to do."""
        return self.look([module])(module)

    def describe(self, module: Path) -> ModuleReport:
        """Return what a module says of itself.

        Raises:
            ModuleMissingError, ModuleUnusableError: it cannot be loaded.
        """
        description, version, cryptoki = self._ask(module, "describe")
        return ModuleReport(description, (version[0], version[1]), (cryptoki[0], cryptoki[1]))

    def public_key(self, token: TokenName, *, label: str, key_id: bytes) -> bytes:
        """Return the public key that a token shows without a login.

        Args:
            token: which token.
            label: CKA_LABEL.
            key_id: CKA_ID.

        Returns:
            DER SubjectPublicKeyInfo (RFC 5280 §4.1.2.7).

        Raises:
            ModuleMissingError, ModuleUnusableError, TokenNotFoundError, TokenAmbiguousError, TokenRefusedError: the
                token.
            KeyMissingError, KeyAmbiguousError, KeyOriginError: there is no such key, there are several, or its type is
                not one of ``KeyType``.
        """
        return bytes.fromhex(
            self._ask(token.module, "public key", token=list(token[1:]), label=label, key_id=key_id.hex())
        )

    @contextmanager
    def session(
        self, token: TokenReport, pin: PinSource, at_pin_pad: AtPinPad, *, writable: bool = False
    ) -> Iterator[Session]:
        """Log in to a token, once, and never try again; leaving the block logs out.

        Args:
            token: which token, as it has shown itself.
            pin: called for the PIN where the token wants one.
            at_pin_pad: called where the PIN is typed at the token itself, before the token waits for it.
            writable: whether objects will be made or destroyed.

        Raises:
            ModuleMissingError, ModuleUnusableError: the module hangs or crashes.
            TokenNotFoundError, TokenAmbiguousError: the token is not there any more, or another one has its name.
            PinWrongError, PinLockedError, PinFinalTryError: the login.
            TokenRefusedError: the token refuses the session.
        """
        worker = self._worker(token.name.module)
        secret = login.credentials(token, pin, at_pin_pad)
        told = {"token": list(token.name[1:]), "pin": None if secret is None else secret.reveal(), "writable": writable}
        worker.send("open", limit=_PIN_PAD_SECONDS if secret is None else None, **told)
        del secret, told  # what has to know the PIN knows it
        worker.answer()
        try:
            yield Session(worker)
        except Exception:
            _close(worker)
            raise
        # Whoever is interrupted, or ended, waits for nothing: the worker closes it as it ends.
        _close(worker)

    def create(self, module: Path, kind: str, label: str, *, so_pin: Secret, user_pin: Secret) -> TokenName:
        """Make a token; see ``provision.create_softhsm_token`` and ``provision.create_tpm2_token``.

        Args:
            module: the module's file.
            kind: ``softhsm`` or ``tpm2``.
            label: the new token's.
            so_pin: the security officer's PIN.
            user_pin: the user's PIN.
        """
        pins = {"so_pin": so_pin.reveal(), "user_pin": user_pin.reveal()}
        made = self._ask(module, "create token", limit=_GENERATION_SECONDS, kind=kind, label=label, **pins)
        return TokenReport.from_json(made).name

    def complete(self, token: TokenName, *, so_pin: Secret, user_pin: Secret) -> None:
        """Finish the making of a token that stopped half-way; see ``provision.complete_token``."""
        pins = {"so_pin": so_pin.reveal(), "user_pin": user_pin.reveal()}
        self._ask(token.module, "complete token", limit=_GENERATION_SECONDS, token=list(token[1:]), **pins)

    def _ask(self, module: Path, question: str, **told: Any) -> Any:
        return self._worker(module).ask(question, **told)

    def _worker(self, module: Path) -> Worker:
        if module not in self._workers:
            self._workers[module] = Worker(module)
        return self._workers[module]


def _close(worker: Worker) -> None:
    # The work is done or has failed by now, and a token that was pulled out cannot be closed.
    if worker.is_idle:
        with suppress(HsmEnrollError):
            worker.ask("close", limit=_CLOSE_SECONDS)


class Session:
    """A session with a token that is logged in; see :meth:`Tokens.session`."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def generate(self, key_type: KeyType, *, label: str, key_id: bytes) -> Key:
        """Generate a key pair that cannot leave the token; see ``keypair.generate``."""
        told = {"key_type": key_type.value, "label": label, "key_id": key_id.hex()}
        return self._key(self._worker.ask("generate", limit=_GENERATION_SECONDS, **told))

    def find(self, *, label: str | None, key_id: bytes | None) -> Key:
        """Find one key pair; see ``keypair.find``."""
        return self._key(self._worker.ask("find", label=label, key_id=None if key_id is None else key_id.hex()))

    def is_there(self, *, label: str, key_id: bytes) -> bool:
        """Whether the token holds any object of this label and id; see ``keypair.is_there``."""
        return bool(self._worker.ask("is there", label=label, key_id=key_id.hex()))

    def destroy(self, *, label: str, key_id: bytes) -> None:
        """Destroy both halves of a key pair; see ``keypair.destroy``."""
        self._worker.ask("destroy", label=label, key_id=key_id.hex())

    def _key(self, document: dict[str, Any]) -> Key:
        return Key(
            label=document["label"],
            id=bytes.fromhex(document["id"]),
            key_type=KeyType(document["type"]),
            public_key_info=bytes.fromhex(document["info"]),
            origin=KeyOrigin(*document["origin"]),
            worker=self._worker,
        )


class Key(NamedTuple):
    """A key pair in a token; signs as ``csr.Signer`` asks while its session is open, until another one is found.

    Attributes:
        label: CKA_LABEL.
        id: CKA_ID.
        key_type: its type.
        public_key_info: DER SubjectPublicKeyInfo (RFC 5280 §4.1.2.7), from the token's public key object.
        origin: what the token says of the private key's birth.
    """

    label: str
    id: bytes
    key_type: KeyType
    public_key_info: bytes
    origin: KeyOrigin
    worker: Worker

    def sign(self, message: bytes) -> bytes:
        """Sign a message; see ``keypair.KeyPair.sign``."""
        return bytes.fromhex(self.worker.ask("sign", message=message.hex()))
