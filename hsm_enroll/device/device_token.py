"""This device's token: find the one that the settings name, or create one with a PIN that nobody has to know."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from hsm_enroll.device import pin
from hsm_enroll.errors import ModuleMissingError, UsageError
from hsm_enroll.key import TokenName
from hsm_enroll.secret import Secret
from hsm_enroll.settings import Settings
from hsm_enroll.token import discovery, selection, tpm2
from hsm_enroll.token.reports import TokenKind, TokenReport
from hsm_enroll.token.tokens import Tokens
from hsm_enroll.uri import Pkcs11Uri


class _Software(NamedTuple):
    """What creates a kind of token: its name, the start of its module's file name, its Debian package."""

    name: str
    module: str
    package: str


_SOFTWARE = {
    TokenKind.SOFTHSM: _Software("SoftHSM", "libsofthsm2.so", "softhsm2"),
    TokenKind.TPM2: _Software("tpm2-pkcs11", tpm2.MODULE_NAME, "libtpm2-pkcs11-1"),
}


def find(settings: Settings, tokens: Tokens) -> TokenReport:
    """Find the one token that the settings name; no login. See :func:`start_finding`."""
    return start_finding(settings, tokens)()


def start_finding(settings: Settings, tokens: Tokens) -> Callable[[], TokenReport]:
    """Start looking for the one token that the settings name, in parallel with this process; no login.

    If they name none, it is the token that :func:`create` created, or else the only one on this machine.

    Returns:
        A function that waits for the token, to be called once. It raises ModuleMissingError, ModuleUnusableError,
        TokenNotFoundError and TokenAmbiguousError: see ``selection.choose``.

    Raises:
        UsageError: the settings name two modules.
        StateError, StateCorruptError, StateTooNewError: the state folder's record of the created token cannot be used.
    """
    wanted = settings.token
    module = _named_module(settings)
    if wanted is None and module is None and (own := pin.load_owner(settings.state)) is not None:
        wanted, module = Pkcs11Uri(token=own.label, serial=own.serial or None), own.module
    paths = [module] if module else discovery.discover()
    reports = tokens.start_listing(paths)

    return lambda: selection.choose(paths, wanted or Pkcs11Uri(), reports)


def _named_module(settings: Settings) -> Path | None:
    named = [settings.module, settings.token.module_path if settings.token else None]
    # An identity stores the module's path for later runs, which may start in another folder.
    paths = [path.absolute() for path in named if path is not None]
    if len(set(paths)) > 1:
        raise UsageError(
            f"the PKCS#11 module is {paths[0]}, but the token's URI says module-path={paths[1]}",
            hint="Name the module once: with --module, HSM_ENROLL_MODULE or config.toml, or in the URI.",
        )
    return paths[0] if paths else None


def module_for(kind: TokenKind, settings: Settings) -> Path:
    """Return the module that creates a kind of token: the one that the settings name, or the one installed.

    Raises:
        ModuleMissingError: there is none.
    """
    if settings.module is not None:
        return settings.module.absolute()
    software = _SOFTWARE[kind]
    for module in discovery.discover():
        if module.name.startswith(software.module):
            return module
    raise ModuleMissingError(
        f"{software.name} is not installed", hint=f"Install it (Debian: {software.package}), or name it with --module."
    )


def prepare_tpm2() -> Path:
    """Check that a token can be created in the TPM that the environment names, and return its private store.

    Raises:
        ModuleUnusableError: the TPM has no resource manager, or was cleared.
        UsageError, StateError: the store cannot be used; see ``token.tpm2.provision.prepare_store``.
    """
    from hsm_enroll.token.tpm2 import provision

    provision.refuse_unmanaged_tpm(os.environ)
    provision.refuse_cleared_tpm(os.environ)
    return provision.prepare_store(os.environ)


def create(
    tokens: Tokens,
    folder: Path,
    module: Path,
    label: str,
    configured_pin: Secret | None,
    kind: TokenKind = TokenKind.SOFTHSM,
) -> TokenName:
    """Create a token, and save its PIN in the state folder.

    The PIN is on disk before the token exists, and a run that was interrupted is resumed. A generated PIN is the
    security officer's too, so that a token without a user PIN can be completed; a token whose PIN is lost has to be
    replaced.

    Args:
        tokens: this machine's tokens.
        folder: the state folder, locked by the caller.
        module: the module that creates the token, see :func:`module_for`.
        label: the token's label.
        configured_pin: the PIN from a person or the configuration, which is not saved; None generates one.
        kind: the kind of token; for a TPM the caller has called :func:`prepare_tpm2`.

    Raises:
        StateError: the folder already has the PIN of another token.
        HsmEnrollError: as for ``Tokens.create``.
    """
    # First, so that a module that cannot be used, or a label that is taken, leaves no PIN file behind.
    reports = tokens.listed(module)
    owner = pin.load_owner(folder)
    unfinished = owner is not None and not owner.serial
    # A token with that label in another module is not ours, and has another PIN.
    interrupted = unfinished and owner is not None and (owner.label, owner.module) == (label, module)
    if configured_pin is not None:
        selection.refuse_taken_label(reports, label)
        selection.require_free_slot(reports, module, kind)
        return tokens.create(module, kind, label, so_pin=pin.generate_pin(), user_pin=configured_pin)
    existing = [token.name for token in reports if token.initialized and token.name.label == label]
    if existing and interrupted:
        saved = pin.read_file(pin.saved_pin_file(folder))
        tokens.complete(existing[0], so_pin=saved, user_pin=saved)
        pin.save_owner(folder, existing[0])
        return existing[0]
    selection.refuse_taken_label(reports, label)
    selection.require_free_slot(reports, module, kind)
    left_over = (owner is None or unfinished) and pin.saved_pin_file(folder).exists()
    new_pin = pin.read_file(pin.saved_pin_file(folder)) if left_over else pin.generate_pin()
    if not left_over:
        pin.save_pin(folder, new_pin)
    # The serial is not known yet; no token had this label, so the one that has it in a later run is ours.
    pin.save_owner(folder, TokenName(module, label, serial="", manufacturer="", model=""))
    token = tokens.create(module, kind, label, so_pin=new_pin, user_pin=new_pin)
    pin.save_owner(folder, token)
    return token
