"""What an MQTT connection is made of, as one value: it is what crosses into another process, the PIN beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hsm_enroll.identity import Identity


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to connect to, as whom, with which key.

    Attributes:
        client_id: the MQTT client identifier, which is the Thing's name.
        certificate_pem: the device's certificate, one PEM block.
        module: file of the PKCS#11 module.
        token_label: CK_TOKEN_INFO.label of the token, unique in its module.
        key_label: CKA_LABEL of the private key, unique in its token.
        endpoint: host name or address of the broker, which its certificate must hold.
        port: TCP port of the broker.
        ca_file: PEM file with the trust anchors; None is the system's.
        offers_tls13: whether TLS 1.3 is offered beside 1.2.
    """

    client_id: str
    certificate_pem: str
    module: Path
    token_label: str
    key_label: str
    endpoint: str
    port: int
    ca_file: Path | None
    offers_tls13: bool = False

    @classmethod
    def of(
        cls,
        identity: Identity,
        *,
        ca_file: Path | None = None,
        endpoint: str | None = None,
        port: int | None = None,
        tls13: bool = False,
    ) -> Target:
        """Take what a connection needs from an identity; an endpoint or a port that is not None overrides it.

        ``tls13`` is for EC keys alone: TLS 1.3 signs with RSASSA-PSS (RFC 8446 §9.1), which awscrt does not ask of a
        token, and with a token's RSA key it then fails at TLS 1.2 too.
        """
        return cls(
            client_id=identity.thing_name,
            certificate_pem=identity.certificate_pem,
            module=identity.token.module,
            token_label=identity.token.label,
            key_label=identity.key_label,
            endpoint=identity.mqtt_endpoint if endpoint is None else endpoint,
            port=identity.mqtt_port if port is None else port,
            ca_file=ca_file,
            offers_tls13=tls13 and not identity.key_type.is_rsa,
        )

    @property
    def broker(self) -> str:
        """The broker's address, for messages."""
        return f"{self.endpoint}:{self.port}"
