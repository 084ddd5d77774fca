"""Topic filters (MQTT 5.0 §4.7, §4.8.2)."""

from __future__ import annotations


def matches(topic_filter: str, topic: str) -> bool:
    """Whether a topic matches a topic filter, which may be that of a shared subscription: ``$share/NAME/FILTER``.

    Does *not* check that the filter is well formed; the client and the broker do.
    """
    levels = topic_filter.split("/")
    if levels[0] == "$share":
        levels = levels[2:]
    # §4.7.2: a wildcard at the first level does not match topics that begin with $, such as $SYS.
    if topic.startswith("$") and levels[0] in {"#", "+"}:
        return False
    names = topic.split("/")
    for index, level in enumerate(levels):
        if level == "#":
            return True
        if index == len(names) or level not in {"+", names[index]}:
            return False
    return len(levels) == len(names)
