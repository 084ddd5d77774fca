"""What a token can do, by its own word: asked for before a key is made, instead of found out by a failure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pkcs11 import Mechanism, MechanismFlag

from hsm_enroll.errors import HsmEnrollError, ModuleUnusableError, TokenAmbiguousError
from hsm_enroll.key import KeyType
from hsm_enroll.token import function_list, modules
from hsm_enroll.token.translation import translated

if TYPE_CHECKING:
    from pkcs11 import Slot, Token

# aws-c-io, pkcs11_lib.c: the function list's major version is this one, the minor one at least that.
_MQTT_CRYPTOKI = (2, 20)


class Capabilities(NamedTuple):
    """Which of our key types a token says that it handles (PKCS#11 v2.40 §5.5, C_GetMechanismList).

    A key type needs a mechanism that makes it, in a range of sizes that holds it, and one that signs. An elliptic curve
    is taken for granted where its field's size is in the range: PKCS#11 has no way to list curves, so a token may still
    refuse one when the key is to be made.

    Attributes:
        key_types: it makes them, and signs requests with them.
        mqtt_key_types: those of them that it can use in a TLS handshake of awscrt, which signs RSA by CKM_RSA_PKCS.
    """

    key_types: tuple[KeyType, ...]
    mqtt_key_types: tuple[KeyType, ...]


def read(token: Token) -> Capabilities:
    """Ask a token what it can do; no login.

    Raises:
        TokenRefusedError: it does not list its mechanisms.
    """
    with translated("list its mechanisms", f"token {token.label!r}"):
        listed = token.slot.get_mechanisms()
        slot = token.slot
        made = [key_type for key_type in KeyType if _makes(slot, listed, key_type)]
        ecdsa, rsa = _signs(slot, listed, Mechanism.ECDSA), _signs(slot, listed, Mechanism.RSA_PKCS)
        any_rsa = rsa or _signs(slot, listed, Mechanism.SHA256_RSA_PKCS)
    return Capabilities(
        key_types=tuple(key_type for key_type in made if (any_rsa if key_type.is_rsa else ecdsa)),
        mqtt_key_types=tuple(key_type for key_type in made if (rsa if key_type.is_rsa else ecdsa)),
    )


def signs(slot: Slot, mechanism: Mechanism) -> bool:
    """Whether a slot's token lists a mechanism, and as one that signs (PKCS#11 v2.40 §3.4, CKF_SIGN)."""
    return _signs(slot, slot.get_mechanisms(), mechanism)


def mqtt_obstacle(module: Path, label: str) -> HsmEnrollError | None:
    """Return why awscrt could use none of a token's keys, or None.

    It takes Cryptoki 2.20 to 2.x, gives up at a slot whose token it cannot read, and goes by a token's label alone.

    Args:
        module: is loaded in this process.
        label: CK_TOKEN_INFO.label.

    Raises:
        ModuleMissingError, ModuleUnusableError, TokenRefusedError: the module cannot be asked.
    """
    version = function_list.version(module)
    if version[0] != _MQTT_CRYPTOKI[0] or version < _MQTT_CRYPTOKI:
        return ModuleUnusableError(
            f"MQTT cannot use {module}: it implements Cryptoki {version[0]}.{version[1]}, and 2.20 or a later 2.x is "
            "needed",
            hint="Install a newer version of the module. Without MQTT it can be used: hsm-enroll init --no-publish.",
        )
    tokens = modules.tokens(module)
    with translated("list its slots", str(module)):
        slots = modules.load(module).get_slots(token_present=True)
    if len(tokens) < len(slots):
        return ModuleUnusableError(
            f"MQTT cannot use {module}: one of its {len(slots)} slots holds a token that it cannot read",
            hint="Take that token or card out.",
        )
    labelled = [token for token in tokens if token.label == label]
    if len(labelled) > 1:
        return TokenAmbiguousError(
            f"MQTT selects a token by its label alone, and {len(labelled)} are labelled {label!r}",
            hint="Relabel one of them with the token's own tool.",
        )
    return None


def _makes(slot: Slot, listed: set[Mechanism], key_type: KeyType) -> bool:
    mechanism = Mechanism.RSA_PKCS_KEY_PAIR_GEN if key_type.is_rsa else Mechanism.EC_KEY_PAIR_GEN
    if mechanism not in listed:
        return False
    info = slot.get_mechanism_info(mechanism)
    # A token that knows no limit says 0.
    largest = info.max_key_length or key_type.bits
    return bool(info.flags & MechanismFlag.GENERATE_KEY_PAIR) and (info.min_key_length or 0) <= key_type.bits <= largest


def _signs(slot: Slot, listed: set[Mechanism], mechanism: Mechanism) -> bool:
    return mechanism in listed and bool(slot.get_mechanism_info(mechanism).flags & MechanismFlag.SIGN)
