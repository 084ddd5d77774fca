"""``hsm-enroll fleet web``: the fleet and its invites in a browser."""

from __future__ import annotations

import threading
import traceback

import click

from hsm_enroll import extras
from hsm_enroll.cli import signals
from hsm_enroll.cli.invocation import Invocation, command
from hsm_enroll.cli.operator_client import Target, api_options, operator_client

_PORT = click.IntRange(1, 65535)


@command("web", example="hsm-enroll fleet web")
@click.option("--port", type=_PORT, metavar="PORT", help="The TCP port on 127.0.0.1; default: a free one.")
@api_options
def web(invocation: Invocation, *, port: int | None, target: Target) -> None:
    """Serve a page for this machine's browser until Ctrl-C: the fleet, invites as labels to print, replacing, revoking.

    Open the address that is printed. It is the key to the page: give it to nobody. The page acts with your AWS
    credentials, and can do what hsm-enroll fleet and hsm-enroll invite can do with them.
    """
    extras.require("web", "flask", "segno")
    from hsm_enroll.operator.last_seen import LastSeen
    from hsm_enroll.web import app
    from hsm_enroll.web.access import Access
    from hsm_enroll.web.server import Server, listen

    terminal = invocation.terminal
    client = operator_client(invocation, target)
    # An error in the configuration, or of IAM, is told here rather than in the browser.
    client.thing_page(1)
    last_seen = LastSeen(client.session, client.region)
    stopped = threading.Event()

    def report(error: Exception) -> None:
        terminal.warn(f"unexpected error in a page: {type(error).__name__}")
        terminal.detail("".join(traceback.format_exception(error)).rstrip("\n"))

    with listen(port or 0) as listener:
        access = Access(listener.getsockname()[1])
        application = app.create(access, client, last_seen, report)
        with signals.stopping(stopped.set) as stop, Server(listener, application):
            if terminal.as_json:
                terminal.result({"url": access.url}, "")
            else:
                terminal.data(f"{access.url}\n")
            terminal.say("- open this address in a browser on this machine; Ctrl-C ends the page")
            stopped.wait()
    raise click.exceptions.Exit(stop.status or 0)
