"""Builds the awscrt client for a target: TLS with the key in the token, and the settings of MQTT 5. Never waits."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from awscrt import io, mqtt5

from hsm_enroll import softhsm
from hsm_enroll.iot import failures, shared_port
from hsm_enroll.iot.target import QoS, Target, Will
from hsm_enroll.secret import Secret
from hsm_enroll.x509 import trust_anchors

if TYPE_CHECKING:
    from hsm_enroll.store.outbox import Properties

# awscrt would give up a message after 60 s. We do that ourselves, and on a slow network wait up to 15 min for one.
_ACK_SECONDS = 3600
_QOS = {0: mqtt5.QoS.AT_MOST_ONCE, 1: mqtt5.QoS.AT_LEAST_ONCE}


@dataclass(frozen=True, slots=True)
class Callbacks:
    """What awscrt calls, on its own thread, with the event's data."""

    on_connected: Callable[[Any], None]
    on_connection_failure: Callable[[Any], None]
    on_disconnection: Callable[[Any], None]
    on_stopped: Callable[[Any], None]
    on_message: Callable[[Any], None]


class Login:
    """A login to the token, for any number of clients, one after another, and the thread that they run on.

    Making one loads the module, logs in (PKCS#11 v2.40 §5.6, C_Login, once) and finds the key.

    If the token loses the login, for example because the token was taken out, no connection with it succeeds any more:
    awscrt does not log in again. Then a new one is needed.

    Args:
        target: which key, certificate and trust anchors to use.
        pin: the token's user PIN; None if it is typed at the token itself (CKF_PROTECTED_AUTHENTICATION_PATH); empty if
            the token needs no login.

    Raises:
        UsageError: the CA file cannot be used.
        ModuleMissingError, ModuleUnusableError, TokenNotFoundError, PinWrongError, PinLockedError, KeyMissingError,
        TokenRefusedError: the module or the token.
        MqttError: any other failure, with awscrt's name for it.
    """

    def __init__(self, target: Target, pin: Secret | None) -> None:
        trusted = trust_anchors.pem(target.ca_file)
        with softhsm.login(target.token_manufacturer):
            self.context: Any = _logged_in(target, pin, trusted)
        loop = io.EventLoopGroup(1)
        self.bootstrap: Any = io.ClientBootstrap(loop, _resolver())
        self._has_ended: threading.Event = loop.shutdown_event

    def end(self) -> None:
        """Give it up, without waiting: it ends when no client uses it any more."""
        self.context = self.bootstrap = None

    def wait(self, seconds: float) -> None:
        """Wait until it has ended: awscrt has closed its session, and its thread does not use the module any more."""
        self._has_ended.wait(seconds)


@cache
def _resolver() -> Any:
    """Return one for the whole process: a name server that does not answer would keep a login from ending."""
    return io.DefaultHostResolver(io.EventLoopGroup(1))


def _logged_in(target: Target, pin: Secret | None, trusted: bytes | None) -> Any:
    try:
        # DEFAULT accepts a module that is initialized already, and does not finalize it; STRICT does the opposite.
        behavior = io.Pkcs11Lib.InitializeFinalizeBehavior
        library = io.Pkcs11Lib(
            file=str(target.module), behavior=behavior.STRICT if target.owns_module else behavior.DEFAULT
        )
    except RuntimeError as error:
        raise failures.of_module(error, target) from error
    try:
        return io.ClientTlsContext(_tls(target, library, pin, trusted))
    except RuntimeError as error:
        raise failures.of_token(error, target) from error


def build(target: Target, login: Login, callbacks: Callbacks, timeout: float) -> Any:
    """Build a client. Sends nothing yet.

    The session is clean (MQTT 5.0 §3.1.2.4): neither side keeps anything after the connection ends.

    Args:
        target: which broker to connect to.
        login: has not ended.
        callbacks: what to call.
        timeout: seconds for the TCP connection, and again for the CONNACK.

    Returns:
        An awscrt.mqtt5.Client that has not been started.
    """
    return mqtt5.Client(_options(target, login, callbacks, int(timeout * 1000)))


def publish_packet(
    topic: str,
    payload: bytes,
    qos: QoS,
    *,
    retain: bool,
    expiry: int | None = None,
    properties: Properties | None = None,
) -> Any:
    """Return a PUBLISH (MQTT 5.0 §3.3); the expiry is in seconds (§3.3.2.3.3)."""
    packet = mqtt5.PublishPacket(
        topic=topic, payload=payload, qos=_QOS[qos], retain=retain, message_expiry_interval_sec=expiry
    )
    if properties is not None:
        packet.content_type = properties.content_type
        packet.response_topic = properties.response_topic
        packet.correlation_data_bytes = properties.correlation_data
        packet.user_properties = [mqtt5.UserProperty(name, value) for name, value in properties.user_properties]
    return packet


def subscribe_packet(topic_filter: str, qos: QoS) -> Any:
    """Return a SUBSCRIBE to one topic filter (MQTT 5.0 §3.8)."""
    return mqtt5.SubscribePacket([mqtt5.Subscription(topic_filter, _QOS[qos])])


def unsubscribe_packet(topic_filter: str) -> Any:
    """Return an UNSUBSCRIBE from one topic filter (MQTT 5.0 §3.10)."""
    return mqtt5.UnsubscribePacket([topic_filter])


def disconnect_packet() -> Any:
    """Return a DISCONNECT with reason "normal disconnection" (MQTT 5.0 §3.14)."""
    return mqtt5.DisconnectPacket()


def _tls(target: Target, library: Any, pin: Secret | None, trusted: bytes | None) -> Any:
    options = io.TlsContextOptions.create_client_with_mtls_pkcs11(
        pkcs11_lib=library,
        user_pin=None if pin is None else pin.reveal(),
        token_label=target.token_label,
        private_key_label=target.key_label,
        cert_file_contents=target.certificate_pem.encode("ascii"),
    )
    # awscrt's own minimum is TLS 1.1, and the SDK's builder has no argument for it.
    options.min_tls_ver = io.TlsVersion.TLSv1_2
    if target.offers_tls13:
        # With a key in a token awscrt does not offer TLS 1.3, and refuses it as a minimum. These cipher suites add it.
        options.cipher_pref = io.TlsCipherPref.TLSv1_2_2025_07
    if alpn := shared_port.protocols(target.port):
        options.alpn_list = alpn
    if trusted is not None:
        options.override_default_trust_store(trusted)
    return options


def _options(target: Target, login: Login, callbacks: Callbacks, timeout_ms: int) -> Any:
    socket_options = io.SocketOptions()
    socket_options.connect_timeout_ms = timeout_ms
    control = mqtt5.ExtendedValidationAndFlowControlOptions
    return mqtt5.ClientOptions(
        host_name=target.endpoint,
        port=target.port,
        socket_options=socket_options,
        bootstrap=login.bootstrap,
        tls_ctx=login.context,
        connect_options=mqtt5.ConnectPacket(
            client_id=target.client_id, keep_alive_interval_sec=target.keep_alive, will=_will(target.will)
        ),
        session_behavior=mqtt5.ClientSessionBehaviorType.CLEAN,
        extended_validation_and_flow_control_options=control.AWS_IOT_CORE_DEFAULTS if target.paced else control.NONE,
        offline_queue_behavior=mqtt5.ClientOperationQueueBehaviorType.FAIL_ALL_ON_DISCONNECT,
        connack_timeout_ms=timeout_ms,
        ack_timeout_sec=_ACK_SECONDS,
        on_lifecycle_event_connection_success_fn=callbacks.on_connected,
        on_lifecycle_event_connection_failure_fn=callbacks.on_connection_failure,
        on_lifecycle_event_disconnection_fn=callbacks.on_disconnection,
        on_lifecycle_event_stopped_fn=callbacks.on_stopped,
        on_publish_callback_fn=callbacks.on_message,
        # Otherwise the SDK sends its version and this machine's platform in the user name.
        disable_metrics=True,
    )


def _will(will: Will | None) -> Any:
    return None if will is None else publish_packet(will.topic, will.payload, will.qos, retain=will.retain)
