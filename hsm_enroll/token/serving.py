"""The worker's side: loads the module, and carries out requests about its tokens and keys.

Only this module and those that it calls load a PKCS#11 module; ``worker`` is the other side.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hsm_enroll import machine, softhsm
from hsm_enroll.errors import HsmEnrollError, TokenRefusedError
from hsm_enroll.key import KeyType, TokenName
from hsm_enroll.secret import Secret, keep_out_of_core_dumps
from hsm_enroll.token import frames, inventory, keypair, leftovers, modules, provision, pruning, public_key, session
from hsm_enroll.token.keypair import KeyPair
from hsm_enroll.token.reports import TokenKind

_PIN_VARIABLE = "HSM_ENROLL_PIN"
# Added to a request's time limit, which the other process enforces unless it was killed.
_ALARM_SECONDS = 2
_GOODBYE_SECONDS = 5


def serve(descriptor: int) -> None:
    """Serve requests from a socket until it is closed, then shut the module down (C_Finalize)."""
    _reset_signals()
    keep_out_of_core_dumps()
    # The module's code will run here: it does not need the PIN in the environment, and its output goes nowhere.
    os.environ.pop(_PIN_VARIABLE, None)
    null_device = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(null_device, stream)
    with socket.socket(fileno=descriptor) as connection:
        _Server(connection).run()


def _reset_signals() -> None:
    """Remove the caller's signal handlers, and unblock the signals, all of which the caller has blocked."""
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    for number in (signal.SIGCHLD, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGTERM):
        # Ctrl-C reaches both processes; the other one handles it, and ends this one.
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


class _Server:
    """The module, its one session with a token, and the key that was last found or generated in that session."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._module: Path | None = None
        self._open = ExitStack()
        self._session: Any = None
        self._name: Any = None
        self._key: KeyPair | None = None
        self._operations: dict[str, Callable[..., Any]] = {
            "describe": self._describe,
            "tokens": self._tokens,
            "public key": self._public_key,
            "open": self._open_session,
            "generate": self._generate,
            "find": self._find,
            "is there": self._is_there,
            "destroy": self._destroy,
            "leftovers": self._leftovers,
            "clear": self._clear,
            "own keys": self._own_keys,
            "prune": self._prune,
            "sign": self._sign,
            "close": self._close,
            "create token": self._create_token,
            "complete token": self._complete_token,
        }

    def run(self) -> None:
        """Serve requests until the other side closes the socket."""
        while (request := frames.receive(self._connection)) is not None:
            self._module = Path(request["module"])
            # If the other process has been killed, nothing else ends a module that hangs.
            signal.alarm(math.ceil(request["limit"]) + _ALARM_SECONDS)
            response = self._response(request)
            signal.alarm(0)
            try:
                frames.send(self._connection, response)
            except OSError:
                break
        signal.alarm(_GOODBYE_SECONDS)
        self._open.close()
        if self._module is not None:
            modules.shut_down(self._module)

    def _response(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"result": self._operations[request["operation"]](**request.pop("arguments"))}
        except HsmEnrollError as error:
            of_key_type = isinstance(error, TokenRefusedError) and error.of_key_type
            return {"error": error.document, "ofKeyType": of_key_type, "trace": traceback.format_exc()}
        except Exception as error:  # noqa: BLE001 - the top of this process: the worker survives unforeseen errors
            unexpected = machine.explained(error) or HsmEnrollError(
                f"unexpected error: {type(error).__name__}",
                hint="Run the command again with --verbose, and report the output.",
            )
            return {"error": unexpected.document, "ofKeyType": False, "trace": traceback.format_exc()}

    @property
    def _path(self) -> Path:
        assert self._module is not None  # noqa: S101 - every request names it
        return self._module

    def _describe(self) -> list[Any]:
        library = modules.load(self._path)
        return [library.library_description, library.library_version, library.cryptoki_version]

    def _tokens(self) -> list[dict[str, Any]]:
        return [report.to_json() for report in inventory.list_tokens(self._path)]

    def _public_key(self, token: list[str], label: str, key_id: str) -> str:
        name = self._token(token)
        with softhsm.alone(name.manufacturer), session.opened(name, None) as opened:
            return public_key.find_public(opened, label=label, key_id=bytes.fromhex(key_id)).public_key_info.hex()

    def _open_session(self, token: list[str], pin: str | None, *, pin_is_certain: bool, writable: bool) -> None:
        # The PIN is None if it is entered at the token itself; `session.opened` then does not call for it.
        self._name = self._token(token)
        opened = session.opened(self._name, lambda: Secret(pin or ""), pin_is_certain=pin_is_certain, writable=writable)
        self._session = self._open.enter_context(opened)

    def _generate(self, key_type: str, label: str, key_id: str) -> dict[str, Any]:
        with softhsm.alone(self._name.manufacturer):
            key = keypair.generate(self._session, KeyType(key_type), label=label, key_id=bytes.fromhex(key_id))
        return self._select(key)

    def _find(self, label: str | None, key_id: str | None, *, by_public: bool) -> dict[str, Any]:
        wanted = None if key_id is None else bytes.fromhex(key_id)
        with softhsm.alone(self._name.manufacturer):
            key = keypair.find(self._session, label=label, key_id=wanted, by_public=by_public)
        return self._select(key)

    def _is_there(self, label: str, key_id: str) -> bool:
        with softhsm.alone(self._name.manufacturer):
            return keypair.is_there(self._session, label=label, key_id=bytes.fromhex(key_id))

    def _destroy(self, label: str, key_id: str) -> None:
        with softhsm.alone(self._name.manufacturer):
            keypair.destroy(self._session, label=label, key_id=bytes.fromhex(key_id))

    def _leftovers(self) -> int | None:
        return leftovers.count(self._session, self._name)

    def _clear(self) -> None:
        leftovers.destroy(self._session, self._name)

    def _own_keys(self) -> list[dict[str, Any]]:
        with softhsm.alone(self._name.manufacturer):
            return [key.to_json() for key in pruning.own_keys(self._session)]

    def _prune(self, label: str, key_id: str) -> None:
        with softhsm.alone(self._name.manufacturer):
            pruning.destroy(self._session, label=label, key_id=bytes.fromhex(key_id))

    def _sign(self, message: str) -> str:
        """Sign with the key that was last found or generated."""
        assert self._key is not None  # noqa: S101 - only a key that was returned can be asked to sign
        return self._key.sign(bytes.fromhex(message)).hex()

    def _create_token(self, kind: str, label: str, so_pin: str, user_pin: str) -> dict[str, Any]:
        is_tpm = kind == TokenKind.TPM2
        create = provision.create_tpm2_token if is_tpm else provision.create_softhsm_token
        return create(self._path, label, so_pin=Secret(so_pin), user_pin=Secret(user_pin)).to_json()

    def _complete_token(self, token: list[str], so_pin: str, user_pin: str) -> None:
        provision.complete_token(self._token(token), so_pin=Secret(so_pin), user_pin=Secret(user_pin))

    def _close(self) -> None:
        self._open.close()

    def _select(self, key: KeyPair) -> dict[str, Any]:
        self._key = key
        return {
            "label": key.label,
            "id": key.id.hex(),
            "type": key.key_type.value,
            "public_key_info": key.public_key_info.hex(),
            "origin": list(key.origin),
        }

    def _token(self, token: list[str]) -> TokenName:
        return TokenName(self._path, *token)


if __name__ == "__main__":
    _descriptor = int(sys.argv[1])
    os.closerange(_descriptor + 1, os.sysconf("SC_OPEN_MAX"))
    serve(_descriptor)
    os._exit(0)  # skips the module's destructors, which may crash
