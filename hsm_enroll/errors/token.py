"""Errors of PKCS#11 modules, tokens, PINs and keys."""

from __future__ import annotations

from hsm_enroll.errors.base import HsmEnrollError


class ModuleMissingError(HsmEnrollError):
    """The PKCS#11 module's file does not exist, or no module is installed.

    Without ``--module``, the places are searched where packages have the known modules. Debian has SoftHSM's in
    ``softhsm2`` and the one for TPMs in ``libtpm2-pkcs11-1``.
    """

    code = "module-missing"
    exit_status = 10
    default_hint = "Install the token's PKCS#11 module, or name its file with --module."


class ModuleUnusableError(HsmEnrollError):
    """The file exists, but is not a PKCS#11 module that works on this machine.

    Mostly it is built for another architecture, a library that it needs is missing, or this user may not use its
    device, its configuration or its files. A module that hangs or crashes ends here too.
    """

    code = "module-unusable"
    exit_status = 10
    default_hint = (
        "Check that the file is a PKCS#11 module built for this machine, and that its own configuration can be read "
        "(for SoftHSM the file that SOFTHSM2_CONF names, for tpm2-pkcs11 the store that TPM2_PKCS11_STORE names)."
    )


class TokenNotFoundError(HsmEnrollError):
    """No token matches.

    It may be unplugged, belong to another user, or be in another module or another of SoftHSM's folders than the
    one that it was created in.
    """

    code = "token-not-found"
    exit_status = 11
    default_hint = "Run hsm-enroll tokens to list the tokens, or hsm-enroll token create to create one."


class TokenAmbiguousError(HsmEnrollError):
    """Several tokens match.

    A token is never selected by the number of its slot, since that changes.
    """

    code = "token-ambiguous"
    exit_status = 11
    default_hint = "Select one of them by its serial: --token 'pkcs11:token=LABEL;serial=SERIAL'."


class PinMissingError(HsmEnrollError):
    """No file, systemd credential or environment variable has a PIN, and nobody can be prompted for it.

    The first of these that exists is used: the file that HSM_ENROLL_PIN_FILE or ``pin_file`` names, the systemd
    credential ``hsm-enroll.pin``, HSM_ENROLL_PIN, and the PIN that ``token create`` has saved in the state folder.
    """

    code = "pin-missing"
    exit_status = 12
    default_hint = "Put the PIN into a file of mode 0600 and set HSM_ENROLL_PIN_FILE to its path."


class PinExposedError(HsmEnrollError):
    """Other users can read the PIN file."""

    code = "pin-file-exposed"
    exit_status = 12
    default_hint = "If others may have read it, change the PIN. Make the file private with chmod 600."


class PinWrongError(HsmEnrollError):
    """The token refused the PIN. It was tried once and is not tried again.

    The message says where the PIN came from: correct it there before the next run. A few wrong PINs lock a TPM or a
    smart card.
    """

    code = "pin-wrong"
    exit_status = 12
    default_hint = "It was tried only once. Check the PIN, then run the command again."


class PinLockedError(HsmEnrollError):
    """The token does not accept any PIN at the moment."""

    code = "pin-locked"
    exit_status = 13
    default_hint = (
        "A TPM may also be locked by power cuts; it unlocks after some time: leave it powered, and do not try again "
        "until then. Any other token is unlocked with its SO PIN."
    )


class PinFinalTryError(HsmEnrollError):
    """One more wrong PIN would lock the token, so no PIN was tried."""

    code = "pin-final-try"
    exit_status = 13
    default_hint = (
        "Make sure that you have the right PIN, log in once with the token's own tool to reset its counter, then run "
        "the command again."
    )


class KeyMissingError(HsmEnrollError):
    """The token does not have the key, or has only half of the key pair.

    The state folder may be older than the token, or the other way round. The keys of SoftHSM and of tpm2-pkcs11 are
    in files on this machine's disk, and are lost with them.
    """

    code = "key-missing"
    exit_status = 14
    default_hint = (
        "Run hsm-enroll recover, which finds this device's key if the token has it under another name. Otherwise ask "
        "for an invite, and generate a new key: hsm-enroll init --new-key INVITE. hsm-enroll tokens lists the keys."
    )


class KeyAmbiguousError(HsmEnrollError):
    """Several keys match; label and id must be unique in a token."""

    code = "key-ambiguous"
    exit_status = 14
    default_hint = "Delete or relabel the other key with the token's own tool."


class KeyOriginError(HsmEnrollError):
    """The key was not generated in the token, or can be taken out of it.

    The token is asked for CKA_LOCAL, CKA_SENSITIVE, CKA_EXTRACTABLE, CKA_ALWAYS_SENSITIVE and
    CKA_NEVER_EXTRACTABLE. An imported key never passes.
    """

    code = "key-origin"
    exit_status = 14
    default_hint = "Use a key that is generated in the token: hsm-enroll init --new-key INVITE."


class TokenRefusedError(HsmEnrollError):
    """The token failed to perform an operation, or refused it.

    The message has the return value of PKCS#11 (``CKR_…``). Modules report many faults as a general failure; then
    the cause is looked for, such as a full disk or a TPM that does not respond, and named if it is found.

    Attributes:
        of_key_type: whether the token lacks this type of key, so that another type may work.
    """

    code = "token-refused"
    exit_status = 15
    default_hint = "Reconnect the token if possible, then run the command again; hsm-enroll tokens lists the tokens."

    def __init__(self, message: str, *, hint: str | None = None, of_key_type: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.of_key_type = of_key_type
