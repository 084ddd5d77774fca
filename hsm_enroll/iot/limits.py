"""What AWS IoT accepts as a message and as a topic filter, checked before anything is sent. Pure.

The limits are those of "AWS IoT Core endpoints and quotas", message broker and protocol limits.
"""

from __future__ import annotations

import re

from hsm_enroll.errors import UsageError

LARGEST_PAYLOAD = 128 * 1024  # bytes
_LONGEST_TOPIC = 256  # bytes
_MOST_SLASHES = 7
_QOS = (0, 1)
# Length and slashes of these do not count: Basic Ingest, and the name of a shared subscription (MQTT 5.0 §4.8.2).
_UNCOUNTED = re.compile(r"\$aws/rules/[^/]*/|\$share/[^/]*/")
_HINT = "MQTT 5.0 §4.7 and AWS IoT's quotas say what a topic may be."


def check_message(topic: str, payload: bytes, qos: int = 1) -> None:
    """Check a message that is to be published. Does *not* check that the device may publish to the topic.

    Args:
        topic: up to 256 bytes with up to 7 slashes and no wildcards (MQTT 5.0 §4.7).
        payload: up to 128 KiB.
        qos: 0 or 1.

    Raises:
        UsageError: AWS IoT does not accept it.
    """
    check_qos(qos)
    _check(topic, "topic")
    if "+" in topic or "#" in topic:
        raise UsageError(
            f"{topic!r} is not a topic to publish to: it contains a wildcard",
            hint="+ and # are for topic filters, as in subscribe.",
        )
    if len(payload) > LARGEST_PAYLOAD:
        raise UsageError(
            f"the message is larger than {LARGEST_PAYLOAD // 1024} KiB, which AWS IoT does not accept",
            hint="Split it into several messages.",
        )


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
