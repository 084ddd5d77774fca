"""``hsm-enroll local``: a cloud on this machine."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hsm_enroll import extras
from hsm_enroll.cli.invocation import Invocation, command

if TYPE_CHECKING:
    from hsm_enroll.local.endpoints import Endpoints

_REQUIRED_PACKAGES = ("boto3", "moto")
_DETACHED_START_SECONDS = 60.0
_PORT = click.IntRange(1, 65535)
_TARGETS = {"broker": "MQTT broker", "api": "enrollment API"}
_home_option = click.option(
    "--home",
    type=click.Path(file_okay=False, path_type=Path),
    help="The cloud's folder; default hsm-enroll/local in the user's state folder.",
)


@click.group("local")
def local() -> None:
    """A cloud on this machine, for demos, tests and offline work: AWS's APIs, the enrollment API, an MQTT broker."""
    extras.require("local", *_REQUIRED_PACKAGES)


@command("up", example="hsm-enroll local up --detach")
@_home_option
@click.option(
    "--auth",
    type=click.Choice(["invite", "open"]),
    help="Who may enroll: whoever holds an invite, created with hsm-enroll invite create, or anyone, which is the "
    "default.",
)
@click.option(
    "--attestation",
    type=click.Choice(["off", "prefer", "require"]),
    help="Whether devices have to prove that their keys are in TPMs: off (default) leaves that to invites, prefer asks "
    "for it and accepts other tokens, require refuses these.",
)
@click.option("--detach", is_flag=True, help="Run in the background; stop it with hsm-enroll local down.")
@click.option(
    "--keep",
    is_flag=True,
    help="Keep devices, invites, everything else in AWS, the ports, --auth and --attestation in the cloud's folder "
    "when the cloud stops, and start with what the last cloud with --keep left there.",
)
@click.option(
    "--api-port", type=_PORT, metavar="PORT", help="Port of the enrollment API; default: a free one, as for the others."
)
@click.option("--mqtt-port", type=_PORT, metavar="PORT", help="Port of the MQTT broker.")
@click.option("--aws-port", type=_PORT, metavar="PORT", help="Port of AWS's APIs.")
@click.option("--credentials-port", type=_PORT, metavar="PORT", help="Port of AWS IoT's credentials provider.")
@click.option("--est-port", type=_PORT, metavar="PORT", help="Port of the API with mutual TLS, for EST.")
def up(
    invocation: Invocation,
    *,
    home: Path | None,
    auth: str | None,
    attestation: str | None,
    detach: bool,
    keep: bool,
    api_port: int | None,
    mqtt_port: int | None,
    aws_port: int | None,
    credentials_port: int | None,
    est_port: int | None,
) -> None:
    """Start the cloud, on loopback only; without --detach, it runs until Ctrl-C."""
    from hsm_enroll.local import cloud

    folder = home or cloud.default_home()
    ports = cloud.Ports(api_port or 0, mqtt_port or 0, aws_port or 0, credentials_port or 0, est_port or 0)
    options = cloud.Options(auth, ports, keep, attestation)
    if detach:
        with invocation.terminal.step("starting the local cloud"):
            endpoints = cloud.detach(folder, _DETACHED_START_SECONDS, options)
        _show(invocation, endpoints)
        return
    invocation.terminal.say("starting the local cloud; Ctrl-C stops it")
    cloud.serve(folder, lambda endpoints: _show(invocation, endpoints), options)


@command("env", example='eval "$(hsm-enroll local env)"')
@_home_option
def env(invocation: Invocation, *, home: Path | None) -> None:
    """Print shell exports that point hsm-enroll and AWS's own tools at the running cloud."""
    from hsm_enroll.local import cloud

    exports = cloud.running(home or cloud.default_home()).exports()
    if invocation.terminal.as_json:
        invocation.terminal.result(exports, "")
    else:
        lines = (f"export {name}={shlex.quote(value)}\n" for name, value in exports.items())
        invocation.terminal.data("".join(lines))


@command("down", example="hsm-enroll local down")
@_home_option
def down(invocation: Invocation, *, home: Path | None) -> None:
    """Stop the running cloud; succeeds if none is running."""
    from hsm_enroll.local import cloud

    folder = home or cloud.default_home()
    cloud.down(folder)
    invocation.terminal.result({"home": str(folder), "running": False}, "the local cloud is down")


@command("restart", example="hsm-enroll local restart broker")
@_home_option
@click.argument("target", type=click.Choice([*_TARGETS]))
def restart(invocation: Invocation, *, home: Path | None, target: str) -> None:
    """Restart the broker or the enrollment API of the running cloud, to rehearse a short outage.

    All connections to it are closed. Nothing is lost: retained messages, sessions, devices and invites stay.
    """
    from hsm_enroll.local import cloud

    cloud.restart(home or cloud.default_home(), target)
    invocation.terminal.result({"restarted": target}, f"the {_TARGETS[target]} was restarted")


@command("fail", example="hsm-enroll local fail --next 503")
@_home_option
@click.option(
    "--next",
    "fault",
    type=click.Choice(["503", "lost", "throttle", "slow"]),
    required=True,
    help="503: it is not available. lost: it carries out the next POST, but the response is lost. throttle: it "
    "responds with 429. slow: it takes 5 seconds longer.",
)
@click.option(
    "--count", type=click.IntRange(1, 1000), metavar="N", default=1, show_default=True, help="Number of requests."
)
def fail(invocation: Invocation, *, home: Path | None, fault: str, count: int) -> None:
    """Let the next request to the enrollment API fail, to rehearse an outage.

    To take this back, restart the API: hsm-enroll local restart api
    """
    from hsm_enroll.local import cloud

    cloud.fail(home or cloud.default_home(), fault, count)
    requests = "request" if count == 1 else f"{count} requests"
    invocation.terminal.result({"next": fault, "count": count}, f"the next {requests} will fail: {fault}")


def _show(invocation: Invocation, endpoints: Endpoints) -> None:
    from hsm_enroll.local.home import Home

    rows = {
        "API": endpoints.api_url,
        "MQTT": f"{endpoints.mqtt_endpoint}:{endpoints.mqtt_port}",
        "CA": str(endpoints.ca_file),
        "AWS": endpoints.aws_endpoint_url,
        "Home": str(endpoints.home),
        "Next": f'eval "$({Home(endpoints.home).command("env")})"',
    }
    text = "\n".join(f"{name:<5} {value}" for name, value in rows.items())
    invocation.terminal.result(endpoints.to_json(), text, done="the local cloud is running")


for _command in (up, env, restart, fail, down):
    local.add_command(_command)
