"""The topics that are a device's own."""

from __future__ import annotations

import pytest

from hsm_enroll.iot.device_topics import DeviceTopics


@pytest.mark.parametrize("thing", ["gateway-17", "certtest", "device", "a:b_c-d"])
def test_every_topic_is_bound_to_the_thing_behind_a_fixed_level(thing: str) -> None:
    """Whatever a Thing is called, its topics begin with a level that is nobody's name, and go on with the Thing's."""
    assert DeviceTopics.of(thing) == (
        f"certtest/{thing}",
        f"device/{thing}/#",
        f"$aws/things/{thing}/shadow/#",
        f"$aws/things/{thing}/jobs/#",
    )


def test_the_hint_names_them_all() -> None:
    """Who was refused a topic is told every one that is the device's, and that an operator may have chosen others."""
    topics = DeviceTopics.of("gateway-17")
    assert all(topic in topics.hint for topic in topics)
    assert "operator" in topics.hint
