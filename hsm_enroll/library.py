"""The library's functions: ``enroll`` and ``connect``, with this device's configuration and environment."""

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
    """Enroll this device, as ``hsm-enroll init --no-publish`` does with the same configuration and environment.

    Resumes an enrollment that was interrupted. If the device has a valid identity, returns it and contacts no server.
    Prints nothing and does not prompt for a PIN; if the token has its own PIN pad, waits until the PIN is typed there.
    The same process may connect afterwards.

    Does *not* ask the backend whether the certificate of an enrolled device is still active.

    Args:
        thing_name: name of the Thing, ``[a-zA-Z0-9:_-]{1,64}``; None uses the configuration's, or else the invite's.
        invite: ``https://API/#CODE``; None uses the configuration's ``api_url``, whose deployment must be open.
        new_key: enroll again with a new key; the old key stays in the token.

    Returns:
        The identity, which has also been saved in the state folder.

    Raises:
        HsmEnrollError: the enrollment failed; the class says why, and ``hint`` what to do. Calling it again resumes.
    """
    resolved = settings.load(os.environ, {"thing": thing_name})
    request = Request(resolved.thing, resolved.key_type, resolved.subject, new_key)
    invitation = None if invite is None else parse(invite)
    with Tokens() as tokens:
        ports = wiring.ports(resolved, tokens, invitation, wiring.unattended(resolved))
        return enrollment.enroll(request, resolved.state, ports).identity


def connect(identity: Identity) -> Connection:
    """Connect to the MQTT broker as the Thing, with this device's configuration and environment.

    The client id is the Thing's name. A broker allows one connection per client id, so a second ``connect`` ends the
    first connection. ``hsm-enroll publish``, ``subscribe`` and ``doctor --login`` use other client ids and may run at
    the same time.

    Prints nothing and does not prompt for a PIN; if the token has its own PIN pad, waits until the PIN is typed there.
    If ``tls`` is ``auto`` and TLS 1.3 failed, the connection's ``tls_fallback`` says why.

    Args:
        identity: the device's identity, from :func:`enroll` or :meth:`Identity.load`.

    Returns:
        An open connection, which is a context manager.

    Raises:
        PinMissingError, PinExposedError, PinWrongError, PinLockedError, PinFinalTryError: the PIN is missing, readable
            by others, wrong, or must not be tried.
        ModuleMissingError, ModuleUnusableError, TokenNotFoundError, KeyMissingError, TokenRefusedError: the module, the
            token or the key is missing or cannot be used.
        MqttError: the broker cannot be reached, is not trusted, or refuses; its subclass says which.
        UsageError: the configuration is invalid.
    """
    resolved = settings.load(os.environ, {})
    pin = wiring.credentials(identity, wiring.unattended(resolved), lambda _: None)
    return wiring.connect(identity, pin, resolved)
