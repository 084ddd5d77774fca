"""What AWS IoT accepts as a message and as a topic filter, checked before anything is sent. Pure.

The limits are those of "AWS IoT Core endpoints and quotas", message broker and protocol limits.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hsm_enroll.errors import UsageError

if TYPE_CHECKING:
    from hsm_enroll.store.outbox import Properties

Bytes = bytes | bytearray | memoryview
LARGEST_PAYLOAD = 128 * 1024  # bytes
_LONGEST_TOPIC = 256  # bytes
_MOST_SLASHES = 7
# MQTT 5.0 §1.5.4 and §1.5.6: strings and binary data have a length of two bytes; §1.5.3: an expiry has four.
_LONGEST_PROPERTY = 0xFFFF  # bytes
_LONGEST_EXPIRY_SECONDS = 0xFFFFFFFF
_PAIR = 2
_QOS = (0, 1)
# Length and slashes of these do not count: Basic Ingest, and the name of a shared subscription (MQTT 5.0 §4.8.2).
_UNCOUNTED = re.compile(r"\$aws/rules/[^/]*/|\$share/[^/]*/")
_HINT = "MQTT 5.0 §4.7 and AWS IoT's quotas say what a topic may be."


def check_message(topic: str, payload: Bytes, qos: int = 1) -> None:
    """Check a message that is to be published. Does *not* check that the device may publish to the topic.

    Args:
        topic: up to 256 bytes with up to 7 slashes and no wildcards (MQTT 5.0 §4.7).
        payload: up to 128 KiB.
        qos: 0 or 1.

    Raises:
        UsageError: AWS IoT does not accept it, or it is of another type.
    """
    check_qos(qos)
    _check(topic, "topic")
    if "+" in topic or "#" in topic:
        raise UsageError(
            f"{topic!r} is not a topic to publish to: it contains a wildcard",
            hint="+ and # are for topic filters, as in subscribe.",
        )
    if _size(payload, "message") > LARGEST_PAYLOAD:
        raise UsageError(
            f"the message is larger than {LARGEST_PAYLOAD // 1024} KiB, which AWS IoT does not accept",
            hint="Split it into several messages.",
        )


def check_expiry(expires_after: float | None) -> None:
    """Check after how many seconds a message expires (MQTT 5.0 §3.3.2.3.3); None is never.

    Raises:
        UsageError: it is not a number above 0, or too large.
    """
    if expires_after is None:
        return
    if not isinstance(expires_after, int | float) or not 0 < expires_after <= _LONGEST_EXPIRY_SECONDS:
        raise UsageError(
            f"a message cannot expire after {expires_after!r} s",
            hint=f"Give more than 0 and at most {_LONGEST_EXPIRY_SECONDS} seconds, or leave it out for no expiry.",
        )


def check_properties(properties: Properties) -> None:
    """Check the properties of a message. Does *not* check AWS IoT's quotas for their sizes.

    Args:
        properties: text is UTF-8 without NUL (MQTT 5.0 §1.5.4) and, as the correlation data, has up to 65,535 bytes;
            the response topic is a topic, see :func:`check_message`.

    Raises:
        UsageError: MQTT or AWS IoT does not accept them.
    """
    texts: dict[str, object] = {}
    if properties.content_type is not None:
        texts["content type"] = properties.content_type
    for name, value in _pairs(properties.user_properties):
        texts |= {f"name of the user property {name!r:.32}": name, f"value of the user property {name!r:.32}": value}
    for what, text in texts.items():
        if why := _fault_of_text(text):
            raise UsageError(f"the {what} is not valid: {why}", hint="MQTT 5.0 §1.5.4 says what text may be.")
    if properties.response_topic is not None:
        check_message(properties.response_topic, b"")
    correlation = properties.correlation_data
    if correlation is not None and _size(correlation, "correlation data") > _LONGEST_PROPERTY:
        raise UsageError(
            f"the correlation data has more than {_LONGEST_PROPERTY} bytes, which MQTT does not allow",
            hint="Use a short id, and put what is larger into the message.",
        )


def _pairs(given: Sequence[tuple[str, str]]) -> Sequence[tuple[str, str]]:
    for pair in given if isinstance(given, tuple | list) else (given,):
        if not isinstance(pair, tuple | list) or len(pair) != _PAIR:
            raise UsageError(f"{pair!r} is not a user property", hint="Give pairs of name and value, both text.")
    return given


def _size(data: Bytes, what: str) -> int:
    """Return the size in bytes; a memoryview's length is in items, which may be larger."""
    if not isinstance(data, bytes | bytearray | memoryview):
        raise UsageError(
            f"the {what} is not bytes but {type(data).__name__}",
            hint='Encode text: "21.5".encode(). For numbers there is struct.pack.',
        )
    return memoryview(data).nbytes


def _fault_of_text(text: object) -> str | None:
    if not isinstance(text, str):
        return f"it is not text but {type(text).__name__}"
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError:
        return "it is not UTF-8"
    if "\0" in text:
        return "it contains a NUL character"
    return f"it has {size} bytes, and MQTT allows {_LONGEST_PROPERTY}" if size > _LONGEST_PROPERTY else None


def check_filter(topic_filter: str) -> None:
    """Check a topic filter. Does *not* check that the device may subscribe to it.

    Args:
        topic_filter: up to 256 bytes with up to 7 slashes; ``+`` and ``#`` are levels of their own, and ``#`` is the
            last one (MQTT 5.0 §4.7.1).

    Raises:
        UsageError: AWS IoT does not accept it.
    """
    _check(topic_filter, "topic filter")
    *levels, last = topic_filter.split("/")
    if "#" in "".join(levels) or any(len(level) > 1 and set(level) & set("+#") for level in (*levels, last)):
        raise UsageError(
            f"{topic_filter!r} is not a valid topic filter: + and # must be levels of their own, and # the last",
            hint="For example a/+/c or a/#.",
        )


def check_qos(qos: int) -> None:
    """Check a quality of service.

    Raises:
        UsageError: AWS IoT does not have it.
    """
    if qos not in _QOS:
        raise UsageError(f"AWS IoT has no QoS {qos}", hint="Use QoS 0 or 1.")


def _check(text: str, what: str) -> None:
    if not isinstance(text, str):
        raise UsageError(f"{text!r} is not a valid {what}: it is not text but {type(text).__name__}", hint=_HINT)
    counted = _UNCOUNTED.sub("", text, count=1) if text.startswith("$") else text
    try:
        size = len(counted.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise UsageError(f"{text!r} is not a valid {what}: it is not UTF-8", hint=_HINT) from error
    if not counted:
        raise UsageError(f"{text!r} is not a valid {what}: it is empty", hint=_HINT)
    if "\0" in text:
        raise UsageError(f"{text!r} is not a valid {what}: it contains a NUL character", hint=_HINT)
    if size > _LONGEST_TOPIC:
        raise UsageError(
            f"the {what} {text[:32]!r}... has {size} bytes; AWS IoT accepts {_LONGEST_TOPIC}", hint="Shorten it."
        )
    slashes = counted.count("/")
    if slashes > _MOST_SLASHES:
        raise UsageError(
            f"the {what} {text!r} has {slashes} slashes; AWS IoT accepts {_MOST_SLASHES}", hint="Use fewer levels."
        )
