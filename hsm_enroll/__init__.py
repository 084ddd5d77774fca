"""Enroll a device as an AWS IoT Thing whose private key is generated in a token, and connect as that Thing.

The names in ``__all__``, and in those of :mod:`hsm_enroll.aio` and of the pytest plugin :mod:`hsm_enroll.testing`, are
the public interface. Names may be added; none is removed, and no documented behaviour changes, without the notice that
SECURITY.md promises. All other modules belong to the ``hsm-enroll`` command and may change in any release.

- :func:`enroll` generates a key in the token, requests a certificate for it from the enrollment API, and stores it.
- :func:`renew` replaces key and certificate by new ones.
- :class:`Identity` is the result: the Thing, its certificate, and which key in which token belongs to it.
- :func:`connect` opens a :class:`Connection`, which publishes messages and receives each :class:`Message` of a
  :class:`Subscription` over MQTT 5. With ``reconnect=True`` it outlasts outages.
- :class:`Publisher` hands over messages that must not be lost: they are on the disk when ``publish`` returns, and
  ``hsm-enroll forward`` sends them, with their :class:`Properties`, once there is a connection.
- :mod:`hsm_enroll.aio` is the same connection for programs that use asyncio.
- :class:`HsmEnrollError` is the base of all errors. Each class has a stable ``code``; each error says what happened and
  what to do next.

The library is typed, prints nothing, and reads the same configuration and environment as the command. A program for a
device whose configuration names the API and the Thing::

    from hsm_enroll import HsmEnrollError, connect, enroll

    try:
        identity = enroll()  # returns at once if the device is already enrolled
        topics = f"device/{identity.thing_name}"
        with connect(identity) as connection:
            commands = connection.subscribe(f"{topics}/commands")
            connection.publish(f"{topics}/temperature", b"21.5")  # returns once the broker has the message
            print(next(commands).payload.decode())
    except HsmEnrollError as error:
        raise SystemExit(f"{error.code}: {error.message}. {error.hint}") from error

Importing the package is cheap: each name is loaded on first use (PEP 562).
"""

from __future__ import annotations

from importlib import import_module

from hsm_enroll.version import __version__

# As typing's, which takes longer to import than the rest of this module; type checkers go by the name.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from hsm_enroll.errors import (
        ApiTlsError,
        AwsError,
        BackendRefusedError,
        BackendUnreachableError,
        BusyError,
        ClockError,
        CredentialsRefusedError,
        ForeignCertificateError,
        HsmEnrollError,
        InterruptedRunError,
        KeyAmbiguousError,
        KeyMissingError,
        KeyOriginError,
        LocalCloudError,
        MachineLimitError,
        ModuleMissingError,
        ModuleUnusableError,
        MqttError,
        MqttNotTrustedError,
        MqttRefusedError,
        MqttTakenOverError,
        MqttUnreachableError,
        NotEnrolledError,
        OutboxFullError,
        OutputError,
        PackageError,
        PinExposedError,
        PinFinalTryError,
        PinLockedError,
        PinMissingError,
        PinWrongError,
        RetiredLocallyError,
        RoleAliasMissingError,
        ServiceError,
        StateCorruptError,
        StateError,
        StateTooNewError,
        ThrottledError,
        TokenAmbiguousError,
        TokenNotFoundError,
        TokenRefusedError,
        UnexpectedResponseError,
        UsageError,
    )
    from hsm_enroll.iot.connection import Connection
    from hsm_enroll.iot.inbox import Message
    from hsm_enroll.iot.keeper import ConnectionEvent, ConnectionState
    from hsm_enroll.iot.subscription import Subscription
    from hsm_enroll.iot.target import Will
    from hsm_enroll.key import TokenName
    from hsm_enroll.library import connect, enroll, renew
    from hsm_enroll.publisher import Publisher
    from hsm_enroll.secret import Secret
    from hsm_enroll.store.identity import Identity
    from hsm_enroll.store.outbox import Properties

__all__ = [
    "ApiTlsError",
    "AwsError",
    "BackendRefusedError",
    "BackendUnreachableError",
    "BusyError",
    "ClockError",
    "Connection",
    "ConnectionEvent",
    "ConnectionState",
    "CredentialsRefusedError",
    "ForeignCertificateError",
    "HsmEnrollError",
    "Identity",
    "InterruptedRunError",
    "KeyAmbiguousError",
    "KeyMissingError",
    "KeyOriginError",
    "LocalCloudError",
    "MachineLimitError",
    "Message",
    "ModuleMissingError",
    "ModuleUnusableError",
    "MqttError",
    "MqttNotTrustedError",
    "MqttRefusedError",
    "MqttTakenOverError",
    "MqttUnreachableError",
    "NotEnrolledError",
    "OutboxFullError",
    "OutputError",
    "PackageError",
    "PinExposedError",
    "PinFinalTryError",
    "PinLockedError",
    "PinMissingError",
    "PinWrongError",
    "Properties",
    "Publisher",
    "RetiredLocallyError",
    "RoleAliasMissingError",
    "Secret",
    "ServiceError",
    "StateCorruptError",
    "StateError",
    "StateTooNewError",
    "Subscription",
    "ThrottledError",
    "TokenAmbiguousError",
    "TokenName",
    "TokenNotFoundError",
    "TokenRefusedError",
    "UnexpectedResponseError",
    "UsageError",
    "Will",
    "__version__",
    "connect",
    "enroll",
    "renew",
]

_ERRORS = "hsm_enroll.errors"
_HOMES = {
    "Connection": "hsm_enroll.iot.connection",
    "ConnectionEvent": "hsm_enroll.iot.keeper",
    "ConnectionState": "hsm_enroll.iot.keeper",
    "Identity": "hsm_enroll.store.identity",
    "Message": "hsm_enroll.iot.inbox",
    "Properties": "hsm_enroll.store.outbox",
    "Publisher": "hsm_enroll.publisher",
    "Secret": "hsm_enroll.secret",
    "Subscription": "hsm_enroll.iot.subscription",
    "TokenName": "hsm_enroll.key",
    "Will": "hsm_enroll.iot.target",
    "connect": "hsm_enroll.library",
    "enroll": "hsm_enroll.library",
    "renew": "hsm_enroll.library",
}

if not TYPE_CHECKING:  # with __getattr__, a type checker would accept any name

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_HOMES.get(name, _ERRORS)), name)
