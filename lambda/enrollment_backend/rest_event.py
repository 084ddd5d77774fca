"""Events of an API Gateway REST API, which the template uses instead of the HTTP API if it is asked for a web ACL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def as_http_event(event: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a REST API's event in an HTTP API's form, payload format 2.0; any other event is returned as it is.

    As in an HTTP API's events, the values of repeated headers and query parameters are joined by commas. Does *not*
    check anything.

    Args:
        event: what Lambda passed to the handler.
    """
    if "httpMethod" not in event:
        return event
    context = event.get("requestContext") or {}
    identity = context.get("identity") or {}
    return {
        "version": "2.0",
        "rawPath": event.get("path"),  # without the stage
        "headers": _joined(event.get("multiValueHeaders")),
        "queryStringParameters": _joined(event.get("multiValueQueryStringParameters")),
        "body": event.get("body"),
        "isBase64Encoded": event.get("isBase64Encoded"),
        "requestContext": {
            "requestId": context.get("requestId"),
            "domainName": context.get("domainName"),
            "http": {
                "method": event["httpMethod"],
                "path": context.get("path"),  # with the stage, as it was called
                "sourceIp": identity.get("sourceIp"),
            },
            "authentication": {"clientCert": identity.get("clientCert")},
            "authorizer": {"iam": {"userArn": identity.get("userArn")}},
        },
    }


def _joined(values: Mapping[str, list[str]] | None) -> dict[str, str]:
    return {name: ",".join(each) for name, each in (values or {}).items()}
