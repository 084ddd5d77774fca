"""API Gateway in front of one Lambda function: the routes of an HTTP API, IAM authorization, a proxy integration.

See the API Gateway developer guide, "API Gateway HTTP APIs".
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import re
import uuid
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any

from werkzeug.wrappers import Response

from hsm_enroll.errors import LocalCloudError
from hsm_enroll.local.authorizer import ForbiddenError, authorize
from hsm_enroll.local.faults import Fault, Faults
from hsm_enroll.local.lambda_runtime import Handler, context
from hsm_enroll.local.payload import MalformedResponseError, Request, to_event, to_response

MAX_BODY_BYTES = 10 * 1024 * 1024  # "Payload size" in the quotas of HTTP APIs; cannot be raised

_ROUTE = "AWS::ApiGatewayV2::Route"
_ROUTE_KEY = re.compile(r"(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) /[^{}]*")
_NO_AUTHORIZATION, _IAM = "NONE", "AWS_IAM"


def routes_of(resources: Mapping[str, Any]) -> dict[str, str]:
    """Return the routes in a template, as a map from RouteKey, such as ``GET /v1/health``, to AuthorizationType.

    Args:
        resources: the template's resources.

    Raises:
        LocalCloudError: this gateway does not support a route.
    """
    found: dict[str, str] = {}
    for resource in resources.values():
        if resource["Type"] != _ROUTE:
            continue
        properties = resource["Properties"]
        key, authorization = properties["RouteKey"], properties.get("AuthorizationType", _NO_AUTHORIZATION)
        if not _ROUTE_KEY.fullmatch(str(key)) or authorization not in {_NO_AUTHORIZATION, _IAM}:
            raise LocalCloudError(
                f"The local gateway does not support the template's route {key} with authorization {authorization}.",
                hint="Add support for it to hsm_enroll/local/gateway.py, or remove it from the template.",
            )
        found[key] = authorization
    return found


class Gateway:
    """The WSGI application.

    Args:
        routes: the result of `routes_of`. A request to any other path or method gets a 404: there is no ``$default``.
        handler: the Lambda function. Concurrent requests call it in threads of one process, while Lambda would use one
            process for each.
        faults: what goes wrong with the next requests.
        log: gets a line about each request that is forbidden, about each failure of the handler, and about each fault.

    Raises ConnectionAbortedError instead of returning a response if the client has not sent the whole request, or if
    the fault is that the response is lost.

    Does not throttle, and does not stop a handler that takes longer than Lambda or API Gateway would allow.
    """

    def __init__(self, routes: Mapping[str, str], handler: Handler, faults: Faults, log: logging.Logger) -> None:
        self._routes = routes
        self._handler = handler
        self._faults = faults
        self._log = log

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        request_id = uuid.uuid4().hex[:16]
        response = self._respond(environ, _read_body(environ), request_id)
        response.headers["apigw-requestid"] = request_id
        body: Iterable[bytes] = response(environ, start_response)
        return body

    def _respond(self, environ: dict[str, Any], body: bytes, request_id: str) -> Response:
        fault = self._faults.take(environ["REQUEST_METHOD"])
        if fault is None:
            return self._regular(environ, body, request_id)
        self._log.warning("%s fault on request: %s", request_id, fault.value)
        if fault is Fault.UNAVAILABLE:
            return _message(HTTPStatus.SERVICE_UNAVAILABLE, "Service Unavailable")
        if fault is Fault.THROTTLED:
            return _message(HTTPStatus.TOO_MANY_REQUESTS, "Too Many Requests")
        if fault is Fault.SLOW:
            self._faults.delay()
        response = self._regular(environ, body, request_id)
        if fault is Fault.LOST:
            raise ConnectionAbortedError("the response is lost")
        return response

    def _regular(self, environ: dict[str, Any], body: bytes, request_id: str) -> Response:
        if len(body) > MAX_BODY_BYTES:
            too_large = _message(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "Request Entity Too Large")
            too_large.headers["connection"] = "close"  # the rest of the body is not read
            return too_large
        request, now = _request(environ, body), dt.datetime.now(dt.UTC)
        route_key = f"{request.method} {request.target.partition('?')[0]}"
        if route_key not in self._routes:
            return _message(HTTPStatus.NOT_FOUND, "Not Found")
        try:
            iam = authorize(request, now) if self._routes[route_key] == _IAM else None
        except ForbiddenError as error:
            self._log.warning("%s forbidden: %s", request_id, error)
            return _message(HTTPStatus.FORBIDDEN, "Forbidden")
        return self._invoke(to_event(request, route_key, request_id, now, iam), request_id)

    def _invoke(self, event: Mapping[str, Any], request_id: str) -> Response:
        try:
            return to_response(self._handler(json.loads(json.dumps(event)), context()))
        except MalformedResponseError as error:
            self._log.error("%s malformed response from the handler: %s", request_id, error)
        except Exception:  # noqa: BLE001 - whatever the function raises, the caller gets the same response
            self._log.exception("%s the handler raised an exception", request_id)
        return _message(HTTPStatus.INTERNAL_SERVER_ERROR, "Internal Server Error")


def _request(environ: Mapping[str, Any], body: bytes) -> Request:
    headers = {
        name.removeprefix("HTTP_").lower().replace("_", "-"): value
        for name, value in environ.items()
        if name.startswith("HTTP_") or (name in {"CONTENT_TYPE", "CONTENT_LENGTH"} and value)
    }
    return Request(
        method=environ["REQUEST_METHOD"],
        target=environ["REQUEST_URI"],
        protocol=environ["SERVER_PROTOCOL"],
        headers=headers,
        body=body,
        source_ip=environ["REMOTE_ADDR"],
        client_certificate=environ.get("SSL_CLIENT_CERT"),
    )


def _read_body(environ: Mapping[str, Any]) -> bytes:
    """Return the body, but at most one byte more than the limit.

    Raises:
        ConnectionAbortedError: the body is incomplete; API Gateway does not invoke the function then.
    """
    limit = MAX_BODY_BYTES + 1
    if environ.get("wsgi.input_terminated"):
        try:
            content: bytes = environ["wsgi.input"].read(limit)
        except OSError as error:
            raise ConnectionAbortedError("the body is incomplete") from error
        return content
    length = environ.get("CONTENT_LENGTH", "")
    limit = min(limit, int(length) if length.isdecimal() else 0)
    content = environ["wsgi.input"].read(limit)
    if len(content) < limit:
        raise ConnectionAbortedError("the body is incomplete")
    return content


def _message(status: HTTPStatus, message: str) -> Response:
    return Response(json.dumps({"message": message}), status, {"content-type": "application/json"})
