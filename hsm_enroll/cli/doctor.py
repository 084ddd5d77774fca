"""``hsm-enroll doctor``: each check's result and what to do about it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict

import click

from hsm_enroll.backend_api.deadline import TRY_SECONDS
from hsm_enroll.cli.invocation import Invocation, command, token_options
from hsm_enroll.cli.terminal import Terminal, keep_stdout, running_version
from hsm_enroll.doctor import Finding, Login, Patient, Status, examine
from hsm_enroll.token.tokens import Tokens
from hsm_enroll.troubleshooting import reference
from hsm_enroll.version import __version__

_FAILED_STATUS = 1
_INDENT = 9  # columns: the longest status and a blank


@command("doctor", example="hsm-enroll doctor --online --login")
@click.option("--online", is_flag=True, help="Also check the network: DNS, API, broker, TLS, credentials provider.")
@click.option(
    "--login",
    is_flag=True,
    help="Also connect with this device's key, and get AWS credentials; the PIN is asked for once.",
)
@token_options
def doctor(invocation: Invocation, *, online: bool, login: bool) -> None:
    """Check this device, and say how to fix what is wrong; exit 1 if a check failed.

    It changes nothing, and tries the PIN only with --login. Only --login detects a revoked certificate; on a device
    that is not enrolled, that check fails. With --quiet only failed checks are shown.
    """
    terminal = invocation.terminal
    findings = []
    access = None
    if login:
        keep_stdout()
        access = Login(invocation.pin, invocation.at_pin_pad)
    terminal.say(running_version())
    with Tokens() as tokens:
        found = examine(Patient(invocation.settings, os.environ, tokens), online=online, login=access)
        for finding in _in_time(terminal, found) if online or login else found:
            findings.append(finding)
            if not terminal.as_json and _is_shown(finding, terminal):
                terminal._replace(quiet=False).result(None, _line(finding))
    failed = any(finding.status is Status.FAILED for finding in findings)
    if terminal.as_json:
        checks = [asdict(finding) for finding in findings]
        terminal.result({"ok": not failed, "version": __version__, "checks": checks}, "")
    elif not terminal.verbose and (folded := list(filter(_is_folded, findings))):
        terminal.result(None, _folded(folded))
    if failed:
        raise click.exceptions.Exit(_FAILED_STATUS)


def _in_time(terminal: Terminal, findings: Iterator[Finding]) -> Iterator[Finding]:
    """Yield the findings, and say so while a check takes long: it may wait for the token or the network."""
    while True:
        with terminal.waiting("the next check", TRY_SECONDS):
            finding = next(findings, None)
        if finding is None:
            return
        yield finding


def _line(finding: Finding) -> str:
    lines = [f"{finding.status.value:<{_INDENT}}{finding.id}: {finding.message}"]
    if finding.hint and finding.status is not Status.OK:
        lines.append(f"{'':<{_INDENT}}{finding.hint}")
    if finding.status in {Status.WARNING, Status.FAILED}:
        lines.append(f"{'':<{_INDENT}}{reference(finding.id)}")
    return "\n".join(lines)


def _is_shown(finding: Finding, terminal: Terminal) -> bool:
    """Whether a finding has a line of its own: a failed check always, the others unless quiet or folded."""
    if finding.status is Status.FAILED:
        return True
    return not terminal.quiet and (terminal.verbose or not _is_folded(finding))


def _is_folded(finding: Finding) -> bool:
    """Whether a check was skipped and there is nothing to do about it."""
    return finding.status is Status.SKIPPED and not finding.hint


def _folded(findings: Iterable[Finding]) -> str:
    """Return skipped checks as one line."""
    return f"{Status.SKIPPED.value:<{_INDENT}}{', '.join(finding.id for finding in findings)} (--verbose says why)"
