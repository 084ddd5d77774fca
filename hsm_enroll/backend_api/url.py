"""Which URLs are accepted as an enrollment API's."""

from __future__ import annotations

from urllib.parse import urlsplit

from hsm_enroll.backend_api.answer import printable
from hsm_enroll.errors import UsageError

_HINT = "Check --api and HSM_ENROLL_API_URL."


def checked_url(url: str) -> str:
    """Return an API's base URL without its trailing slash.

    Does *not* check that the host exists. Error messages repeat the URL, but no password and no invite's code.

    Args:
        url: ``https://HOST[:PORT][/PATH]``.

    Raises:
        UsageError: it is not an https:// URL, it has a user name, a query or a fragment, or it is not printable ASCII.
    """
    # It is shown in messages, and signed exactly as it is sent.
    if not url.isascii() or not url.isprintable() or " " in url:
        raise UsageError(
            f"the API's URL{_shown(url)} may contain printable ASCII characters only",
            hint="Write a host name that has other letters in its xn-- form.",
        )
    try:
        parts = urlsplit(url)
        has_valid_port = parts.port is None or parts.port > 0
    except ValueError as error:
        raise UsageError(f"the API's URL{_shown(url)} is not a valid URL", hint=_HINT) from error
    if parts.scheme != "https" or not parts.hostname or not has_valid_port:
        raise UsageError(f"the API's URL{_shown(url)} must be an https:// URL", hint=_HINT)
    if parts.username or parts.query or parts.fragment:
        raise UsageError(f"the API's URL{_shown(url)} may contain a host, a port and a path only", hint=_HINT)
    return url.rstrip("/")


def _shown(url: str) -> str:
    """Return a URL for a message, after a blank, without user, query and fragment; "" if it may be an invite's code."""
    shown = url.rpartition("@")[2].partition("?")[0].partition("#")[0]
    return f" '{printable(shown)}'" if not {":", "/", "."}.isdisjoint(shown) else ""
