"""This device's token: which one the settings mean, and how one is made with a PIN that no person has to know."""

from __future__ import annotations

import os
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

from hsm_enroll.device import pin
from hsm_enroll.errors import ModuleMissingError, ModuleUnusableError
from hsm_enroll.key import TokenName
from hsm_enroll.secret import Secret
from hsm_enroll.settings import Settings
from hsm_enroll.token import discovery, selection, tpm2
from hsm_enroll.token.reports import TokenReport
from hsm_enroll.token.tokens import Tokens
from hsm_enroll.uri import Pkcs11Uri

_SOFTHSM = "libsofthsm2.so"


class Backend(StrEnum):
    """What a token can be made in."""

    SOFTHSM = "softhsm"
    TPM2 = "tpm2"


def locate(settings: Settings, tokens: Tokens) -> TokenReport:
    """Find the one token that the settings mean; as :func:`looking`, for a caller who has nothing else to do."""
    return looking(settings, tokens)()


def looking(settings: Settings, tokens: Tokens) -> Callable[[], TokenReport]:
    """Begin to look for the one token that the settings mean; no login.

    Where they name no token, it is the one that :func:`create` made; where there is none, the only one there is.

    Returns:
        A function that waits for the token, to be called once. It raises ModuleMissingError, ModuleUnusableError,
        TokenNotFoundError and TokenAmbiguousError: see ``selection.choose``.

    Raises:
        StateError, StateCorruptError, StateTooNewError: the note of the token that was made cannot be used.
    """
    wanted = settings.token
    module = settings.module or (wanted.module_path if wanted else None)
    # An identity names its module for every later run, from whichever folder that starts.
    module = module and module.absolute()
    if wanted is None and module is None and (made := pin.made_for(settings.state)) is not None:
        wanted, module = Pkcs11Uri(token=made.label, serial=made.serial or None), made.module
    paths = [module] if module else discovery.discover()
    reports = tokens.look(paths)

    def located() -> TokenReport:
        try:
            return selection.choose(paths, wanted or Pkcs11Uri(), reports)
        except ModuleUnusableError as error:
            if not paths[0].name.startswith(tpm2.MODULE_NAME):
                raise
            raise _explained(error) from error

    return located


def softhsm_module(settings: Settings) -> Path:
    """Return the module that the settings name, or the SoftHSM that this machine has.

    Raises:
        ModuleMissingError: there is none.
    """
    if settings.module is not None:
        return settings.module.absolute()
    for module in discovery.discover():
        if module.name == _SOFTHSM:
            return module
    raise ModuleMissingError(
        "SoftHSM is not installed", hint="Install it (Debian: softhsm2), or name it with --module."
    )


def tpm2_module(settings: Settings) -> Path:
    """Return the module that the settings name, or the tpm2-pkcs11 that this machine has.

    Raises:
        ModuleMissingError: there is none.
    """
    if settings.module is not None:
        return settings.module.absolute()
    for module in discovery.discover():
        if module.name.startswith(tpm2.MODULE_NAME):
            return module
    raise ModuleMissingError(
        "tpm2-pkcs11 is not installed", hint="Install it (Debian: libtpm2-pkcs11-1), or name it with --module."
    )


def prepare_tpm2() -> Path:
    """See that a TPM's token may be made as the environment says, and return its store, closed to others.

    Raises:
        ModuleUnusableError: the TPM has no resource manager.
        UsageError, StateError: its store cannot be used; see ``token.tpm2.provision.prepare_store``.
    """
    from hsm_enroll.token.tpm2 import provision

    provision.refuse_unmanaged_tpm(os.environ)
    return provision.prepare_store(os.environ)


def create(
    tokens: Tokens,
    folder: Path,
    module: Path,
    label: str,
    given_pin: Secret | None,
    backend: Backend = Backend.SOFTHSM,
) -> TokenName:
    """Make a token and keep its PIN in the state folder.

    The PIN is on disk before the token exists; a run that died meanwhile is taken up again. A PIN that is made here is
    the security officer's too, so that a token without a user's PIN yet can be completed: a token whose PIN is lost is
    replaced, not unlocked.

    Args:
        tokens: what the module is asked through.
        folder: the state folder, locked by the caller.
        module: the backend's module.
        label: the token's label.
        given_pin: a PIN that a person or the configuration gave, which is then not kept; None makes one.
        backend: where; for a TPM the caller has called :func:`prepare_tpm2`.

    Raises:
        StateError: the folder keeps the PIN of another token already.
        HsmEnrollError: as ``Tokens.create``.
    """
    # Looked first: a module that is none, or a label that is taken, costs no PIN file.
    there = _listed(tokens, module, backend)
    begun = pin.made_for(folder)
    unfinished = begun is not None and not begun.serial
    # The label was free in one module; a token that has it in another one is somebody's, and has another PIN.
    half_made = unfinished and begun is not None and (begun.label, begun.module) == (label, module)
    if given_pin is not None:
        selection.refuse_taken_label(there, label)
        return tokens.create(module, backend, label, so_pin=pin.make(), user_pin=given_pin)
    made = [token.name for token in there if token.initialized and token.name.label == label]
    if made and half_made:
        kept = pin.read_file(pin.made_pin_file(folder))
        tokens.complete(made[0], so_pin=kept, user_pin=kept)
        pin.remember(folder, made[0])
        return made[0]
    selection.refuse_taken_label(there, label)
    left_over = (begun is None or unfinished) and pin.made_pin_file(folder).exists()
    new_pin = pin.read_file(pin.made_pin_file(folder)) if left_over else pin.make()
    if not left_over:
        pin.keep(folder, new_pin)
    # Without a serial, which nobody knows yet: the label was free, so a token that has it is the one begun here.
    pin.remember(folder, TokenName(module, label, serial="", manufacturer="", model=""))
    token = tokens.create(module, backend, label, so_pin=new_pin, user_pin=new_pin)
    pin.remember(folder, token)
    return token


def _listed(tokens: Tokens, module: Path, backend: Backend) -> list[TokenReport]:
    try:
        return tokens.listed(module)
    except ModuleUnusableError as error:
        if backend is Backend.SOFTHSM:
            raise
        raise _explained(error) from error


def _explained(error: ModuleUnusableError) -> ModuleUnusableError:
    from hsm_enroll.token.tpm2 import provision

    return provision.explained(error, os.environ)
