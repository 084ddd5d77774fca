"""This device's token: which one the settings mean, and how one is made with a PIN that no person has to know."""

from __future__ import annotations

from pathlib import Path

from hsm_enroll import pin
from hsm_enroll.errors import ModuleMissingError, PinFinalTryError, PinLockedError, TokenNotFoundError
from hsm_enroll.key import TokenName
from hsm_enroll.secret import Secret
from hsm_enroll.settings import Settings
from hsm_enroll.token import inventory, lockout, modules, provision, selection
from hsm_enroll.uri import Pkcs11Uri

_SOFTHSM = "libsofthsm2.so"


def locate(settings: Settings) -> TokenName:
    """Find the one token that the settings mean; no login.

    Where they name no token, it is the one that :func:`create` made; where there is none, the only one there is.
    Modules are looked into in child processes, since a module may hang or crash.

    Raises:
        ModuleMissingError, ModuleUnusableError, TokenNotFoundError, TokenAmbiguousError: see ``selection.choose``.
    """
    wanted = settings.token
    module = settings.module or (wanted.module_path if wanted else None)
    # An identity names its module for every later run, from whichever folder that starts.
    module = module and module.absolute()
    if wanted is None and module is None and (made := pin.made_for(settings.state)) is not None:
        wanted, module = Pkcs11Uri(token=made.label, serial=made.serial or None), made.module
    return selection.choose([module] if module else modules.discover(), wanted or Pkcs11Uri(), inventory.inspect).name


def check_ready(token: TokenName) -> None:
    """See, without a login, that one token of this name is there and that its PIN may be tried.

    For what logs in by label alone and asks about nothing, as awscrt does.

    Raises:
        ModuleMissingError, ModuleUnusableError, TokenNotFoundError: it is not there.
        TokenAmbiguousError: another token has its label.
        PinLockedError, PinFinalTryError: the PIN is not to be tried.
    """
    report = selection.choose([token.module], Pkcs11Uri(token=token.label), inventory.inspect)
    if report.name.serial != token.serial:
        raise TokenNotFoundError(
            f"token {token.label!r} with serial {token.serial} is not there; another one has its label"
        )
    if not report.login_required:
        return
    if report.pin_locked:
        raise PinLockedError(f"token {token.label!r} is locked and accepts no PIN now")
    if report.pin_final_try:
        raise PinFinalTryError(f"one more wrong PIN locks token {token.label!r}; it was not tried")
    lockout.refuse_last_try(report.name)


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


def create(folder: Path, module: Path, label: str, given_pin: Secret | None) -> TokenName:
    """Make a SoftHSM token and keep its PIN in the state folder.

    The PIN is on disk before the token exists; a run that died between the two is taken up again. The security
    officer's PIN is made and forgotten: a token whose PIN is lost is replaced, not unlocked.

    Args:
        folder: the state folder, locked by the caller.
        module: SoftHSM's module.
        label: the token's label.
        given_pin: a PIN that a person or the configuration gave, which is then not kept; None makes one.

    Raises:
        StateError: the folder keeps the PIN of another token already.
        HsmEnrollError: as ``provision.create_softhsm_token``.
    """
    # Asked in a child process first: a module that is none, or a label that is taken, costs no PIN file.
    tokens = inventory.inspect(module)
    begun = pin.made_for(folder)
    unfinished = begun is not None and not begun.serial
    if given_pin is not None:
        provision.refuse_taken_label(tokens, label)
        return provision.create_softhsm_token(module, label, so_pin=pin.make(), user_pin=given_pin).name
    made = [token.name for token in tokens if token.initialized and token.name.label == label]
    if made and unfinished and begun is not None and begun.label == label:
        pin.remember(folder, made[0])
        return made[0]
    provision.refuse_taken_label(tokens, label)
    left_over = (begun is None or unfinished) and pin.made_pin_file(folder).exists()
    user_pin = pin.read_file(pin.made_pin_file(folder)) if left_over else pin.make()
    if not left_over:
        pin.keep(folder, user_pin)
    # Without a serial, which nobody knows yet: the label was free, so a token that has it is the one begun here.
    pin.remember(folder, TokenName(module, label, serial="", manufacturer="", model=""))
    token = provision.create_softhsm_token(module, label, so_pin=pin.make(), user_pin=user_pin).name
    pin.remember(folder, token)
    return token
