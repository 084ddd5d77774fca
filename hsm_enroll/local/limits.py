"""Quotas for MQTT that cannot be raised ("AWS IoT Core message broker and protocol limits and quotas")."""

from __future__ import annotations

MAX_PAYLOAD = 128 * 1024
"""Bytes of a message."""

MAX_CLIENT_ID = 128
"""Bytes of a client id in UTF-8."""

MAX_FILTERS = 8
"""Topic filters of one SUBSCRIBE."""

_MAX_TOPIC = 256  # bytes in UTF-8
_MAX_SLASHES = 7
_RESERVED = "$aws/"
# These levels of a topic do not count: "$aws/rules/<rule>/" of Basic Ingest, and "$share/<group>/".
_UNCOUNTED_LEVELS = {"$aws/rules/": 3, "$share/": 2}


def is_too_long(text: str, limit: int) -> bool:
    """Return whether text has more bytes in UTF-8 than the limit."""
    return len(text.encode()) > limit


def topic_fault(topic: str) -> str | None:
    """Return what is wrong with the size of a topic or topic filter; None if it is within the quotas.

    Does not count the slashes of AWS's reserved topics, such as those of jobs and shadows: AWS defines these topics.
    """
    uncounted = next((count for start, count in _UNCOUNTED_LEVELS.items() if topic.startswith(start)), 0)
    counted = topic.split("/", uncounted)[-1]
    if is_too_long(counted, _MAX_TOPIC):
        return f"a topic of {len(counted.encode())} bytes"
    if counted.count("/") > _MAX_SLASHES and not counted.startswith(_RESERVED):
        return f"a topic with {counted.count('/')} slashes"
    return None
