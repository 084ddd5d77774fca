"""What awscrt and the broker say, as our errors: by the name of the error or of the reason code, never by its text.

The names are those of aws-c-io and aws-c-mqtt, as awscrt gave them when each failure was brought about; reason codes
are those of MQTT 5.0 §2.4.
"""

from __future__ import annotations

import os
import re

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

# awscrt raises a bare RuntimeError, "1117 (AWS_ERROR_…): …", where a call fails at once.
_RAISED = re.compile(r"\d+ \((AWS_\w+)\): ")

_CKR = "AWS_ERROR_PKCS11_CKR_"
_PIN_WRONG = {_CKR + name for name in ("PIN_INCORRECT", "PIN_INVALID", "PIN_LEN_RANGE")}
_TOKEN_GONE = {_CKR + name for name in ("TOKEN_NOT_PRESENT", "DEVICE_REMOVED", "SLOT_ID_INVALID")}
_NO_ANSWER = {
    "AWS_IO_SOCKET_CONNECTION_REFUSED",
    "AWS_IO_SOCKET_NO_ROUTE_TO_HOST",
    "AWS_IO_TLS_NEGOTIATION_TIMEOUT",
    # ENETDOWN and ETIMEDOUT, which the kernel gives.
    "AWS_IO_SOCKET_NETWORK_DOWN",
    "AWS_IO_SOCKET_TIMEOUT",
}
_TLS_FAILED = "AWS_IO_TLS_ERROR_NEGOTIATION_FAILURE"
_DNS = "AWS_IO_DNS_"
# An alert, a FIN or a reset, and silence.
_TLS_1_3_FAILED = {_TLS_FAILED, "AWS_IO_SOCKET_CLOSED", "AWS_IO_TLS_NEGOTIATION_TIMEOUT"}
# What is left when a server ends a connection before it has answered CONNECT: close_notify, FIN, reset.
_HUNG_UP = {"AWS_ERROR_MQTT_UNEXPECTED_HANGUP", "AWS_IO_SOCKET_CLOSED", "AWS_IO_TLS_ERROR_WRITE_FAILURE"}
# The alert about our certificate, which in TLS 1.3 comes after this side's handshake is complete (RFC 8446 §2).
_DOOR_CLOSED = {*_HUNG_UP, "AWS_IO_TLS_ERROR_READ_FAILURE"}
_MALFORMED = {"AWS_ERROR_MQTT5_PUBLISH_OPTIONS_VALIDATION", "AWS_ERROR_MQTT5_SUBSCRIBE_OPTIONS_VALIDATION"}
# What a broker that does not want a client id says (MQTT 5.0 §3.2.2.2); AWS IoT has the first for whatever its policies
# do not allow.
_CLIENT_ID_REFUSED = {"NOT_AUTHORIZED", "CLIENT_IDENTIFIER_NOT_VALID"}
_NOT_ALLOWED = {"BAD_USERNAME_OR_PASSWORD", "BANNED", "CLIENT_IDENTIFIER_NOT_VALID", "NOT_AUTHORIZED"}

_LABEL_HINT = (
    "Run hsm-enroll tokens to see what is there. MQTT selects token and key by label alone: "
    "where two have this label, relabel one with the token's own tool."
)


def name_of(error: BaseException) -> str:
    """Return awscrt's name of an error, or the exception's own where awscrt uses one of Python's."""
    raised = _RAISED.match(str(error))
    if raised:
        return raised[1]
    return str(getattr(error, "name", type(error).__name__))


def of_module(error: BaseException, target: Target) -> HsmEnrollError:
    """Translate what loading and initialising a PKCS#11 module raises (PKCS#11 v2.40 §5.4)."""
    if not os.path.isfile(target.module):  # noqa: PTH113 - unlike is_file it never raises
        return ModuleMissingError(f"there is no PKCS#11 module {target.module}")
    return ModuleUnusableError(f"{target.module} cannot be used as a PKCS#11 module ({name_of(error)})")


def of_token(error: BaseException, target: Target) -> HsmEnrollError:
    """Translate what choosing the token, logging in and finding the key raises, and the handshake's signature.

    awscrt has one name for none and for several.
    """
    name = name_of(error)
    token = f"token {target.token_label!r}"
    if name in _PIN_WRONG:
        return PinWrongError(f"{token} refused the PIN")
    if name == _CKR + "PIN_LOCKED":
        return PinLockedError(f"{token} is locked and accepts no PIN now")
    if name == "AWS_ERROR_PKCS11_TOKEN_NOT_FOUND":
        return TokenNotFoundError(f"{token} is not there, or there are several of that label", hint=_LABEL_HINT)
    if name in _TOKEN_GONE:
        return TokenNotFoundError(f"{token} is not there any more")
    if name == "AWS_ERROR_PKCS11_KEY_NOT_FOUND":
        key = f"private key {target.key_label!r}"
        return KeyMissingError(f"{token} has no {key}, or several of that label", hint=_LABEL_HINT)
    if name.startswith("AWS_ERROR_PKCS11_"):
        return TokenRefusedError(f"{token} refused ({name.removeprefix(_CKR)})")
    return MqttError(f"the connection to {target.broker} could not be prepared ({name})")


def is_handshake_failure(error: BaseException) -> bool:
    """Whether TLS failed, on whichever side: awscrt has one name for all of it."""
    return name_of(error) == _TLS_FAILED


def of_tls13(error: BaseException, reason: str | None, target: Target) -> str | None:
    """Say how an attempt that offered TLS 1.3 ended in its handshake, as where a box in between cannot bear the offer.

    It may have ended so for another reason: TLS 1.2 then fails too. Arguments as for :func:`of_connecting`.

    Returns:
        a sentence, or None where it ended otherwise.
    """
    name = name_of(error)
    if reason is not None or name not in _TLS_1_3_FAILED:
        return None
    return f"{target.broker} did not complete the handshake ({name})"


def of_client_id(error: BaseException, reason: str | None, target: Target) -> str | None:
    """Say how an attempt ended that may have been refused for its client id.

    A connection that is closed without a word may have been, and may not: awscrt has the same name for one that is cut
    off in its handshake. Arguments as for :func:`of_connecting`.

    Returns:
        a sentence, or None where it ended otherwise.
    """
    name = name_of(error)
    refused = f"{target.broker} refused client id {target.client_id!r}"
    if reason is not None:
        return f"{refused} ({reason})" if reason in _CLIENT_ID_REFUSED else None
    return f"{refused}, or closed the connection for another reason ({name})" if name in _HUNG_UP else None


def of_distrust(why: str, target: Target) -> HsmEnrollError:
    """Say that this side refuses the server; ``why`` is from ``trust.why_distrusted``."""
    return MqttNotTrustedError(f"the server at {target.broker} is not trusted: {why}")


def of_connecting(error: BaseException, reason: str | None, target: Target) -> HsmEnrollError:
    """Translate the end of an attempt to connect.

    Args:
        error: what awscrt reports.
        reason: name of the CONNACK's reason code (MQTT 5.0 §3.2.2.2), or None where none came.
        target: whom the attempt was for.
    """
    name = name_of(error)
    if name.startswith("AWS_ERROR_PKCS11_"):
        return of_token(error, target)
    if reason is not None:
        return _of_reason(reason, f"{target.broker} refused client id {target.client_id!r}")
    if name in _NO_ANSWER or name.startswith(_DNS):
        return MqttUnreachableError(f"no broker answers at {target.broker} ({name})")
    if name == _TLS_FAILED:
        return MqttRefusedError(f"{target.broker} ended the TLS handshake: it does not want this certificate ({name})")
    if name in _DOOR_CLOSED:
        return MqttRefusedError(f"{target.broker} closed the connection without an answer ({name})")
    return MqttError(f"the connection to {target.broker} failed ({name})")


def of_lost(error: BaseException, reason: str | None, target: Target) -> HsmEnrollError:
    """Translate the end of an established connection; ``reason`` is that of the server's DISCONNECT, if it sent one."""
    if reason is None:
        taken = target.client_id == target.thing_name
        other = f", another program connected as {target.client_id!r}" if taken else ""
        hint = (
            f"The network dropped{other}, or the broker cut this device off. Try again; "
            "if that fails: hsm-enroll doctor --login"
        )
        return MqttError(f"the connection to {target.broker} was lost ({name_of(error)})", hint=hint)
    return _of_reason(reason, f"{target.broker} ended the connection of client id {target.client_id!r}")


def of_request(error: BaseException, what: str, target: Target) -> HsmEnrollError:
    """Translate what becomes of one request; ``what`` names it, as in "publishing to 'a/b'"."""
    name = name_of(error)
    if name in _MALFORMED:
        return UsageError(f"{what} is not possible: not a topic of MQTT", hint="See MQTT 5.0 §4.7 for what a topic is.")
    return MqttError(f"{what} at {target.broker} failed ({name})")


def of_acknowledgement(reason: str, what: str, target: Target) -> HsmEnrollError:
    """Translate a reason code of 0x80 or more in a PUBACK or SUBACK (MQTT 5.0 §3.4.2.1, §3.9.3)."""
    if reason == "NOT_AUTHORIZED":
        return MqttRefusedError(
            f"{target.broker} refused {what}: it is not allowed (NOT_AUTHORIZED)",
            hint=DeviceTopics.of(target.thing_name).hint,
        )
    return _of_reason(reason, f"{target.broker} refused {what}")


def _of_reason(reason: str, event: str) -> HsmEnrollError:
    if reason == "SESSION_TAKEN_OVER":
        return MqttTakenOverError(f"{event}: another connection has taken it over")
    if reason in _NOT_ALLOWED:
        return MqttRefusedError(f"{event} ({reason})")
    return MqttError(f"{event} ({reason})")
