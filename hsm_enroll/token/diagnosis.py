"""Say what is really wrong where a module only reports a failure, or lists nothing: used by every path to a module."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hsm_enroll import softhsm
from hsm_enroll.errors import HsmEnrollError, ModuleUnusableError, TokenNotFoundError, TokenRefusedError
from hsm_enroll.key import TokenName
from hsm_enroll.token import softhsm_access, tpm2
from hsm_enroll.token.fault import Fault


@contextmanager
def explained(module: Path) -> Iterator[None]:
    """Replace an error that a module gives no reason for by one that says what is wrong, if that can be found out.

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
    except (ModuleUnusableError, TokenRefusedError) as error:
        fault = _fault(module)
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
            closed = softhsm_access.closed_tokens()
            faults += [closed] if closed else []
    return faults


def lost(names: Iterable[TokenName]) -> list[Fault]:
    """Return which tokens SoftHSM has lost, if it is in use.

    Args:
        names: the tokens that its module lists, including the free slot.
    """
    serials = [name.serial for name in names if name.manufacturer == softhsm.MANUFACTURER]
    folders = [folder for folder in softhsm.missing(serials) if softhsm.is_lost(folder)] if serials else []
    return [Fault(softhsm.told(folder), softhsm.way_back(folder)) for folder in folders]


def _fault(module: Path) -> Fault | None:
    if module.name.startswith(tpm2.MODULE_NAME):
        from hsm_enroll.token.tpm2 import diagnosis

        return diagnosis.find(os.environ)
    if module.name.startswith(softhsm_access.MODULE_NAME):
        return softhsm_access.fault()
    return None


def _with(fault: Fault, error: HsmEnrollError) -> HsmEnrollError:
    if isinstance(error, TokenRefusedError):
        message = f"{error.message}; {fault.message}"
        return TokenRefusedError(message, hint=fault.hint, of_key_type=error.of_key_type)
    return ModuleUnusableError(fault.message, hint=fault.hint)
