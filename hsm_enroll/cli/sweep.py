"""``hsm-enroll fleet sweep``: disables the certificates that are not in the ledger."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from hsm_enroll.cli.invocation import Invocation, command
from hsm_enroll.cli.operator_client import Target, api_options, counted, operator_client, telling
from hsm_enroll.cli.terminal import Terminal
from hsm_enroll.errors import BackendRefusedError
from hsm_enroll.operator import records
from hsm_enroll.operator.reports import DisabledCertificate, SweepReport

if TYPE_CHECKING:
    from hsm_enroll.operator.api import OperatorClient


class _Totals:
    """What the reports of a sweep add up to."""

    def __init__(self) -> None:
        self.checked = self.foreign = 0
        self.disabled: list[DisabledCertificate] = []

    def add(self, report: SweepReport) -> None:
        """Add what was looked at."""
        self.checked += report.checked
        self.foreign += report.foreign


@command("sweep", example="hsm-enroll fleet sweep")
@click.option("--yes-all", is_flag=True, help="Disable all of them, however many they are.")
@api_options
def sweep(invocation: Invocation, *, yes_all: bool, target: Target) -> None:
    """Disable the certificates that are not in the ledger; the backend does this itself every hour.

    Only certificates that are active and older than an hour are checked: a younger one may belong to an enrollment in
    progress. If there are more than the deployment's limit, by default 20, none is disabled: then the ledger has
    probably lost entries, and fleet rebuild restores them.
    """
    terminal = invocation.terminal
    totals = _Totals()
    client = operator_client(invocation, target)
    with terminal.step("sweeping"):
        reports = _checked(terminal, client.sweep()) if yes_all else _within_limit(terminal, client, totals, target)
        for report in reports:
            if yes_all:
                totals.add(report)
            totals.disabled += report.disabled
            for one in report.disabled:
                # Shown at once, since a later part may fail.
                terminal.say(f"- disabled {one.certificate_id}")
    terminal.say("- only active certificates older than an hour are checked")
    disabled = totals.disabled
    text = (
        f"{counted(totals.checked, 'certificate')} checked, {len(disabled):,} disabled, "
        f"{totals.foreign:,} not of this deployment"
    )
    document = {
        "checked": totals.checked,
        "disabled": [records.to_json(one) for one in disabled],
        "foreign": totals.foreign,
    }
    terminal.result(document, text, done=text)


def _checked(terminal: Terminal, reports: Iterator[SweepReport]) -> Iterator[SweepReport]:
    return telling(terminal, reports, lambda report: report.checked, "certificate")


def _within_limit(terminal: Terminal, client: OperatorClient, totals: _Totals, target: Target) -> Iterator[SweepReport]:
    """Look at everything first, and then sweep the parts in which something was found.

    Raises:
        BackendRefusedError: more certificates than the limit would be disabled; none was.
    """
    counted: set[str] = set()
    by_reason: dict[str, set[str]] = {}
    parts: list[str | None] = []
    token: str | None = None
    for report in _checked(terminal, client.look_for_orphans()):
        totals.add(report)
        if report.found:
            parts.append(token)
        token = report.next
        counted |= {one.certificate_id for one in report.found if one.counts}
        for one in report.found:
            by_reason.setdefault(one.reason, set()).add(one.certificate_id)
        if report.limit is not None and len(counted) > report.limit:
            raise BackendRefusedError(
                f"the sweep would disable more than {report.limit} certificates (sweep-stopped)",
                problem_code="sweep-stopped",
                hint=f"None was disabled. hsm-enroll fleet rebuild{target.options} shows which entries the ledger has "
                "lost, and asks before it restores them. If it has lost none, hsm-enroll fleet sweep --yes-all"
                f"{target.options} disables these certificates.",
            )
    # What has the device policy is not foreign, even if its key is not known.
    totals.foreign -= len(by_reason.get("unknown", set()) - by_reason.get("lost", set()))
    return (client.sweep_part(part) for part in parts)
