"""One JSON object per line on standard error, which Lambda hands to CloudWatch as it is.

What goes in: names, counts, codes of errors, identifiers. What never does: bodies, CSRs, certificates, invites.
"""

from __future__ import annotations

import json
import sys
from contextvars import ContextVar

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""The request at hand, set once by the handler, so that no line can forget it."""


def info(event: str, **facts: str | int) -> None:
    """Write a line about something that is as it should be, a refused request included."""
    _write("INFO", event, facts)


def error(event: str, **facts: str | int) -> None:
    """Write a line about something an operator has to look at."""
    _write("ERROR", event, facts)


def _write(level: str, event: str, facts: dict[str, str | int]) -> None:
    line = json.dumps({"level": level, "event": event, "requestId": request_id.get(), **facts})
    sys.stderr.write(line + "\n")
