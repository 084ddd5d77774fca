"""Say what is really wrong where a module only reports a failure, or lists nothing: used by every path to a module."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hsm_enroll import softhsm
from hsm_enroll.errors import (
    HsmEnrollError,
    ModuleUnusableError,
    PinWrongError,
    TokenNotFoundError,
    TokenRefusedError,
)
from hsm_enroll.key import TokenName
from hsm_enroll.token import softhsm_access, tpm2
from hsm_enroll.token.fault import Fault

GONE_HINT = (
    "Reconnect it, then run hsm-enroll tokens to see whether it is listed. If it is gone for good, so is its key: "
    "enroll with a key in another token (hsm-enroll token create creates one): hsm-enroll init --new-key INVITE"
)
"""What to do about a certain token that is missing, and that no other one can replace."""


def not_found(name: TokenName) -> str:
    """Return the message about a certain token that is missing; another one may have its label."""
    return f"token {name.label!r} with serial {name.serial} was not found"


@contextmanager
def explained(module: Path) -> Iterator[None]:
    """Replace an error that a module gives no reason for by one that says what is wrong, if that can be found out.

    tpm2-pkcs11 reports CKR_PIN_INCORRECT for whatever keeps a login from the TPM, a power cut for instance.

    Raises:
        ModuleUnusableError, TokenNotFoundError, TokenRefusedError: the error of the block, with what was found.
    """
    try:
        yield
    except TokenNotFoundError as error:
        reasons = absences([module], with_token=())
        if not reasons:
            raise
        message = "; ".join([error.message, *(reason.message for reason in reasons)])
        raise TokenNotFoundError(message, hint=reasons[0].hint) from error
    except (ModuleUnusableError, PinWrongError, TokenRefusedError) as error:
        fault = _fault(module, error)
        if fault is None:
            raise
        raise _with(fault, error) from error


def absences(modules: Iterable[Path], *, with_token: Collection[Path]) -> list[Fault]:
    """Return why modules that work may not list a token.

    Args:
        modules: the modules that work.
        with_token: those of them that list an initialised token.
    """
    faults: list[Fault] = []
    for module in modules:
        if module.name.startswith(tpm2.MODULE_NAME) and module not in with_token:
            from hsm_enroll.token.tpm2 import diagnosis

            faults.append(diagnosis.without_token(os.environ))
        elif module.name.startswith(softhsm_access.MODULE_NAME):
            fault = None if module in with_token else softhsm_access.fault()
            fault = fault or softhsm_access.closed_tokens()
            faults += [fault] if fault else []
    return faults


def lost(names: Iterable[TokenName]) -> list[Fault]:
    """Return which tokens SoftHSM has lost, if it is in use.

    Args:
        names: the tokens that its module lists, including the free slot.
    """
    serials = [name.serial for name in names if name.manufacturer == softhsm.MANUFACTURER]
    folders = [folder for folder in softhsm.missing(serials) if softhsm.is_lost(folder)] if serials else []
    return [_lost(folder) for folder in folders]


def lost_by(name: TokenName) -> Fault | None:
    """Find out whether a token that SoftHSM lists is one that it has lost, or never finished creating."""
    if name.manufacturer != softhsm.MANUFACTURER:
        return None
    return next(map(_lost, softhsm.lost(name.serial)), None)


def _lost(folder: Path) -> Fault:
    return Fault(softhsm.told(folder), softhsm.way_back(folder))


def _fault(module: Path, error: HsmEnrollError) -> Fault | None:
    if module.name.startswith(tpm2.MODULE_NAME):
        from hsm_enroll.token.tpm2 import diagnosis

        return diagnosis.find(os.environ)
    if module.name.startswith(softhsm_access.MODULE_NAME) and not isinstance(error, PinWrongError):
        fault = softhsm_access.fault()
        if fault is None and isinstance(error, ModuleUnusableError):
            # One token whose creation was killed keeps SoftHSM from listing any.
            fault = next(map(_lost, softhsm.lost()), None)
        return fault
    return None


def _with(fault: Fault, error: HsmEnrollError) -> HsmEnrollError:
    if isinstance(error, TokenRefusedError):
        message = f"{error.message}; {fault.message}"
        return TokenRefusedError(message, hint=fault.hint, of_key_type=error.of_key_type)
    return ModuleUnusableError(fault.message, hint=fault.hint)
