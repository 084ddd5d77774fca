"""``hsm-enroll doctor``: every check with what it found and what to do."""

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
@click.option("--online", is_flag=True, help="Also look at the network: names, API, broker, TLS.")
@click.option("--login", is_flag=True, help="Also connect to the broker with this device's key: tries the PIN, once.")
@token_options
def doctor(invocation: Invocation, *, online: bool, login: bool) -> None:
    """Check everything, and say what to do; exit 1 if a check failed.

    It changes nothing, and tries no PIN without --login. A certificate that was revoked shows with --login alone.
    """
    findings = []
    allowed = None
    if login:
        keep_stdout()
        allowed = Login(invocation.pin, invocation.at_pin_pad)
    with Tokens() as tokens:
        for finding in examine(Patient(invocation.settings, os.environ, tokens), online=online, login=allowed):
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
