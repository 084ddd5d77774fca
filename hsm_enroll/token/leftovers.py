"""What a key generation that was killed leaves in SoftHSM: key objects without a name and without a key.

SoftHSM writes a new object attribute by attribute; label, id and the key's numbers come last, so the object cannot be
found by them. Objects that are not even complete enough for python-pkcs11 are listed here too.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hsm_enroll import softhsm
from hsm_enroll.token import function_list, return_values
from hsm_enroll.token.translation import refused

if TYPE_CHECKING:
    from hsm_enroll.key import TokenName

# PKCS#11 v2.40, pkcs11t.h.
_CKA_CLASS = 0x0
_CKO_KEYS = {2, 3}  # CKO_PUBLIC_KEY, CKO_PRIVATE_KEY
# CKA_LABEL, CKA_ID, CKA_MODULUS, CKA_EC_PARAMS: an object that has none of them is no use to anybody.
_NAME_AND_KEY = (0x3, 0x102, 0x120, 0x180)
# The second one is what SoftHSM returns for every attribute of an object that has no CKA_KEY_TYPE yet.
_LACKING = {"CKR_ATTRIBUTE_TYPE_INVALID", "CKR_ATTRIBUTE_VALUE_INVALID"}
_BATCH = 64

_ULONG = ctypes.c_ulong
_Handles = _ULONG * _BATCH


class _Attribute(ctypes.Structure):
    """CK_ATTRIBUTE (PKCS#11 v2.40 §3.3)."""

    _fields_ = (("type", ctypes.c_ulong), ("value", ctypes.c_void_p), ("length", ctypes.c_ulong))


def count(session: Any, name: TokenName) -> int | None:
    """Return how many such objects a token has; None if they cannot be told: SoftHSM's can, not behind p11-kit's proxy.

    Args:
        session: python-pkcs11's, logged in, since private objects are hidden otherwise.
        name: the session's token.

    Raises:
        TokenRefusedError: the token cannot be searched.
    """
    with softhsm.alone(name.manufacturer):
        return len(_hollow(session, name)) if _can_tell(name) else None


def destroy(session: Any, name: TokenName) -> None:
    """Destroy such objects, unless another process may be about to complete one. Does *not* check that they are gone.

    Args:
        session: python-pkcs11's, logged in and writable.
        name: the session's token.

    Raises:
        TokenRefusedError: the token cannot be searched.
    """
    with softhsm.alone(name.manufacturer) as alone:
        if not alone or not _can_tell(name):
            return
        destroy_object = function_list.function(name.module, function_list.DESTROY_OBJECT, _ULONG, _ULONG)
        for handle in _hollow(session, name):
            destroy_object(session.handle, handle)


def _can_tell(name: TokenName) -> bool:
    return name.manufacturer == softhsm.MANUFACTURER and function_list.is_shared(name.module)


def _hollow(session: Any, name: TokenName) -> list[int]:
    return [handle for handle in _handles(session, name) if _is_hollow(session, name, handle)]


def _handles(session: Any, name: TokenName) -> list[int]:
    begin, begin_types = function_list.FIND_OBJECTS_INIT, (_ULONG, ctypes.c_void_p, _ULONG)
    _search(name, begin, *begin_types)(session.handle, None, 0)
    find = _search(name, begin + 1, _ULONG, ctypes.POINTER(_Handles), _ULONG, ctypes.POINTER(_ULONG))
    handles: list[int] = []
    batch, count = _Handles(), _ULONG(_BATCH)
    while count.value == _BATCH:
        find(session.handle, ctypes.byref(batch), _BATCH, ctypes.byref(count))
        handles += batch[: count.value]
    _search(name, begin + 2, _ULONG)(session.handle)
    return handles


def _search(name: TokenName, index: int, *types: Any) -> Callable[..., None]:
    """Return a function of the module that raises where it fails."""
    function = function_list.function(name.module, index, *types)

    def checked(*arguments: Any) -> None:
        status = function(*arguments)
        if status != 0:
            raise refused(return_values.name_of(status), "look for keys", f"token {name.label!r}")

    return checked


def _is_hollow(session: Any, name: TokenName, handle: int) -> bool:
    object_class = _ULONG()
    size = _size(session, name, handle, _CKA_CLASS, object_class)
    if size is None or (size > 0 and object_class.value not in _CKO_KEYS):
        return False
    return all(_size(session, name, handle, attribute) == 0 for attribute in _NAME_AND_KEY)


def _size(session: Any, name: TokenName, handle: int, attribute: int, value: Any = None) -> int | None:
    """Return the size of an attribute, 0 if the object lacks it, None if the token does not say.

    Args:
        session: the session.
        name: its token.
        handle: the object.
        attribute: CK_ATTRIBUTE_TYPE.
        value: a ctypes object for the value; None reads the size only.
    """
    pointer, room = (None, 0) if value is None else (ctypes.addressof(value), ctypes.sizeof(value))
    asked = _Attribute(attribute, pointer, room)
    types = (_ULONG, _ULONG, ctypes.POINTER(_Attribute), _ULONG)
    get = function_list.function(name.module, function_list.GET_ATTRIBUTE_VALUE, *types)
    ckr = return_values.name_of(get(session.handle, handle, ctypes.byref(asked), 1))
    if ckr in _LACKING:
        return 0
    return asked.length if ckr == "CKR_OK" else None
