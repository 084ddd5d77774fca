"""This device's token: which one the settings mean, and how one is made with a PIN that no person has to know."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

from hsm_enroll import pin
from hsm_enroll.errors import ModuleMissingError, ModuleUnusableError
from hsm_enroll.key import TokenName
from hsm_enroll.secret import Secret
from hsm_enroll.settings import Settings
from hsm_enroll.token import inventory, modules, selection
from hsm_enroll.token.inventory import TokenReport
from hsm_enroll.uri import Pkcs11Uri

_SOFTHSM = "libsofthsm2.so"
_TPM2_PKCS11 = "libtpm2_pkcs11.so"


class Backend(StrEnum):
    """What a token can be made in."""

    SOFTHSM = "softhsm"
    TPM2 = "tpm2"


def locate(settings: Settings) -> TokenName:
    """Find the one token that the settings mean; as :func:`locating`, for a caller who has nothing else to do."""
    with locating(settings) as located:
        return located()


@contextmanager
def locating(settings: Settings) -> Iterator[Callable[[], TokenName]]:
    """Look for the one token that the settings mean, while the block runs; no login.

    Where they name no token, it is the one that :func:`create` made; where there is none, the only one there is.
    Modules are looked into in child processes, since a module may hang or crash.

    Yields:
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
    paths = [module] if module else modules.discover()

    def located() -> TokenName:
        try:
            return selection.choose(paths, wanted or Pkcs11Uri(), inspected).name
        except ModuleUnusableError as error:
            if not paths[0].name.startswith(_TPM2_PKCS11):
                raise
            raise _explained(error) from error

    with inventory.inspecting(paths) as inspected:
        yield located


def softhsm_module(settings: Settings) -> Path:
    """Return the module that the settings name, or the SoftHSM that this machine has.

    Raises:
        ModuleMissingError: there is none.
    """
    if settings.module is not None:
        return settings.module.absolute()
    for module in modules.discover():
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
    for module in modules.discover():
        if module.name.startswith(_TPM2_PKCS11):
            return module
    raise ModuleMissingError(
        "tpm2-pkcs11 is not installed", hint="Install it (Debian: libtpm2-pkcs11-1), or name it with --module."
    )


def prepare_tpm2() -> Path:
    """See that a TPM's token may be made as the environment says, and return its store, closed to others.

    Raises:
        ModuleUnusableError: the TPM has no resource manager.
        UsageError, StateError: its store cannot be used; see ``provision_tpm2.prepare_store``.
    """
    from hsm_enroll.token import provision_tpm2

    provision_tpm2.refuse_unmanaged_tpm(os.environ)
    return provision_tpm2.prepare_store(os.environ)


def create(
    folder: Path, module: Path, label: str, given_pin: Secret | None, backend: Backend = Backend.SOFTHSM
) -> TokenName:
    """Make a token and keep its PIN in the state folder.

    The PIN is on disk before the token exists; a run that died meanwhile is taken up again. A PIN that is made here is
    the security officer's too, so that a token without a user's PIN yet can be completed: a token whose PIN is lost is
    replaced, not unlocked.

    Args:
        folder: the state folder, locked by the caller.
        module: the backend's module.
        label: the token's label.
        given_pin: a PIN that a person or the configuration gave, which is then not kept; None makes one.
        backend: where; for a TPM the caller has called :func:`prepare_tpm2`.

    Raises:
        StateError: the folder keeps the PIN of another token already.
        HsmEnrollError: as ``provision.create_softhsm_token`` and ``provision.create_tpm2_token``.
    """
    from hsm_enroll.token import provision

    # Asked in a child process first: a module that is none, or a label that is taken, costs no PIN file.
    tokens = _inspected(module, backend)
    begun = pin.made_for(folder)
    unfinished = begun is not None and not begun.serial
    # The label was free in one module; a token that has it in another one is somebody's, and has another PIN.
    half_made = unfinished and begun is not None and (begun.label, begun.module) == (label, module)
    if given_pin is not None:
        provision.refuse_taken_label(tokens, label)
        return _make(backend, module, label, so_pin=pin.make(), user_pin=given_pin)
    made = [token.name for token in tokens if token.initialized and token.name.label == label]
    if made and half_made:
        kept = pin.read_file(pin.made_pin_file(folder))
        provision.complete_token(made[0], so_pin=kept, user_pin=kept)
        pin.remember(folder, made[0])
        return made[0]
    provision.refuse_taken_label(tokens, label)
    left_over = (begun is None or unfinished) and pin.made_pin_file(folder).exists()
    new_pin = pin.read_file(pin.made_pin_file(folder)) if left_over else pin.make()
    if not left_over:
        pin.keep(folder, new_pin)
    # Without a serial, which nobody knows yet: the label was free, so a token that has it is the one begun here.
    pin.remember(folder, TokenName(module, label, serial="", manufacturer="", model=""))
    token = _make(backend, module, label, so_pin=new_pin, user_pin=new_pin)
    pin.remember(folder, token)
    return token


def _inspected(module: Path, backend: Backend) -> list[TokenReport]:
    try:
        return inventory.inspect(module)
    except ModuleUnusableError as error:
        if backend is Backend.SOFTHSM:
            raise
        raise _explained(error) from error


def _explained(error: ModuleUnusableError) -> ModuleUnusableError:
    from hsm_enroll.token import provision_tpm2

    return provision_tpm2.explained(error, os.environ)


def _make(backend: Backend, module: Path, label: str, *, so_pin: Secret, user_pin: Secret) -> TokenName:
    from hsm_enroll.token import provision

    making = provision.create_softhsm_token if backend is Backend.SOFTHSM else provision.create_tpm2_token
    return making(module, label, so_pin=so_pin, user_pin=user_pin).name
