"""Writes one JSON object per line to standard error, which Lambda passes on to CloudWatch unchanged.

Lines contain names, counts, error codes, identifiers and hashes of keys; never bodies, CSRs, certificates or the codes
of invites.

The line about a request also carries its metrics, in CloudWatch's embedded metric format: the member `_aws` says which
of the other members CloudWatch counts.
"""

from __future__ import annotations

import json
import os
import sys
import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

_NAMESPACE = os.environ.get("METRICS_NAMESPACE", "hsm-enroll")  # the template gives each stack its own
_COME_BACK = {"enrollment-queued", "enrollment-in-progress"}  # outcomes after which a renewal goes on by itself
_MAX_VALUES = 100  # of one metric (embedded metric format, specification 1.0); a long sweep reports only the first ones


@dataclass
class _Request:
    id: str = ""
    facts: dict[str, str] = field(default_factory=dict)
    calls: list[tuple[str, float]] = field(default_factory=list)


_request: ContextVar[_Request] = ContextVar("request")


def begin(request_id: str) -> None:
    """Start logging about a request: every line from now on has its id."""
    _request.set(_Request(request_id))


def note(**facts: str) -> None:
    """Add facts about the current request to all further lines about it."""
    _current().facts.update(facts)


def record_call(operation: str, milliseconds: float) -> None:
    """Record how long a call to AWS took, for the line about the request."""
    _current().calls.append((operation, milliseconds))


def info(event: str, **facts: object) -> None:
    """Write a line about an expected event, such as a refused request."""
    _write("INFO", event, facts)


def error(event: str, **facts: object) -> None:
    """Write a line about something that an operator must look into."""
    _write("ERROR", event, facts)


def request(*, route: str, status: int, outcome: str, failed: bool, **facts: str) -> None:
    """Write the one line about a request that has been handled, with its metrics.

    Args:
        route: the path of the route, or ``none``.
        status: the HTTP status of the response.
        outcome: ``ok``, or the code of the problem.
        failed: whether the server is at fault; the line's level is then ERROR.
        facts: further members of the line.

    The metrics are ``Enrollments`` (a request whose fact `enrollment` is ``new``), ``Renewals`` (one whose fact
    `renewal` is ``committed``), ``RenewalFailures`` (a failed one with that fact, so that it has been proven to come
    from a device; but none that is only told to come back), ``Refusals`` by ``outcome``, and ``AwsLatency``, the
    duration of each call to AWS in milliseconds.
    """
    calls = _current().calls
    members: dict[str, object] = {"route": route, "status": status, "outcome": outcome, **facts}
    if calls:
        members["aws"] = [{"operation": operation, "ms": round(duration, 1)} for operation, duration in calls]
    _write("ERROR" if failed else "INFO", "request", members | _metrics(outcome))


def _metrics(outcome: str) -> dict[str, object]:
    """Return the metrics' values, and `_aws`, which describes them (embedded metric format, specification 1.0)."""
    values: dict[str, object] = {}
    directives = []
    if latencies := [round(duration, 1) for _, duration in _current().calls[:_MAX_VALUES]]:
        values["AwsLatency"] = latencies
        directives.append(_directive([], "AwsLatency", "Milliseconds"))
    facts = _current().facts
    counted = []
    if outcome != "ok":
        values["Refusals"] = 1
        directives.append(_directive(["outcome"], "Refusals", "Count"))
        if "renewal" in facts and outcome not in _COME_BACK:
            counted.append("RenewalFailures")
    elif facts.get("enrollment") == "new":
        counted.append("Enrollments")
    elif facts.get("renewal") == "committed":
        counted.append("Renewals")
    for name in counted:
        values[name] = 1
        directives.append(_directive([], name, "Count"))
    if not directives:
        return {}
    return {**values, "_aws": {"Timestamp": int(time.time() * 1000), "CloudWatchMetrics": directives}}


def _directive(dimensions: list[str], name: str, unit: str) -> dict[str, Any]:
    return {"Namespace": _NAMESPACE, "Dimensions": [dimensions], "Metrics": [{"Name": name, "Unit": unit}]}


def _current() -> _Request:
    return _request.get(_Request())


def _write(level: str, event: str, facts: dict[str, object]) -> None:
    current = _current()
    line = json.dumps({"level": level, "event": event, "requestId": current.id, **current.facts, **facts})
    sys.stderr.write(line + "\n")
