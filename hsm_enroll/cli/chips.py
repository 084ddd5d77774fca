"""``hsm-enroll fleet import-ek``, ``list-ek``, ``forget-ek``: the manifest, which says which TPM is which Thing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hsm_enroll.cli import listing
from hsm_enroll.cli.invocation import Invocation, command
from hsm_enroll.cli.listing import Selection, Shape, list_options
from hsm_enroll.cli.operator_client import Target, api_options, counted, minute, table_of, tpm_client
from hsm_enroll.errors import BackendRefusedError, HsmEnrollError, InterruptedRunError
from hsm_enroll.operator import fingerprints, manifest
from hsm_enroll.operator.manifest import Entries, ListedChip
from hsm_enroll.operator.tpm_records import EkRecord, ImportReport

if TYPE_CHECKING:
    from hsm_enroll.operator.tpms import TpmClient

_FILE = click.Path(dir_okay=False, path_type=Path)
_AGAIN_HINT = "Run the same command again: what is listed already stays as it is."
_MOST_TOLD = 20  # conflicts


@command("import-ek", example="hsm-enroll fleet import-ek manifest.csv")
@click.argument("source", type=_FILE, metavar="FILE")
@click.option("--thing", "name", metavar="NAME", help="FILE is what hsm-enroll tpm info --json printed on this Thing.")
@api_options
def import_ek(invocation: Invocation, *, source: Path, name: str | None, target: Target) -> None:
    """Say which TPM is which Thing, so that it enrolls without an invite: its chip is the invite.

    FILE is a table in CSV with the columns thing and ek_sha256: the SHA-256 of a TPM's endorsement key, or of that
    key's certificate; hsm-enroll tpm info shows both. A Thing may have several rows, one for each endorsement key of
    its TPM. Every row is checked before any is sent. The command can be repeated.
    """
    content = table_of(source)
    entries = manifest.read(content) if name is None else manifest.read_info(content, name)
    reports = _import(invocation, tpm_client(invocation, target), entries)
    conflicts = [chip for report in reports for chip in report.conflicts]
    added, unchanged = sum(report.added for report in reports), sum(report.unchanged for report in reports)
    refused = _conflicts(conflicts, entries)
    document = {"added": added, "unchanged": unchanged, "conflicts": refused}
    text = f"{counted(added, 'endorsement key')} added, {unchanged:,} listed already"
    invocation.terminal.result(document, text, done=text)
    if not refused:
        return
    if not invocation.terminal.as_json:
        invocation.terminal.error(_conflict_error(refused, target, _others_of_tpm(conflicts, entries)))
    raise click.exceptions.Exit(BackendRefusedError.exit_status)


def _import(invocation: Invocation, client: TpmClient, entries: Entries) -> list[ImportReport]:
    """Send the entries, part by part; an error says how far that came."""
    reports: list[ImportReport] = []
    sent = 0
    try:
        with invocation.terminal.progress("importing endorsement keys", len(entries)) as advance:
            for part in manifest.parts(entries):
                reports.append(client.import_eks(part))
                sent += len(part)
                advance(len(part))
    except KeyboardInterrupt as error:
        raise InterruptedRunError(f"interrupted after {sent:,} of {len(entries):,} rows", hint=_AGAIN_HINT) from error
    except HsmEnrollError as error:
        if sent:
            error.hint = f"{error.hint} {sent:,} of {len(entries):,} rows were imported. {_AGAIN_HINT}"
        raise
    return reports


def _conflicts(conflicts: list[ListedChip], entries: Entries) -> list[dict[str, Any]]:
    """Return the rows whose EKs are listed for other Things, with these."""
    asked = {chip.ek_sha256: chip for chip in entries}
    return [
        {
            "line": entries[asked[found.ek_sha256]],
            "thing": asked[found.ek_sha256].thing,
            "ekSha256": found.ek_sha256,
            "listedFor": found.thing,
        }
        for found in conflicts
    ]


def _others_of_tpm(conflicts: list[ListedChip], entries: Entries) -> list[str]:
    """Return a single TPM's EKs that are listed for the Thing now; none if the entries are a table's."""
    refused = {chip.ek_sha256 for chip in conflicts}
    return [chip.ek_sha256 for chip, line in entries.items() if line is None and chip.ek_sha256 not in refused]


def _conflict_error(conflicts: list[dict[str, Any]], target: Target, others: list[str]) -> BackendRefusedError:
    shown = [f"{one['ekSha256'][:16]}… is {one['listedFor']}{_line_of(one)}" for one in conflicts[:_MOST_TOLD]]
    left = len(conflicts) - len(shown)
    forget, name = f"hsm-enroll fleet forget-ek{target.options}", conflicts[0]["thing"]
    hint = (
        f"If the TPM is to become another Thing, {forget} {conflicts[0]['ekSha256']} takes it off the list; then "
        "import it again."
    )
    if others:
        undo = "; ".join(f"{forget} {ek_sha256}" for ek_sha256 in others)
        hint += f" What else the TPM has is listed for {name} now. If that is wrong: {undo}"
    return BackendRefusedError(
        f"{counted(len(conflicts), 'endorsement key')} not imported, listed for another Thing: "
        + "; ".join(shown)
        + (f"; and {left:,} more" if left else ""),
        hint=hint,
    )


def _line_of(conflict: dict[str, Any]) -> str:
    return "" if conflict["line"] is None else f" (line {conflict['line']})"


@command("list-ek", example="hsm-enroll fleet list-ek --prefix line3-")
@list_options()
@api_options
def list_ek(invocation: Invocation, *, selection: Selection, target: Target) -> None:
    """List the endorsement keys that were imported, the newest first. Times are in UTC."""
    client = tpm_client(invocation, target)
    shape = Shape("key", "no endorsement key is listed", _HEADER, _line)
    listing.show(
        invocation.terminal, selection, EkRecord, lambda _, prefix, limit: client.list_eks(prefix, limit), shape
    )


_HEADER = f"{'EK SHA-256':<64}  {'LISTED (UTC)':<16}  THING"


def _line(one: EkRecord) -> str:
    return f"{one.ek_sha256}  {minute(one.created)}  {one.thing}"


@command("forget-ek", example="hsm-enroll fleet forget-ek 1f3a…")
@click.argument("ek_sha256", metavar="SHA256")
@api_options
def forget_ek(invocation: Invocation, *, ek_sha256: str, target: Target) -> None:
    """Take an endorsement key off the list: its TPM needs an invite from then on.

    A Thing that was enrolled with it stays enrolled; fleet revoke ends that.
    """
    fingerprint = fingerprints.sha256(ek_sha256, "SHA256")
    tpm_client(invocation, target).forget_ek(fingerprint)
    done = f"endorsement key {fingerprint} is not listed any more"
    invocation.terminal.result({"ekSha256": fingerprint, "listed": False}, done, done=done)
