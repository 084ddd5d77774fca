"""The keys of tpm2-pkcs11's backend FAPI, which are in the keystore of tpm2-tss's Feature API.

A token is two sealed objects below the storage key, one for each PIN, and the token's label is their description. The
application data of the security officer's are a salt and then the token's objects, each with its number and the
attributes that the other backend has too; those of the user's are a salt. (tpm2-pkcs11, src/lib/backend_fapi.c)

FAPI reads its configuration itself (``TSS2_FAPICONF``), connects to the TPM that this names, and asks for nothing that
takes an authorization.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tpm2_pytss.constants import FAPI_ESYSBLOB
from tpm2_pytss.TSS2_Exception import TSS2_Exception

from hsm_enroll.errors import TokenAmbiguousError, TokenNotFoundError
from hsm_enroll.token.tpm2.attestation import stored_key
from hsm_enroll.token.tpm2.attestation.stored_key import Seal, StoredKey, Wanted

if TYPE_CHECKING:
    from tpm2_pytss.FAPI import FAPI

_STORE = "FAPI's keystore"
_PARENT = "/HS/SRK"
# FAPI puts the cryptographic profile in front, as in "/P_ECCP256SHA256/HS/SRK/tpm2-pkcs11-token-so-00000001".
_OFFICER, _USER = "/tpm2-pkcs11-token-so-", "/tpm2-pkcs11-token-usr-"
_TOKEN = re.compile(rf".*{_PARENT}{_OFFICER}[0-9a-f]{{8}}")
_END = b"\0"


def find(wanted: Wanted) -> StoredKey:
    """Find a private key in FAPI's keystore, which is only read.

    Args:
        wanted: the key's name.

    Raises:
        ModuleUnusableError: the token in the keystore is damaged, or not as this module knows it.
        TokenNotFoundError, TokenAmbiguousError, KeyMissingError, KeyAmbiguousError: there is no keystore, or it does
            not have one such token, or one such key in it.
    """
    with _opened() as keystore:
        paths = _paths(keystore)
        try:
            token = _only_token(keystore, paths, wanted.token_label)
            blobs = stored_key.only_key(_objects(keystore, token), wanted, _STORE)
            return StoredKey(_parent(keystore), b"", _seal(keystore, paths, token, wanted.token_label), blobs)
        except TSS2_Exception as error:
            raise stored_key.damaged(f"a token, or of the key above it ({error}),") from error


@contextmanager
def _opened() -> Iterator[FAPI]:
    try:
        from tpm2_pytss.FAPI import FAPI

        keystore = FAPI()
    except (ImportError, NotImplementedError, TSS2_Exception) as error:  # tpm2-tss can be built without it
        raise TokenNotFoundError(f"{_STORE} cannot be read: {error}") from error
    with keystore:
        yield keystore


def _paths(keystore: FAPI) -> list[str]:
    try:
        paths: list[str] = keystore.list(_PARENT)
    except TSS2_Exception as error:
        raise TokenNotFoundError(f"{_STORE} is not set up: {error}") from error
    return paths


def _only_token(keystore: FAPI, paths: list[str], label: str) -> str:
    found = [path for path in paths if _TOKEN.fullmatch(path) and _label(keystore, path) == label]
    if not found:
        raise TokenNotFoundError(f"{_STORE} does not have the token {label!r}")
    if len(found) > 1:
        raise TokenAmbiguousError(f"{_STORE} has {len(found)} tokens labelled {label!r}: {', '.join(found)}")
    return found[0]


def _label(keystore: FAPI, token: str) -> str | None:
    try:
        label: str = keystore.get_description(token)
    except UnicodeDecodeError:
        return None  # a label may be in Latin-1
    return label


def _objects(keystore: FAPI, token: str) -> list[str]:
    """Return the attributes of each object, after its number; an update of an object can leave an empty entry."""
    _, *entries = (keystore.get_app_data(token) or b"").split(_END)
    return [entry.decode("latin-1") for entry in entries]


def _seal(keystore: FAPI, paths: list[str], token: str, label: str) -> Seal:
    path = token.replace(_OFFICER, _USER)
    if path not in paths:
        raise stored_key.unknown(_STORE, f"token {label!r} in it has no PIN of the user")
    public, private, _ = keystore.get_tpm_blobs(path)
    salt = (keystore.get_app_data(path) or b"").partition(_END)[0]
    return Seal(public.marshal(), private.marshal(), salt)


def _parent(keystore: FAPI) -> bytes:
    blob: bytes
    blob, kind = keystore.get_esys_blob(_PARENT)
    if kind != FAPI_ESYSBLOB.DESERIALIZE:
        raise stored_key.unknown(_STORE, "its storage key is not a persistent one")
    return blob
