"""This machine's tokens, each module in a worker of its own: the interface of the token room.

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
from hsm_enroll.token import diagnosis, login
from hsm_enroll.token.login import AtPinPad, PinSource
from hsm_enroll.token.reports import ModuleReport, OwnKey, TokenKind, TokenReport
from hsm_enroll.token.worker import Worker

# An RSA key takes a TPM half a minute, and SoftHSM on a small board even longer.
GENERATION_SECONDS = 180.0
# For a person to enter the PIN at the token itself.
_PIN_PAD_SECONDS = 120.0
_CLOSE_SECONDS = 5.0
_INTERRUPTED_SECONDS = 0.1


class Tokens:
    """The modules that a command uses; as a context manager it ends their processes, and with them every login."""

    def __init__(self) -> None:
        self._workers: dict[Path, Worker] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _value: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        # After Ctrl-C or SIGTERM nobody is kept waiting for a slow module.
        interrupted = kind is not None and not issubclass(kind, Exception)
        until = time.monotonic() + _INTERRUPTED_SECONDS if interrupted else None
        with ExitStack() as ends:
            for worker in self._workers.values():
                ends.callback(worker.end, until)
            self.dismiss()

    def dismiss(self) -> None:
        """Start shutting every module down, without waiting for it; none of them can be used any more."""
        for worker in self._workers.values():
            worker.dismiss()

    def start_listing(self, modules: Iterable[Path]) -> Callable[[Path], list[TokenReport]]:
        """Start listing the tokens of several modules, in parallel with each other and with this process.

        Args:
            modules: their files.

        Returns:
            A function that waits for one module's tokens, including uninitialised ones; call it once per module. It
            raises ModuleMissingError and ModuleUnusableError.
        """
        missing: dict[Path, HsmEnrollError] = {}
        for module in modules:
            try:
                self._worker(module).send("tokens")
            except HsmEnrollError as error:
                # One of several modules: the others are listed nevertheless.
                missing[module] = error

        def reports(module: Path) -> list[TokenReport]:
            if module in missing:
                raise missing[module]
            with diagnosis.explained(module):
                return [TokenReport.from_json(document) for document in self._worker(module).receive()]

        return reports

    def listed(self, module: Path) -> list[TokenReport]:
        """Return a module's tokens, including uninitialised ones.

        Raises:
            ModuleMissingError, ModuleUnusableError: the module cannot be loaded, or does not list its tokens.
        """
        return self.start_listing([module])(module)

    def describe(self, module: Path) -> ModuleReport:
        """Return what a module reports about itself.

        Raises:
            ModuleMissingError, ModuleUnusableError: it cannot be loaded.
        """
        description, version, cryptoki = self._request(module, "describe")
        return ModuleReport(description, (version[0], version[1]), (cryptoki[0], cryptoki[1]))

    def public_key(self, token: TokenName, *, label: str, key_id: bytes) -> bytes:
        """Return a public key that is visible without a login.

        Args:
            token: which token.
            label: CKA_LABEL.
            key_id: CKA_ID.

        Returns:
            DER SubjectPublicKeyInfo (RFC 5280 §4.1.2.7).

        Raises:
            ModuleMissingError, ModuleUnusableError, TokenNotFoundError, TokenAmbiguousError, TokenRefusedError: the
                token cannot be used.
            KeyMissingError, KeyAmbiguousError, KeyOriginError: there is no such key, there are several, or its type is
                not one of ``KeyType``.
        """
        return bytes.fromhex(
            self._request(token.module, "public key", token=list(token[1:]), label=label, key_id=key_id.hex())
        )

    @contextmanager
    def session(
        self, token: TokenReport, pin: PinSource, at_pin_pad: AtPinPad, *, writable: bool = False
    ) -> Iterator[Session]:
        """Log in to a token once, without retrying; leaving the block logs out.

        Args:
            token: the token, as its module described it.
            pin: called once, if the token requires a PIN.
            at_pin_pad: called before the token waits for its PIN at its own keypad.
            writable: whether objects will be created or destroyed.

        Raises:
            ModuleMissingError, ModuleUnusableError: the module hangs or crashes.
            TokenNotFoundError, TokenAmbiguousError: the token is no longer present, or another one has its name.
            PinWrongError, PinLockedError, PinFinalTryError: the login failed.
            TokenRefusedError: the token cannot open the session.
        """
        worker = self._worker(token.name.module)
        secret = login.credentials(token, pin, at_pin_pad)
        origin = login.origin_of(secret)
        arguments = {
            "token": list(token.name[1:]),
            "pin": None if secret is None else secret.reveal(),
            "pin_is_certain": origin.is_certain,
            "writable": writable,
        }
        worker.send("open", limit=_PIN_PAD_SECONDS if secret is None else None, **arguments)
        del secret, arguments  # no variable may hold the PIN when something is raised
        with login.wrong_pin_named(token.name, origin), diagnosis.explained(token.name.module):
            worker.receive()
        with diagnosis.explained(token.name.module):
            try:
                yield Session(worker)
            except Exception:
                _close(worker)
                raise
        # Skipped after Ctrl-C or SIGTERM: the worker closes the session when it ends.
        _close(worker)

    def create(self, module: Path, kind: TokenKind, label: str, *, so_pin: Secret, user_pin: Secret) -> TokenName:
        """Create a token; see ``provision.create_softhsm_token`` and ``provision.create_tpm2_token``.

        Args:
            module: the module's file.
            kind: the kind of token.
            label: the new token's label.
            so_pin: the security officer's PIN.
            user_pin: the user's PIN.
        """
        pins = {"so_pin": so_pin.reveal(), "user_pin": user_pin.reveal()}
        token = self._request(module, "create token", limit=GENERATION_SECONDS, kind=kind, label=label, **pins)
        return TokenReport.from_json(token).name

    def complete(self, token: TokenName, *, so_pin: Secret, user_pin: Secret) -> None:
        """Finish creating a token after an interruption; see ``provision.complete_token``."""
        pins = {"so_pin": so_pin.reveal(), "user_pin": user_pin.reveal()}
        self._request(token.module, "complete token", limit=GENERATION_SECONDS, token=list(token[1:]), **pins)

    def _request(self, module: Path, operation: str, **arguments: Any) -> Any:
        with diagnosis.explained(module):
            return self._worker(module).request(operation, **arguments)

    def _worker(self, module: Path) -> Worker:
        if module not in self._workers:
            self._workers[module] = Worker(module)
        return self._workers[module]


def _close(worker: Worker) -> None:
    # The work has succeeded or failed by now, and the session of a removed token cannot be closed.
    if worker.is_idle:
        with suppress(HsmEnrollError):
            worker.request("close", limit=_CLOSE_SECONDS)


class Session:
    """A session with a token, logged in; see :meth:`Tokens.session`."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def generate(self, key_type: KeyType, *, label: str, key_id: bytes) -> Key:
        """Generate a key pair that cannot leave the token; see ``keypair.generate``."""
        arguments = {"key_type": key_type.value, "label": label, "key_id": key_id.hex()}
        return self._key(self._worker.request("generate", limit=GENERATION_SECONDS, **arguments))

    def find(self, *, label: str | None, key_id: bytes | None, by_public: bool = False) -> Key:
        """Find one key pair; see ``keypair.find``."""
        wanted = None if key_id is None else key_id.hex()
        return self._key(self._worker.request("find", label=label, key_id=wanted, by_public=by_public))

    def is_there(self, *, label: str, key_id: bytes) -> bool:
        """Whether the token has any object with this label and id; see ``keypair.is_there``."""
        return bool(self._worker.request("is there", label=label, key_id=key_id.hex()))

    def destroy(self, *, label: str, key_id: bytes) -> None:
        """Destroy both halves of a key pair; see ``keypair.destroy``."""
        self._worker.request("destroy", label=label, key_id=key_id.hex())

    def leftovers(self) -> int | None:
        """Return how many objects a killed generation left, None if the token cannot tell; see ``leftovers.count``."""
        many: int | None = self._worker.request("leftovers")
        return many

    def clear(self) -> None:
        """Destroy what a killed generation left; see ``leftovers.destroy``."""
        self._worker.request("clear")

    def own_keys(self) -> list[OwnKey]:
        """Return the keys that this program named; see ``pruning.own_keys``."""
        limit = GENERATION_SECONDS  # a TPM may hold hundreds of them
        return [OwnKey.from_json(document) for document in self._worker.request("own keys", limit=limit)]

    def prune(self, key: OwnKey) -> None:
        """Destroy a key that :meth:`own_keys` returned; see ``pruning.destroy``."""
        self._worker.request("prune", label=key.label, key_id=key.id.hex())

    def _key(self, document: dict[str, Any]) -> Key:
        return Key(
            label=document["label"],
            id=bytes.fromhex(document["id"]),
            key_type=KeyType(document["type"]),
            public_key_info=bytes.fromhex(document["public_key_info"]),
            origin=KeyOrigin(*document["origin"]),
            worker=self._worker,
        )


class Key(NamedTuple):
    """A key pair in a token, usable while its session is open and no other key is selected; a ``csr.Signer``.

    Attributes:
        label: CKA_LABEL.
        id: CKA_ID.
        key_type: its type.
        public_key_info: DER SubjectPublicKeyInfo (RFC 5280 §4.1.2.7), from the token's public key object.
        origin: where the private key was generated, according to the token.
        worker: the worker that has the session.
    """

    label: str
    id: bytes
    key_type: KeyType
    public_key_info: bytes
    origin: KeyOrigin
    worker: Worker

    def sign(self, message: bytes) -> bytes:
        """Sign a message; see ``keypair.KeyPair.sign``."""
        return bytes.fromhex(self.worker.request("sign", message=message.hex()))
