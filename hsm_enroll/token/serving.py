"""The worker's side: loads the module, and carries out requests about its tokens and keys.

Only this module and those that it calls load a PKCS#11 module; ``worker`` is the other side.
"""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

from hsm_enroll import softhsm
from hsm_enroll.key import KeyType, TokenName
from hsm_enroll.secret import Secret
from hsm_enroll.token import inventory, keypair, leftovers, modules, provision, pruning, public_key, served, session
from hsm_enroll.token.keypair import KeyPair
from hsm_enroll.token.reports import TokenKind
from hsm_enroll.token.served import Server


def serve(descriptor: int) -> None:
    """Serve requests from a socket until it is closed, then shut the module down (C_Finalize)."""
    served.serve(descriptor, _Server)


class _Server(Server):
    """The module, its one session with a token, and the key that was last found or generated in that session."""

    operations: ClassVar[dict[str, str]] = {
        "describe": "_describe",
        "tokens": "_tokens",
        "public key": "_public_key",
        "open": "_open_session",
        "generate": "_generate",
        "find": "_find",
        "is there": "_is_there",
        "destroy": "_destroy",
        "leftovers": "_leftovers",
        "clear": "_clear",
        "own keys": "_own_keys",
        "prune": "_prune",
        "sign": "_sign",
        "close": "_close_session",
        "create token": "_create_token",
        "complete token": "_complete_token",
    }

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(connection)
        self._open = ExitStack()
        self._session: Any = None
        self._name: Any = None
        self._key: KeyPair | None = None

    def close(self) -> None:
        """Close the session, and shut the module down (C_Finalize)."""
        self._open.close()
        if self._subject:
            modules.shut_down(self._path)

    @property
    def _path(self) -> Path:
        return Path(self._subject)

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

    def _close_session(self) -> None:
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
    served.serve_alone(serve)
