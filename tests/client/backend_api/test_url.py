"""Which URLs are accepted as an enrollment API's."""

from __future__ import annotations

import pytest

from hsm_enroll.backend_api.url import checked_url
from hsm_enroll.errors import UsageError


@pytest.mark.parametrize(
    ("url", "checked"),
    [
        ("https://api.example", "https://api.example"),
        ("https://api.example/", "https://api.example"),
        ("https://API.example:8443/stage/", "https://API.example:8443/stage"),
        ("https://[::1]:1", "https://[::1]:1"),
    ],
)
def test_an_https_url_loses_its_trailing_slash_only(url: str, checked: str) -> None:
    """Host, port and path stay as they are."""
    assert checked_url(url) == checked


@pytest.mark.parametrize(
    "url",
    [
        *("", "api.example", "http://api.example", "ftp://api.example", "https://", "https:///path", "https://:443"),
        *("https://api.example:99999", "https://api.example:0", "https://api.example:x", "https://[::1"),
        *("https://user@api.example", "https://user:hush@api.example", "https://api.example/?x=1", "https://a#b"),
        *("https://a b", "https://a/\x1b[0m", "https://a\n", "https://\u0430.example", "https://a/\udcff"),
    ],
)
def test_anything_else_is_wrong_usage(url: str) -> None:
    """A URL that would send a code in the clear, that is not a base URL, or that could steer a terminal is refused."""
    with pytest.raises(UsageError) as raised:
        checked_url(url)
    assert raised.value.hint
    assert "hush" not in raised.value.message + raised.value.hint
    assert raised.value.message.isprintable()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://api.example/stage", " 'http://api.example/stage' "),
        ("https://user:hush@api.example", " 'api.example' "),
        ("https://api.example/#FQ18Y-HUSH0", " 'https://api.example/' "),
        ("https://user:hu#hush@api.example", " 'api.example' "),
        ("https://api.example/?code=hush", " 'https://api.example/' "),
        ("https://a/\x1b[0m", r" 'https://a/\x1b[0m' "),
        ("FQ18Y-HUSH0", "URL must"),
        ("", "URL must"),
    ],
)
def test_the_wrong_url_is_shown_without_its_secrets(url: str, shown: str) -> None:
    """The message repeats the URL, printable, but no password, and nothing that may be an invite's code."""
    with pytest.raises(UsageError) as raised:
        checked_url(url)
    assert shown in raised.value.message
    assert "hush" not in raised.value.message.lower()
