"""How a local cloud is started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple


class Ports(NamedTuple):
    """TCP ports on loopback; 0 chooses a free one.

    Attributes:
        api: of the enrollment API.
        mqtt: of MQTT with mutual TLS.
        aws: of AWS's APIs.
        credentials: of AWS IoT's credentials provider, with mutual TLS.
        est: of the enrollment API with mutual TLS, for EST's simplereenroll.
    """

    api: int = 0
    mqtt: int = 0
    aws: int = 0
    credentials: int = 0
    est: int = 0

    def or_else(self, others: Ports) -> Ports:
        """Return these ports, with the others in the places where these are 0."""
        return Ports(*(own or other for own, other in zip(self, others, strict=True)))


ANY_PORTS = Ports()


@dataclass(frozen=True)
class Options:
    """How a local cloud is started.

    Attributes:
        auth: who may enroll: ``invite`` is whoever holds an invite, ``open`` is anyone; None is what a kept cloud had,
            else ``open``.
        attestation: whether keys have to be proven to be in a TPM: ``off``, ``prefer`` or ``require``; None is what a
            kept cloud had, else ``off``.
        ports: where it listens.
        keep: whether it starts with what an earlier cloud with this option left in the same home, and leaves its own
            state there: AWS's resources with the ledger, and the ports.
    """

    auth: str | None = None
    ports: Ports = ANY_PORTS
    keep: bool = False
    attestation: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the options as a JSON document."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Options:
        """Return the options in a document from `to_json`."""
        return cls(document["auth"], Ports(*document["ports"]), document["keep"], document["attestation"])


DEFAULTS = Options()
