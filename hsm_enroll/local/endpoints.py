"""The addresses of a running local cloud, and the files that clients need."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ACCESS_KEY_ID = "local"
SECRET_ACCESS_KEY = "local"  # noqa: S105 - not a real key; moto accepts any
MQTT_ENDPOINT = "localhost"
CREDENTIALS_ENDPOINT = "localhost"
_LOOPBACK = ("127.0.0.1", "localhost")


@dataclass(frozen=True)
class Endpoints:
    """A running local cloud.

    Attributes:
        api_url: the enrollment API, ``https://localhost:PORT``, without a trailing slash.
        mqtt_endpoint: host name of the broker, as in its certificate.
        mqtt_port: port for MQTT with mutual TLS, for devices and for the observer.
        ca_file: the trust anchor of the API and of MQTT, in PEM.
        aws_endpoint_url: AWS's APIs, over HTTP on loopback.
        credentials_endpoint: host name of AWS IoT's credentials provider, as in its certificate.
        credentials_port: its port, for devices; 0 if the cloud is of an earlier release, which had none.
        est_url: the same API with mutual TLS, for EST's simplereenroll; empty if the cloud is of an earlier release.
        region: the AWS region of everything in this cloud.
        home: the folder of this cloud.
        observer_certificate: the certificate, in PEM, of an identity that may publish and subscribe to every topic.
        observer_key: its private key, in PEM.
    """

    api_url: str
    mqtt_endpoint: str
    mqtt_port: int
    ca_file: Path
    aws_endpoint_url: str
    credentials_endpoint: str
    credentials_port: int
    est_url: str
    region: str
    home: Path
    observer_certificate: Path
    observer_key: Path

    def to_json(self) -> dict[str, str | int]:
        """Return the document that ``local up --json`` prints."""
        return {
            "apiUrl": self.api_url,
            "mqttEndpoint": self.mqtt_endpoint,
            "mqttPort": self.mqtt_port,
            "observerPort": self.mqtt_port,
            "caFile": str(self.ca_file),
            "awsEndpointUrl": self.aws_endpoint_url,
            "credentialsEndpoint": self.credentials_endpoint,
            "credentialsPort": self.credentials_port,
            "estUrl": self.est_url,
            "region": self.region,
            "home": str(self.home),
            "observerCertificate": str(self.observer_certificate),
            "observerKey": str(self.observer_key),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, str | int]) -> Endpoints:
        """Return the endpoints in a document from `to_json`.

        Raises:
            KeyError, ValueError: it is not such a document.
        """
        return cls(
            api_url=str(document["apiUrl"]),
            mqtt_endpoint=str(document["mqttEndpoint"]),
            mqtt_port=int(document["mqttPort"]),
            ca_file=Path(str(document["caFile"])),
            aws_endpoint_url=str(document["awsEndpointUrl"]),
            credentials_endpoint=str(document.get("credentialsEndpoint", CREDENTIALS_ENDPOINT)),
            credentials_port=int(document.get("credentialsPort", 0)),
            est_url=str(document.get("estUrl", "")),
            region=str(document["region"]),
            home=Path(str(document["home"])),
            observer_certificate=Path(str(document["observerCertificate"])),
            observer_key=Path(str(document["observerKey"])),
        )

    def exports(self) -> dict[str, str]:
        """Return the environment variables that point ``hsm-enroll`` and AWS's own tools at this cloud.

        The credentials do not belong to any real account. AWS_SESSION_TOKEN is set to the empty string, since AWS's
        tools would also send one that is still set in the shell. A proxy that this process's environment names is
        bypassed for this machine.
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
            **no_proxy(os.environ),
        }


def no_proxy(environment: Mapping[str, str]) -> dict[str, str]:
    """Return ``NO_PROXY``, in both spellings, with this machine's names in front of what an environment has there."""
    # Tools read the lower-case one first; "*" bypasses every proxy only if it stands alone.
    listed = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    names = [name for name in listed.split(",") if name and name not in _LOOPBACK]
    value = "*" if listed.strip() == "*" else ",".join((*_LOOPBACK, *names))
    return {"NO_PROXY": value, "no_proxy": value}
