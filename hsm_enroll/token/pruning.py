"""List and destroy the keys of this program in a token, in the worker's process; ``device.pruning`` decides which."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pkcs11 import Attribute, ObjectClass
from pkcs11.exceptions import AttributeTypeInvalid

from hsm_enroll.errors import HsmEnrollError
from hsm_enroll.key import KEY_ID_BYTES, key_label
from hsm_enroll.token import public_key
from hsm_enroll.token.public_key import PublicKeyReport
from hsm_enroll.token.reports import OwnKey
from hsm_enroll.token.translation import translated

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pkcs11 import PublicKey, Session

# The private half goes first: the public half that an interruption leaves still shows which key it was.
_HALVES = {ObjectClass.PRIVATE_KEY: "private", ObjectClass.PUBLIC_KEY: "public"}


def own_keys(session: Session) -> list[OwnKey]:
    """Return the keys with a label and an id that this program chose, in the order of their labels.

    The two halves belong together by their id, and so does a certificate (PKCS#11 v2.40 §4.6.3).

    Args:
        session: logged in, since private keys are hidden otherwise.

    Raises:
        TokenRefusedError: the token cannot be searched.
    """
    with translated("look for keys", f"token {session.token.label!r}"):
        certified = {_read(found, Attribute.ID) for found in _all(session, ObjectClass.CERTIFICATE)}
        by_id: dict[bytes, list[tuple[str, Any]]] = {}
        for object_class, half in _HALVES.items():
            for found in _all(session, object_class):
                by_id.setdefault(_read(found, Attribute.ID) or b"", []).append((half, found))
        own = (
            _own_key(key_id, halves, has_certificate=key_id in certified)
            for key_id, halves in by_id.items()
            if len(key_id) == KEY_ID_BYTES
        )
        return sorted(key for key in own if key is not None)


def destroy(session: Session, *, label: str, key_id: bytes) -> None:
    """Destroy the key objects with this label and id, and no object of another class.

    Raises:
        TokenRefusedError: the token does not destroy one.
    """
    with translated(f"destroy the key {label!r}", f"token {session.token.label!r}"):
        for object_class in _HALVES:
            for found in _all(session, object_class, {Attribute.LABEL: label, Attribute.ID: key_id}):
                found.destroy()


def _own_key(key_id: bytes, halves: Sequence[tuple[str, Any]], *, has_certificate: bool) -> OwnKey | None:
    label = key_label(key_id)
    labels = {_read(found, Attribute.LABEL) for _, found in halves}
    if label not in labels:
        return None
    public = [_described(found) for half, found in halves if half == "public"]
    readable = [report for report in public if report is not None]
    return OwnKey(
        label=label,
        id=key_id,
        halves=tuple(half for half in _HALVES.values() if half in dict(halves)),
        key_type=readable[0].key_type if readable else None,
        public_keys=tuple(report.public_key_info for report in readable),
        has_certificate=has_certificate,
        is_changed=labels != {label} or len(readable) < len(public),
    )


def _all(session: Session, object_class: ObjectClass, criteria: dict[Attribute, Any] | None = None) -> list[Any]:
    return list(session.get_objects({Attribute.CLASS: object_class, **(criteria or {})}))


def _read(found: Any, attribute: Attribute) -> Any:
    """Return an attribute; None if the object lacks it, or if it is a label that is not UTF-8, which is not ours."""
    try:
        return found[attribute]
    except (AttributeTypeInvalid, UnicodeDecodeError):
        return None


def _described(found: PublicKey) -> PublicKeyReport | None:
    try:
        return public_key.described(found)
    except (HsmEnrollError, AttributeTypeInvalid, ValueError):
        return None
