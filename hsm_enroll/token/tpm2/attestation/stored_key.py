"""The only module that knows how tpm2-pkcs11 keeps its keys, which it does not promise to keep so.

Tried with tpm2-pkcs11 1.9.0, whose store (esysdb) has the schema 8; any other schema is refused, and so is a token of
its other backend, FAPI, whose keys are in tpm2-tss's own store; Debian builds it without that. A token has a sealed
object for its user's PIN, which contains the key of an AES-GCM cipher; that encrypts each object's authorization value.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hsm_enroll.errors import (
    KeyAmbiguousError,
    KeyMissingError,
    ModuleUnusableError,
    TokenAmbiguousError,
    TokenNotFoundError,
)
from hsm_enroll.secret import Secret
from hsm_enroll.token.tpm2 import store

_SCHEMA = 8
_BACKEND = "TPM2_PKCS11_BACKEND"
# PKCS#11 v2.40, and tpm2-pkcs11's own attributes (src/lib/attrs.h): the encrypted authorization value, TPM2B_PUBLIC and
# TPM2B_PRIVATE.
_CLASS, _LABEL, _ID = "0", "3", "258"
_PRIVATE_KEY = "3"
_OBJECT_AUTH, _PUBLIC, _PRIVATE = "2399141889", "2399141890", "2399141891"
# An entry of an object's attributes, a map in YAML's canonical form; of two with the same number the later one counts.
_ATTRIBUTE = re.compile(r"\? !!int \"(\d+)\"\s*: !!(?:str|int) \"([^\"]*)\"")
_PARENT = re.compile(r"\"?esys-tr\"?\s*: (?:!!str )?\"?([0-9a-fA-F]+)")
_UNKNOWN_HINT = "Report this, with the version of tpm2-pkcs11, which is not one that hsm-enroll was tried with."

_DAMAGED_HINT = (
    "Restore the store from a backup; or create a new token and enroll with it: hsm-enroll token create, then "
    "hsm-enroll init --new-key INVITE"
)


class StoredKey(NamedTuple):
    """A key of a tpm2-pkcs11 token, as its store has it.

    Attributes:
        parent: the key above the key and the seal, as ESAPI serialises it (Esys_TR_Serialize).
        parent_auth: the parent's authorization value.
        seal_public: TPM2B_PUBLIC of the object that is sealed with the user's PIN.
        seal_private: its TPM2B_PRIVATE.
        salt: which is hashed with the PIN.
        public: the key, TPM2B_PUBLIC.
        private: its TPM2B_PRIVATE.
        encrypted_auth: the key's encrypted authorization value; empty if it has none.
    """

    parent: bytes
    parent_auth: bytes
    seal_public: bytes
    seal_private: bytes
    salt: bytes
    public: bytes
    private: bytes
    encrypted_auth: str

    def seal_auth(self, pin: Secret) -> bytes:
        """Return the authorization value of the sealed object."""
        return hashlib.sha256(pin.reveal().encode() + self.salt).hexdigest()[:32].encode()

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


def find(environment: Mapping[str, str], *, token_label: str, key_label: str, key_id: bytes) -> StoredKey:
    """Find a private key in tpm2-pkcs11's store, which is only read.

    Args:
        environment: what the module reads.
        token_label: the token's label.
        key_label: CKA_LABEL.
        key_id: CKA_ID.

    Raises:
        ModuleUnusableError: there is no store, or it is not one that this module knows.
        TokenNotFoundError, TokenAmbiguousError, KeyMissingError, KeyAmbiguousError: it does not have one such token, or
            one such key in it.
    """
    if (backend := environment.get(_BACKEND, "esysdb").lower()) != "esysdb":
        raise ModuleUnusableError(
            f"{_BACKEND}={backend} keeps keys where hsm-enroll cannot find them to have them attested",
            hint=f"Unset {_BACKEND}, create a token (hsm-enroll token create --label LABEL --backend tpm2), and "
            "enroll with it: hsm-enroll init --new-key INVITE",
        )
    folder = store.existing(environment, Path("/") / store.SYSTEM)
    if folder is None:
        fault = store.without_token(environment, Path("/") / store.SYSTEM)
        raise ModuleUnusableError(fault.message, hint=fault.hint)
    _check_schema(folder)
    token = _only_token(folder, token_label)
    attributes = _only_key(folder, token, token_label, key_label, key_id)
    sealed = _of_token(folder, token, "SELECT tokid, userpub, userpriv, userauthsalt FROM sealobjects")
    above = _of_token(folder, token, "SELECT t.id, p.config, p.objauth FROM tokens t JOIN pobjects p ON p.id = t.pid")
    if len(sealed) != 1 or len(above) != 1 or None in sealed[0]:
        raise _unknown(folder, f"token {token_label!r} in it has no PIN of the user, or no key above it")
    parent = _PARENT.search(str(above[0][0]))
    if parent is None:
        raise _unknown(folder, f"the key above token {token_label!r} is not a persistent one")
    try:
        return StoredKey(
            bytes.fromhex(parent[1]),
            _octets(above[0][1]),
            _octets(sealed[0][0]),
            _octets(sealed[0][1]),
            _octets(sealed[0][2]),
            bytes.fromhex(attributes[_PUBLIC]),
            bytes.fromhex(attributes[_PRIVATE]),
            bytes.fromhex(attributes.get(_OBJECT_AUTH, "")).decode("ascii"),
        )
    except ValueError as error:
        raise _unknown(folder, f"key {key_label!r} in it, or the key above it, cannot be read") from error


def damaged(what: str) -> ModuleUnusableError:
    """Return the error for data that neither the library nor the TPM takes.

    Args:
        what: whose data.
    """
    return ModuleUnusableError(f"the data of {what} in tpm2-pkcs11's store cannot be used", hint=_DAMAGED_HINT)


def _check_schema(folder: Path) -> None:
    found = store.read(folder, "SELECT schema_version FROM schema")
    if found != [(_SCHEMA,)]:
        version = found[0][0] if found else "that cannot be read"
        raise _unknown(folder, f"it has a schema {version}, and hsm-enroll knows the schema {_SCHEMA}")


def _only_token(folder: Path, label: str) -> int:
    rows = store.read(folder, "SELECT id, label FROM tokens")
    found = [int(number) for number, name in rows if _octets(name).rstrip(b"\0 ") == label.encode()]
    if not found:
        raise TokenNotFoundError(f"tpm2-pkcs11's store {folder} does not have the token {label!r}")
    if len(found) > 1:
        raise TokenAmbiguousError(
            f"tpm2-pkcs11's store {folder} has {len(found)} tokens labelled {label!r}",
            hint="Their serial numbers are the same too: give one of them another label with tpm2-pkcs11's own tool.",
        )
    return found[0]


def _only_key(folder: Path, token: int, token_label: str, key_label: str, key_id: bytes) -> dict[str, str]:
    rows = _of_token(folder, token, "SELECT tokid, attrs FROM tobjects")
    objects = [dict(_ATTRIBUTE.findall(str(attributes))) for (attributes,) in rows]
    wanted = {_CLASS: _PRIVATE_KEY, _LABEL: key_label.encode().hex(), _ID: key_id.hex()}
    found = [one for one in objects if {name: one.get(name, "").lower() for name in wanted} == wanted]
    which = f"key {key_label!r} with the id {key_id.hex()}"
    if not found:
        raise KeyMissingError(f"tpm2-pkcs11's store {folder} does not have the {which} in token {token_label!r}")
    if len(found) > 1:
        raise KeyAmbiguousError(f"tpm2-pkcs11's store {folder} has {len(found)} of the {which}")
    if not {_PUBLIC, _PRIVATE} <= found[0].keys():
        raise _unknown(folder, f"the {which} in it has no data for the TPM")
    return found[0]


def _of_token(folder: Path, token: int, question: str) -> list[tuple[Any, ...]]:
    """Return the rows of a token, whose number is the first column, without that column."""
    return [row[1:] for row in store.read(folder, question) if row[0] == token]


def _unknown(folder: Path, why: str) -> ModuleUnusableError:
    return ModuleUnusableError(
        f"tpm2-pkcs11's store {folder} cannot be used to attest a key: {why}", hint=_UNKNOWN_HINT
    )


def _octets(value: Any) -> bytes:
    """Return a column's octets: tpm2_ptool writes as a BLOB what the module writes as TEXT."""
    return value if isinstance(value, bytes) else str(value).encode()
