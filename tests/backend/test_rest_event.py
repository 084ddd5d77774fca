"""Events of a REST API, which the deployment with a web ACL has: the function answers them as those of the HTTP API."""

from __future__ import annotations

import base64
import json
from typing import Any

from enrollment_backend.rest_event import as_http_event
from tests.support.csr_factory import THING, pem_of, request
from tests.support.deployment import OPERATOR, deployed
from tests.support.est import EstClient, body_of


def rest_event(
    method: str,
    path: str,
    body: bytes = b"",
    headers: dict[str, list[str]] | None = None,
    query: dict[str, list[str]] | None = None,
    operator: str | None = None,
) -> dict[str, Any]:
    """Return what a REST API with Lambda proxy integration and binary media types passes on."""
    headers = headers or {}
    return {
        "resource": path,
        "path": path,
        "httpMethod": method,
        "headers": {name: values[-1] for name, values in headers.items()} or None,
        "multiValueHeaders": headers or None,
        "queryStringParameters": None if query is None else {name: values[-1] for name, values in query.items()},
        "multiValueQueryStringParameters": query,
        "pathParameters": None,
        "stageVariables": None,
        "requestContext": {
            "path": f"/edge{path}",
            "stage": "edge",
            "httpMethod": method,
            "requestId": "c6af9ac6-7b61-11e6-9a41-93e8deadbeef",
            "identity": {"sourceIp": "192.0.2.1", "userArn": operator},
        },
        "body": base64.b64encode(body).decode() if body else None,
        "isBase64Encoded": bool(body),
    }


def test_a_device_enrolls_through_a_rest_api() -> None:
    """The body, the path without the stage, and the headers in any case: the same answer as from the HTTP API."""
    body = json.dumps({"thingName": THING, "csr": pem_of(request())}).encode()
    with deployed() as backend:
        event = rest_event("POST", "/v1/certificates", body, {"Content-Type": ["application/json"]})
        answer = backend.handler.lambda_handler(event, None)
    assert answer["statusCode"] == 201
    assert json.loads(answer["body"])["thingName"] == THING


def test_an_operator_is_whom_api_gateway_has_verified() -> None:
    """Who signed is in another place of the event; a request that nobody signed is refused on an operator's route."""
    with deployed() as backend:
        signed = backend.handler.lambda_handler(rest_event("GET", "/v1/operator/fleet", operator=OPERATOR), None)
        unsigned = backend.handler.lambda_handler(rest_event("GET", "/v1/operator/fleet"), None)
    assert (signed["statusCode"], unsigned["statusCode"]) == (200, 403)


def test_an_est_client_is_whom_api_gateway_has_seen_the_certificate_of() -> None:
    """The certificate of a connection with mutual TLS is in another place of the event, too."""
    with deployed() as backend:
        client = EstClient(backend, THING)
        client.take(client.enroll())
        path, body = "/.well-known/est/simplereenroll", body_of(request(client.key))
        made = rest_event("POST", path, body, {"Content-Type": ["application/pkcs10"]})
        without = backend.handler.lambda_handler(made, None)
        made["requestContext"]["identity"]["clientCert"] = {"clientCertPem": client.certificate}
        assert (backend.handler.lambda_handler(made, None)["statusCode"], without["statusCode"]) == (200, 403)


def test_repeated_headers_and_parameters_are_joined() -> None:
    """As the HTTP API joins them: a second value is seen and not lost."""
    event = as_http_event(rest_event("GET", "/x", headers={"Authorization": ["a", "b"]}, query={"limit": ["1", "2"]}))
    assert event["headers"] == {"Authorization": "a,b"}
    assert event["queryStringParameters"] == {"limit": "1,2"}
    assert event["requestContext"]["requestId"] == "c6af9ac6-7b61-11e6-9a41-93e8deadbeef"


def test_other_events_stay_as_they_are() -> None:
    """An HTTP API's event is not touched."""
    event = {"version": "2.0", "rawPath": "/v1/health"}
    assert as_http_event(event) is event
