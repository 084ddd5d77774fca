"""The library's functions: ``enroll``, ``renew`` and ``connect``, with this device's configuration and environment."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from hsm_enroll import settings
from hsm_enroll.backend_api.invite import parse
from hsm_enroll.device import enrollment, round_trip, wiring
from hsm_enroll.device.plan import Request, Said
from hsm_enroll.device.ports import Clock
from hsm_enroll.errors import UsageError
from hsm_enroll.key import TokenName
from hsm_enroll.secret import Secret
from hsm_enroll.settings import Settings
from hsm_enroll.store.identity import Identity
from hsm_enroll.token.tokens import Tokens

if TYPE_CHECKING:
    from hsm_enroll.iot import Connection, Keeper, OnConnection, Will

Pin = Secret | Callable[[TokenName], Secret]
"""A PIN, or a function that returns a token's."""

# Short enough that a client id with it is never longer than AWS IoT's limit, see `own_client_id`.
_PURPOSE = re.compile("[A-Za-z0-9_-]{1,32}")


def enroll(
    thing_name: str | None = None,
    *,
    invite: str | None = None,
    api: str | None = None,
    pin: Pin | None = None,
    create_token: bool = False,
    new_key: bool = False,
) -> Identity:
    """Enroll this device, as ``hsm-enroll init --no-publish`` does with the same configuration and environment.

    Resumes an enrollment that was interrupted. If the device has a valid identity, returns it and contacts no server.
    Prints nothing and does not prompt for a PIN; if the token has its own PIN pad, waits until the PIN is typed there.
    The same process may connect afterwards.

    While the API is busy, it goes on for up to 15 minutes.

    Does *not* ask the backend whether the certificate of an enrolled device is still active.

    Args:
        thing_name: name of the Thing, ``[a-zA-Z0-9:_-]{1,64}``; None uses the configuration's, or else the invite's.
        invite: ``https://API/#CODE``; None uses ``api``, whose deployment must be open.
        api: base URL of an open deployment's API; None uses the configuration's ``api_url``.
        pin: the token's user PIN, or a function that is called with the token if it needs one; tried once. None uses
            the sources that the command has, but no prompt. A given PIN is not stored: :func:`connect` needs it too.
        create_token: create a SoftHSM token if there is none that matches the configuration, with ``pin``, or else with
            the configured PIN, or else with a random one, which is stored in the state folder.
        new_key: enroll again with a new key; the old key stays in the token.

    Returns:
        The identity, which has also been saved in the state folder.

    Raises:
        HsmEnrollError: the enrollment failed; the class says why, and ``hint`` what to do. Calling it again resumes.
    """
    invitation = None if invite is None else parse(invite)
    if invitation is not None and api is not None and api.rstrip("/") != invitation.api_url:
        raise UsageError("the invite and the argument api name different APIs", hint="Omit api.")
    resolved = settings.load(os.environ, {"thing": thing_name, "api_url": api})
    said = Said(api=invitation.api_url if invitation else (api or "").rstrip("/") or None, thing_name=thing_name)
    request = Request(resolved.thing, resolved.key_type, resolved.subject, new_key, said)
    with Tokens() as tokens:
        ports = wiring.ports(
            resolved,
            tokens,
            invitation,
            _pin_source(pin, resolved),
            create_token=create_token,
            new_token_pin=None if pin is None else _pin_source(pin, resolved),
        )
        return enrollment.enroll(request, resolved.state, ports).identity


def renew(*, pin: Pin | None = None, if_due: bool = False) -> Identity:
    """Replace this device's key and certificate by new ones, as ``hsm-enroll renew`` does with the same configuration.

    Finishes a renewal that was interrupted. Prints nothing and does not prompt for a PIN, as :func:`enroll`. AWS IoT
    ends connections with the old certificate: connect again with the new identity.

    Args:
        pin: as for :func:`enroll`.
        if_due: do nothing if no renewal is due by the configuration, and none is unfinished.

    Returns:
        The identity, which is the new one unless nothing was due.

    Raises:
        NotEnrolledError: this device is not enrolled.
        HsmEnrollError: the renewal failed; the class says why, and ``hint`` what to do. Calling it again resumes.
    """
    from hsm_enroll.device import renewal, renewal_due

    resolved = settings.load(os.environ, {})
    identity = Identity.load(resolved.state)
    if if_due and not renewal_due.due(identity, resolved, Clock().now()).is_now:
        return identity
    with Tokens() as tokens:
        ports = wiring.own_ports(resolved, tokens, _pin_source(pin, resolved))
        return renewal.renew(resolved.state, ports, _RoundTrip(resolved), resolved.subject).identity


def connect(
    identity: Identity,
    *,
    pin: Pin | None = None,
    purpose: str | None = None,
    will: Will | None = None,
    reconnect: bool = False,
    on_connection: OnConnection | None = None,
) -> Connection:
    """Connect to the MQTT broker as the Thing, with this device's configuration and environment.

    Prints nothing and does not prompt for a PIN; if the token has its own PIN pad, waits until the PIN is typed there.
    If ``tls`` is ``auto`` and TLS 1.3 failed, the connection's ``tls_fallback`` says why. The settings
    ``connect_timeout`` and ``operation_timeout`` say how long the broker is waited for.

    A process that has connected, even once, must not be forked: in the child no connection works, neither this one
    nor a new one. With multiprocessing, use the start method ``spawn``.

    A broker allows one connection per client id, so a second ``connect`` with the same one ends the first connection,
    with :class:`MqttTakenOverError` if the broker says why. ``hsm-enroll publish``, ``subscribe`` and
    ``doctor --login`` use other client ids and may run at the same time.

    With ``reconnect``, a connection that is lost is made again: after a random delay of up to a second, and up to twice
    as long after each failure, at most a minute (full jitter), until it is closed. If the token has lost its login, for
    example because it was taken out for a while, the PIN is tried once again, with the same care as the first time.
    What a person has to look at is not tried again: a wrong or missing PIN, a missing key, another program with the
    same client id. The first connection is tried once, as without ``reconnect``.

    Args:
        identity: the device's identity, from :func:`enroll` or :meth:`Identity.load`.
        pin: as for :func:`enroll`; a function is called again for each login.
        purpose: a word for a client id of the program's own, ``<thing>/<purpose>-<random>``, so that several programs
            can share the identity: up to 32 ASCII letters, digits, ``-`` and ``_``; None uses the Thing's name.
        will: what the broker publishes if the connection is lost.
        reconnect: connect again whenever the connection is lost.
        on_connection: called with each :class:`ConnectionEvent`, one at a time, on a thread of its own; it may use the
            connection, and close it.

    Returns:
        An open connection, which is a context manager.

    Raises:
        PinMissingError, PinExposedError, PinWrongError, PinLockedError, PinFinalTryError: the PIN is missing, readable
            by others, wrong, or must not be tried.
        ModuleMissingError, ModuleUnusableError, TokenNotFoundError, KeyMissingError, TokenRefusedError: the module, the
            token or the key is missing or cannot be used.
        MqttError: the broker cannot be reached, is not trusted, or refuses; its subclass says which.
        UsageError: the configuration or the purpose is invalid.
    """
    from hsm_enroll import iot

    return iot.Connection(
        keep(identity, pin=pin, purpose=purpose, will=will, reconnect=reconnect, on_connection=on_connection)
    )


def keep(
    identity: Identity,
    *,
    pin: Pin | None,
    purpose: str | None,
    will: Will | None,
    reconnect: bool,
    on_connection: OnConnection | None,
) -> Keeper:
    """Connect as :func:`connect` does, for any front that a program may want."""
    if purpose is not None and not _PURPOSE.fullmatch(purpose):
        raise UsageError(
            f"{purpose!r} is not a valid purpose of a connection",
            hint="Use up to 32 ASCII letters, digits, - and _, for example: logger",
        )
    resolved = settings.load(os.environ, {})
    pin_source = _pin_source(pin, resolved)
    return wiring.keep(
        identity,
        lambda: wiring.credentials(identity, pin_source, lambda _: None),
        resolved,
        purpose=purpose,
        will=will,
        reconnects=reconnect,
        on_connection=on_connection,
    )


class _RoundTrip(NamedTuple):
    """The message that shows that a new certificate works."""

    settings: Settings

    def prepare(self) -> None:
        """Import awscrt."""
        import_module("hsm_enroll.iot.connection")

    def send(self, identity: Identity, pin: Secret | None) -> None:
        """Connect, and have the message delivered back."""
        with wiring.connect(identity, pin, self.settings, purpose=round_trip.PURPOSE) as connection:
            round_trip.make(connection, identity.thing_name)


def _pin_source(pin: Pin | None, resolved: Settings) -> Callable[[TokenName], Secret]:
    if pin is None:
        return wiring.unattended(resolved)
    return pin if callable(pin) else lambda _: pin
