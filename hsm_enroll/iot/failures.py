"""Translates what awscrt and the broker report into our errors, by the name of an error or reason code, not its text.

The names are those of aws-c-io and aws-c-mqtt; each was observed by causing the failure. Reason codes are those of
MQTT 5.0 §2.4.
"""

from __future__ import annotations

import copy
import os
import re
from typing import Any

from hsm_enroll.errors import (
    HsmEnrollError,
    KeyMissingError,
    ModuleMissingError,
    ModuleUnusableError,
    MqttError,
    MqttNotTrustedError,
    MqttRefusedError,
    MqttTakenOverError,
    MqttUnreachableError,
    PinLockedError,
    PinWrongError,
    TokenNotFoundError,
    TokenRefusedError,
    UsageError,
)
from hsm_enroll.iot.device_topics import DeviceTopics
from hsm_enroll.iot.target import Target
from hsm_enroll.iot.unreadable import UnreadablePacketError

# awscrt raises a plain RuntimeError, "1117 (AWS_ERROR_…): …", if a call fails immediately.
_RAISED = re.compile(r"\d+ \((AWS_\w+)\): ")

_CKR = "AWS_ERROR_PKCS11_CKR_"
_PIN_WRONG = {_CKR + name for name in ("PIN_INCORRECT", "PIN_INVALID", "PIN_LEN_RANGE")}
_TOKEN_GONE = {_CKR + name for name in ("TOKEN_NOT_PRESENT", "DEVICE_REMOVED", "SLOT_ID_INVALID")}
_NO_ANSWER = {
    "AWS_IO_SOCKET_CONNECTION_REFUSED",
    "AWS_IO_SOCKET_NO_ROUTE_TO_HOST",
    "AWS_IO_TLS_NEGOTIATION_TIMEOUT",
    # The kernel's ENETDOWN and ETIMEDOUT.
    "AWS_IO_SOCKET_NETWORK_DOWN",
    "AWS_IO_SOCKET_TIMEOUT",
    # No CONNACK, in time.
    "AWS_ERROR_MQTT_TIMEOUT",
    "AWS_ERROR_MQTT5_CONNACK_TIMEOUT",
}
_TLS_FAILED = "AWS_IO_TLS_ERROR_NEGOTIATION_FAILURE"
_DNS = "AWS_IO_DNS_"
# In this order: an alert, a FIN or a reset, no response.
_TLS_1_3_FAILED = {_TLS_FAILED, "AWS_IO_SOCKET_CLOSED", "AWS_IO_TLS_NEGOTIATION_TIMEOUT"}
# What awscrt reports if a server closes the connection before CONNACK: close_notify, FIN, reset.
_HUNG_UP = {"AWS_ERROR_MQTT_UNEXPECTED_HANGUP", "AWS_IO_SOCKET_CLOSED", "AWS_IO_TLS_ERROR_WRITE_FAILURE"}
# In TLS 1.3 the alert about our certificate arrives after our side of the handshake is complete (RFC 8446 §2).
_CLOSED_WITHOUT_CONNACK = {*_HUNG_UP, "AWS_IO_TLS_ERROR_READ_FAILURE"}
# What becomes of requests without an answer when a connection ends, and of those that come too late.
_LOST = {
    "AWS_ERROR_MQTT5_CLIENT_TERMINATED",
    "AWS_ERROR_MQTT5_OPERATION_FAILED_DUE_TO_OFFLINE_QUEUE_POLICY",
    "AWS_ERROR_MQTT5_USER_REQUESTED_STOP",
}
_MALFORMED = {"AWS_ERROR_MQTT5_PUBLISH_OPTIONS_VALIDATION", "AWS_ERROR_MQTT5_SUBSCRIBE_OPTIONS_VALIDATION"}
# How a broker refuses a client id (MQTT 5.0 §3.2.2.2); AWS IoT uses the first for all that its policies do not allow.
_CLIENT_ID_REFUSED = {"NOT_AUTHORIZED", "CLIENT_IDENTIFIER_NOT_VALID"}
_NOT_ALLOWED = {"BANNED", "CLIENT_IDENTIFIER_NOT_VALID", "NOT_AUTHORIZED"}
# What a broker says that wants another login than a client certificate.
_ANOTHER_LOGIN = {"BAD_USERNAME_OR_PASSWORD", "BAD_AUTHENTICATION_METHOD"}

_LABEL_HINT = (
    "Run hsm-enroll tokens to list tokens and keys. MQTT selects them by label alone: "
    "if two have this label, relabel one with the token's own tool."
)
_KEY_HINT = f"{_LABEL_HINT} If none has it, run hsm-enroll recover: the token may have this device's key."


def name_of(error: BaseException) -> str:
    """Return awscrt's name for an error, or the exception's class if it is one of Python's own."""
    raised = _RAISED.match(str(error))
    if raised:
        return raised[1]
    return str(getattr(error, "name", type(error).__name__))


def of_module(error: BaseException, target: Target) -> HsmEnrollError:
    """Translate a failure to load or initialize a PKCS#11 module (PKCS#11 v2.40 §5.4)."""
    if not os.path.isfile(target.module):  # noqa: PTH113 - unlike is_file, it never raises
        return ModuleMissingError(f"there is no PKCS#11 module {target.module}")
    return ModuleUnusableError(f"{target.module} cannot be used as a PKCS#11 module ({name_of(error)})")


def of_token(error: BaseException, target: Target) -> HsmEnrollError:
    """Translate a failure to find the token, log in, find the key, or sign the handshake.

    awscrt uses the same name whether there is no match or several.
    """
    name = name_of(error)
    token = f"token {target.token_label!r}"
    if name in _PIN_WRONG:
        return PinWrongError(f"{token} refused the PIN ({_named(name)})")
    if name == _CKR + "PIN_LOCKED":
        return PinLockedError(f"{token} is locked and accepts no PIN now ({_named(name)})")
    if name == "AWS_ERROR_PKCS11_TOKEN_NOT_FOUND":
        return TokenNotFoundError(f"{token} is not there, or several tokens have this label", hint=_LABEL_HINT)
    if name in _TOKEN_GONE:
        return TokenNotFoundError(f"{token} is not there any more ({_named(name)})")
    if name == "AWS_ERROR_PKCS11_KEY_NOT_FOUND":
        key = f"private key {target.key_label!r}"
        return KeyMissingError(f"{token} has no {key}, or several with this label", hint=_KEY_HINT)
    if name.startswith("AWS_ERROR_PKCS11_"):
        return TokenRefusedError(f"{token} refused the operation ({_named(name)})")
    return MqttError(f"the connection to {target.broker} could not be prepared ({name})")


def _named(name: str) -> str:
    """Return the name that PKCS#11 gives a return value, or awscrt's where it is not one."""
    return name.replace(_CKR, "CKR_")


def is_handshake_failure(error: BaseException) -> bool:
    """Whether the TLS handshake failed, on either side: awscrt uses one name for both."""
    return name_of(error) == _TLS_FAILED


def again(error: HsmEnrollError) -> HsmEnrollError:
    """Return an error's twin, to be raised where the error itself may have been raised, or may yet be."""
    twin = copy.copy(error)
    twin.__cause__ = error.__cause__
    return twin


def is_loss(error: BaseException) -> bool:
    """Whether a request failed because its connection has ended."""
    return name_of(error) in _LOST


def reason_of(reason_code: Any) -> str:
    """Return the name of a reason code (MQTT 5.0 §2.4); awscrt gives an unknown one as None."""
    return "unknown reason code" if reason_code is None else str(reason_code.name)


def of_tls13(error: BaseException, reason: str | None, target: Target) -> str | None:
    """Describe a handshake failure that offering TLS 1.3 may have caused, for example because of a middlebox.

    If something else caused it, TLS 1.2 fails as well. Arguments as for :func:`of_connecting`.

    Returns:
        A sentence, or None for any other failure.
    """
    name = name_of(error)
    if reason is not None or name not in _TLS_1_3_FAILED:
        return None
    return f"{target.broker} did not complete the handshake ({name})"


def of_client_id(error: BaseException, reason: str | None, target: Target) -> str | None:
    """Describe a failure that the client id may have caused.

    If the broker closed the connection without a CONNACK, the client id may or may not be the reason: awscrt reports
    the same for a connection that is cut off during its handshake. Arguments as for :func:`of_connecting`.

    Returns:
        A sentence, or None for any other failure.
    """
    name = name_of(error)
    refused = f"{target.broker} refused client id {target.client_id!r}"
    if reason is not None:
        return f"{refused} ({reason})" if reason in _CLIENT_ID_REFUSED else None
    return f"{refused}, or closed the connection for another reason ({name})" if name in _HUNG_UP else None


def of_distrust(why: str, target: Target) -> HsmEnrollError:
    """Return the error for a server that this side refuses; ``why`` is from ``trust.why_distrusted``."""
    return MqttNotTrustedError(f"the server at {target.broker} is not trusted: {why}")


def of_connecting(error: BaseException, reason: str | None, target: Target) -> HsmEnrollError:
    """Translate a failed attempt to connect.

    Args:
        error: what awscrt reports.
        reason: name of the CONNACK's reason code (MQTT 5.0 §3.2.2.2), or None if there was no CONNACK.
        target: the target of the attempt.
    """
    name = name_of(error)
    if name.startswith("AWS_ERROR_PKCS11_"):
        return of_token(error, target)
    if reason in _ANOTHER_LOGIN:
        return MqttRefusedError(
            f"{target.broker} requires another login than a certificate ({reason})",
            hint="Check the endpoint and the port: AWS IoT accepts a device by its certificate alone.",
        )
    if reason is not None:
        return _of_reason(reason, f"{target.broker} refused client id {target.client_id!r}")
    if name in _NO_ANSWER or name.startswith(_DNS):
        return MqttUnreachableError(f"no broker answers at {target.broker} ({name})")
    if name == _TLS_FAILED:
        message = f"{target.broker} rejected this device's certificate in the TLS handshake ({name})"
        return MqttRefusedError(message, of_certificate=True)
    if name in _CLOSED_WITHOUT_CONNACK:
        return MqttRefusedError(f"{target.broker} closed the connection without an answer ({name})")
    return MqttError(f"the connection to {target.broker} failed ({name})")


def of_lost(error: BaseException, reason: str | None, target: Target) -> HsmEnrollError:
    """Translate the end of an open connection; ``reason`` names the reason code of the server's DISCONNECT, if any."""
    if isinstance(error, HsmEnrollError):  # this side has ended it, see Link.abandon
        return again(error)
    if isinstance(error, UnreadablePacketError):
        return MqttError(
            f"{target.broker} sent a packet that is not valid MQTT 5 ({error}); the connection was ended",
            hint="Something other than AWS IoT may answer there: check the endpoint and the port.",
        )
    if reason is None:
        taken = target.client_id == target.thing_name
        other = f", another program connected as {target.client_id!r}" if taken else ""
        hint = (
            f"The network failed{other}, or the broker disconnected this device. Try again; "
            "if that fails, run: hsm-enroll doctor --login"
        )
        return MqttError(f"the connection to {target.broker} was lost ({name_of(error)})", hint=hint)
    return _of_reason(reason, f"{target.broker} ended the connection of client id {target.client_id!r}")


def of_request(error: BaseException, what: str, target: Target) -> HsmEnrollError:
    """Translate the failure of one request; ``what`` names it, for example "publishing to 'a/b'"."""
    name = name_of(error)
    if name in _MALFORMED:
        return UsageError(f"{what} failed: invalid MQTT topic", hint="MQTT 5.0 §4.7 defines topics and topic filters.")
    return MqttError(f"{what} at {target.broker} failed ({name})")


def of_low_qos(target: Target) -> HsmEnrollError:
    """Return the error for a broker that accepts nothing above QoS 0 (MQTT 5.0 §3.2.2.3.4)."""
    return MqttError(
        f"{target.broker} accepts QoS 0 only, which does not acknowledge messages; hsm-enroll publishes with QoS 1",
        hint="Check the endpoint and the port: AWS IoT accepts QoS 1.",
    )


def of_acknowledgement(reason: str, what: str, target: Target) -> HsmEnrollError:
    """Translate a reason code of 0x80 or more in a PUBACK or SUBACK (MQTT 5.0 §3.4.2.1, §3.9.3)."""
    if reason == "NOT_AUTHORIZED":
        refused = MqttRefusedError(
            f"{target.broker} refused {what}: it is not allowed (NOT_AUTHORIZED)",
            hint=DeviceTopics.of(target.thing_name).hint,
        )
        refused.reason = reason
        return refused
    return _of_reason(reason, f"{target.broker} refused {what}")


def _of_reason(reason: str, event: str) -> MqttError:
    error = MqttError(f"{event} ({reason})")
    if reason == "SESSION_TAKEN_OVER":
        error = MqttTakenOverError(f"{event}: another client has connected with the same client id")
    elif reason in _NOT_ALLOWED:
        error = MqttRefusedError(f"{event} ({reason})")
    error.reason = reason
    return error
