"""The function's environment variables, read once into a frozen value."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from enrollment_backend.errors import ConfigurationError

_PORT = re.compile(r"[1-9][0-9]{0,4}")
_HIGHEST_PORT = 65535


@dataclass(frozen=True)
class Settings:
    """The settings of a deployment.

    Attributes:
        auth_mode: who may enroll: ``open`` is anyone, any other value is whoever holds an invite.
        policy_name: the AWS IoT policy that is attached to every device's certificate.
        table_name: the ledger's DynamoDB table.
        mqtt_endpoint: host name of the account's AWS IoT data endpoint, without scheme and port.
        mqtt_port: its port for MQTT with mutual TLS.
    """

    auth_mode: str
    policy_name: str
    table_name: str
    mqtt_endpoint: str
    mqtt_port: int

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Read AUTH_MODE, POLICY_NAME, TABLE_NAME, MQTT_ENDPOINT and MQTT_PORT (default 8883).

        A missing AUTH_MODE is not an error: the deployment then requires invites.

        Raises:
            ConfigurationError: a variable is missing or invalid; `facts` names it.
        """
        port = environment.get("MQTT_PORT", "8883")
        if not _PORT.fullmatch(port) or int(port) > _HIGHEST_PORT:
            raise ConfigurationError(variable="MQTT_PORT", reason="not a port number")
        return cls(
            auth_mode=environment.get("AUTH_MODE", ""),
            policy_name=_required(environment, "POLICY_NAME"),
            table_name=_required(environment, "TABLE_NAME"),
            mqtt_endpoint=_required(environment, "MQTT_ENDPOINT"),
            mqtt_port=int(port),
        )


def _required(environment: Mapping[str, str], variable: str) -> str:
    value = environment.get(variable, "")
    if not value:
        raise ConfigurationError(variable=variable, reason="missing")
    return value
