"""List a module's tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pkcs11 import Attribute, ObjectClass, TokenFlag
from pkcs11.exceptions import PKCS11Error

from hsm_enroll import softhsm
from hsm_enroll.errors import (
    HsmEnrollError,
    TokenNotFoundError,
    TokenRefusedError,
)
from hsm_enroll.token import capabilities, naming, second_look
from hsm_enroll.token.naming import NamedToken
from hsm_enroll.token.reports import TokenReport
from hsm_enroll.uri import Pkcs11Uri

if TYPE_CHECKING:
    from pkcs11 import Object, Token

    from hsm_enroll.key import TokenName


def list_tokens(module: Path) -> list[TokenReport]:
    """Load a module in this process and describe its tokens, including uninitialised ones.

    Raises:
        ModuleMissingError, ModuleUnusableError: see ``naming.tokens``.
    """
    # SoftHSM completes unfinished objects that it reads, which makes another process fail that is writing them.
    with softhsm.alone(softhsm.maker_of(module)):
        return second_look.tokens(module, lambda: [_report(named) for named in naming.tokens(module)])


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
    """Return CKA_LABEL; None if it is not UTF-8, as PKCS#11 v2.40 §4.4 requires."""
    try:
        return str(key[Attribute.LABEL])
    except UnicodeDecodeError:
        return None


def _report(named: NamedToken) -> TokenReport:
    token, name = named.token, named.name
    flags = token.flags
    initialized = bool(flags & TokenFlag.TOKEN_INITIALIZED)
    keys: tuple[str, ...] = ()
    supported = capabilities.Capabilities((), ())
    obstacle: HsmEnrollError | None = None
    if initialized:
        # A token need not show its public keys, or its mechanisms, without a login.
        with suppress(PKCS11Error):
            keys = tuple(public_key_uris(token, name))
        with suppress(TokenRefusedError, TokenNotFoundError):
            supported = capabilities.read(token)
            obstacle = capabilities.mqtt_obstacle(named)
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
        key_types=supported.key_types,
        mqtt_key_types=supported.mqtt_key_types,
        mqtt_obstacle=obstacle.document if obstacle else None,
        label_is_utf8=named.is_utf8,
        has_user_pin=bool(flags & TokenFlag.USER_PIN_INITIALIZED),
    )
