"""Which messages and topic filters are refused before anything is sent."""

from __future__ import annotations

import pytest

from hsm_enroll.errors import UsageError
from hsm_enroll.iot import limits

_EIGHT_LEVELS = "1/2/3/4/5/6/7/8"


@pytest.mark.parametrize(
    "topic",
    ["a", "/", "a b", "device/x/état", "a" * 256, "é" * 128, _EIGHT_LEVELS, f"$aws/rules/r/{_EIGHT_LEVELS}",
     "$aws/rules/a_rule/" + "a" * 256, "$aws/things/x/shadow/name/n/update/accepted"],
)  # fmt: skip
def test_a_message_within_the_limits_passes(topic: str) -> None:
    """256 bytes, 7 slashes, without the beginning of Basic Ingest's topics, and 128 KiB are within the limits."""
    limits.check_message(topic, b"")
    limits.check_message(topic, bytes(128 * 1024))


@pytest.mark.parametrize(
    ("topic", "why"),
    [
        ("", "it is empty"),
        ("$aws/rules/r/", "it is empty"),
        ("a\0b", "NUL"),
        ("a\udcff", "not UTF-8"),
        ("a" * 257, "257 bytes; AWS IoT accepts 256"),
        ("é" * 129, "258 bytes"),
        (f"{_EIGHT_LEVELS}/9", "8 slashes; AWS IoT accepts 7"),
        (f"$aws/rules/r/{_EIGHT_LEVELS}/9", "8 slashes"),
        ("a/+", "wildcard"),
        ("#", "wildcard"),
    ],
)
def test_a_topic_that_aws_iot_does_not_accept_is_wrong_usage(topic: str, why: str) -> None:
    """The message says what is wrong with the topic."""
    with pytest.raises(UsageError, match=why) as refused:
        limits.check_message(topic, b"")
    assert refused.value.hint


def test_a_message_that_is_too_large_is_wrong_usage() -> None:
    """One byte above 128 KiB is refused."""
    with pytest.raises(UsageError, match="larger than 128 KiB"):
        limits.check_message("a", bytes(128 * 1024 + 1))


@pytest.mark.parametrize(
    "topic_filter", ["a", "#", "+", "a/#", "+/+/#", "a/+/c", f"$share/s/{_EIGHT_LEVELS}", "$share/s/#", "a" * 256]
)
def test_a_filter_within_the_limits_passes(topic_filter: str) -> None:
    """Wildcards are levels of their own; the name of a shared subscription does not count."""
    limits.check_filter(topic_filter)


@pytest.mark.parametrize(
    ("topic_filter", "why"),
    [
        ("", "it is empty"),
        ("a/#/b", "levels of their own"),
        ("#/", "levels of their own"),
        ("a+", "levels of their own"),
        ("a#", "levels of their own"),
        ("##", "levels of their own"),
        ("$share/s/", "it is empty"),
        ("a" * 257, "257 bytes"),
        (f"{_EIGHT_LEVELS}/#", "8 slashes"),
    ],
)
def test_a_filter_that_aws_iot_does_not_accept_is_wrong_usage(topic_filter: str, why: str) -> None:
    """The message says what is wrong with the filter."""
    with pytest.raises(UsageError, match=why):
        limits.check_filter(topic_filter)
