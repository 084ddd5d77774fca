"""``hsm-enroll tokens`` and ``hsm-enroll token create``."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from hsm_enroll.cli.invocation import Invocation, command
from hsm_enroll.device import device_token, pin
from hsm_enroll.device.device_token import Backend
from hsm_enroll.errors import HsmEnrollError, ModuleMissingError
from hsm_enroll.key import TokenName
from hsm_enroll.store import files
from hsm_enroll.token import discovery, tpm2
from hsm_enroll.token.reports import TokenReport
from hsm_enroll.token.tokens import Tokens

_BACKENDS = click.Choice([backend.value for backend in Backend])


@command("tokens", example="hsm-enroll tokens")
@click.option("--module", metavar="PATH", help="Look into this module only.")
def tokens(invocation: Invocation) -> None:
    """List the PKCS#11 modules of this machine, their tokens, and the keys these show without a PIN."""
    named = invocation.settings.module
    paths = [named.absolute()] if named else discovery.discover()
    if not paths:
        raise ModuleMissingError("no PKCS#11 module was found on this machine")
    with Tokens() as there:
        look = there.look(paths)
        reports = [_report(path, look) for path in paths]
    invocation.terminal.result({"modules": reports}, "\n".join(line for report in reports for line in _lines(report)))


def _report(module: Path, look: Callable[[Path], list[TokenReport]]) -> dict[str, Any]:
    try:
        found = look(module)
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
            lines.append(f"  slot {token['slot']}: a free slot; hsm-enroll token create {options} makes a token")
            continue
        state_of_pin = "locked" if token["pinLocked"] else "one try left" if token["pinFinalTry"] else ""
        lines.append(f"  {token['uri']}" + (f"  (PIN: {state_of_pin})" if state_of_pin else ""))
        lines += [f"    {key}" for key in token["keys"]]
    return lines if report["tokens"] else [*lines, "  no token"]


@click.group("token")
def token() -> None:
    """Make a token."""


@command("create", example="hsm-enroll token create --label gateway --backend tpm2")
@click.option("--label", required=True, metavar="LABEL", help="The new token's label, up to 32 bytes.")
@click.option("--backend", type=_BACKENDS, default=Backend.SOFTHSM.value, show_default=True)
@click.option("--module", metavar="PATH", help="The backend's module, where it is not found by itself.")
def create(invocation: Invocation, *, label: str, backend: str) -> None:
    """Make a new token: in SoftHSM, or in this machine's TPM by tpm2-pkcs11.

    Its PIN is made here and kept in the state folder, readable by its owner alone, unless one is given in
    HSM_ENROLL_PIN_FILE or HSM_ENROLL_PIN. TPM2_PKCS11_TCTI names another TPM than /dev/tpmrm0, and TPM2_PKCS11_STORE
    another folder for tpm2-pkcs11's store.
    """
    if backend == Backend.TPM2:
        _create_in_tpm(invocation, label)
    else:
        _create_in_softhsm(invocation, label)


def _create_in_softhsm(invocation: Invocation, label: str) -> None:
    settings = invocation.settings
    with files.locked(settings.state), Tokens() as there:
        given = pin.given(settings.pin_file, os.environ)
        name = device_token.create(there, settings.state, device_token.softhsm_module(settings), label, given)
    _show_created(invocation, name, None if given else pin.made_pin_file(settings.state), {}, [])


def _create_in_tpm(invocation: Invocation, label: str) -> None:
    settings = invocation.settings
    with files.locked(settings.state), Tokens() as there:
        given = pin.given(settings.pin_file, os.environ)
        module = device_token.tpm2_module(settings)
        with invocation.terminal.step("making the token in the TPM", "(up to half a minute)"):
            store = device_token.prepare_tpm2()
            name = device_token.create(there, settings.state, module, label, given, Backend.TPM2)
    lines = [f"Its store is {store}"]
    if "TPM2_PKCS11_STORE" in os.environ:
        lines.append("Every program that uses the token has to find TPM2_PKCS11_STORE set to it")
    kept = None if given else pin.made_pin_file(settings.state)
    _show_created(invocation, name, kept, {"store": str(store)}, lines)


def _show_created(
    invocation: Invocation, name: TokenName, kept: Path | None, more: dict[str, str], lines: list[str]
) -> None:
    document = {"uri": str(name.uri), "label": name.label, "serial": name.serial, "module": str(name.module)}
    about_pin = f"Its PIN is kept in {kept}" if kept else "Its PIN is the one you gave"
    text = "\n".join([str(name.uri), about_pin, *lines])
    invocation.terminal.result({**document, "pinFile": str(kept) if kept else None, **more}, text)


token.add_command(create)
