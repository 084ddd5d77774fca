"""``hsm-enroll tokens`` and ``hsm-enroll token``."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from hsm_enroll.cli.invocation import Invocation, command
from hsm_enroll.cli.prune import prune
from hsm_enroll.device import device_token, pin
from hsm_enroll.errors import HsmEnrollError, MachineLimitError, ModuleMissingError, ModuleUnusableError, UsageError
from hsm_enroll.key import TokenName
from hsm_enroll.store import files
from hsm_enroll.token import diagnosis, discovery
from hsm_enroll.token.reports import TokenKind, TokenReport
from hsm_enroll.token.tokens import Tokens
from hsm_enroll.uri import Pkcs11Uri

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
        found = {path: _listed(path, list_tokens) for path in paths}
    failures = [listed for listed in found.values() if isinstance(listed, HsmEnrollError)]
    if len(failures) == len(found):
        raise _whole_failure(failures)
    reports = [_report(path, listed) for path, listed in found.items()]
    invocation.terminal.result({"modules": reports}, "\n".join(line for report in reports for line in _lines(report)))


def _listed(module: Path, list_tokens: Callable[[Path], list[TokenReport]]) -> list[TokenReport] | HsmEnrollError:
    try:
        return list_tokens(module)
    except MachineLimitError:
        raise  # no fault of the module
    except HsmEnrollError as error:
        return error


def _whole_failure(failures: list[HsmEnrollError]) -> HsmEnrollError:
    """Return the error for a run in which no module could list its tokens."""
    if len(failures) == 1:
        return failures[0]
    return ModuleUnusableError("; ".join(error.message for error in failures), hint=failures[0].hint)


def _report(module: Path, listed: list[TokenReport] | HsmEnrollError) -> dict[str, Any]:
    if isinstance(listed, HsmEnrollError):
        return {"module": str(module), "error": listed.message, "hint": listed.hint, "tokens": []}
    with_token = {module} if any(token.initialized for token in listed) else set()
    faults = diagnosis.lost(token.name for token in listed) + diagnosis.absences([module], with_token=with_token)
    reasons = [f"{fault.message}. {fault.hint}" for fault in faults]
    documents = [_document(token) for token in listed]
    return {"module": str(module), "error": None, "hint": " ".join(reasons) or None, "tokens": documents}


def _document(token: TokenReport) -> dict[str, Any]:
    return {
        "uri": str(token.name.uri) if token.initialized else None,
        "label": token.name.label,
        "serial": token.name.serial,
        "manufacturer": token.name.manufacturer,
        "model": token.name.model,
        "slot": token.slot,
        "initialized": token.initialized,
        "createBackend": token.creates,
        "loginRequired": token.login_required,
        "pinCountLow": token.pin_count_low,
        "pinFinalTry": token.pin_final_try,
        "pinLocked": token.pin_locked,
        "keys": list(token.public_keys),
    }


def _lines(report: dict[str, Any]) -> list[str]:
    lines: list[str] = [report["module"]]
    if report["error"]:
        return [*lines, f"  {report['error']}", f"    {report['hint']}"]
    if report["hint"]:
        lines.append(f"  {report['hint']}")
    for token in report["tokens"]:
        if not token["initialized"]:
            lines.append(f"  slot {token['slot']} {_about_free_slot(token['createBackend'])}")
            continue
        pin_state = "locked" if token["pinLocked"] else "one try left" if token["pinFinalTry"] else ""
        lines.append(f"  {_token_uri(token)}" + (f"  (PIN: {pin_state})" if pin_state else ""))
        lines += [f"    {_key_row(key)}" for key in token["keys"]]
    return lines if report["tokens"] or report["hint"] else [*lines, "  no token"]


def _about_free_slot(kind: TokenKind | None) -> str:
    if kind is None:
        return "has no token yet; it is initialised with the token's own tool"
    return f"is free; to create a token: hsm-enroll token create --label LABEL --backend {kind}"


def _token_uri(token: dict[str, Any]) -> str:
    """Return the URI that selects a token, without what only describes it: it fits in a line."""
    return str(Pkcs11Uri(token=token["label"], serial=token["serial"] or None))


def _key_row(key: str) -> str:
    """Return a public key's label, and the URI that selects its pair in the token above it.

    Not by the label if there is an id: the private key's may be another one.
    """
    uri = Pkcs11Uri.parse(key)
    selecting = Pkcs11Uri(id=uri.id) if uri.id else Pkcs11Uri(object=uri.object, type="public")
    return f"{uri.object or 'no label'}  {selecting}"


@click.group("token")
def token() -> None:
    """Create a token, or destroy the keys in it that are not in use."""


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
    if not label:
        raise UsageError("the token's label is empty", hint="Give the token a label: --label LABEL")
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


for _command in (create, prune):
    token.add_command(_command)
