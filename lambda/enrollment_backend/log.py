"""One JSON object per line on standard error, which Lambda hands to CloudWatch as it is.

What goes in: names, counts, codes of errors, identifiers, hashes of keys. What never does: bodies, CSRs, certificates,
enrollment codes.

The line about a request is a metric too, in CloudWatch's embedded metric format: its member `_aws` says which of the
other members CloudWatch is to count.
"""

from __future__ import annotations

import json
import sys
import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

_NAMESPACE = "hsm-enroll"
_MOST_VALUES = 100  # of one metric (embedded metric format, specification 1.0); of a long sweep the first ones must do


@dataclass
class _Request:
    id: str = ""
    facts: dict[str, str] = field(default_factory=dict)
    calls: list[tuple[str, float]] = field(default_factory=list)


_request: ContextVar[_Request] = ContextVar("request")


def begin(request_id: str) -> None:
    """Begin with a request: every line from now on bears its id."""
    _request.set(_Request(request_id))


def note(**facts: str) -> None:
    """Keep facts about the request at hand for every further line about it."""
    _current().facts.update(facts)


def timed(operation: str, milliseconds: float) -> None:
    """Keep how long a call to AWS took."""
    _current().calls.append((operation, milliseconds))


def info(event: str, **facts: object) -> None:
    """Write a line about something that is as it should be, a refused request included."""
    _write("INFO", event, facts)


def error(event: str, **facts: object) -> None:
    """Write a line about something an operator has to look at."""
    _write("ERROR", event, facts)


def request(*, route: str, status: int, outcome: str, failed: bool, **facts: str) -> None:
    """Write the one line about an answered request, with its metrics.

    Args:
        route: method and path, or ``none``.
        status: of HTTP.
        outcome: ``ok``, or the code of the problem.
        failed: whether it is the server's fault.
        facts: what else there is to know.

    Counts ``Enrollments`` (where the fact `enrollment` is ``new``) and ``Refusals`` by ``outcome``, and hands over the
    latency of every call to AWS as ``AwsLatency`` in milliseconds.
    """
    calls = _current().calls
    members: dict[str, object] = {"route": route, "status": status, "outcome": outcome, **facts}
    if calls:
        members["aws"] = [{"operation": operation, "ms": round(spent, 1)} for operation, spent in calls]
    _write("ERROR" if failed else "INFO", "request", members | _metrics(outcome))


def _metrics(outcome: str) -> dict[str, object]:
    """Return the members that CloudWatch counts, and what tells it so (embedded metric format, specification 1.0)."""
    values: dict[str, object] = {}
    directives = []
    if latencies := [round(spent, 1) for _, spent in _current().calls[:_MOST_VALUES]]:
        values["AwsLatency"] = latencies
        directives.append(_directive([], "AwsLatency", "Milliseconds"))
    if outcome != "ok":
        values["Refusals"] = 1
        directives.append(_directive(["outcome"], "Refusals", "Count"))
    elif _current().facts.get("enrollment") == "new":
        values["Enrollments"] = 1
        directives.append(_directive([], "Enrollments", "Count"))
    if not directives:
        return {}
    return {**values, "_aws": {"Timestamp": int(time.time() * 1000), "CloudWatchMetrics": directives}}


def _directive(dimensions: list[str], name: str, unit: str) -> dict[str, Any]:
    return {"Namespace": _NAMESPACE, "Dimensions": [dimensions], "Metrics": [{"Name": name, "Unit": unit}]}


def _current() -> _Request:
    return _request.get(_Request())


def _write(level: str, event: str, facts: dict[str, object]) -> None:
    known = _current()
    line = json.dumps({"level": level, "event": event, "requestId": known.id, **known.facts, **facts})
    sys.stderr.write(line + "\n")
