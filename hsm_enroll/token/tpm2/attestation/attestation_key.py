"""The key that signs the TPM's statements: restricted, so that it signs nothing that was made outside the TPM."""

from __future__ import annotations

import hashlib
from typing import Any

from tpm2_pytss.constants import ESYS_TR, TPM2_ALG, TPM2_ECC, TPMA_OBJECT
from tpm2_pytss.types import (
    TPM2B_PUBLIC,
    TPMS_ECC_PARMS,
    TPMS_ECC_POINT,
    TPMS_SCHEME_HASH,
    TPMT_ECC_SCHEME,
    TPMT_KDF_SCHEME,
    TPMT_PUBLIC,
    TPMT_SYM_DEF_OBJECT,
    TPMU_ASYM_SCHEME,
    TPMU_PUBLIC_ID,
    TPMU_PUBLIC_PARMS,
)

from hsm_enroll.token.tpm2.attestation.endorsement_key import endorsement_password
from hsm_enroll.token.tpm2.attestation.tpm import Tpm

_ATTRIBUTES = (
    TPMA_OBJECT.FIXEDTPM
    | TPMA_OBJECT.FIXEDPARENT
    | TPMA_OBJECT.SENSITIVEDATAORIGIN
    | TPMA_OBJECT.USERWITHAUTH
    | TPMA_OBJECT.NODA
    | TPMA_OBJECT.RESTRICTED
    | TPMA_OBJECT.SIGN_ENCRYPT
)
# Another program's primary key of the same template is another key.
_UNIQUE = hashlib.sha256(b"hsm-enroll attestation key").digest()


def load(tpm: Tpm, handle: int | None) -> tuple[Any, TPM2B_PUBLIC]:
    """Return the attestation key's handle until the connection ends, and the key.

    Args:
        tpm: the TPM.
        handle: a persistent key's; None is a primary key of the endorsement hierarchy, which is the same each time.

    Raises:
        TokenRefusedError: there is no key at the handle, or the endorsement hierarchy has a password.
    """
    if handle is not None:
        key = tpm.run("ReadPublic", tpm.esapi.tr_from_tpmpublic, handle)
        public, _, _ = tpm.run("ReadPublic", tpm.esapi.read_public, key)
        return key, public
    if tpm.has_endorsement_password:
        raise endorsement_password()
    created = tpm.run("CreatePrimary", tpm.esapi.create_primary, None, _template(), primary_handle=ESYS_TR.ENDORSEMENT)
    return tpm.until_the_end(created[0]), created[1]


def _template() -> TPM2B_PUBLIC:
    scheme = TPMT_ECC_SCHEME(
        scheme=TPM2_ALG.ECDSA, details=TPMU_ASYM_SCHEME(ecdsa=TPMS_SCHEME_HASH(hashAlg=TPM2_ALG.SHA256))
    )
    parameters = TPMS_ECC_PARMS(
        symmetric=TPMT_SYM_DEF_OBJECT(algorithm=TPM2_ALG.NULL),
        scheme=scheme,
        curveID=TPM2_ECC.NIST_P256,
        kdf=TPMT_KDF_SCHEME(scheme=TPM2_ALG.NULL),
    )
    return TPM2B_PUBLIC(
        publicArea=TPMT_PUBLIC(
            type=TPM2_ALG.ECC,
            nameAlg=TPM2_ALG.SHA256,
            objectAttributes=_ATTRIBUTES,
            parameters=TPMU_PUBLIC_PARMS(eccDetail=parameters),
            unique=TPMU_PUBLIC_ID(ecc=TPMS_ECC_POINT(x=_UNIQUE, y=_UNIQUE)),
        )
    )
