"""``hsm-enroll service``: forward and the renewal as services of systemd."""

from __future__ import annotations

import os
from typing import Any

import click

from hsm_enroll.cli.invocation import Invocation, command
from hsm_enroll.device import pin
from hsm_enroll.errors import HsmEnrollError, PinMissingError
from hsm_enroll.service import fitting, installing, systemd, units
from hsm_enroll.service.systemd import UnitState
from hsm_enroll.service.units import Installation
from hsm_enroll.store.identity import Identity


@click.group("service")
def service() -> None:
    """The services of systemd that send what is in the outbox, and renew this device's key when that is due."""


@command("install", example="sudo hsm-enroll service install")
def install(invocation: Invocation) -> None:
    """Install, enable and start both services on this enrolled device; requires root.

    They are hsm-enroll-forward.service, which runs hsm-enroll forward, and hsm-enroll-renew.timer, which runs
    hsm-enroll renew --if-due once a day. They run as the owner of the state folder, with the settings that this command
    finds in its environment. Run it again after an update of hsm-enroll or a change of these settings: it changes what
    is different. The PIN is the one in /etc/credstore.encrypted/hsm-enroll.pin (see systemd-creds), or else in the file
    that the configuration names, or in the state folder.
    """
    systemd.require()
    settings, terminal = invocation.settings, invocation.terminal
    identity = Identity.load(settings.state)
    installation = fitting.installation(settings.state, identity.token, os.environ)
    if not _has_pin(installation, identity):
        terminal.warn(
            "there is no PIN for the services, unless the token needs none: encrypt it with systemd-creds encrypt "
            f"--name=hsm-enroll.pin - {pin.ENCRYPTED}, or set HSM_ENROLL_PIN_FILE. "
            "HSM_ENROLL_PIN is not handed to them."
        )
    installed = installing.install(installation)
    lines = [f"{'wrote' if each.is_changed else 'unchanged':9}  {each.file}" for each in installed.files]
    lines += [f"removed    {file}" for file in installed.removed]
    lines += [f"started    {unit}" for unit in units.ENABLED]
    lines.append(f"They run as {installation.user}, who owns {installation.state}.")
    lines.append("To see how they are: hsm-enroll service status")
    document = {
        "files": [{"file": str(each.file), "changed": each.is_changed} for each in installed.files],
        "removed": [str(file) for file in installed.removed],
        "units": list(units.ENABLED),
        "user": installation.user,
    }
    terminal.result(document, "\n".join(lines), done="the services are installed")


@command("uninstall", example="sudo hsm-enroll service uninstall")
def uninstall(invocation: Invocation) -> None:
    """Stop both services, and remove the files that install has written; requires root.

    The units of a Debian or RPM package stay, but are not started any more. The state folder stays, with the messages
    in the outbox, and so does the PIN in /etc/credstore.encrypted, of which there may be no other copy.
    """
    systemd.require()
    gone = installing.uninstall()
    lines = [f"stopped  {unit}" for unit in gone.disabled] + [f"removed  {file}" for file in gone.removed]
    if not lines:
        lines.append("the services were not installed")
    if pin.ENCRYPTED.exists():
        lines.append(f"The PIN stays in {pin.ENCRYPTED}.")
    document = {"disabled": gone.disabled, "removed": [str(file) for file in gone.removed]}
    text = "\n".join(lines)
    invocation.terminal.result(document, text, done="the services are removed")


@command("status", example="hsm-enroll service status --json")
def status(invocation: Invocation) -> None:
    """Show how both services are; exit 1 unless forward is running and the timer is active."""
    systemd.require_running()
    states = systemd.states(units.UNITS)
    is_running = all(each.state == "active" for each in states if each.unit in units.ENABLED)
    document = {"running": is_running, "units": [_document(each) for each in states]}
    invocation.terminal.result(document, "\n".join(map(_text, states)))
    if not is_running:
        if not all(each.enabled for each in states if each.unit in units.ENABLED):
            invocation.terminal.say("To install, enable and start the services: sudo hsm-enroll service install")
        for each in states:
            if each.unit in units.ENABLED and each.state == "failed":
                invocation.terminal.say(f"Its log: journalctl --unit {each.unit}")
                invocation.terminal.say(f"Once that is corrected: sudo systemctl restart {each.unit}")
        raise click.exceptions.Exit(HsmEnrollError.exit_status)


def _has_pin(installation: Installation, identity: Identity) -> bool:
    """Whether the services find a PIN, in the order in which they look for it.

    Raises:
        PinMissingError, PinExposedError, StateError: the file that they are configured with cannot be used.
    """
    if installation.pin_file is not None:
        return bool(pin.read_file(installation.pin_file))
    try:
        return pin.ENCRYPTED.exists() or pin.saved_pin(installation.state, identity.token) is not None
    except PinMissingError:
        return False


def _document(state: UnitState) -> dict[str, Any]:
    return {
        "unit": state.unit,
        "installed": state.is_installed,
        "files": [str(file) for file in state.files],
        "enabled": state.enabled,
        "state": state.state,
        "result": state.result,
        "exitStatus": state.exit_status,
        "status": state.status or None,
    }


def _text(state: UnitState) -> str:
    if not state.is_installed:
        return f"{state.unit}: {'not installed' if state.load == 'not-found' else state.load}"
    parts = [state.state]
    if state.unit in units.ENABLED and not state.enabled:
        parts.append("not enabled")
    if state.failure:
        parts.append(state.failure if state.state == "failed" else f"the last run failed: {state.failure}")
    text = f"{state.unit}: {', '.join(parts)}"
    if state.unit == units.RENEW and state.state == "inactive":
        text += " (the timer starts it)"
    return f"{text}; {state.status}" if state.status else text


for _command in (install, status, uninstall):
    service.add_command(_command)
