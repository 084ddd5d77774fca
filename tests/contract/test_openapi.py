"""openapi.yaml, the template and the backend's code know the same routes and the same problems."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest

from enrollment_backend import device_api, est, http, operator_api, tpm_api
from enrollment_backend.errors import EnrollmentError
from hsm_enroll.local.gateway import routes_of
from tests.support.openapi import SPEC
from tests.support.stack import template

OPERATIONS: dict[tuple[str, str], dict[str, Any]] = {
    (path, method.upper()): operation for path, item in SPEC["paths"].items() for method, operation in item.items()
}
# API Gateway answers where it has no route, in words of its own: these two never come to a client.
ANSWERED_BY_THE_GATEWAY = {http.NotFoundError.code, http.MethodNotAllowedError.code}


def kinds_of(error: type[EnrollmentError]) -> Iterator[type[EnrollmentError]]:
    """Yield an error of the backend and all below it that have a code of their own."""
    if "code" in vars(error) and error.__module__.startswith("enrollment_backend"):
        yield error
    for kind in error.__subclasses__():
        yield from kinds_of(kind)


def problems() -> dict[str, set[str]]:
    """Return the codes that can come to a client, by the status that the backend gives them."""
    found = defaultdict(set)
    for kind in kinds_of(EnrollmentError):
        if kind.code not in ANSWERED_BY_THE_GATEWAY:
            found[str(http.status_of(kind).value)].add(kind.code)
    return dict(found)


def resolved(response: dict[str, Any]) -> dict[str, Any]:
    """Return a response, wherever it stands."""
    if "$ref" not in response:
        return response
    found: dict[str, Any] = SPEC["components"]["responses"][response["$ref"].rpartition("/")[2]]
    return found


def codes_of(response: dict[str, Any]) -> set[str]:
    """Return the problem codes that a response may have."""
    problem = resolved(response).get("content", {}).get("application/problem+json")
    return set(problem["schema"]["properties"]["code"]["enum"]) if problem else set()


def test_the_contract_the_template_and_the_handler_have_the_same_routes() -> None:
    """Paths and methods are the same three times."""
    handler = dict(device_api.routes(mock.Mock(), mock.Mock()))
    handler |= operator_api.routes(mock.Mock(), mock.Mock(), mock.Mock(), mock.Mock())
    handler |= tpm_api.routes(mock.Mock())
    handler |= est.routes(mock.Mock(), mock.Mock(), mock.Mock())
    routes = {(path, method) for path, methods in handler.items() for method in methods}
    template_routes = {tuple(key.split(" ")[::-1]) for key in routes_of(template()["Resources"])}
    assert template_routes == routes
    assert OPERATIONS.keys() == routes


def test_the_contract_and_the_template_have_the_same_operations_signed() -> None:
    """What the contract says is signed with SigV4 is what API Gateway lets through by IAM only."""
    signed = {key for key, operation in OPERATIONS.items() if {"iam": []} in operation.get("security", [])}
    routes = routes_of(template()["Resources"])
    assert signed == {tuple(key.split(" ")[::-1]) for key, kind in routes.items() if kind == "AWS_IAM"}


def test_the_contract_names_each_problem_at_its_status() -> None:
    """Every code that the backend can answer is in the contract at the status it has there, and no other is."""
    named: defaultdict[str, set[str]] = defaultdict(set)
    for operation in OPERATIONS.values():
        for status, response in operation["responses"].items():
            named[status] |= codes_of(response)
    assert {status: codes for status, codes in named.items() if codes} == problems()


@pytest.mark.parametrize("name", SPEC["components"]["responses"])
def test_a_response_explains_the_codes_it_has(name: str) -> None:
    """The description names each code, but for 400, whose codes explain themselves; it names none that is not there."""
    response = SPEC["components"]["responses"][name]
    everything = set().union(*problems().values())
    described = {code for code in everything if re.search(rf"(?<![\w-]){code}(?![\w-])", response["description"])}
    assert described == (set() if name == "BadRequest" else codes_of(response))


def test_every_operation_that_can_fail_says_so() -> None:
    """Any operation can be answered 500; any but those that contact nobody, 429, 502 and 503."""
    alone = {"/v1/health", f"{est.ROOT}/cacerts", f"{est.ROOT}/csrattrs"}
    for (path, _), operation in OPERATIONS.items():
        expected = {"500"} if path in alone else {"429", "500", "502", "503"}
        assert expected == operation["responses"].keys() & {"429", "500", "502", "503"}
