"""Everything that an MQTT connection needs but the PIN, as one value."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hsm_enroll.iot import limits

if TYPE_CHECKING:
    from hsm_enroll.store.identity import Identity

# AWS IoT Core endpoints and quotas, "Client ID size".
_MAX_CLIENT_ID_BYTES = 128

QoS = Literal[0, 1]
"""Quality of service: at most once, or at least once (MQTT 5.0 §4.3); AWS IoT does not have 2."""


@dataclass(frozen=True, slots=True)
class Will:
    """A message that the broker publishes if the connection ends without a DISCONNECT (MQTT 5.0 §3.1.2.5).

    Attributes:
        topic: the topic; on AWS IoT, the device's policy must allow publishing to it, or it refuses the connection.
        payload: the message, up to 128 KiB.
        qos: quality of service of the message.
        retain: whether the broker keeps it for later subscribers; AWS IoT requires iot:RetainPublish for that.

    Raises:
        UsageError: AWS IoT does not accept such a topic or message.
    """

    topic: str
    payload: bytes
    qos: QoS = 1
    retain: bool = False

    def __post_init__(self) -> None:
        limits.check_message(self.topic, self.payload, self.qos)


@dataclass(frozen=True, slots=True)
class Target:
    """Which broker to connect to, as which client, with which key.

    Attributes:
        thing_name: the Thing that the certificate is attached to.
        client_id: the MQTT client identifier: the Thing's name, or one made by :func:`own_client_id`.
        certificate_pem: the device's certificate, one PEM block.
        module: file of the PKCS#11 module.
        token_label: CK_TOKEN_INFO.label of the token, unique in its module.
        key_label: CKA_LABEL of the private key, unique in its token.
        endpoint: host name or IP address of the broker, which its certificate must contain.
        port: TCP port of the broker.
        ca_file: PEM file with the trust anchors; None as for ``trust_anchors.pem``.
        offers_tls13: whether to offer TLS 1.3 as well as 1.2.
        keep_alive: seconds without a packet after which the broker is asked whether it is still there (MQTT 5.0
            §3.1.2.10); if it does not answer within half that time or 30 s, the connection ends.
        connect_timeout: seconds until the CONNACK, for all attempts of one connection together.
        operation_timeout: seconds until the PUBACK, SUBACK or UNSUBACK of one request, if its caller does not say.
        paced: whether awscrt keeps to AWS IoT's quotas for what a connection sends: 100 messages and 512 KiB a second.
        owns_module: whether nothing else in this process uses the module. It is then finalized with the TLS context,
            and initialized anew for the next one, without which some modules do not find a token that was gone.
        will: what the broker publishes if the connection ends without a DISCONNECT.
        token_manufacturer: CK_TOKEN_INFO.manufacturerID, which tells how to log in; see ``softhsm.login``.
    """

    thing_name: str
    client_id: str
    certificate_pem: str
    module: Path
    token_label: str
    key_label: str
    endpoint: str
    port: int
    ca_file: Path | None
    offers_tls13: bool = False
    keep_alive: int = 60
    connect_timeout: float = 20.0
    operation_timeout: float = 20.0
    paced: bool = True
    owns_module: bool = False
    will: Will | None = None
    token_manufacturer: str = ""

    @classmethod
    def of(
        cls,
        identity: Identity,
        *,
        purpose: str | None = None,
        ca_file: Path | None = None,
        endpoint: str | None = None,
        port: int | None = None,
        tls13: bool = False,
        keep_alive: int = 60,
        connect_timeout: float = 20.0,
        operation_timeout: float = 20.0,
        paced: bool = True,
        owns_module: bool = False,
        will: Will | None = None,
    ) -> Target:
        """Return the target for an identity; an endpoint or port that is not None overrides the identity's.

        With a purpose, the client id is one of its own; otherwise it is the Thing's name. ``tls13`` has no effect with
        RSA keys: TLS 1.3 needs RSASSA-PSS (RFC 8446 §9.1), which awscrt does not request from tokens, and if 1.3 is
        offered with such a key, even TLS 1.2 fails.
        """
        return cls(
            thing_name=identity.thing_name,
            client_id=identity.thing_name if purpose is None else own_client_id(identity.thing_name, purpose),
            certificate_pem=identity.certificate_pem,
            module=identity.token.module,
            token_label=identity.token.label,
            key_label=identity.key_label,
            endpoint=identity.mqtt_endpoint if endpoint is None else endpoint,
            port=identity.mqtt_port if port is None else port,
            ca_file=ca_file,
            offers_tls13=tls13 and not identity.key_type.is_rsa,
            keep_alive=keep_alive,
            connect_timeout=connect_timeout,
            operation_timeout=operation_timeout,
            paced=paced,
            owns_module=owns_module,
            will=will,
            token_manufacturer=identity.token.manufacturer,
        )

    @property
    def broker(self) -> str:
        """The broker's host and port, for messages."""
        return f"{self.endpoint}:{self.port}"


def own_client_id(thing_name: str, purpose: str) -> str:
    """Return a client id that no other connection has: ``THING/PURPOSE-XXXXXXXX``, with eight random hex digits.

    A broker ends a connection, and loses what is in flight, when another client connects with the same client id
    (MQTT 5.0 §3.1.4). So programs that share an identity need an id each.

    Args:
        thing_name: name of the Thing, in ASCII.
        purpose: what the connection is for; one word.

    Returns:
        The client id; the Thing's name if the result would exceed AWS IoT's limit of 128 bytes.
    """
    own = f"{thing_name}/{purpose}-{secrets.token_hex(4)}"
    return own if len(own.encode()) <= _MAX_CLIENT_ID_BYTES else thing_name
