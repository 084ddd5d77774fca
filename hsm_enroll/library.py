"""The library: ``enroll`` and ``connect``, as this device's configuration and environment say."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from hsm_enroll import settings
from hsm_enroll.backend_api.invite import parse
from hsm_enroll.device import enrollment, wiring
from hsm_enroll.device.plan import Request
from hsm_enroll.store.identity import Identity
from hsm_enroll.token.tokens import Tokens

if TYPE_CHECKING:
    from hsm_enroll.iot import Connection


def enroll(thing_name: str | None = None, *, invite: str | None = None, new_key: bool = False) -> Identity:
    """Enroll this device as its configuration and environment say, as ``hsm-enroll init --no-publish`` does.

    Resumes an enrollment under way; with a valid identity in place it contacts nobody. Prints nothing, and asks nobody
    for a PIN, but waits where it is typed at the token itself. Afterwards this
    process may connect.

    Args:
        thing_name: name of the Thing, ``[a-zA-Z0-9:_-]{1,64}``; None takes it from the configuration.
        invite: ``https://API/#CODE``; None enrolls at the configuration's ``api_url``, which has to be open.
        new_key: leave the key that is there and enroll with another.

    Returns:
        The identity, also in the state folder.

    Raises:
        HsmEnrollError: one of its kinds; each tells what to do.
    """
    resolved = settings.load(os.environ, {"thing": thing_name})
    request = Request(resolved.thing, resolved.key_type, resolved.subject, new_key)
    invitation = None if invite is None else parse(invite)
    with Tokens() as tokens:
        reached = wiring.ports(resolved, tokens, invitation, wiring.unattended(resolved))
        return enrollment.enroll(request, resolved.state, reached).identity


def connect(identity: Identity) -> Connection:
    """Connect to the broker as this device's configuration and environment say, as ``hsm-enroll publish`` does.

    The client id is the Thing's name, and a broker allows one connection per client id: a second one ends the first.
    ``hsm-enroll publish``, ``subscribe`` and ``doctor --login`` have ids of their own and may run beside this.

    Asks nobody for a PIN, but waits where it is typed at the token itself, and prints nothing: where ``tls`` is
    ``auto`` and TLS 1.3 failed, the connection's ``tls_fallback`` says how.

    Args:
        identity: what the device holds.

    Returns:
        An open connection, a context manager.

    Raises:
        HsmEnrollError: as ``hsm_enroll.iot.connect``, and where no PIN is to be had.
    """
    resolved = settings.load(os.environ, {})
    pin = wiring.credentials(identity, wiring.unattended(resolved), lambda _: None)
    return wiring.connect(identity, pin, resolved)
