"""What a worker does in its process: it has the module, and answers questions about its tokens and keys.

Beside this module and those that it calls, nothing loads a PKCS#11 module; see ``worker`` for how it is spoken to.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hsm_enroll.errors import HsmEnrollError, TokenRefusedError
from hsm_enroll.key import KeyType, TokenName
from hsm_enroll.secret import Secret
from hsm_enroll.token import frames, inventory, keypair, modules, provision, public_key, session
from hsm_enroll.token.keypair import KeyPair

_PIN_VARIABLE = "HSM_ENROLL_PIN"
# Beyond the time limit that the other process keeps: for when that one is gone.
_ALARM_SECONDS = 2
_GOODBYE_SECONDS = 5


def serve(descriptor: int) -> None:
    """Answer the questions that come by a socket, until it is closed; then end the module's work (C_Finalize)."""
    _take_no_signals_of_the_caller()
    # Foreign code will run here. It has no use for the PIN in the environment, and what it prints is no answer.
    os.environ.pop(_PIN_VARIABLE, None)
    silent = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(silent, stream)
    with socket.socket(fileno=descriptor) as connection:
        _Served(connection).run()


def _take_no_signals_of_the_caller() -> None:
    """Undo what the caller does about signals; it has blocked them all until now."""
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    for number in (signal.SIGCHLD, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGTERM):
        # Ctrl-C reaches both processes; the other one answers it, and ends this one.
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


class _Served:
    """The module, the one session there may be with a token, and the key that was found or made in it."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._module: Path | None = None
        self._open = ExitStack()
        self._session: Any = None
        self._key: KeyPair | None = None
        self._questions: dict[str, Callable[..., Any]] = {
            "describe": self._describe,
            "tokens": self._tokens,
            "public key": self._public_key,
            "open": self._open_session,
            "generate": self._generate,
            "find": self._find,
            "is there": self._is_there,
            "destroy": self._destroy,
            "sign": self._sign,
            "close": self._close,
            "create token": self._create_token,
            "complete token": self._complete_token,
        }

    def run(self) -> None:
        """Answer until the other side closes."""
        while (request := frames.receive(self._connection)) is not None:
            self._module = Path(request["module"])
            # Should the other process be killed, nobody else ends a module that hangs.
            signal.alarm(math.ceil(request["limit"]) + _ALARM_SECONDS)
            answer = self._answer(request)
            signal.alarm(0)
            try:
                frames.send(self._connection, answer)
            except OSError:
                break
        signal.alarm(_GOODBYE_SECONDS)
        self._open.close()
        if self._module is not None:
            modules.shut_down(self._module)

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"answer": self._questions[request["ask"]](**request.pop("told"))}
        except HsmEnrollError as error:
            of_key_type = isinstance(error, TokenRefusedError) and error.of_key_type
            return {"error": error.document, "ofKeyType": of_key_type, "trace": _trace()}
        except Exception as error:  # noqa: BLE001 - this process's very top: what nobody foresaw is not the module's end
            unexpected = HsmEnrollError(
                f"something unexpected happened: {type(error).__name__}",
                hint="Run it again with --verbose and report what it shows.",
            )
            return {"error": unexpected.document, "ofKeyType": False, "trace": _trace()}

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
        with session.opened(self._token(token), None) as opened:
            return public_key.find_public(opened, label=label, key_id=bytes.fromhex(key_id)).public_key_info.hex()

    def _open_session(self, token: list[str], pin: str | None, *, writable: bool) -> None:
        # None is typed at the token itself, or not wanted: `session.opened` looks which.
        source = session.opened(self._token(token), lambda: Secret(pin or ""), writable=writable)
        self._session = self._open.enter_context(source)

    def _generate(self, key_type: str, label: str, key_id: str) -> dict[str, Any]:
        made = keypair.generate(self._session, KeyType(key_type), label=label, key_id=bytes.fromhex(key_id))
        return self._kept(made)

    def _find(self, label: str | None, key_id: str | None) -> dict[str, Any]:
        wanted = None if key_id is None else bytes.fromhex(key_id)
        return self._kept(keypair.find(self._session, label=label, key_id=wanted))

    def _is_there(self, label: str, key_id: str) -> bool:
        return keypair.is_there(self._session, label=label, key_id=bytes.fromhex(key_id))

    def _destroy(self, label: str, key_id: str) -> None:
        keypair.destroy(self._session, label=label, key_id=bytes.fromhex(key_id))

    def _sign(self, message: str) -> str:
        """Sign with the key that was found or made last."""
        assert self._key is not None  # noqa: S101 - whoever asks has been told of it
        return self._key.sign(bytes.fromhex(message)).hex()

    def _create_token(self, kind: str, label: str, so_pin: str, user_pin: str) -> dict[str, Any]:
        making = {"softhsm": provision.create_softhsm_token, "tpm2": provision.create_tpm2_token}[kind]
        return making(self._path, label, so_pin=Secret(so_pin), user_pin=Secret(user_pin)).to_json()

    def _complete_token(self, token: list[str], so_pin: str, user_pin: str) -> None:
        provision.complete_token(self._token(token), so_pin=Secret(so_pin), user_pin=Secret(user_pin))

    def _close(self) -> None:
        self._open.close()

    def _kept(self, key: KeyPair) -> dict[str, Any]:
        self._key = key
        return {
            "label": key.label,
            "id": key.id.hex(),
            "type": key.key_type.value,
            "info": key.public_key_info.hex(),
            "origin": list(key.origin),
        }

    def _token(self, token: list[str]) -> TokenName:
        return TokenName(self._path, *token)


def _trace() -> str:
    import traceback

    return traceback.format_exc()


if __name__ == "__main__":
    _descriptor = int(sys.argv[1])
    os.closerange(_descriptor + 1, os.sysconf("SC_OPEN_MAX"))
    serve(_descriptor)
    os._exit(0)  # a module may crash in its destructors
