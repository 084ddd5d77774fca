"""Which topics a filter asks for: the examples of MQTT 5.0 §4.7."""

from __future__ import annotations

import pytest

from hsm_enroll.iot.topics import matches


@pytest.mark.parametrize(
    ("topic_filter", "topic"),
    [
        ("sport/tennis/player1", "sport/tennis/player1"),
        ("sport/tennis/player1/#", "sport/tennis/player1"),
        ("sport/tennis/player1/#", "sport/tennis/player1/ranking"),
        ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon"),
        ("sport/#", "sport"),
        ("#", "sport/tennis"),
        ("sport/tennis/+", "sport/tennis/player1"),
        ("sport/+", "sport/"),
        ("+/tennis/#", "sport/tennis"),
        ("+/+", "/finance"),
        ("/+", "/finance"),
        ("$SYS/#", "$SYS/uptime"),
        ("$SYS/monitor/+", "$SYS/monitor/Clients"),
        ("$share/consumers/sport/+", "sport/tennis"),
    ],
)
def test_a_filter_matches(topic_filter: str, topic: str) -> None:
    """A topic that the standard gives to a filter is taken for it."""
    assert matches(topic_filter, topic)


@pytest.mark.parametrize(
    ("topic_filter", "topic"),
    [
        ("sport/tennis/player1", "sport/tennis/Player1"),
        ("sport/tennis/player1", "sport/tennis/player1/ranking"),
        ("sport/tennis/player1", "sport/tennis"),
        ("sport/tennis/+", "sport/tennis/player1/ranking"),
        ("sport/+", "sport"),
        ("+", "/finance"),
        ("sport/#", "sports"),
        ("#", "$SYS/uptime"),
        ("+/monitor/Clients", "$SYS/monitor/Clients"),
        ("$share/consumers/sport/+", "$share/consumers/sport/tennis"),
    ],
)
def test_a_filter_does_not_match(topic_filter: str, topic: str) -> None:
    """A topic that the standard does not give to a filter is not taken for it."""
    assert not matches(topic_filter, topic)
