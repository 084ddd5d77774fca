"""What the checks look at, and what they return."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property, partial
from pathlib import Path

from hsm_enroll.backend_api.transport import proxy_for
from hsm_enroll.device import credentials, device_token, outbox, pin
from hsm_enroll.doctor import api, network
from hsm_enroll.doctor.api import ApiAnswer
from hsm_enroll.errors import HsmEnrollError, RoleAliasMissingError, TokenNotFoundError
from hsm_enroll.key import KeyType, TokenName
from hsm_enroll.role_alias import RoleAlias
from hsm_enroll.secret import Secret
from hsm_enroll.service import systemd, units
from hsm_enroll.service.systemd import UnitState
from hsm_enroll.settings import Settings, Tls
from hsm_enroll.store.forwarder import ForwarderState
from hsm_enroll.store.identity import Identity
from hsm_enroll.store.outbox import OutboxState
from hsm_enroll.token import diagnosis, discovery
from hsm_enroll.token.login import Pin
from hsm_enroll.token.reports import TokenReport
from hsm_enroll.token.tokens import Tokens
from hsm_enroll.token.tpm2 import is_tpm2

_TPM2_PKCS11 = "libtpm2_pkcs11"


class Status(StrEnum):
    """The result of a check."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found.

    Attributes:
        id: stable name of the check.
        status: its result.
        message: what it found; one sentence.
        hint: what to do, or "".
    """

    id: str
    status: Status
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """The paths on a machine that concern its TPM and its services.

    Attributes:
        tpm: the TPM's device behind the kernel's resource manager.
        bare_tpm: the TPM's device without a resource manager.
        tpm_store: tpm2-pkcs11's system-wide store.
        fapi_configuration: configuration of tpm2-tss's Feature API; ``TSS2_FAPICONF`` overrides it.
        encrypted_pin: the services' PIN, encrypted.
    """

    tpm: Path = Path("/dev/tpmrm0")
    bare_tpm: Path = Path("/dev/tpm0")
    tpm_store: Path = Path("/etc/tpm2_pkcs11")
    fapi_configuration: Path = Path("/etc/tpm2-tss/fapi-config.json")
    encrypted_pin: Path = pin.ENCRYPTED


def forward_service() -> UnitState | None:
    """Return how the service is that runs ``forward``; None if it cannot be known, or there is no systemd."""
    try:
        return systemd.states([units.FORWARD])[0] if systemd.is_running() else None
    except HsmEnrollError:
        return None


@dataclass(frozen=True)
class Patient:
    """What the checks examine. Each part is looked up only once; if that fails, its error is kept for every check.

    Attributes:
        settings: the resolved settings.
        environment: normally ``os.environ``, which the module and the libraries read too.
        modules: gives access to the PKCS#11 modules.
        machine: where the TPM's files are.
        look_at_service: see :func:`forward_service`.
    """

    settings: Settings
    environment: Mapping[str, str]
    modules: Tokens
    machine: Machine = field(default_factory=Machine)
    look_at_service: Callable[[], UnitState | None] = forward_service

    @cached_property
    def identity(self) -> Identity | HsmEnrollError:
        """The identity in the state folder, or the error that says why there is none."""
        try:
            return Identity.load(self.settings.state)
        except HsmEnrollError as error:
            return error

    @cached_property
    def outbox(self) -> OutboxState | HsmEnrollError:
        """What the outbox holds, or the error that says why that cannot be known."""
        try:
            return outbox.state(self.settings.state)
        except HsmEnrollError as error:
            return error

    @cached_property
    def forwarder(self) -> ForwarderState | HsmEnrollError:
        """How the forwarder is, or the error that says why that cannot be known."""
        try:
            return ForwarderState.load(self.settings.state)
        except HsmEnrollError as error:
            return error

    @cached_property
    def service(self) -> UnitState | None:
        """How the service is that runs ``forward``; None if that cannot be known."""
        return self.look_at_service()

    @cached_property
    def tokens(self) -> tuple[TokenReport, list[TokenReport]] | HsmEnrollError:
        """The identity's token, or else the one that the settings select; and all initialised tokens of its module."""
        try:
            name = self._token_name()
            listed = self.modules.listed(name.module)
        except HsmEnrollError as error:
            return error
        reports = [report for report in listed if report.initialized]
        for report in reports:
            if (report.name.label, report.name.serial) == (name.label, name.serial):
                return report, reports
        reasons = diagnosis.lost(report.name for report in listed)
        reasons += diagnosis.absences([name.module], with_token={report.name.module for report in reports})
        message = "; ".join([diagnosis.not_found(name), *(reason.message for reason in reasons)])
        return TokenNotFoundError(message, hint=reasons[0].hint if reasons else diagnosis.GONE_HINT)

    def _token_name(self) -> TokenName:
        if isinstance(self.identity, Identity):
            return self.identity.token
        return device_token.find(self.settings, self.modules).name

    @cached_property
    def pin(self) -> Pin | HsmEnrollError:
        """The PIN that commands would use for :attr:`token` without a prompt, or the error that says why none."""
        if isinstance(self.token, HsmEnrollError):
            return self.token
        try:
            return self._pin(None)
        except HsmEnrollError as error:
            return error

    @property
    def commands_prompt(self) -> bool:
        """Whether commands would prompt for the PIN on a terminal."""
        try:
            return self._pin(lambda: Secret("typed")).reveal() == "typed"
        except HsmEnrollError:
            return False

    def _pin(self, ask: Callable[[], Secret] | None) -> Pin:
        found = self.token
        if isinstance(found, HsmEnrollError):
            raise found
        saved = partial(pin.saved_pin, self.settings.state, found.name)
        return pin.resolve(self.settings.pin_file, self.environment, saved_pin=saved, ask=ask)

    @property
    def token(self) -> TokenReport | HsmEnrollError:
        """The token of :attr:`tokens`."""
        return self.tokens if isinstance(self.tokens, HsmEnrollError) else self.tokens[0]

    @cached_property
    def tpm_module(self) -> Path | None:
        """The file of the tpm2-pkcs11 module in use, or None if another module is, or would be, in use.

        A module that cannot be loaded is recognised by its file name: the TPM may be why it cannot be loaded.
        """
        if isinstance(self.token, TokenReport):
            return self.token.name.module if is_tpm2(self.token.name) else None
        if isinstance(self.identity, Identity):
            name = self.identity.token
            return name.module if is_tpm2(name) else None
        named = self.settings.module or (self.settings.token.module_path if self.settings.token else None)
        if named is None and self.settings.token is None:
            named = self._own_module()
        candidates = [named] if named else discovery.discover()
        [only] = candidates if len(candidates) == 1 else [None]
        return only if only is not None and only.name.startswith(_TPM2_PKCS11) else None

    def _own_module(self) -> Path | None:
        """Return the module of the token that ``token create`` created for this device."""
        try:
            owner = pin.load_owner(self.settings.state)
        except HsmEnrollError:
            return None
        return None if owner is None else owner.module

    @property
    def api_url(self) -> str | None:
        """The identity's API, or else the settings'."""
        return self.identity.api if isinstance(self.identity, Identity) else self.settings.api_url

    @property
    def ignored_api_url(self) -> str | None:
        """The settings' API if it is not the identity's, and so is not used."""
        configured = self.settings.api_url
        is_used = configured is None or configured.rstrip("/") == (self.api_url or "").rstrip("/")
        return None if is_used else configured

    @property
    def broker(self) -> tuple[str, int] | None:
        """Host and port of the broker that a connection would use; None if unknown."""
        identity = self.identity if isinstance(self.identity, Identity) else None
        host = self.settings.mqtt_endpoint or (identity.mqtt_endpoint if identity else None)
        port = self.settings.mqtt_port or (identity.mqtt_port if identity else None)
        return None if host is None or port is None else (host, port)

    @cached_property
    def role_alias(self) -> RoleAlias | RoleAliasMissingError | None:
        """The role alias for AWS credentials, or the error if only a part of it is known; None if nothing names one."""
        identity, settings = self.identity, self.settings
        if isinstance(identity, HsmEnrollError):
            return None
        if not (identity.role_alias or settings.role_alias or settings.credentials_endpoint):
            return None
        try:
            return credentials.alias_of(identity, settings)
        except RoleAliasMissingError as error:
            return error

    @property
    def key_type(self) -> KeyType:
        """The type of the identity's key, or else of the key that init would generate."""
        return self.identity.key_type if isinstance(self.identity, Identity) else self.settings.key_type

    @property
    def offers_tls13(self) -> bool:
        """Whether a connection of this device would offer TLS 1.3."""
        return self.settings.tls is Tls.AUTO and not self.key_type.is_rsa

    @cached_property
    def first_host(self) -> str | None:
        """The host of the API, or of the proxy in between; None if no API is known, or the URL of either is invalid."""
        return api.first_host(self.api_url) if self.api_url else None

    @cached_property
    def unresolved(self) -> dict[str, str]:
        """The host names of API, broker and credentials provider that cannot be resolved, each with the reason."""
        hosts = [self.first_host] if self.first_host else []
        hosts += [self.broker[0]] if self.broker else []
        if isinstance(self.role_alias, RoleAlias) and proxy_for(f"https://{self.role_alias.provider}") is None:
            hosts.append(self.role_alias.endpoint)
        reasons = {host: network.why_unresolved(host) for host in hosts}
        return {host: reason for host, reason in reasons.items() if reason is not None}

    @cached_property
    def api_answer(self) -> ApiAnswer | None:
        """The API's TLS and clock, or None if no API is known, or it cannot be connected to."""
        if self.api_url is None or self.first_host is None or self.first_host in self.unresolved:
            return None
        return api.ask(self.api_url, self.settings.ca_file)


Check = Callable[[Patient], Finding]
