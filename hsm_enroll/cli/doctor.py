"""``hsm-enroll doctor``: each check's result and what to do about it."""

from __future__ import annotations

import os
from dataclasses import asdict

import click

from hsm_enroll.cli.invocation import Invocation, command, token_options
from hsm_enroll.cli.terminal import keep_stdout
from hsm_enroll.doctor import Finding, Login, Patient, Status, examine
from hsm_enroll.token.tokens import Tokens

_FAILED_STATUS = 1


@command("doctor", example="hsm-enroll doctor --online")
@click.option("--online", is_flag=True, help="Also check the network: DNS, API, broker, TLS.")
@click.option("--login", is_flag=True, help="Also connect to the broker with this device's key; tries the PIN once.")
@token_options
def doctor(invocation: Invocation, *, online: bool, login: bool) -> None:
    """Check this device, and say how to fix what is wrong; exit 1 if a check failed.

    It changes nothing, and tries the PIN only with --login. Only --login detects a revoked certificate.
    """
    findings = []
    access = None
    if login:
        keep_stdout()
        access = Login(invocation.pin, invocation.at_pin_pad)
    with Tokens() as tokens:
        for finding in examine(Patient(invocation.settings, os.environ, tokens), online=online, login=access):
            findings.append(finding)
            if not invocation.terminal.as_json:
                invocation.terminal.result(None, _line(finding))
    failed = any(finding.status is Status.FAILED for finding in findings)
    if invocation.terminal.as_json:
        invocation.terminal.result({"ok": not failed, "checks": [asdict(finding) for finding in findings]}, "")
    if failed:
        raise click.exceptions.Exit(_FAILED_STATUS)


def _line(finding: Finding) -> str:
    line = f"{finding.status.value:<8} {finding.id:<24} {finding.message}"
    return line if finding.status is Status.OK or not finding.hint else f"{line}\n{'':<33} {finding.hint}"
