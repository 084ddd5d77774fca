"""What an integrator's type checker sees of the public API; mypy is the test, nothing here runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import assert_type

from asn1crypto.x509 import Certificate

import hsm_enroll
from hsm_enroll import (
    ApiTlsError,
    AwsError,
    BackendRefusedError,
    BackendUnreachableError,
    BusyError,
    Connection,
    ConnectionEvent,
    ConnectionState,
    ForeignCertificateError,
    HsmEnrollError,
    Identity,
    InterruptedRunError,
    KeyAmbiguousError,
    KeyMissingError,
    KeyOriginError,
    LocalCloudError,
    Message,
    ModuleMissingError,
    ModuleUnusableError,
    MqttError,
    MqttNotTrustedError,
    MqttRefusedError,
    MqttTakenOverError,
    MqttUnreachableError,
    NotEnrolledError,
    OutboxFullError,
    PackageError,
    PinExposedError,
    PinFinalTryError,
    PinLockedError,
    PinMissingError,
    PinWrongError,
    Properties,
    Publisher,
    Secret,
    StateCorruptError,
    StateError,
    StateTooNewError,
    Subscription,
    ThrottledError,
    TokenAmbiguousError,
    TokenName,
    TokenNotFoundError,
    TokenRefusedError,
    UnexpectedResponseError,
    UsageError,
    Will,
    __version__,
    aio,
    connect,
    enroll,
    renew,
)
from hsm_enroll.iot.fallbacks import Fallbacks
from hsm_enroll.key import KeyOrigin, KeyType
from hsm_enroll.uri import Pkcs11Uri

assert_type(__version__, str)
assert_type(hsm_enroll.__all__, list[str])


def what_is_not_exported_is_not_there() -> None:
    """A name that the package does not have is an error, although its names are loaded late."""
    hsm_enroll.Unknown  # type: ignore[attr-defined]  # noqa: B018


def a_device_is_enrolled_with_what_its_configuration_says_or_more() -> None:
    """Every argument may be left out; all but the name are given by name; the result is an Identity, never None."""
    assert_type(enroll(), Identity)
    assert_type(enroll(None, invite=None, new_key=False), Identity)
    assert_type(enroll("gateway-17", invite="https://api/#CODE", new_key=True), Identity)
    assert_type(renew(), Identity)
    assert_type(renew(pin=Secret("1234"), if_due=True), Identity)
    enroll(17)  # type: ignore[arg-type]
    enroll("gateway-17", "https://api/#CODE")  # type: ignore[call-arg]


def api_pin_and_token_may_be_arguments() -> None:
    """A PIN is a Secret, or a function that returns one for a token; a plain string is refused."""
    assert_type(enroll("gateway-17", api="https://api", pin=Secret("1234"), create_token=True), Identity)
    assert_type(enroll("gateway-17", pin=a_pin), Identity)
    assert_type(connect(Identity.load(), pin=a_pin), Connection)
    enroll("gateway-17", pin="1234")  # type: ignore[arg-type]
    enroll("gateway-17", pin=lambda: Secret("1234"))  # type: ignore[arg-type]
    connect(Identity.load(), pin="1234")  # type: ignore[arg-type]


def a_pin(token: TokenName) -> Secret:
    """Something that asks a person."""
    return Secret(token.label)


def an_identity_is_loaded_from_the_usual_place_or_a_folder(folder: Path) -> None:
    """Both forms give an Identity, never None."""
    assert_type(Identity.load(), Identity)
    assert_type(Identity.load(None), Identity)
    assert_type(Identity.load(folder), Identity)
    Identity.load("/var/lib/hsm-enroll")  # type: ignore[arg-type]


def its_members_are_typed(identity: Identity) -> None:
    """Each member has the type that its documentation says."""
    assert_type(identity.thing_name, str)
    assert_type(identity.certificate_id, str)
    assert_type(identity.certificate_pem, str)
    assert_type(identity.token, TokenName)
    assert_type(identity.key_label, str)
    assert_type(identity.key_id, bytes)
    assert_type(identity.key_type, KeyType)
    assert_type(identity.key_origin, KeyOrigin)
    assert_type(identity.api, str)
    assert_type(identity.mqtt_endpoint, str)
    assert_type(identity.mqtt_port, int)
    assert_type(identity.attested, bool)
    assert_type(identity.key_uri, Pkcs11Uri)
    certificate: Certificate = identity.certificate
    assert certificate


def it_cannot_be_changed(identity: Identity) -> None:
    """An Identity is a value."""
    identity.thing_name = "another"  # type: ignore[misc]
    identity.key_uri = Pkcs11Uri()  # type: ignore[misc]


def it_is_saved_into_a_folder(identity: Identity, folder: Path) -> None:
    """Saving returns nothing and wants to know where."""
    assert_type(identity.save(folder), None)
    identity.save()  # type: ignore[call-arg]


def a_connection_is_made_from_an_identity_and_closed_by_its_block(identity: Identity) -> None:
    """connect wants an Identity and returns a Connection; so does entering its block."""
    assert_type(connect(identity), Connection)
    with connect(identity) as connection:
        assert_type(connection, Connection)
    assert_type(connection.close(), None)
    connect()  # type: ignore[call-arg]
    connect("gateway-17")  # type: ignore[arg-type]


def a_connection_outlasts_outages_and_tells_of_them(identity: Identity) -> None:
    """Every argument is given by name; the callback takes an event and may return anything."""
    events: list[ConnectionEvent] = []
    will = Will("device/gateway-17/status", b"lost", qos=0, retain=True)
    assert_type(connect(identity, purpose="logger", will=will, reconnect=True, on_connection=events.append), Connection)
    assert_type(events[0].state, ConnectionState)
    assert_type(events[0].error, HsmEnrollError | None)
    connect(identity, True)  # type: ignore[call-arg, arg-type]
    connect(identity, on_connection=lambda: None)  # type: ignore[arg-type, misc]
    Will("device/gateway-17/status", "lost")  # type: ignore[arg-type]
    Will("device/gateway-17/status", b"lost", qos=2)  # type: ignore[arg-type]


def it_publishes_bytes(connection: Connection) -> None:
    """A payload is bytes, a time limit seconds given by name; nothing is returned."""
    assert_type(connection.publish("device/gateway-17/x", b"21.5"), None)
    connection.publish("device/gateway-17/x", b"21.5", timeout=2.5)
    connection.publish("device/gateway-17/x", b"21.5", qos=0, retain=True)
    connection.publish("device/gateway-17/x", b"21.5", qos=2)  # type: ignore[arg-type]
    connection.publish("device/gateway-17/x", "21.5")  # type: ignore[arg-type]
    connection.publish("device/gateway-17/x", b"21.5", 2.5)  # type: ignore[call-arg, arg-type]


def it_yields_messages(connection: Connection) -> None:
    """A subscription is an iterator of messages, which are values; with a time limit there may be none."""
    messages = connection.subscribe("device/gateway-17/#", qos=0, timeout=2.5)
    assert_type(messages, Subscription)
    iterator: Iterator[Message] = messages
    assert_type(next(iterator), Message)
    message = messages.receive()
    assert_type(message, Message)
    assert_type(messages.receive(timeout=2.5), Message | None)
    assert_type(messages.topic, str)
    assert_type(messages.unsubscribe(timeout=2.5), None)
    with messages as entered:
        assert_type(entered, Subscription)
    assert_type(message.topic, str)
    assert_type(message.payload, bytes)
    assert_type(message.retained, bool)
    message.payload = b""  # type: ignore[misc]
    assert_type(Message("device/gateway-17/x", b"21.5"), Message)


def a_publisher_takes_bytes_and_returns_nothing(identity: Identity) -> None:
    """It wants an Identity; a message is a topic and bytes, all else is given by name."""
    with Publisher(identity) as publisher:
        assert_type(publisher, Publisher)
        assert_type(publisher.publish("device/gateway-17/x", b"21.5"), None)
    publisher.publish("device/gateway-17/x", b"21.5", retain=True, expires_after=2.5)
    publisher.publish("device/gateway-17/x", b"21.5", properties=Properties(user_properties=(("unit", "K"),)))
    assert_type(publisher.close(), None)
    Publisher()  # type: ignore[call-arg]
    publisher.publish("device/gateway-17/x", "21.5")  # type: ignore[arg-type]
    publisher.publish("device/gateway-17/x", b"21.5", True)  # type: ignore[call-arg]
    Properties(user_properties={"unit": "K"})  # type: ignore[arg-type]


async def the_same_is_awaited_with_asyncio(identity: Identity) -> None:
    """Connecting is a block; what waits is a coroutine; a subscription is an asynchronous iterator."""
    async with aio.connect(identity, pin=a_pin, reconnect=True) as connection:
        assert_type(connection, aio.Connection)
        assert_type(await connection.publish("device/gateway-17/x", b"21.5", qos=0), None)
        async with await connection.subscribe("device/gateway-17/#") as messages:
            assert_type(messages, aio.Subscription)
            assert_type(await messages.receive(), Message)
            assert_type(await messages.receive(timeout=2.5), Message | None)
            async for message in messages:
                assert_type(message, Message)
    with aio.connect(identity):  # type: ignore[attr-defined]
        pass


def it_tells_what_it_has_done_without(connection: Connection) -> None:
    """Each fallback is a sentence, or None."""
    assert_type(connection.fallbacks, Fallbacks)
    assert_type(connection.tls_fallback, str | None)
    assert_type(connection.client_id_fallback, str | None)
    connection.client_id_fallback = None  # type: ignore[misc]


def it_has_a_client_for_other_libraries(connection: Connection) -> None:
    """The client is awscrt's, which has no types; it is read and not replaced."""
    assert connection.awscrt_client
    connection.awscrt_client = None  # type: ignore[misc]


def errors_carry_data(error: HsmEnrollError) -> None:
    """What ``--json`` says of an error is typed."""
    assert_type(error.code, str)
    assert_type(error.exit_status, int)
    assert_type(error.retryable, bool)
    assert_type(error.message, str)
    assert_type(error.hint, str)


def some_errors_carry_more(
    token: TokenRefusedError, unreachable: BackendUnreachableError, refused: BackendRefusedError
) -> None:
    """What only one kind of error knows is its own."""
    assert_type(token.of_key_type, bool)
    assert_type(unreachable.sent, bool)
    assert_type(refused.problem_code, str)
    assert_type(refused.request_id, str)


def errors_are_one_tree() -> None:
    """One ``except`` catches them all, and each can be caught by itself."""
    try:
        Identity.load()
    except NotEnrolledError as missing:
        as_base: HsmEnrollError = missing
        assert as_base
    except StateError as unusable:
        as_exception: Exception = unusable
        assert as_exception
    except HsmEnrollError as error:
        assert_type(error, HsmEnrollError)


def every_error_is_of_the_tree() -> tuple[type[HsmEnrollError], ...]:
    """Each class of the package is a kind of HsmEnrollError."""
    return (
        ApiTlsError, AwsError, BackendRefusedError, BackendUnreachableError, BusyError, ForeignCertificateError,
        InterruptedRunError, KeyAmbiguousError, KeyMissingError, KeyOriginError, LocalCloudError, ModuleMissingError,
        ModuleUnusableError, MqttError, NotEnrolledError, OutboxFullError, PackageError, PinExposedError,
        PinFinalTryError, PinLockedError, PinMissingError, PinWrongError, StateCorruptError, StateError,
        StateTooNewError, ThrottledError, TokenAmbiguousError, TokenNotFoundError, TokenRefusedError,
        UnexpectedResponseError, UsageError,
    )  # fmt: skip


def every_failure_of_mqtt_is_an_mqtt_error() -> tuple[type[MqttError], ...]:
    """Who catches MqttError catches each reason that a connection may fail for."""
    return (MqttNotTrustedError, MqttRefusedError, MqttTakenOverError, MqttUnreachableError)


def an_error_is_made_with_a_message_and_perhaps_a_hint() -> None:
    """The hint is given by name."""
    HsmEnrollError("what happened")
    HsmEnrollError("what happened", hint="what to do")
    HsmEnrollError("what happened", "what to do")  # type: ignore[call-arg]
