"""What a token supports, by its own account: read before a key is generated, so that nothing fails half-way."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pkcs11 import Mechanism, MechanismFlag

from hsm_enroll.errors import HsmEnrollError, ModuleUnusableError, TokenAmbiguousError, TokenRefusedError
from hsm_enroll.key import KeyType
from hsm_enroll.token import discovery, function_list, modules, naming
from hsm_enroll.token.reports import RELABEL_HINT
from hsm_enroll.token.translation import translated

if TYPE_CHECKING:
    from pkcs11 import Slot, Token

    from hsm_enroll.token.naming import NamedToken

# aws-c-io, pkcs11_lib.c: the function list must have this major version, and at least this minor one.
_MQTT_CRYPTOKI = (2, 20)
_NEWER_MODULE = "Install a newer version of the module, or do without MQTT: hsm-enroll init --no-publish."


class Capabilities(NamedTuple):
    """The key types that a token says it supports (PKCS#11 v2.40 §5.5, C_GetMechanismList).

    A key type needs a mechanism that generates it, with a range of sizes that includes it, and one that signs. PKCS#11
    cannot list curves: a curve counts as supported if its size is in the range, and a token may still refuse it when a
    key is generated.

    Attributes:
        key_types: those it can generate and sign requests with.
        mqtt_key_types: those of them that awscrt can use in a TLS handshake, see ``KeyType.tls_mechanism``.
    """

    key_types: tuple[KeyType, ...]
    mqtt_key_types: tuple[KeyType, ...]


def read(token: Token) -> Capabilities:
    """Read what a token supports; no login.

    Raises:
        TokenRefusedError: the token does not list its mechanisms.
    """
    with translated("list its mechanisms", f"token {token.label!r}"):
        slot = token.slot
        listed = slot.get_mechanisms()
        generated = [key_type for key_type in KeyType if _generates(slot, listed, key_type)]
        names = {name for key_type in generated for name in key_type.signing_mechanisms}
        signing = {name for name in names if _signs(slot, listed, name)}
    return Capabilities(
        key_types=tuple(key_type for key_type in generated if not signing.isdisjoint(key_type.signing_mechanisms)),
        mqtt_key_types=tuple(key_type for key_type in generated if key_type.tls_mechanism in signing),
    )


def mechanism(name: str) -> Mechanism:
    """Return python-pkcs11's constant for a mechanism's name in the standard, such as ``CKM_ECDSA``."""
    return Mechanism[name.removeprefix("CKM_")]


def signs(slot: Slot, name: str) -> bool:
    """Whether a slot's token lists a mechanism as one that signs (PKCS#11 v2.40 §3.4, CKF_SIGN)."""
    return _signs(slot, slot.get_mechanisms(), name)


def mqtt_obstacle(named: NamedToken) -> HsmEnrollError | None:
    """Return why awscrt could not use any of a token's keys, or None if it could.

    awscrt needs Cryptoki 2.20 or a later 2.x, stops at a slot whose token it cannot read, and selects a token by its
    label alone: UTF-8, which it compares byte by byte without the blanks that pad it.

    Raises:
        ModuleMissingError, ModuleUnusableError, TokenRefusedError: the module cannot be used at all.
    """
    module, label = named.name.module, named.name.label
    version = function_list.version(module)
    if version[0] != _MQTT_CRYPTOKI[0] or version < _MQTT_CRYPTOKI:
        return ModuleUnusableError(
            f"MQTT cannot use {module}: it implements Cryptoki {version[0]}.{version[1]}, and 2.20 or a later 2.x is "
            "needed",
            hint=_proxy_hint() if version > _MQTT_CRYPTOKI else _NEWER_MODULE,
        )
    tokens = naming.tokens(module)
    with translated("list its slots", str(module)):
        slots = modules.load(module).get_slots(token_present=True)
    if len(tokens) < len(slots):
        return ModuleUnusableError(
            f"MQTT cannot use {module}: one of its {len(slots)} slots has a token that the module cannot read",
            hint="Remove that token or card.",
        )
    if not named.is_utf8 or b"\0" in named.label:
        wrong = "is padded with NUL instead of blanks" if named.is_utf8 else "is not valid UTF-8"
        return TokenRefusedError(f"MQTT cannot use token {label!r}: its label {wrong}", hint=RELABEL_HINT)
    labelled = [token for token in tokens if token.label == named.label]
    if len(labelled) > 1:
        return TokenAmbiguousError(
            f"MQTT selects a token by its label alone, and {len(labelled)} tokens are labelled {label!r}",
            hint="Relabel one of them with the token's own tool.",
        )
    return None


def _proxy_hint() -> str:
    proxy = discovery.proxy()
    install = "" if proxy else "install it (Debian: p11-kit-modules), "
    return (
        f"Use the token through p11-kit's proxy, which implements 2.40: {install}check that p11-kit list-modules shows "
        f"the token, and run hsm-enroll init with --module {proxy or discovery.PROXY}; on a device that is enrolled "
        "already, with --new-key and a new invite too. Or do without MQTT: hsm-enroll init --no-publish."
    )


def _generates(slot: Slot, listed: set[Mechanism], key_type: KeyType) -> bool:
    generation = mechanism(key_type.generation_mechanism)
    if generation not in listed:
        return False
    info = slot.get_mechanism_info(generation)
    # A token without a limit reports 0.
    largest = info.max_key_length or key_type.bits
    return bool(info.flags & MechanismFlag.GENERATE_KEY_PAIR) and (info.min_key_length or 0) <= key_type.bits <= largest


def _signs(slot: Slot, listed: set[Mechanism], name: str) -> bool:
    signing = mechanism(name)
    return signing in listed and bool(slot.get_mechanism_info(signing).flags & MechanismFlag.SIGN)
