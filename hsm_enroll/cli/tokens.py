"""``hsm-enroll tokens`` and ``hsm-enroll token create``."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from hsm_enroll.cli.invocation import Invocation, command
from hsm_enroll.device import device_token, pin
from hsm_enroll.errors import HsmEnrollError, ModuleMissingError
from hsm_enroll.key import TokenName
from hsm_enroll.store import files
from hsm_enroll.token import discovery, tpm2
from hsm_enroll.token.reports import TokenKind, TokenReport
from hsm_enroll.token.tokens import Tokens

_KINDS = click.Choice([kind.value for kind in TokenKind])


@command("tokens", example="hsm-enroll tokens")
@click.option("--module", metavar="PATH", help="List the tokens of this module only.")
def tokens(invocation: Invocation) -> None:
    """List this machine's PKCS#11 modules, their tokens, and the keys that are visible without a PIN."""
    named = invocation.settings.module
    paths = [named.absolute()] if named else discovery.discover()
    if not paths:
        raise ModuleMissingError("no PKCS#11 module was found on this machine")
    with Tokens() as modules:
        list_tokens = modules.start_listing(paths)
        reports = [_report(path, list_tokens) for path in paths]
    invocation.terminal.result({"modules": reports}, "\n".join(line for report in reports for line in _lines(report)))


def _report(module: Path, list_tokens: Callable[[Path], list[TokenReport]]) -> dict[str, Any]:
    try:
        found = list_tokens(module)
    except HsmEnrollError as error:
        return {"module": str(module), "error": error.message, "tokens": []}
    return {"module": str(module), "error": None, "tokens": [_document(token) for token in found]}


def _document(token: TokenReport) -> dict[str, Any]:
    return {
        "uri": str(token.name.uri) if token.initialized else None,
        "label": token.name.label,
        "serial": token.name.serial,
        "manufacturer": token.name.manufacturer,
        "model": token.name.model,
        "slot": token.slot,
        "initialized": token.initialized,
        "loginRequired": token.login_required,
        "pinCountLow": token.pin_count_low,
        "pinFinalTry": token.pin_final_try,
        "pinLocked": token.pin_locked,
        "keys": list(token.public_keys),
    }


def _lines(report: dict[str, Any]) -> list[str]:
    lines: list[str] = [report["module"]]
    options = "--label L --backend tpm2" if Path(report["module"]).name.startswith(tpm2.MODULE_NAME) else "--label L"
    if report["error"]:
        return [*lines, f"  {report['error']}"]
    for token in report["tokens"]:
        if not token["initialized"]:
            lines.append(f"  slot {token['slot']} is free; to create a token: hsm-enroll token create {options}")
            continue
        pin_state = "locked" if token["pinLocked"] else "one try left" if token["pinFinalTry"] else ""
        lines.append(f"  {token['uri']}" + (f"  (PIN: {pin_state})" if pin_state else ""))
        lines += [f"    {key}" for key in token["keys"]]
    return lines if report["tokens"] else [*lines, "  no token"]


@click.group("token")
def token() -> None:
    """Create a token."""


@command("create", example="hsm-enroll token create --label gateway --backend tpm2")
@click.option("--label", required=True, metavar="LABEL", help="The new token's label, up to 32 bytes.")
@click.option("--backend", "kind", type=_KINDS, default=TokenKind.SOFTHSM.value, show_default=True)
@click.option("--module", metavar="PATH", help="The PKCS#11 module, if it is not found automatically.")
def create(invocation: Invocation, *, label: str, kind: str) -> None:
    """Create a token in SoftHSM, or in this machine's TPM with tpm2-pkcs11.

    A random PIN is generated and saved in the state folder, readable only by its owner, unless HSM_ENROLL_PIN_FILE or
    HSM_ENROLL_PIN is set. Set TPM2_PKCS11_TCTI to use another TPM than /dev/tpmrm0, and TPM2_PKCS11_STORE to use
    another folder for tpm2-pkcs11's store.
    """
    if kind == TokenKind.TPM2:
        _create_in_tpm(invocation, label)
    else:
        _create_in_softhsm(invocation, label)


def _create_in_softhsm(invocation: Invocation, label: str) -> None:
    settings = invocation.settings
    with files.locked(settings.state), Tokens() as modules:
        configured = pin.configured_pin(settings.pin_file, os.environ)
        module = device_token.module_for(TokenKind.SOFTHSM, settings)
        name = device_token.create(modules, settings.state, module, label, configured)
    _show_created(invocation, name, None if configured else pin.saved_pin_file(settings.state), {}, [])


def _create_in_tpm(invocation: Invocation, label: str) -> None:
    settings = invocation.settings
    with files.locked(settings.state), Tokens() as modules:
        configured = pin.configured_pin(settings.pin_file, os.environ)
        module = device_token.module_for(TokenKind.TPM2, settings)
        with invocation.terminal.step("creating the token in the TPM", "(up to half a minute)"):
            store = device_token.prepare_tpm2()
            name = device_token.create(modules, settings.state, module, label, configured, TokenKind.TPM2)
    lines = [f"Its store is {store}"]
    if "TPM2_PKCS11_STORE" in os.environ:
        lines.append("Every program that uses the token needs the same TPM2_PKCS11_STORE in its environment")
    pin_file = None if configured else pin.saved_pin_file(settings.state)
    _show_created(invocation, name, pin_file, {"store": str(store)}, lines)


def _show_created(
    invocation: Invocation, name: TokenName, pin_file: Path | None, more: dict[str, str], lines: list[str]
) -> None:
    document = {"uri": str(name.uri), "label": name.label, "serial": name.serial, "module": str(name.module)}
    about_pin = f"Its PIN is kept in {pin_file}" if pin_file else "Its PIN is the one you set"
    text = "\n".join([str(name.uri), about_pin, *lines])
    whole = {**document, "pinFile": str(pin_file) if pin_file else None, **more}
    invocation.terminal.result(whole, text, done=f"token {name.label!r} was created")


token.add_command(create)
