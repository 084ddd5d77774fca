"""``hsm-enroll fleet rebuild``: restores ledger entries from AWS IoT."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import click

from hsm_enroll.cli.invocation import Invocation, command
from hsm_enroll.cli.operator_client import Target, api_options, counted, operator_client, some, telling
from hsm_enroll.cli.terminal import Terminal, confirm, has_person
from hsm_enroll.errors import InterruptedRunError, UsageError
from hsm_enroll.operator import records
from hsm_enroll.operator.reports import LeftCertificate, RebuildReport, RestoredEntry

_REASONS = {
    "key-unknown": "their keys cannot be read",
    "not-attached": "attached to no Thing",
    "several-things": "attached to several Things",
    "thing-existed": "their Things were not created by this backend (--existing-things restores them)",
    "other-key": "their keys belong to other Things",
    "other-certificate": "the ledger has other certificates for their Things",
}


class _Totals:
    """What the reports of a rebuild add up to."""

    def __init__(self, reports: Iterable[RebuildReport]) -> None:
        self.examined = 0
        self.restored: list[RestoredEntry] = []
        self.left: list[LeftCertificate] = []
        for report in reports:
            self.examined += report.examined
            self.restored += report.restored
            self.left += report.left

    @property
    def text(self) -> str:
        """What was examined, in one line."""
        compared = counted(self.examined, "certificate")
        return f"{compared} compared with the ledger, {len(self.restored):,} missing from it"


@command("rebuild", example="hsm-enroll fleet rebuild")
@click.option("--existing-things", is_flag=True, help="Also Things that were not created by this backend.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@api_options
def rebuild(invocation: Invocation, *, existing_things: bool, yes: bool, target: Target) -> None:
    """Restore ledger entries from AWS IoT, after the table was emptied or restored to an earlier moment.

    Shows first what is missing. Entries that exist stay as they are; a run that was interrupted can be repeated.
    """
    terminal = invocation.terminal
    if not yes and (terminal.as_json or not has_person()):
        raise UsageError("cannot prompt without a terminal or with --json", hint="Pass --yes to restore the entries.")
    client = operator_client(invocation, target)
    with terminal.step("comparing"):
        found = _Totals(_compared(terminal, client.rebuild(look_only=True, existing_things=existing_things)))
    _show(invocation, found)
    done = found
    if found.restored:
        if not yes and not confirm(f"Restore {counted(len(found.restored), 'entry', 'entries')}?"):
            raise InterruptedRunError("nothing was restored", declined=True)
        with terminal.step("restoring"):
            done = _Totals(_compared(terminal, client.rebuild(look_only=False, existing_things=existing_things)))
    document = {
        "examined": done.examined,
        "restored": [records.to_json(one) for one in done.restored],
        "left": [records.to_json(one) for one in done.left],
    }
    text = f"{counted(len(done.restored), 'entry', 'entries')} restored"
    terminal.result(document, text, done=text)


def _compared(terminal: Terminal, reports: Iterator[RebuildReport]) -> Iterator[RebuildReport]:
    return telling(terminal, reports, lambda report: report.examined, "certificate")


def _show(invocation: Invocation, found: _Totals) -> None:
    terminal = invocation.terminal
    terminal.say(f"- {found.text}")
    if found.restored:
        terminal.say(f"- to restore: {some([f'{one.thing} ({one.status})' for one in found.restored])}")
    for reason, count in Counter(one.reason for one in found.left).items():
        ids = some([one.certificate_id for one in found.left if one.reason == reason])
        terminal.warn(f"{counted(count, 'certificate')} not restored, {_REASONS.get(reason, reason)}: {ids}")
