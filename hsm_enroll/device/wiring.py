"""Builds what the use cases need from the settings: the API, the token, its PIN, the broker."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

from hsm_enroll.backend_api.invite import Invite
from hsm_enroll.device import device_token, pin
from hsm_enroll.device.ports import Ports
from hsm_enroll.errors import TokenNotFoundError, UsageError
from hsm_enroll.key import TokenName
from hsm_enroll.secret import Secret
from hsm_enroll.settings import Settings, Tls
from hsm_enroll.store.identity import Identity
from hsm_enroll.token import login, selection
from hsm_enroll.token.reports import TokenKind, TokenReport
from hsm_enroll.token.tokens import Tokens

if TYPE_CHECKING:
    from hsm_enroll.backend_api.client import EnrollmentClient
    from hsm_enroll.iot import Connection

_DEFAULT_LABEL = "hsm-enroll"


def ports(
    resolved: Settings,
    tokens: Tokens,
    invitation: Invite | None,
    pin_source: Callable[[TokenName], Secret],
    *,
    ask_invite: Callable[[], Invite] | None = None,
    create_token: bool = False,
) -> Ports:
    """Return the ports of an enrollment, without the first message, which the caller adds.

    Args:
        resolved: the resolved settings.
        tokens: gives access to the PKCS#11 modules.
        invitation: specifies the API and the code; None uses the settings' API, without a code.
        pin_source: returns a token's PIN.
        ask_invite: prompts for an invite, if an API is needed and neither `invitation` nor the settings name one; None
            if nobody can be prompted.
        create_token: create a SoftHSM token if none matches.
    """
    return Ports(
        client=lambda: _client(resolved, invitation, ask_invite),
        tokens=tokens,
        start_finding=lambda: _start_finding(resolved, tokens, create_token=create_token),
        pin=pin_source,
        message=None,
    )


def credentials(
    identity: Identity, pin_source: Callable[[TokenName], Secret], at_pin_pad: Callable[[TokenName], None]
) -> Secret | None:
    """Find the identity's token, and return what awscrt needs to log in to it; see ``login.credentials``.

    A worker examines the token first, so a module that cannot be loaded is an error instead of a crash, and a PIN that
    must not be tried is not tried.
    """
    with Tokens() as tokens:
        reports = tokens.start_listing([identity.token.module])
        # Import awscrt meanwhile: that takes about as long as listing the tokens.
        import_module("hsm_enroll.iot.connection")
        token = selection.enrolled(identity.token, reports)
        tokens.dismiss()
        return login.credentials(token, pin_source, at_pin_pad)


def connect(identity: Identity, pin: Secret | None, resolved: Settings, *, purpose: str | None = None) -> Connection:
    """Connect to the broker that the settings, or else the identity, specify.

    Args:
        identity: the device's identity.
        pin: what ``login.credentials`` returned for the token.
        resolved: the resolved settings: trust anchor, endpoint, port and TLS versions.
        purpose: use a client id of its own, ``<thing>/<purpose>-<random>``; None uses the Thing's name.

    Raises:
        HsmEnrollError: as ``hsm_enroll.iot.connect``.
    """
    from hsm_enroll import iot

    return iot.connect(
        identity,
        pin,
        purpose=purpose,
        ca_file=resolved.ca_file,
        endpoint=resolved.mqtt_endpoint,
        port=resolved.mqtt_port,
        tls13=resolved.tls is Tls.AUTO,
    )


def unattended(resolved: Settings) -> Callable[[TokenName], Secret]:
    """Return a PIN source that never prompts: file, systemd credential, environment, or the PIN of token create."""
    return lambda token: pin.resolve(
        resolved.pin_file, os.environ, saved_pin=lambda: pin.saved_pin(resolved.state, token), ask=None
    )


def _client(resolved: Settings, invitation: Invite | None, ask_invite: Callable[[], Invite] | None) -> EnrollmentClient:
    from hsm_enroll.backend_api.client import EnrollmentClient

    if invitation is None and resolved.api_url is None and ask_invite is not None:
        invitation = ask_invite()
    url = invitation.api_url if invitation else resolved.api_url
    if url is None:
        raise UsageError(
            "no API given",
            hint="Give the invite: hsm-enroll init INVITE. An open deployment needs --api URL and --thing NAME.",
        )
    return EnrollmentClient(url, code=invitation.code if invitation else None, ca_file=resolved.ca_file)


def _start_finding(resolved: Settings, tokens: Tokens, *, create_token: bool) -> Callable[[], TokenReport]:
    find = device_token.start_finding(resolved, tokens)

    def find_or_create() -> TokenReport:
        try:
            return find()
        except TokenNotFoundError:
            if not create_token:
                raise
        return _created(resolved, tokens)

    return find_or_create


def _created(resolved: Settings, tokens: Tokens) -> TokenReport:
    label = resolved.token.token if resolved.token and resolved.token.token else _DEFAULT_LABEL
    configured = pin.configured_pin(resolved.pin_file, os.environ)
    module = device_token.module_for(TokenKind.SOFTHSM, resolved)
    token = device_token.create(tokens, resolved.state, module, label, configured)
    return selection.enrolled(token, tokens.listed)
