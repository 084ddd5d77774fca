"""Puts enrollment and connection together from the settings: which API, which token, whose PIN. The library."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from hsm_enroll import device_token, enrollment, pin, settings
from hsm_enroll.api import EnrollmentClient
from hsm_enroll.enrollment import Ports, Request
from hsm_enroll.errors import TokenNotFoundError, UsageError
from hsm_enroll.identity import Identity
from hsm_enroll.invite import Invite, parse
from hsm_enroll.key import TokenName
from hsm_enroll.secret import Secret
from hsm_enroll.settings import Settings
from hsm_enroll.token import login, selection
from hsm_enroll.token.reports import TokenReport
from hsm_enroll.token.tokens import Tokens

if TYPE_CHECKING:
    from hsm_enroll.mqtt import Connection

_DEFAULT_LABEL = "hsm-enroll"


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
        reached = ports(resolved, tokens, invitation, _unattended(resolved))
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
        HsmEnrollError: as ``hsm_enroll.mqtt.connect``, and where no PIN is to be had.
    """
    from hsm_enroll import mqtt

    resolved = settings.load(os.environ, {})
    with Tokens() as tokens:
        token = selection.enrolled(identity.token, tokens.listed)
    return mqtt.connect(
        identity,
        login.credentials(token, _unattended(resolved), lambda _: None),
        ca_file=resolved.ca_file,
        endpoint=resolved.mqtt_endpoint,
        port=resolved.mqtt_port,
        tls13=resolved.tls is settings.Tls.AUTO,
    )


def ports(
    resolved: Settings,
    tokens: Tokens,
    invitation: Invite | None,
    pin_source: Callable[[TokenName], Secret],
    *,
    ask_invite: Callable[[], Invite] | None = None,
    create_token: bool = False,
) -> Ports:
    """Return what an enrollment reaches the world through; the first message is left to the caller.

    Args:
        resolved: which API, token and trust anchor.
        tokens: what modules are asked through.
        invitation: names the API and the code; None is the settings' API, without a code.
        pin_source: gives a token's PIN.
        ask_invite: asks a person, once an API is needed and neither invitation nor settings name one; None where there
            is nobody.
        create_token: make a SoftHSM token where none matches.
    """
    return Ports(
        client=lambda: _client(resolved, invitation, ask_invite),
        tokens=tokens,
        locate=lambda: _locate(resolved, tokens, create_token=create_token),
        pin=pin_source,
        publish=None,
    )


def _unattended(resolved: Settings) -> Callable[[TokenName], Secret]:
    return lambda token: pin.resolve(
        resolved.pin_file, os.environ, made_pin=lambda: pin.made(resolved.state, token), ask=None
    )


def _client(resolved: Settings, invitation: Invite | None, ask_invite: Callable[[], Invite] | None) -> EnrollmentClient:
    if invitation is None and resolved.api_url is None and ask_invite is not None:
        invitation = ask_invite()
    url = invitation.api_url if invitation else resolved.api_url
    if url is None:
        raise UsageError(
            "which API is to issue the certificate?",
            hint="Give the invite: hsm-enroll init INVITE. An open deployment needs only --api URL.",
        )
    return EnrollmentClient(url, code=invitation.code if invitation else None, ca_file=resolved.ca_file)


def _locate(resolved: Settings, tokens: Tokens, *, create_token: bool) -> TokenReport:
    try:
        return device_token.locate(resolved, tokens)
    except TokenNotFoundError:
        if not create_token:
            raise
    label = resolved.token.token if resolved.token and resolved.token.token else _DEFAULT_LABEL
    given = pin.given(resolved.pin_file, os.environ)
    module = device_token.softhsm_module(resolved)
    made = device_token.create(tokens, resolved.state, module, label, given)
    return selection.enrolled(made, tokens.listed)
