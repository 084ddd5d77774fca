"""A key as tpm2-pkcs11 keeps it, in either of its stores.

Only this module and the two that read a store, ``esysdb`` and ``fapi``, know how tpm2-pkcs11 keeps its keys, which it
does not promise to keep so. Tried with tpm2-pkcs11 1.9.0 (esysdb) and 1.9.1 (both, on tpm2-tss 3.2.1, FAPI with its
profiles P_ECCP256SHA256 and P_RSA2048SHA256); a store that looks otherwise is an error.

A token has a sealed object for its user's PIN, which contains the key of an AES-GCM cipher; that encrypts each object's
authorization value.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hsm_enroll.errors import KeyAmbiguousError, KeyMissingError, ModuleUnusableError
from hsm_enroll.secret import Secret

# PKCS#11 v2.40, and tpm2-pkcs11's own attributes (src/lib/attrs.h): the encrypted authorization value, TPM2B_PUBLIC and
# TPM2B_PRIVATE.
_CLASS, _LABEL, _ID = "0", "3", "258"
_PRIVATE_KEY = "3"
_OBJECT_AUTH, _PUBLIC, _PRIVATE = "2399141889", "2399141890", "2399141891"
# An entry of an object's attributes, a map in YAML's canonical form; of two with the same number the later one counts.
_ATTRIBUTE = re.compile(r"\? !!int \"(\d+)\"\s*: !!(?:str|int) \"([^\"]*)\"")
_UNKNOWN_HINT = "Report this, with the version of tpm2-pkcs11, which is not one that hsm-enroll was tried with."
_DAMAGED_HINT = (
    "Restore the store from a backup; or create a new token and enroll with it: hsm-enroll token create, then "
    "hsm-enroll init --new-key INVITE"
)


class Wanted(NamedTuple):
    """The name of a private key.

    Attributes:
        token_label: the token's label.
        label: CKA_LABEL.
        id: CKA_ID.
    """

    token_label: str
    label: str
    id: bytes

    def __str__(self) -> str:
        return f"key {self.label!r} with the id {self.id.hex()}"


class Seal(NamedTuple):
    """What is sealed with the PIN of a token's user.

    Attributes:
        public: TPM2B_PUBLIC.
        private: TPM2B_PRIVATE.
        salt: which is hashed with the PIN.
    """

    public: bytes
    private: bytes
    salt: bytes

    def auth(self, pin: Secret) -> bytes:
        """Return its authorization value."""
        return hashlib.sha256(pin.reveal().encode() + self.salt).hexdigest()[:32].encode()


class Blobs(NamedTuple):
    """A key's data.

    Attributes:
        public: TPM2B_PUBLIC.
        private: TPM2B_PRIVATE.
        encrypted_auth: its encrypted authorization value; empty if it has none.
    """

    public: bytes
    private: bytes
    encrypted_auth: str

    def auth(self, unsealed: bytes) -> bytes:
        """Return the key's authorization value.

        Args:
            unsealed: what the sealed object contains.

        Raises:
            ModuleUnusableError: the value does not decrypt.
        """
        if not self.encrypted_auth:
            return b""
        try:
            initial, tag, encrypted = map(bytes.fromhex, self.encrypted_auth.split(":"))
            return AESGCM(bytes.fromhex(unsealed.decode("ascii"))).decrypt(initial, encrypted + tag, None)
        except (ValueError, InvalidTag) as error:
            message = "the authorization value of the key in tpm2-pkcs11's store does not decrypt"
            raise ModuleUnusableError(message, hint=_UNKNOWN_HINT) from error


class StoredKey(NamedTuple):
    """A key of a tpm2-pkcs11 token, with what the TPM needs to load it.

    Attributes:
        parent: the key above the key and the seal, as ESAPI serialises it (Esys_TR_Serialize).
        parent_auth: the parent's authorization value.
        seal: what is sealed with the user's PIN.
        blobs: the key's own data.
    """

    parent: bytes
    parent_auth: bytes
    seal: Seal
    blobs: Blobs


def only_key(objects: Iterable[str], wanted: Wanted, store: str) -> Blobs:
    """Return the data of the one private key of a name.

    Args:
        objects: the attributes of each of the token's objects, as tpm2-pkcs11 writes them.
        wanted: the key's name.
        store: the store, for an error's message.

    Raises:
        KeyMissingError, KeyAmbiguousError: there is not one such key.
        ModuleUnusableError: its data are not where they should be.
    """
    asked = {_CLASS: _PRIVATE_KEY, _LABEL: wanted.label.encode().hex(), _ID: wanted.id.hex()}
    maps = [dict(_ATTRIBUTE.findall(attributes)) for attributes in objects]
    found = [one for one in maps if {name: one.get(name, "").lower() for name in asked} == asked]
    if not found:
        raise KeyMissingError(f"{store} does not have the {wanted} in token {wanted.token_label!r}")
    if len(found) > 1:
        raise KeyAmbiguousError(f"{store} has {len(found)} of the {wanted}")
    [key] = found
    if not {_PUBLIC, _PRIVATE} <= key.keys():
        raise unknown(store, f"the {wanted} in it has no data for the TPM")
    try:
        encrypted_auth = bytes.fromhex(key.get(_OBJECT_AUTH, "")).decode("ascii")
        return Blobs(bytes.fromhex(key[_PUBLIC]), bytes.fromhex(key[_PRIVATE]), encrypted_auth)
    except ValueError as error:
        raise unknown(store, f"the {wanted} in it cannot be read") from error


def damaged(what: str) -> ModuleUnusableError:
    """Return the error for data that neither the library nor the TPM takes.

    Args:
        what: whose data.
    """
    return ModuleUnusableError(f"the data of {what} in tpm2-pkcs11's store cannot be used", hint=_DAMAGED_HINT)


def unknown(store: str, why: str) -> ModuleUnusableError:
    """Return the error for a store of another layout than those that were tried."""
    return ModuleUnusableError(f"{store} cannot be used to attest a key: {why}", hint=_UNKNOWN_HINT)
