"""``hsm-enroll fleet replace``: an invite for a Thing that is enrolled, which retires its present key."""

from __future__ import annotations

from typing import Any

import click

from hsm_enroll.cli.invite import create_and_show, tpm_options
from hsm_enroll.cli.invocation import Invocation, command
from hsm_enroll.cli.operator_client import Target, api_options
from hsm_enroll.operator.invites import DEFAULT_TTL_SECONDS, NewReplacement, ttl_seconds


@command("replace", example="hsm-enroll fleet replace gateway-17 --ttl 7d")
@click.argument("thing_name", metavar="THING")
@click.option("--ttl", metavar="TIME", help="How long it is valid, such as 30m, 24h (default) or 7d.")
@tpm_options
@click.option("--qr", is_flag=True, help="Also draw it as a QR code.")
@api_options
def replace(
    invocation: Invocation, *, thing_name: str, ttl: str | None, qr: bool, target: Target, **of_tpm: Any
) -> None:
    """Create an invite with which another device, or another key, takes the place of the one that THING has.

    Until a device is enrolled with it, nothing changes. At that moment the present key is retired: its certificate is
    deactivated and deleted, its device is disconnected, and the key can never be enrolled again.

    On a new device: hsm-enroll init INVITE. For a new key in the same one: hsm-enroll init --new-key INVITE.
    """
    seconds = DEFAULT_TTL_SECONDS if ttl is None else ttl_seconds(ttl)
    made = create_and_show(invocation, NewReplacement(thing_name, seconds, **of_tpm), target, qr=qr)
    if made.thing_status == "revoked":
        invocation.terminal.say(f"- {thing_name} is revoked; with this invite it is enrolled again, with a new key")
        return
    invocation.terminal.say(
        f"- {thing_name}'s present key works until this invite is used; then its certificate is deleted"
    )
