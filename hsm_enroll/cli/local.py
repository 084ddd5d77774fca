"""``hsm-enroll local``: a cloud on this machine."""

from __future__ import annotations

import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hsm_enroll.cli.invocation import Invocation, command
from hsm_enroll.errors import UsageError

if TYPE_CHECKING:
    from hsm_enroll.local.endpoints import Endpoints

_REQUIRED_PACKAGES = ("boto3", "moto")
_DETACHED_START_SECONDS = 60.0
_home_option = click.option(
    "--home",
    type=click.Path(file_okay=False, path_type=Path),
    help="The cloud's folder; default hsm-enroll/local in the user's state folder.",
)


@click.group("local")
def local() -> None:
    """A cloud on this machine, for demos, tests and offline work: AWS's APIs, the enrollment API, an MQTT broker."""
    missing = [name for name in _REQUIRED_PACKAGES if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"Python packages that the local cloud requires are not installed: {', '.join(missing)}",
            hint="Run: pip install 'hsm-enroll[local]'",
        )


@command("up", example="hsm-enroll local up --detach")
@_home_option
@click.option(
    "--auth",
    type=click.Choice(["invite", "open"]),
    default="open",
    show_default=True,
    help="Who may enroll: whoever holds an invite, created with hsm-enroll invite create, or anyone.",
)
@click.option("--detach", is_flag=True, help="Run in the background; stop it with hsm-enroll local down.")
def up(invocation: Invocation, *, home: Path | None, auth: str, detach: bool) -> None:
    """Start the cloud, on loopback only; without --detach, it runs until Ctrl-C."""
    from hsm_enroll.local import cloud

    folder = home or cloud.default_home()
    if detach:
        with invocation.terminal.step("starting the local cloud"):
            endpoints = cloud.detach(folder, _DETACHED_START_SECONDS, auth)
        _show(invocation, endpoints, home)
        return
    invocation.terminal.say("starting the local cloud; Ctrl-C stops it")
    cloud.serve(folder, lambda endpoints: _show(invocation, endpoints, home), auth)


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


def _show(invocation: Invocation, endpoints: Endpoints, home: Path | None) -> None:
    option = "" if home is None else f" --home {shlex.quote(str(home))}"
    rows = {
        "API": endpoints.api_url,
        "MQTT": f"{endpoints.mqtt_endpoint}:{endpoints.mqtt_port}",
        "CA": str(endpoints.ca_file),
        "AWS": endpoints.aws_endpoint_url,
        "Home": str(endpoints.home),
        "Next": f'eval "$(hsm-enroll local env{option})"',
    }
    text = "\n".join(f"{name:<5} {value}" for name, value in rows.items())
    invocation.terminal.result(endpoints.to_json(), text, done="the local cloud is running")


for _command in (up, env, down):
    local.add_command(_command)
