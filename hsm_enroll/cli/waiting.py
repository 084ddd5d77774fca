"""What a command waits for in other places than this machine, as ``Terminal.waiting`` shows it."""

from __future__ import annotations

from contextlib import AbstractContextManager

from hsm_enroll.cli.invocation import Invocation
from hsm_enroll.store.identity import Identity


def for_broker(invocation: Invocation, identity: Identity, seconds: float) -> AbstractContextManager[None]:
    """Show that the broker is waited for that the settings, or else the identity, name, and for how long at most."""
    host = invocation.settings.mqtt_endpoint or identity.mqtt_endpoint
    port = invocation.settings.mqtt_port or identity.mqtt_port
    return invocation.terminal.waiting(f"the broker at {host}:{port}", seconds)
