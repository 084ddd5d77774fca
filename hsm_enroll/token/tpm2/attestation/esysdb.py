"""The keys of tpm2-pkcs11's own store, an SQLite database with the schema 8; any other schema is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hsm_enroll.errors import TokenAmbiguousError, TokenNotFoundError
from hsm_enroll.token.tpm2 import store
from hsm_enroll.token.tpm2.attestation import stored_key
from hsm_enroll.token.tpm2.attestation.stored_key import Seal, StoredKey, Wanted

_SCHEMA = 8
_PARENT = re.compile(r"\"?esys-tr\"?\s*: (?:!!str )?\"?([0-9a-fA-F]+)")


def find(environment: Mapping[str, str], wanted: Wanted) -> StoredKey:
    """Find a private key in the store, which is only read.

    Args:
        environment: what the module reads.
        wanted: the key's name.

    Raises:
        ModuleUnusableError: the store is not one that this module knows.
        TokenNotFoundError, TokenAmbiguousError, KeyMissingError, KeyAmbiguousError: there is no store, or it does not
            have one such token, or one such key in it.
    """
    folder = store.existing(environment, Path("/") / store.SYSTEM)
    if folder is None:
        fault = store.without_token(environment, Path("/") / store.SYSTEM)
        raise TokenNotFoundError(fault.message, hint=fault.hint)
    name = f"tpm2-pkcs11's store {folder}"
    schema = store.read(folder, "SELECT schema_version FROM schema")
    if schema != [(_SCHEMA,)]:
        version = schema[0][0] if schema else "that cannot be read"
        raise stored_key.unknown(name, f"it has a schema {version}, and hsm-enroll knows the schema {_SCHEMA}")
    token = _only_token(folder, name, wanted.token_label)
    attributes = _of_token(folder, token, "SELECT tokid, attrs FROM tobjects")
    blobs = stored_key.only_key((str(one) for (one,) in attributes), wanted, name)
    sealed = _of_token(folder, token, "SELECT tokid, userpub, userpriv, userauthsalt FROM sealobjects")
    above = _of_token(folder, token, "SELECT t.id, p.config, p.objauth FROM tokens t JOIN pobjects p ON p.id = t.pid")
    if len(sealed) != 1 or len(above) != 1 or None in sealed[0]:
        raise stored_key.unknown(name, f"token {wanted.token_label!r} in it has no PIN of the user, or no key above it")
    parent = _PARENT.search(str(above[0][0]))
    if parent is None:
        raise stored_key.unknown(name, f"the key above token {wanted.token_label!r} is not a persistent one")
    try:
        serialised = bytes.fromhex(parent[1])
    except ValueError as error:
        raise stored_key.unknown(name, f"the key above token {wanted.token_label!r} cannot be read") from error
    return StoredKey(serialised, _octets(above[0][1]), Seal(*map(_octets, sealed[0])), blobs)


def _only_token(folder: Path, name: str, label: str) -> int:
    rows = store.read(folder, "SELECT id, label FROM tokens")
    found = [int(number) for number, text in rows if _octets(text).rstrip(b"\0 ") == label.encode()]
    if not found:
        raise TokenNotFoundError(f"{name} does not have the token {label!r}")
    if len(found) > 1:
        raise TokenAmbiguousError(
            f"{name} has {len(found)} tokens labelled {label!r}",
            hint="Their serial numbers are the same too: give one of them another label with tpm2-pkcs11's own tool.",
        )
    return found[0]


def _of_token(folder: Path, token: int, question: str) -> list[tuple[Any, ...]]:
    """Return the rows of a token, whose number is the first column, without that column."""
    return [row[1:] for row in store.read(folder, question) if row[0] == token]


def _octets(value: Any) -> bytes:
    """Return a column's octets: tpm2_ptool writes as a BLOB what the module writes as TEXT."""
    return value if isinstance(value, bytes) else str(value).encode()
