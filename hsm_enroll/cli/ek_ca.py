"""``hsm-enroll fleet ek-ca``: the CAs whose certificates of endorsement keys the backend trusts."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from hsm_enroll.cli.invocation import Invocation, command
from hsm_enroll.cli.operator_client import Target, api_options, counted, table_of, tpm_client
from hsm_enroll.operator import authority, fingerprints, records
from hsm_enroll.operator.tpm_records import AuthorityRecord

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.group("ek-ca")
def ek_ca() -> None:
    """Trust the CAs of TPM vendors."""


@command("add", example="hsm-enroll fleet ek-ca add OptigaRsaRootCA2.crt --sha256 8D3C…")
@click.argument("source", type=_FILE, metavar="FILE")
@click.option(
    "--sha256", "written", metavar="HEX", required=True, help="The SHA-256 of the certificate, as its vendor states it."
)
@api_options
def add(invocation: Invocation, *, source: Path, written: str, target: Target) -> None:
    """Trust a CA. FILE has its certificate, in PEM or DER, as the TPM's vendor publishes it.

    Take the SHA-256 from another place than the file, such as the vendor's documentation. A chain of certificates has
    to end in a root that was added. Add an intermediate too if the TPMs do not bring it along.
    """
    fingerprint = fingerprints.sha256(written, "--sha256")
    pem = authority.read(table_of(source), fingerprint)
    added = tpm_client(invocation, target).add_authority(pem, fingerprint)
    if added.not_after < datetime.now(UTC):
        invocation.terminal.warn("this certificate has expired: no chain is accepted because of it")
    done = f"trusted: {_kind(added)} {added.subject}, until {added.not_after:%Y-%m-%d}"
    invocation.terminal.result(records.to_json(added), done, done=done)


@command("list", example="hsm-enroll fleet ek-ca list")
@api_options
def list_(invocation: Invocation, *, target: Target) -> None:
    """List the CAs that are trusted, and until when their certificates are valid."""
    found = tpm_client(invocation, target).list_authorities()
    text = "\n".join(map(_rows, found)) or "no CA is trusted"
    invocation.terminal.result({"authorities": [records.to_json(one) for one in found]}, text)
    if found:
        invocation.terminal.say(f"- {counted(len(found), 'CA')}")


def _rows(one: AuthorityRecord) -> str:
    return f"{one.sha256}  {one.not_after:%Y-%m-%d}  {_kind(one)}\n  {one.subject}"


def _kind(one: AuthorityRecord) -> str:
    return "root" if one.root else "intermediate"


@command("remove", example="hsm-enroll fleet ek-ca remove 8d3c…")
@click.argument("sha256", metavar="SHA256")
@api_options
def remove(invocation: Invocation, *, sha256: str, target: Target) -> None:
    """Trust a CA no more. Things that were enrolled because of it stay enrolled, and are renewed."""
    fingerprint = fingerprints.sha256(sha256, "SHA256")
    tpm_client(invocation, target).remove_authority(fingerprint)
    done = f"{fingerprint} is not trusted any more"
    invocation.terminal.result({"sha256": fingerprint, "trusted": False}, done, done=done)


for _command in (add, list_, remove):
    ek_ca.add_command(_command)
