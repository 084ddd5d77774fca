"""The function's environment variables, read once into a frozen value."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from enrollment_backend.errors import ConfigurationError

_PORT = re.compile(r"[1-9][0-9]{0,4}")
_HIGHEST_PORT = 65535
_LIMIT = re.compile(r"[0-9]{1,9}")
_RATE = re.compile(r"[0-9]{1,6}([.][0-9]{1,6})?")

Policy = Literal["off", "prefer", "require"]
_POLICIES: Mapping[str, Policy] = {"off": "off", "prefer": "prefer", "require": "require"}


@dataclass(frozen=True)
class Settings:
    """The settings of a deployment.

    Attributes:
        auth_mode: who may enroll: ``open`` is anyone, any other value is whoever holds an invite.
        attestation: whether a key has to be proven to be in a TPM; ``off`` and ``prefer`` differ only in what devices
            are told to try.
        policy_name: the AWS IoT policy that is attached to every device's certificate.
        table_name: the ledger's DynamoDB table.
        mqtt_endpoint: host name of the account's AWS IoT data endpoint, without scheme and port.
        mqtt_port: its port for MQTT with mutual TLS.
        role_alias: the AWS IoT role alias by which devices get AWS credentials; empty if there is none.
        credentials_endpoint: host name of the account's credentials provider; empty if there is no role alias.
        credentials_port: its port.
        certificate_rate: how many certificates per second are issued at most, see `admission`.
        allow_existing_things: whether invites may allow Things that AWS IoT already has.
        sweep_limit: how many certificates a sweep disables at a time, see `sweep.Suspect.counts`.
        renewal_days: the age in days at which operators' lists call a certificate due for renewal; 0 for never.
        delete_thing_on_retirement: whether a Thing that was created here is deleted when its device retires it.
        trust_anchors_file: see `trust_anchors.certs_only`.
    """

    auth_mode: str
    attestation: Policy
    policy_name: str
    table_name: str
    mqtt_endpoint: str
    mqtt_port: int
    role_alias: str
    credentials_endpoint: str
    credentials_port: int
    certificate_rate: float
    allow_existing_things: bool
    sweep_limit: int
    renewal_days: int
    delete_thing_on_retirement: bool
    trust_anchors_file: str | None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Read the variables, which are named as the attributes are, in upper case.

        A missing AUTH_MODE is not an error: the deployment then requires invites. The default of ATTESTATION is
        ``off``, that of MQTT_PORT is 8883, that of CREDENTIALS_PORT is 443, that of CERTIFICATE_RATE is 14.25, 95 % of
        what AWS IoT allows an account unless its quotas were raised, that of SWEEP_LIMIT is 20, and that of
        RENEWAL_DAYS is 365. ROLE_ALIAS may be missing; with it, CREDENTIALS_ENDPOINT may be too.
        ALLOW_EXISTING_THINGS and DELETE_THING_ON_RETIREMENT mean no unless they are ``yes``.

        Raises:
            ConfigurationError: a variable is missing or invalid; `facts` names it.
        """
        attestation = _POLICIES.get(environment.get("ATTESTATION", "off"))
        if attestation is None:
            raise ConfigurationError(variable="ATTESTATION", reason="not off, prefer or require")
        rate = environment.get("CERTIFICATE_RATE", "14.25")
        if not _RATE.fullmatch(rate) or float(rate) == 0:
            raise ConfigurationError(variable="CERTIFICATE_RATE", reason="not a number above 0")
        limit = environment.get("SWEEP_LIMIT", "20")
        if not _LIMIT.fullmatch(limit):
            raise ConfigurationError(variable="SWEEP_LIMIT", reason="not a number")
        days = environment.get("RENEWAL_DAYS", "365")
        if not _LIMIT.fullmatch(days):
            raise ConfigurationError(variable="RENEWAL_DAYS", reason="not a number")
        role_alias = environment.get("ROLE_ALIAS", "")
        return cls(
            auth_mode=environment.get("AUTH_MODE", ""),
            attestation=attestation,
            policy_name=_required(environment, "POLICY_NAME"),
            table_name=_required(environment, "TABLE_NAME"),
            mqtt_endpoint=_required(environment, "MQTT_ENDPOINT"),
            mqtt_port=_port(environment, "MQTT_PORT", "8883"),
            role_alias=role_alias,
            credentials_endpoint=_required(environment, "CREDENTIALS_ENDPOINT") if role_alias else "",
            credentials_port=_port(environment, "CREDENTIALS_PORT", "443"),
            certificate_rate=float(rate),
            allow_existing_things=environment.get("ALLOW_EXISTING_THINGS") == "yes",
            sweep_limit=int(limit),
            renewal_days=int(days),
            delete_thing_on_retirement=environment.get("DELETE_THING_ON_RETIREMENT") == "yes",
            trust_anchors_file=environment.get("TRUST_ANCHORS_FILE"),
        )


def _port(environment: Mapping[str, str], variable: str, default: str) -> int:
    port = environment.get(variable, default)
    if not _PORT.fullmatch(port) or int(port) > _HIGHEST_PORT:
        raise ConfigurationError(variable=variable, reason="not a port number")
    return int(port)


def _required(environment: Mapping[str, str], variable: str) -> str:
    value = environment.get(variable, "")
    if not value:
        raise ConfigurationError(variable=variable, reason="missing")
    return value
