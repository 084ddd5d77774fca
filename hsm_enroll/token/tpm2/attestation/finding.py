"""Finds a key of a tpm2-pkcs11 token in the store that has it: tpm2-pkcs11's own, or FAPI's keystore."""

from __future__ import annotations

import os

from hsm_enroll.errors import TokenNotFoundError
from hsm_enroll.token.tpm2.attestation import esysdb, fapi
from hsm_enroll.token.tpm2.attestation.stored_key import StoredKey, Wanted


def find(wanted: Wanted) -> StoredKey:
    """Find a private key; no PIN is tried.

    A module that is built with FAPI lists the tokens of both stores, whatever ``TPM2_PKCS11_BACKEND`` says: that only
    chooses where a new token goes. FAPI connects to the TPM, which must not be open in this process then.

    Args:
        wanted: the key's name.

    Raises:
        ModuleUnusableError: the store is damaged, or not one that hsm-enroll knows.
        TokenNotFoundError, TokenAmbiguousError, KeyMissingError, KeyAmbiguousError: the stores do not have one such
            token, or one such key in it.
    """
    try:
        return esysdb.find(os.environ, wanted)
    except TokenNotFoundError as error:
        missing = error
    try:
        return fapi.find(wanted)
    except TokenNotFoundError as error:
        raise TokenNotFoundError(f"{missing.message}; {error.message}", hint=missing.hint) from error
