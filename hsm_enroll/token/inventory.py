"""What tokens a module offers, asked in this process or behind a shield in a child process.

A PKCS#11 module is foreign code: it may hang in C_Initialize, crash, or print to stdout. ``inspect`` lets a child
take that risk, with a time limit; ``python -m hsm_enroll.token.inventory MODULE`` is that child.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pkcs11 import Attribute, ObjectClass, TokenFlag
from pkcs11.exceptions import PKCS11Error

from hsm_enroll.errors import (
    HsmEnrollError,
    ModuleMissingError,
    ModuleUnusableError,
    TokenNotFoundError,
    TokenRefusedError,
)
from hsm_enroll.key import KeyType, TokenName
from hsm_enroll.token import capabilities, modules
from hsm_enroll.uri import Pkcs11Uri

if TYPE_CHECKING:
    from pkcs11 import Object, Token

# C_Initialize of a TPM's module talks to the chip: seconds on real hardware, never half a minute.
_TIME_LIMIT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class TokenReport:
    """One token as it shows itself before any login.

    Attributes:
        name: which token it is.
        slot: CK_SLOT_ID; for people to read, never to select by.
        initialized: CKF_TOKEN_INITIALIZED.
        login_required: CKF_LOGIN_REQUIRED.
        protected_authentication_path: CKF_PROTECTED_AUTHENTICATION_PATH: the PIN is typed at the token itself.
        pin_count_low: CKF_USER_PIN_COUNT_LOW: a wrong PIN was given since the last good login.
        pin_final_try: CKF_USER_PIN_FINAL_TRY: one more wrong PIN locks it.
        pin_locked: CKF_USER_PIN_LOCKED.
        public_keys: URIs of the public keys it shows without a login.
        key_types: types of keys that it makes and signs with, by its own word; empty where it does not tell.
        mqtt_obstacle: why MQTT can use none of its keys, or "".
    """

    name: TokenName
    slot: int
    initialized: bool
    login_required: bool
    protected_authentication_path: bool
    pin_count_low: bool
    pin_final_try: bool
    pin_locked: bool
    public_keys: tuple[str, ...]
    key_types: tuple[KeyType, ...]
    mqtt_obstacle: str


def list_tokens(module: Path) -> list[TokenReport]:
    """Load a module in this process and describe its tokens, uninitialised ones included.

    Raises:
        ModuleMissingError, ModuleUnusableError: see ``modules.load``.
        TokenRefusedError: the module does not list its slots.
    """
    return [_report(module, token) for token in modules.tokens(module)]


def inspect(module: Path, time_limit: float = _TIME_LIMIT_SECONDS) -> list[TokenReport]:
    """Describe a module's tokens as :func:`list_tokens` does, in a child process that may hang or crash.

    Args:
        module: file of the module.
        time_limit: seconds until the child is killed.

    Raises:
        ModuleMissingError, ModuleUnusableError: also when the module hangs or crashes.
    """
    if not os.path.isfile(module):  # noqa: PTH113 - unlike is_file it never raises
        raise ModuleMissingError(f"there is no PKCS#11 module {module}")
    # -P: a module in the current directory must not stand in for one of ours; the child looks where this process looks.
    command = [sys.executable, "-P", "-m", __name__, str(module)]
    # Foreign code runs there, and it has no use for the PIN.
    environment = {name: value for name, value in os.environ.items() if name != "HSM_ENROLL_PIN"}
    environment |= {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    try:
        child = subprocess.run(command, capture_output=True, timeout=time_limit, check=False, env=environment)
    except subprocess.TimeoutExpired as error:
        raise ModuleUnusableError(
            f"{module} does not answer: it was stopped after {time_limit:.0f} s",
            hint="Check that its device is connected and not held by another program.",
        ) from error
    if child.returncode < 0:
        name = signal.Signals(-child.returncode).name
        raise ModuleUnusableError(f"{module} crashed while it was loaded ({name})")
    try:
        answer = json.loads(child.stdout)
    except ValueError as error:
        raise ModuleUnusableError(f"{module} ended the process that loaded it") from error
    if "error" in answer:
        raise ModuleUnusableError(answer["error"])
    return [_from_json(module, token) for token in answer["tokens"]]


def public_key_uris(token: Token, name: TokenName) -> Iterator[str]:
    """Yield the URIs of the public keys that a token shows without a login."""
    with token.open() as session:
        for key in session.get_objects({Attribute.CLASS: ObjectClass.PUBLIC_KEY}):
            yield str(
                Pkcs11Uri(
                    token=name.label,
                    serial=name.serial or None,
                    object=_label(key),
                    id=key[Attribute.ID],
                    type="public",
                )
            )


def _label(key: Object) -> str | None:
    """Return CKA_LABEL, UTF-8 by PKCS#11 v2.40 §4.4; None where another program wrote other bytes."""
    try:
        return str(key[Attribute.LABEL])
    except UnicodeDecodeError:
        return None


def _report(module: Path, token: Token) -> TokenReport:
    flags = token.flags
    name = TokenName(
        module=module,
        label=token.label,
        serial=token.serial.decode("utf-8", "replace").rstrip("\0 "),
        manufacturer=token.manufacturer_id,
        model=token.model,
    )
    initialized = bool(flags & TokenFlag.TOKEN_INITIALIZED)
    keys: tuple[str, ...] = ()
    key_types: tuple[KeyType, ...] = ()
    obstacle: HsmEnrollError | None = None
    if initialized:
        # A token that shows nothing without a login is none the worse for it.
        with suppress(PKCS11Error):
            keys = tuple(public_key_uris(token, name))
        with suppress(TokenRefusedError, TokenNotFoundError):
            key_types = capabilities.read(token).key_types
            obstacle = capabilities.mqtt_obstacle(module, token.label)
    return TokenReport(
        name=name,
        slot=token.slot.slot_id,
        initialized=initialized,
        login_required=bool(flags & TokenFlag.LOGIN_REQUIRED),
        protected_authentication_path=bool(flags & TokenFlag.PROTECTED_AUTHENTICATION_PATH),
        pin_count_low=bool(flags & TokenFlag.USER_PIN_COUNT_LOW),
        pin_final_try=bool(flags & TokenFlag.USER_PIN_FINAL_TRY),
        pin_locked=bool(flags & TokenFlag.USER_PIN_LOCKED),
        public_keys=keys,
        key_types=key_types,
        mqtt_obstacle=obstacle.message if obstacle else "",
    )


def _from_json(module: Path, token: dict[str, Any]) -> TokenReport:
    name = TokenName(**{**token.pop("name"), "module": module})
    lists = {
        "public_keys": tuple(token["public_keys"]),
        "key_types": tuple(KeyType(key_type) for key_type in token["key_types"]),
    }
    return TokenReport(**{**token, **lists}, name=name)


def _child(module: Path) -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    # Some modules print to stdout; from here on that is stderr.
    os.dup2(2, 1)
    try:
        tokens = [asdict(report) for report in list_tokens(module)]
        json.dump({"tokens": tokens}, answers, default=str)
    except HsmEnrollError as error:
        json.dump({"error": error.message}, answers)
    answers.close()


if __name__ == "__main__":
    _child(Path(sys.argv[1]))
