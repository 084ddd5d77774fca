"""TPM2_Certify of a key of a tpm2-pkcs11 token; the PIN is tried once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tpm2_pytss.constants import ESYS_TR, TPM2_ALG, TPM2_PT, TPM2_SE, TPMA_SESSION
from tpm2_pytss.TSS2_Exception import TSS2_Exception
from tpm2_pytss.types import (
    TPM2B_PRIVATE,
    TPM2B_PUBLIC,
    TPMT_SIG_SCHEME,
    TPMT_SYM_DEF,
    TPMU_SYM_KEY_BITS,
    TPMU_SYM_MODE,
)

from hsm_enroll.errors import KeyMissingError, PinLockedError, PinWrongError
from hsm_enroll.key import TokenName
from hsm_enroll.secret import Secret
from hsm_enroll.token.tpm2 import lockout
from hsm_enroll.token.tpm2.attestation import stored_key
from hsm_enroll.token.tpm2.attestation.stored_key import Seal, StoredKey
from hsm_enroll.token.tpm2.attestation.tpm import (
    RC_AUTH_FAIL,
    RC_BAD_AUTH,
    RC_FORMAT_ONE,
    RC_LOCKOUT,
    Tpm,
    TpmRefusedError,
)
from hsm_enroll.token.tpm2.attestation.values import Certified
from hsm_enroll.token.tpm2.lockout import FailedTries

_PIN_REFUSED = {RC_AUTH_FAIL, RC_BAD_AUTH}
_COUNTERS = (TPM2_PT.LOCKOUT_COUNTER, TPM2_PT.MAX_AUTH_FAIL, TPM2_PT.LOCKOUT_INTERVAL)


def certify(
    tpm: Tpm,
    signer: Callable[[], Any],
    token: TokenName,
    stored: StoredKey,
    *,
    key_label: str,
    pin: Secret,
    pin_is_certain: bool,
    qualifying_data: bytes,
) -> Certified:
    """Have the TPM state that it has a key; arguments and errors as for ``attestor.Attestor.certify``.

    Args:
        tpm: the TPM.
        signer: loads the attestation key, and returns its handle.
        token: the key's token.
        stored: the key.
        key_label: its CKA_LABEL.
        pin: the token's PIN; empty for a token that has none.
        pin_is_certain: whether the PIN is known to be the token's.
        qualifying_data: what the statement is to repeat.
    """
    lockout.refuse(token, failed_tries(tpm), pin_is_certain=pin_is_certain)
    parent = _parent(tpm, stored, key_label)
    session = _encrypted_session(tpm, parent)
    unsealed = _unsealed(tpm, stored.seal, parent, session, token, pin)
    key = tpm.until_the_end(_loaded(tpm, parent, stored.blobs.public, stored.blobs.private))
    tpm.esapi.tr_set_auth(key, stored.blobs.auth(unsealed))
    _encrypt(tpm, session, TPMA_SESSION.ENCRYPT | TPMA_SESSION.DECRYPT)
    scheme = TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL)
    info, signature = tpm.run(
        "Certify",
        tpm.esapi.certify,
        key,
        signer(),
        qualifying_data,
        scheme,
        session1=session,
        session2=ESYS_TR.PASSWORD,
    )
    return Certified(stored.blobs.public, bytes(info), signature.marshal())


def failed_tries(tpm: Tpm) -> FailedTries | None:
    """Return the TPM's count of failed tries; None if it does not count."""
    found = tpm.properties(TPM2_PT.LOCKOUT_COUNTER, 3)
    tries = FailedTries(*(found[int(name)] for name in _COUNTERS))
    return tries if tries.limit and tries.interval_seconds else None


def _parent(tpm: Tpm, stored: StoredKey, key_label: str) -> Any:
    try:
        parent = tpm.esapi.tr_deserialize(stored.parent)
    except TSS2_Exception as error:
        raise stored_key.damaged(f"the key above {key_label!r}") from error
    tpm.esapi.tr_set_auth(parent, stored.parent_auth)
    try:
        # That the TPM has another key at this handle now would look like a damaged store later.
        name = tpm.run("ReadPublic", tpm.esapi.read_public, parent)[1]
    except TpmRefusedError as error:
        raise _another_tpm(key_label) from error
    if bytes(name) != bytes(tpm.esapi.tr_get_name(parent)):
        raise _another_tpm(key_label)
    return parent


def _unsealed(tpm: Tpm, seal: Seal, parent: Any, session: Any, token: TokenName, pin: Secret) -> bytes:
    _encrypt(tpm, session, TPMA_SESSION.ENCRYPT)
    try:
        with tpm.meanwhile(_loaded(tpm, parent, seal.public, seal.private)) as loaded:
            tpm.esapi.tr_set_auth(loaded, seal.auth(pin))
            return bytes(tpm.run("Unseal", tpm.esapi.unseal, loaded, session1=session))
    except TpmRefusedError as error:
        if error.response in _PIN_REFUSED:
            raise PinWrongError(f"token {token.label!r} refused the PIN") from error
        if error.response == RC_LOCKOUT:
            raise PinLockedError(f"token {token.label!r} is locked and accepts no PIN now") from error
        raise


def _loaded(tpm: Tpm, parent: Any, public: bytes, private: bytes) -> Any:
    what = "the key, or of what is sealed with its token's PIN,"
    try:
        blobs = TPM2B_PRIVATE.unmarshal(private)[0], TPM2B_PUBLIC.unmarshal(public)[0]
    except TSS2_Exception as error:
        raise stored_key.damaged(what) from error
    try:
        return tpm.run("Load", tpm.esapi.load, parent, *blobs)
    except TpmRefusedError as error:
        if error.response & RC_FORMAT_ONE:
            raise stored_key.damaged(what) from error
        raise


def _encrypted_session(tpm: Tpm, parent: Any) -> Any:
    """Start a session whose parameters nobody on the bus can read: the PIN's hash unseals what protects the keys."""
    aes = TPMT_SYM_DEF(algorithm=TPM2_ALG.AES, keyBits=TPMU_SYM_KEY_BITS(aes=128), mode=TPMU_SYM_MODE(aes=TPM2_ALG.CFB))
    start: Callable[..., Any] = tpm.esapi.start_auth_session
    session = tpm.run("StartAuthSession", start, parent, ESYS_TR.NONE, TPM2_SE.HMAC, aes, TPM2_ALG.SHA256)
    return tpm.until_the_end(session)


def _encrypt(tpm: Tpm, session: Any, what: int) -> None:
    tpm.esapi.trsess_set_attributes(session, TPMA_SESSION.CONTINUESESSION | what)


def _another_tpm(key_label: str) -> KeyMissingError:
    return KeyMissingError(
        f"the TPM no longer has the key above {key_label!r}: it was cleared, or this is another TPM",
        hint="Run hsm-enroll doctor, which says what to do.",
    )
