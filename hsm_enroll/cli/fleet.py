"""``hsm-enroll fleet``: the Things that the backend has enrolled."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from hsm_enroll.cli import listing
from hsm_enroll.cli.chips import forget_ek, import_ek, list_ek
from hsm_enroll.cli.ek_ca import ek_ca
from hsm_enroll.cli.invocation import Invocation, command
from hsm_enroll.cli.listing import Selection, Shape, list_options
from hsm_enroll.cli.operator_client import Target, api_options, minute, operator_client, some, table_of
from hsm_enroll.cli.rebuild import rebuild
from hsm_enroll.cli.replacement import replace
from hsm_enroll.cli.sweep import sweep
from hsm_enroll.cli.terminal import confirm, has_person
from hsm_enroll.cli.web import web
from hsm_enroll.errors import BackendRefusedError, HsmEnrollError, InterruptedRunError, UsageError
from hsm_enroll.operator import names, records
from hsm_enroll.operator.records import AttachedCertificate, ThingRecord

if TYPE_CHECKING:
    from hsm_enroll.operator.api import OperatorClient

_FILE = click.Path(dir_okay=False, path_type=Path)
_MOST_FAILURES = 3  # in a row
_LONGEST_NAME = 4  # of a manufacturer, in TCG's registry
_HOUR, _DAY = 60, 24 * 60  # minutes
_AGAIN_HINT = "Run the same command again: revoking a Thing again changes nothing."


@click.group("fleet")
def fleet() -> None:
    """List, revoke and replace enrolled Things, say which TPMs are which, and compare the ledger with AWS IoT."""


@command("list", example="hsm-enroll fleet list --status issued --prefix line3- --limit 20")
@list_options("claimed", "issued", "revoked")
@click.option(
    "--attested", type=click.Choice(["yes", "no"]), help="Only those proven to have their key in a TPM, or not."
)
@api_options
def list_(invocation: Invocation, *, selection: Selection, attested: str | None, target: Target) -> None:
    """List the Things, the last one claimed first. Times are in UTC.

    A Thing is claimed when its enrollment begins, issued when it has its certificate, and revoked when you revoked it
    or its device was retired. AGE is that of its certificate. RENEWAL is due above the deployment's limit, and pending
    while a new key does not count yet. TPM is the manufacturer of the TPM that has proven to hold the key.
    """
    client = operator_client(invocation, target)
    nothing = "no Thing is enrolled" if attested is None else "no Thing matches"
    shape = Shape("Thing", nothing, _HEADER, partial(_line, datetime.now(UTC)))
    listing.show(invocation.terminal, selection, ThingRecord, partial(client.list_things, attested=attested), shape)


# The name comes last and in full, so that it can be copied; 38 characters of it fit into 80 columns.
_HEADER = f"{'STATUS':<7}  {'KEY':<8}  {'TPM':<4}  {'AGE':>5}  {'RENEWAL':<7}  THING"


def _line(now: datetime, one: ThingRecord) -> str:
    known = f"{one.status:<7}  {one.key_type or '-':<8}  {_tpm(one):<4}  {_age(now, one):>5}"
    return f"{known}  {_renewal(one):<7}  {one.thing}"


def _tpm(one: ThingRecord) -> str:
    """Return the manufacturer of a Thing's TPM; "yes" if it has no short name, and "-" if there is no TPM."""
    if not one.attested:
        return "-"
    return one.tpm_manufacturer if one.tpm_manufacturer and len(one.tpm_manufacturer) <= _LONGEST_NAME else "yes"


def _age(now: datetime, one: ThingRecord) -> str:
    """Return how old a Thing's certificate is, or without one its claim, in minutes, hours or days."""
    minutes = max(0, int((now - (one.renewed or one.enrolled or one.claimed)).total_seconds()) // 60)
    if minutes < _HOUR:
        return f"{minutes}m"
    return f"{minutes // _HOUR}h" if minutes < 2 * _DAY else f"{minutes // _DAY}d"


def _renewal(one: ThingRecord) -> str:
    return "pending" if one.renewal_pending else "due" if one.renewal_due else "-"


_UNDONE_BECAUSE = {
    "not-committed": "its device did not commit it within an hour",
    "old-key-used": "its old key was used again (disk restored, new certificate not received, or key copied)",
}


def _undone(one: ThingRecord) -> str:
    """Return when the last renewal was undone, and why."""
    because = one.renewal_undone_because or "-"
    return f"{minute(one.renewal_undone)}, {_UNDONE_BECAUSE.get(because, because)}"


@command("show", example="hsm-enroll fleet show gateway-17")
@click.argument("thing_name", metavar="THING")
@api_options
def show(invocation: Invocation, *, thing_name: str, target: Target) -> None:
    """Show what the backend knows about a Thing. Times are in UTC."""
    shown = operator_client(invocation, target).show_thing(thing_name)
    one = shown.thing
    rows = {
        "Thing": one.thing,
        "Status": one.status,
        "Certificate": one.certificate_id or "-",
        "Key": one.key_type or "-",
        "SPKI SHA-256": one.spki_sha256,
        "Attested": "-" if one.attested is None else "yes" if one.attested else "no",
        "Invite": one.invite_id or "-",
        "Claimed": minute(one.claimed),
        "Enrolled": minute(one.enrolled),
        "Renewed": minute(one.renewed),
        "Age": _age(datetime.now(UTC), one),
        "Renewal": _renewal(one),
    }
    if one.renewal_undone is not None:
        rows["Renewal undone"] = _undone(one)
    rows["Revoked"] = minute(one.revoked)
    if one.attested:
        rows["TPM"] = f"{one.tpm_manufacturer or 'manufacturer unknown'}, firmware {one.tpm_firmware or 'unknown'}"
        rows["EK"] = one.ek_sha256 or "-"
        rows["EK cert"] = one.ek_certificate_sha256 or "-"
    others = [found for found in shown.certificates or () if found.certificate_id != one.certificate_id]
    if others:
        rows["Other certs"] = ", ".join(f"{found.certificate_id} ({_state(found)})" for found in others)
    width = max(map(len, rows))
    text = "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())
    certificates = None if shown.certificates is None else [records.to_json(found) for found in shown.certificates]
    invocation.terminal.result({"thing": records.to_json(one), "certificates": certificates}, text)


def _state(found: AttachedCertificate) -> str:
    return "active" if found.active else "inactive"


class _SomeFailedError(Exception):
    """Ends the step as failed though it went on to its end."""


class _Outcome(NamedTuple):
    """What became of one Thing that was to be revoked; ``error`` is None if it is revoked."""

    thing: ThingRecord
    error: HsmEnrollError | None
    others: tuple[AttachedCertificate, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return an item of the list that ``fleet revoke --json`` prints."""
        error = self.error.document if self.error else None
        return {
            "thing": self.thing.thing,
            "before": self.thing.status,
            "revoked": error is None,
            "error": error,
            "otherCertificates": [records.to_json(found) for found in self.others],
        }


@command("revoke", example="hsm-enroll fleet revoke gateway-17 gateway-18")
@click.argument("thing_names", metavar="[THING]...", nargs=-1)
@click.option("--from", "source", type=_FILE, metavar="FILE", help="Names, one per line, or the column thing of a CSV.")
@click.option("--all-certificates", is_flag=True, help="Also whatever else is attached to the Things in AWS IoT.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@api_options
def revoke(
    invocation: Invocation,
    *,
    thing_names: tuple[str, ...],
    source: Path | None,
    all_certificates: bool,
    yes: bool,
    target: Target,
) -> None:
    """Revoke Things: their devices are disconnected within minutes and cannot connect again with the same key.

    If a Thing does not exist, none is revoked. If revoking one fails, the others are revoked all the same. Other
    certificates of a Thing, such as those that it had before it was enrolled, are named; with --all-certificates they
    become inactive, too.
    """
    terminal = invocation.terminal
    given = names.checked([*thing_names, *(names.read(table_of(source)) if source else ())])
    if not given:
        raise click.UsageError("give the names of Things, or --from")
    if not yes and (terminal.as_json or not has_person()):
        raise UsageError("cannot prompt without a terminal or with --json", hint="Pass --yes to revoke the Things.")
    client = operator_client(invocation, target)
    found = client.find_things(given)
    _check_all_exist(given, found, target)
    if not yes and not confirm(_question(found)):
        raise InterruptedRunError("nothing was revoked", declined=True)
    if len(found) == 1:
        others = client.revoke_thing(found[0].thing, all_certificates=all_certificates)
        done = f"{found[0].thing} is revoked"
        document = {
            "thing": found[0].thing,
            "revoked": True,
            "otherCertificates": [records.to_json(one) for one in others],
        }
        terminal.result(document, done, done=done)
        _warn_of_active(invocation, found[0].thing, others, target)
        return
    _report(invocation, found, _revoke_all(invocation, client, found, all_certificates=all_certificates), target)


def _warn_of_active(
    invocation: Invocation, thing: str, others: tuple[AttachedCertificate, ...], target: Target
) -> None:
    if active := [found.certificate_id for found in others if found.active]:
        invocation.terminal.warn(
            f"{thing} has other certificates that are active, and whoever has their keys can connect: {some(active)}. "
            f"hsm-enroll fleet revoke {thing} --all-certificates{target.options} makes them inactive."
        )


def _check_all_exist(given: list[str], found: list[ThingRecord], target: Target) -> None:
    known = {one.thing for one in found}
    missing = [name for name in given if name not in known]
    if not missing:
        return
    which = f"no Thing {missing[0]!r}" if len(missing) == 1 else f"none of these Things: {some(missing)}"
    raise BackendRefusedError(
        f"the ledger has {which} (thing-unknown)",
        problem_code="thing-unknown",
        hint=f"Nothing was revoked. hsm-enroll fleet list{target.options} shows the Things that exist.",
    )


def _question(found: list[ThingRecord]) -> str:
    shown = some([f"{one.thing} ({one.status})" for one in found])
    if len(found) == 1:
        return f"Revoke {shown}? It will never connect again with this key."
    return f"Revoke {len(found):,} Things: {shown}? They will never connect again with these keys."


def _revoke_all(
    invocation: Invocation, client: OperatorClient, found: list[ThingRecord], *, all_certificates: bool
) -> list[_Outcome]:
    """Revoke Things one by one; go on after a failure, and stop where none of the others is likely to succeed."""
    outcomes: list[_Outcome] = []
    try:
        with suppress(_SomeFailedError), invocation.terminal.progress("revoking", len(found)) as advance:
            for one in found:
                try:
                    others = client.revoke_thing(one.thing, all_certificates=all_certificates)
                    outcomes.append(_Outcome(one, None, others))
                except HsmEnrollError as error:
                    outcomes.append(_Outcome(one, error))
                    if _is_hopeless(outcomes):
                        break
                advance(1)
            if any(outcome.error for outcome in outcomes):
                raise _SomeFailedError
    except KeyboardInterrupt as error:
        done = sum(outcome.error is None for outcome in outcomes)
        raise InterruptedRunError(
            f"interrupted; {done:,} of {len(found):,} Things are revoked", hint=_AGAIN_HINT
        ) from error
    return outcomes


def _is_hopeless(outcomes: list[_Outcome]) -> bool:
    """Whether there are no credentials any more, or the API has failed several times in a row."""
    last = [outcome.error for outcome in outcomes[-_MOST_FAILURES:]]
    if isinstance(last[-1], UsageError):
        return True
    return len(last) == _MOST_FAILURES and not any(
        error is None or isinstance(error, BackendRefusedError) for error in last
    )


def _report(invocation: Invocation, found: list[ThingRecord], outcomes: list[_Outcome], target: Target) -> None:
    """Show what became of each Thing, and exit with the status of the first failure."""
    terminal = invocation.terminal
    failures = [(outcome.thing.thing, outcome.error) for outcome in outcomes if outcome.error]
    done = f"{len(outcomes) - len(failures):,} of {len(found):,} Things are revoked"
    terminal.result([outcome.to_json() for outcome in outcomes], done, done=done)
    for outcome in outcomes:
        _warn_of_active(invocation, outcome.thing.thing, outcome.others, target)
    if not failures:
        return
    if not terminal.as_json:
        for name, error in failures:
            error.message = f"{name}: {error.message}"
            terminal.error(error)
    if left := [one.thing for one in found[len(outcomes) :]]:
        terminal.warn(f"not tried: {some(left)}. {_AGAIN_HINT}")
    raise click.exceptions.Exit(failures[0][1].exit_status)


for _command in (list_, show, revoke, replace, import_ek, list_ek, forget_ek, ek_ca, sweep, rebuild, web):
    fleet.add_command(_command)
