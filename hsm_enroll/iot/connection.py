"""An MQTT 5 connection with mutual TLS; the token signs the handshake (RFC 5246 §7.4.8)."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

from hsm_enroll.iot.fallbacks import Fallbacks
from hsm_enroll.iot.keeper import Keeper, OnConnection
from hsm_enroll.iot.opening import Credentials
from hsm_enroll.iot.subscription import Subscription
from hsm_enroll.iot.target import QoS, Target

if TYPE_CHECKING:
    from awscrt import mqtt5


def keep(
    target: Target,
    credentials: Credentials,
    *,
    reconnects: bool = False,
    on_connection: OnConnection | None = None,
    in_background: bool = False,
) -> Keeper:
    """Connect to a target with the key in the token (MQTT 5.0 §3.1; TLS 1.2 or later), and keep the connection.

    A broker ends a connection when another client connects with the same client id (§3.1.4). The client id is the
    Thing's name; with a purpose, it is one that no other connection has.

    The PIN is tried once. The connection is tried once too, with two exceptions, all within the target's timeout:

    - If TLS 1.3 was offered and the handshake failed, the next attempt offers only TLS 1.2.
    - If the connection's own client id was refused, or the broker closed the connection twice without a CONNACK, the
      next attempt uses the Thing's name: the policy may be an older one or the operator's own, or the certificate may
      be attached without EXCLUSIVE_THING (not tested on a real account).

    :attr:`Keeper.fallbacks` says which of these happened.

    Must not be called in a process that uses python-pkcs11 itself: closing a session there would log this connection
    out. ``hsm_enroll`` uses it only in a worker process.

    Does *not* check that the certificate belongs to the key, the token's serial number (awscrt selects the token by
    label), or how many tries the PIN has left; ``credentials`` may.

    Args:
        target: the broker, the client and the key.
        credentials: called before each login.
        reconnects: whether to connect again after a loss, with a new login if the token has lost the last one.
        on_connection: is told of each change.
        in_background: return at once, and try until there is a connection; all errors go to ``on_connection``.

    Raises:
        UsageError: the CA file cannot be used.
        ModuleMissingError, ModuleUnusableError, TokenNotFoundError, PinWrongError, PinLockedError, KeyMissingError,
        TokenRefusedError: the module, the token or the key.
        MqttUnreachableError: no broker answers.
        MqttNotTrustedError: the server's certificate is not trusted, or its TLS is too old.
        MqttRefusedError: the broker refused this certificate or this client id.
        MqttError: any other failure.
    """
    keeper = Keeper(target, credentials, reconnects=reconnects, on_connection=on_connection)
    if in_background:
        keeper.start()
    else:
        keeper.open()
    return keeper


class Connection:
    """An MQTT 5 connection, made by ``hsm_enroll.connect`` and closed by leaving its ``with`` block. It is thread-safe.

    If it does not reconnect, each method raises an :class:`MqttError` that says why, once the connection has ended.

    If it reconnects, each method waits for a connection, within its timeout, and a message of QoS 1 is sent again if
    the connection was lost before it was acknowledged. Subscriptions are made again. The session is clean: messages
    that others publish while there is no connection are not received.
    """

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper

    @property
    def fallbacks(self) -> Fallbacks:
        """What it asked for, was refused, and goes without."""
        return self._keeper.fallbacks

    @property
    def tls_fallback(self) -> str | None:
        """If this connection fell back to TLS 1.2, a sentence that says how TLS 1.3 failed; otherwise None."""
        return self.fallbacks.tls

    @property
    def client_id_fallback(self) -> str | None:
        """If this connection fell back to the Thing's name, a sentence that says how its own client id was refused."""
        return self.fallbacks.client_id

    @property
    def awscrt_client(self) -> mqtt5.Client:
        """The ``awscrt.mqtt5.Client`` of this connection, for libraries that take one, such as ``awsiot.iotshadow``.

        It belongs to this connection: do not start or stop it, and do not use it after the connection has ended. After
        each reconnection there is another one. The token's session stays open as long as a program keeps one of them.

        Raises:
            MqttError: the connection has ended, or there is none at the moment; its kind says why.
        """
        client: mqtt5.Client = self._keeper.exchange.awscrt_client
        return client

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: QoS = 1,
        retain: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Publish one message and wait for its PUBACK (MQTT 5.0 §4.3.2); with QoS 0, until it has been sent (§4.3.1).

        AWS IoT accepts 100 messages a second from one connection (its quota); what comes faster waits to be sent,
        within the timeout. Does *not* check that anyone is subscribed. If the PUBACK does not arrive, the message may
        still have been delivered, or be delivered later.

        Args:
            topic: up to 256 bytes with up to 7 slashes and no wildcards (MQTT 5.0 §4.7).
            payload: the message, up to 128 KiB.
            qos: 1 delivers it at least once; 0 at most once, and nobody says whether.
            retain: have the broker keep it for later subscribers; AWS IoT requires iot:RetainPublish for that, which
                the backend's built-in policy does not allow.
            timeout: seconds until the PUBACK; None is the setting ``operation_timeout``, 20 by default.

        Raises:
            UsageError: the topic is invalid, or the message too large.
            MqttRefusedError: the broker does not allow it.
            MqttTakenOverError: another client has connected with the same client id.
            MqttUnreachableError: no PUBACK arrived in time.
            MqttError: any other failure, for example that the connection was lost or is closed.
        """
        exchange = self._keeper.exchange
        exchange.finish(exchange.publish(topic, payload, qos, retain=retain), timeout)

    def subscribe(self, topic: str, *, qos: QoS = 1, timeout: float | None = None) -> Subscription:
        """Subscribe, wait for the SUBACK, and return the messages (MQTT 5.0 §3.8).

        Subscriptions of one connection should not overlap: a broker may send a message once for each of its filters
        that match (§3.3.4), and each of these subscriptions then has it as often.

        Args:
            topic: a topic filter: up to 256 bytes with up to 7 slashes; ``+`` and ``#`` are levels of their own, and
                ``#`` is the last one (MQTT 5.0 §4.7.1).
            qos: 1 receives each message at least once; 0 at most once.
            timeout: seconds until the SUBACK; None as for :meth:`publish`.

        Raises:
            UsageError, MqttRefusedError, MqttTakenOverError, MqttUnreachableError, MqttError: as :meth:`publish`.
        """
        exchange = self._keeper.exchange
        stream, request = exchange.subscribe(topic, qos)
        exchange.finish(request, timeout)
        return Subscription(exchange, stream)

    def close(self) -> None:
        """Send DISCONNECT and close the connection and the token's session. Calling it again has no effect.

        Then this connection does not use the token's module any more, unless an attempt to connect was interrupted.
        """
        self._keeper.close()
