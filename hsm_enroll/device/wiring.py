"""Builds what the use cases need from the settings: the API, the token, its PIN, the broker."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hsm_enroll.backend_api.invite import Invite
from hsm_enroll.device import clock, device_token, pin
from hsm_enroll.device.ports import Audience, Nobody, OwnPorts, Ports
from hsm_enroll.errors import (
    HsmEnrollError,
    ModuleMissingError,
    MqttRefusedError,
    PinWrongError,
    TokenNotFoundError,
    UsageError,
)
from hsm_enroll.key import TokenName
from hsm_enroll.role_alias import RoleAlias
from hsm_enroll.secret import Secret
from hsm_enroll.settings import Settings, Tls
from hsm_enroll.store.identity import Identity
from hsm_enroll.store.journal import Attempt
from hsm_enroll.store.renewal import Renewal
from hsm_enroll.token import diagnosis, login, selection
from hsm_enroll.token.login import origin_of, wrong_pin
from hsm_enroll.token.reports import TokenKind, TokenReport
from hsm_enroll.token.tokens import Tokens
from hsm_enroll.token.tpm2 import attestation
from hsm_enroll.uri import Pkcs11Uri

if TYPE_CHECKING:
    from hsm_enroll.backend_api.client import EnrollmentClient
    from hsm_enroll.backend_api.proofs import ProofClient
    from hsm_enroll.iot import Connection, ConnectionEvent, Keeper, OnConnection, Will
    from hsm_enroll.iot.line import KeptLine
    from hsm_enroll.store.aws_credentials import AwsCredentials
    from hsm_enroll.token.fault import Fault
    from hsm_enroll.token.tpm2.attestation.attestor import Attestor

_DEFAULT_LABEL = "hsm-enroll"


class OwnTpm(NamedTuple):
    """This machine's TPM, as tpm2-pkcs11 uses it.

    Attributes:
        attestation_key: handle of a persistent attestation key; None is one that the TPM derives each time.
        audience: is told how long each command took the TPM.
    """

    attestation_key: int | None = None
    audience: Audience = Nobody()

    def obstacle(self, token: TokenName) -> Fault | None:
        """Return why the keys of a token cannot be attested; None if they can, as far as can be seen at once."""
        return attestation.is_possible(token)

    @contextmanager
    def attestor(self) -> Iterator[Attestor]:
        """Start the process that talks to the TPM; leaving the block ends it."""
        from hsm_enroll.token.tpm2.attestation.attestor import Attestor

        with Attestor(self.attestation_key) as made:
            made.start()
            try:
                yield made
            finally:
                for timing in made.timings:
                    self.audience.detail(f"  {timing}")


def ports(
    resolved: Settings,
    tokens: Tokens,
    invitation: Invite | None,
    pin_source: Callable[[TokenName], Secret],
    *,
    ask_invite: Callable[[], Invite] | None = None,
    create_token: bool = False,
    new_token_pin: Callable[[TokenName], Secret | None] | None = None,
    audience: Audience | None = None,
    wait: float | None = None,
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
        new_token_pin: returns the PIN for a token that is created; None is the configured one, or a random one.
        audience: whoever watches the run; None is nobody.
        wait: as ``EnrollmentClient`` takes it.
    """
    audience = audience or Nobody()
    return Ports(
        client=lambda: _client(resolved, invitation, ask_invite, audience, wait),
        tokens=tokens,
        start_finding=lambda: _start_finding(resolved, tokens),
        pin=pin_source,
        message=None,
        tpm=OwnTpm(resolved.tpm_ak, audience),
        create_token=(lambda: _created(resolved, tokens, new_token_pin)) if create_token else None,
        audience=audience,
    )


def own_ports(
    resolved: Settings,
    tokens: Tokens,
    pin_source: Callable[[TokenName], Secret],
    at_pin_pad: Callable[[TokenName], None] = lambda _: None,
    audience: Audience | None = None,
) -> OwnPorts:
    """Return the ports of a use case that the device's own key authorizes; arguments as for :func:`ports`."""
    audience = audience or Nobody()

    def client(api: str) -> ProofClient:
        from hsm_enroll.backend_api.proofs import ProofClient

        return ProofClient(api, ca_file=resolved.ca_file, tell=lambda text: audience.say(f"  {text}"))

    return OwnPorts(tokens, pin_source, client, OwnTpm(resolved.tpm_ak, audience), at_pin_pad, audience)


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
        token = selection.for_mqtt(identity.token, reports)
        tokens.dismiss()
        return login.credentials(token, pin_source, at_pin_pad)


def aws_credentials(identity: Identity, alias: RoleAlias, pin: Secret | None, resolved: Settings) -> AwsCredentials:
    """Get AWS credentials from AWS IoT's credentials provider, with one login to the token.

    Args:
        identity: the device's identity.
        alias: the role alias.
        pin: what :func:`credentials` returned.
        resolved: the resolved settings: trust anchor, timeouts.

    Raises:
        ClockError: this machine's clock differs so much from the provider's that AWS would refuse what is signed.
        HsmEnrollError: as ``iot.credentials.fetch`` and ``iot.client.Login``.
    """
    from hsm_enroll.backend_api.transport import proxy_for
    from hsm_enroll.iot import client, target
    from hsm_enroll.iot import credentials as provider

    proxy = provider.Proxy.of_url(proxy_for(f"https://{alias.provider}"))
    whom = target.Target.of(identity, ca_file=resolved.ca_file, endpoint=alias.endpoint, port=alias.port)
    try:
        login = client.Login(whom, pin)
        try:
            fetched = provider.fetch(whom, login, alias, resolved.connect_timeout, proxy)
        finally:
            login.end()
    except HsmEnrollError as error:
        explained = _explained(error, identity, resolved, pin)
        if explained is error:
            raise
        raise explained from error
    clock.refuse_skew(datetime.now(UTC), fetched.date)
    return fetched.credentials


def connect(identity: Identity, pin: Secret | None, resolved: Settings, *, purpose: str | None = None) -> Connection:
    """Connect to the broker once, without reconnecting; see :func:`keep`.

    Args:
        identity: the device's identity.
        pin: what ``login.credentials`` returned for the token.
        resolved: the resolved settings.
        purpose: use a client id of its own, ``<thing>/<purpose>-<random>``; None uses the Thing's name.
    """
    from hsm_enroll import iot

    return iot.Connection(keep(identity, lambda: pin, resolved, purpose=purpose))


def keep(
    identity: Identity,
    login: Callable[[], Secret | None],
    resolved: Settings,
    *,
    purpose: str | None = None,
    will: Will | None = None,
    reconnects: bool = False,
    on_connection: OnConnection | None = None,
    in_background: bool = False,
    paced: bool = True,
    owns_module: bool = False,
) -> Keeper:
    """Connect to the broker that the settings, or else the identity, specify, and keep the connection.

    Args:
        identity: the device's identity.
        login: returns what ``login.credentials`` returned for the token; called before each login.
        resolved: the resolved settings: trust anchor, endpoint, port, TLS versions, keep-alive and timeouts.
        purpose: use a client id of its own, ``<thing>/<purpose>-<random>``; None uses the Thing's name.
        will: what the broker publishes if the connection is lost.
        reconnects: whether to connect again after a loss.
        on_connection: is told of each change.
        in_background: return at once; all errors go to ``on_connection``.
        paced, owns_module: see ``iot.Target``.

    Raises:
        HsmEnrollError: as ``hsm_enroll.iot.keep``.
    """
    from hsm_enroll import iot

    target = iot.Target.of(
        identity,
        purpose=purpose,
        ca_file=resolved.ca_file,
        endpoint=resolved.mqtt_endpoint,
        port=resolved.mqtt_port,
        tls13=resolved.tls is Tls.AUTO,
        keep_alive=resolved.mqtt_keep_alive,
        connect_timeout=resolved.connect_timeout,
        operation_timeout=resolved.operation_timeout,
        paced=paced,
        owns_module=owns_module,
        will=will,
    )
    secrets: list[Secret | None] = [None]

    def noted() -> Secret | None:
        secrets[0] = login()
        return secrets[0]

    def explain(error: HsmEnrollError) -> HsmEnrollError:
        try:
            return _explained(error, identity, resolved, secrets[0])
        except Exception:  # noqa: BLE001 - it is told all the same: nobody would learn of the end of the connection
            return error

    def tell(event: ConnectionEvent) -> None:
        if on_connection is not None:
            on_connection(event if event.error is None else replace(event, error=explain(event.error)))

    try:
        return iot.keep(
            target,
            noted,
            reconnects=reconnects,
            on_connection=tell if in_background else on_connection,
            in_background=in_background,
        )
    except HsmEnrollError as error:
        explained = explain(error)
        if explained is error:
            raise
        raise explained from error


def line(
    resolved: Settings,
    pin_source: Callable[[TokenName], Secret],
    at_pin_pad: Callable[[TokenName], None],
    identity: Identity,
    on_event: Callable[[ConnectionEvent], None],
) -> KeptLine:
    """Return the forwarder's line to the broker, which has its first link some time later.

    Args:
        resolved: as for :func:`keep`.
        pin_source: returns the token's PIN; called before each login.
        at_pin_pad: called with the token that is waiting for its PIN at its own keypad.
        identity: whom to connect as; the client id is the Thing's name.
        on_event: is told of each change of the connection, on a thread of its own.
    """
    from hsm_enroll.iot.line import KeptLine

    made = KeptLine(on_event)
    made.use(
        keep(
            identity,
            lambda: credentials(identity, pin_source, at_pin_pad),
            resolved,
            reconnects=True,
            on_connection=made.event,
            in_background=True,
            paced=False,  # the forwarder does it
            owns_module=True,
        )
    )
    return made


def _explained(error: HsmEnrollError, identity: Identity, resolved: Settings, secret: Secret | None) -> HsmEnrollError:
    """Return an error of the connection with what can be found out about it."""
    try:
        with diagnosis.explained(identity.token.module):
            raise error
    except PinWrongError as wrong:
        return wrong_pin(wrong, identity.token, origin_of(secret))
    except MqttRefusedError as refused:
        if _is_renewing(resolved.state):
            # The API may have made the new key the current one.
            refused.hint = "A renewal of this device's identity is not finished. Finish it: hsm-enroll renew"
        return refused
    except HsmEnrollError as explained:
        return explained


def _is_renewing(folder: Path) -> bool:
    with suppress(HsmEnrollError):  # what is wrong with the journal is not what is wrong with the connection
        return Renewal.load(folder) is not None
    return False


def unattended(resolved: Settings) -> Callable[[TokenName], Secret]:
    """Return a PIN source that never prompts: file, systemd credential, environment, or the PIN of token create."""
    return lambda token: pin.resolve(
        resolved.pin_file, os.environ, saved_pin=lambda: pin.saved_pin(resolved.state, token), ask=None
    )


def _client(
    resolved: Settings,
    invitation: Invite | None,
    ask_invite: Callable[[], Invite] | None,
    audience: Audience,
    wait: float | None,
) -> EnrollmentClient:
    from hsm_enroll.backend_api.client import EnrollmentClient

    if invitation is None and resolved.api_url is None and ask_invite is not None:
        invitation = ask_invite()
    url = invitation.api_url if invitation else resolved.api_url
    if url is None:
        raise UsageError(
            "no API given",
            hint="Give the invite: hsm-enroll init INVITE. An open deployment needs --api URL and --thing NAME.",
        )
    code = invitation.code if invitation else None
    return EnrollmentClient(
        url, code=code, ca_file=resolved.ca_file, wait=wait, tell=lambda text: audience.say(f"  {text}")
    )


def _start_finding(resolved: Settings, tokens: Tokens) -> Callable[[], TokenReport]:
    """Start looking for the token; if nothing names one, an unfinished enrollment's own comes first."""
    attempt = Attempt.load(resolved.state)
    if attempt is None or resolved.token is not None or resolved.module is not None:
        return device_token.start_finding(resolved, tokens)
    own = Pkcs11Uri(token=attempt.token.label, serial=attempt.token.serial or None)
    named = resolved._replace(token=own, module=attempt.token.module)
    find_own = device_token.start_finding(named, tokens)

    def find() -> TokenReport:
        try:
            return find_own()
        except (ModuleMissingError, TokenNotFoundError):
            return device_token.find(resolved, tokens)

    return find


def _created(
    resolved: Settings, tokens: Tokens, new_token_pin: Callable[[TokenName], Secret | None] | None
) -> TokenReport:
    label = resolved.token.token if resolved.token and resolved.token.token else _DEFAULT_LABEL
    module = device_token.module_for(TokenKind.SOFTHSM, resolved)
    chosen = new_token_pin or (lambda _: pin.configured_pin(resolved.pin_file, os.environ))
    user_pin = chosen(TokenName(module, label, "", "", ""))
    token = device_token.create(tokens, resolved.state, module, label, user_pin)
    return selection.enrolled(token, tokens.listed)
