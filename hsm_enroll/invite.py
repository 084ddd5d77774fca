"""An invite: the one URL that a technician is handed, ``https://API/#CODE``."""

from __future__ import annotations

from dataclasses import dataclass

from hsm_enroll.errors import UsageError
from hsm_enroll.secret import Secret

_HINT = "An invite looks like https://API/#CODE; copy it whole."


@dataclass(frozen=True, slots=True)
class Invite:
    """Where to enroll, and the right to do so.

    Attributes:
        api_url: base URL of the enrollment API.
        code: the enrollment code, as it was written.
    """

    api_url: str
    code: Secret


def parse(text: str) -> Invite:
    """Split an invite into API and code. Does *not* check the code.

    Raises:
        UsageError: it is not an HTTPS URL with a code; the text is not repeated, since it may hold one.
    """
    api_url, _, code = text.strip().partition("#")
    if not api_url.startswith("https://") or not code or not code.isascii() or not code.isprintable():
        raise UsageError("that is not an invite", hint=_HINT)
    return Invite(api_url.rstrip("/"), Secret(code))
