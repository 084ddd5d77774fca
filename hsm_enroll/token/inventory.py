"""What tokens a module offers, asked in this process or behind a shield in a child process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pkcs11 import Attribute, ObjectClass, TokenFlag
from pkcs11.exceptions import PKCS11Error

from hsm_enroll.errors import (
    HsmEnrollError,
    TokenNotFoundError,
    TokenRefusedError,
)
from hsm_enroll.key import KeyType, TokenName
from hsm_enroll.token import capabilities, modules, shield
from hsm_enroll.uri import Pkcs11Uri

if TYPE_CHECKING:
    from pkcs11 import Object, Token


class TokenReport(NamedTuple):
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
        mqtt_key_types: those of them that MQTT can use, see ``capabilities.Capabilities``.
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
    mqtt_key_types: tuple[KeyType, ...]
    mqtt_obstacle: str


class ModuleReport(NamedTuple):
    """What a module says of itself (PKCS#11 v2.40 §3.1, CK_INFO).

    Attributes:
        description: libraryDescription.
        version: libraryVersion, major and minor.
        cryptoki: cryptokiVersion, major and minor.
    """

    description: str
    version: tuple[int, int]
    cryptoki: tuple[int, int]


def describe(module: Path) -> ModuleReport:
    """Have a module describe itself, in a child process that may hang or crash.

    Raises:
        ModuleMissingError, ModuleUnusableError: see ``shield.asking``.
    """
    description, version, cryptoki = shield.asked(module, _described, str(module))
    return ModuleReport(description, (version[0], version[1]), (cryptoki[0], cryptoki[1]))


def list_tokens(module: Path) -> list[TokenReport]:
    """Load a module in this process and describe its tokens, uninitialised ones included.

    Raises:
        ModuleMissingError, ModuleUnusableError: see ``modules.tokens``.
    """
    return [_report(module, token) for token in modules.tokens(module)]


def inspect(module: Path) -> list[TokenReport]:
    """Describe a module's tokens as :func:`list_tokens` does, in a child process that may hang or crash.

    Raises:
        ModuleMissingError, ModuleUnusableError: see ``shield.asking`` and ``modules.tokens``.
    """
    with inspecting([module]) as inspected:
        return inspected(module)


@contextmanager
def inspecting(paths: Iterable[Path]) -> Iterator[Callable[[Path], list[TokenReport]]]:
    """Have modules described as by :func:`inspect`, all at once, while the block runs.

    Args:
        paths: files of the modules.

    Yields:
        A function that waits for one module's tokens, to be called once for each, and raises what ``inspect`` does.
    """
    with ExitStack() as asked:
        answers = {path: asked.enter_context(shield.asking(path, _listed, str(path))) for path in paths}
        yield lambda path: [_from_json(path, token) for token in answers[path]()]


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
    able = capabilities.Capabilities((), ())
    obstacle: HsmEnrollError | None = None
    if initialized:
        # A token that shows nothing without a login is none the worse for it.
        with suppress(PKCS11Error):
            keys = tuple(public_key_uris(token, name))
        with suppress(TokenRefusedError, TokenNotFoundError):
            able = capabilities.read(token)
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
        key_types=able.key_types,
        mqtt_key_types=able.mqtt_key_types,
        mqtt_obstacle=obstacle.message if obstacle else "",
    )


def _described(module: str) -> list[Any]:
    library = modules.load(Path(module))
    return [library.library_description, library.library_version, library.cryptoki_version]


def _listed(module: str) -> list[dict[str, Any]]:
    return [
        {**report._asdict(), "name": {**report.name._asdict(), "module": module}}
        for report in list_tokens(Path(module))
    ]


def _from_json(module: Path, token: dict[str, Any]) -> TokenReport:
    name = TokenName(**{**token.pop("name"), "module": module})
    lists = {
        "public_keys": tuple(token["public_keys"]),
        "key_types": tuple(map(KeyType, token["key_types"])),
        "mqtt_key_types": tuple(map(KeyType, token["mqtt_key_types"])),
    }
    return TokenReport(**{**token, **lists}, name=name)
