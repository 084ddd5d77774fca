"""Where a running local cloud listens, and which files speak to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ACCESS_KEY_ID = "local"
SECRET_ACCESS_KEY = "local"  # noqa: S105 - moto takes any; being no real key is the point


@dataclass(frozen=True)
class Endpoints:
    """A running local cloud.

    Attributes:
        api_url: the enrollment API, ``https://localhost:PORT``, without a trailing slash.
        mqtt_endpoint: host name of the broker, as its certificate names it.
        mqtt_port: MQTT with mutual TLS, for devices and for the observer.
        ca_file: PEM, the trust anchor of the API and of MQTT.
        aws_endpoint_url: AWS's APIs, plain HTTP on loopback.
        region: the AWS region that everything lives in.
        home: the folder of this cloud.
        observer_certificate: PEM, an identity that may read and write every topic.
        observer_key: PEM, its private key.
    """

    api_url: str
    mqtt_endpoint: str
    mqtt_port: int
    ca_file: Path
    aws_endpoint_url: str
    region: str
    home: Path
    observer_certificate: Path
    observer_key: Path

    def to_json(self) -> dict[str, str | int]:
        """Return the document that ``local up --json`` shows."""
        return {
            "apiUrl": self.api_url,
            "mqttEndpoint": self.mqtt_endpoint,
            "mqttPort": self.mqtt_port,
            "observerPort": self.mqtt_port,
            "caFile": str(self.ca_file),
            "awsEndpointUrl": self.aws_endpoint_url,
            "region": self.region,
            "home": str(self.home),
            "observerCertificate": str(self.observer_certificate),
            "observerKey": str(self.observer_key),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, str | int]) -> Endpoints:
        """Read what `to_json` wrote.

        Raises:
            KeyError, ValueError: it was not written by `to_json`.
        """
        return cls(
            api_url=str(document["apiUrl"]),
            mqtt_endpoint=str(document["mqttEndpoint"]),
            mqtt_port=int(document["mqttPort"]),
            ca_file=Path(str(document["caFile"])),
            aws_endpoint_url=str(document["awsEndpointUrl"]),
            region=str(document["region"]),
            home=Path(str(document["home"])),
            observer_certificate=Path(str(document["observerCertificate"])),
            observer_key=Path(str(document["observerKey"])),
        )

    def exports(self) -> dict[str, str]:
        """Return the environment that points ``hsm-enroll`` and AWS's own tools at this cloud.

        The credentials are none of a real account's. AWS_SESSION_TOKEN is emptied: one that is left over in the shell
        would travel along.
        """
        return {
            "HSM_ENROLL_API_URL": self.api_url,
            "HSM_ENROLL_CA_FILE": str(self.ca_file),
            "HSM_ENROLL_MQTT_ENDPOINT": self.mqtt_endpoint,
            "HSM_ENROLL_MQTT_PORT": str(self.mqtt_port),
            "AWS_ENDPOINT_URL": self.aws_endpoint_url,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
            "AWS_SESSION_TOKEN": "",
        }
