"""When Things were last seen: what fleet indexing is asked, what its answers mean, and why there may be none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.session import Session

from hsm_enroll.operator.last_seen import LastSeen, Sighting, Unknown
from tests.operator.api.stand_in import REGION
from tests.support.authority import Authority
from tests.support.https_server import HttpsServer, https_server, response
from tests.support.quick_aws import quick_aws

pytestmark = pytest.mark.usefixtures("operator_credentials")


def _indexed(**modes: str) -> bytes:
    return response("200 OK", json.dumps({"thingIndexingConfiguration": modes}))


_ON = _indexed(thingIndexingMode="REGISTRY", thingConnectivityIndexingMode="STATUS")
_WHEN = datetime(2026, 11, 24, 10, 0, 0, 500_000, tzinfo=UTC)


def _refused(status: str, code: str) -> bytes:
    return response(status, '{"message": "no"}', f"x-amzn-ErrorType: {code}:http://internal.amazon.com/coral/")


def _found(*things: dict[str, Any]) -> bytes:
    return response("200 OK", json.dumps({"things": things}))


@contextmanager
def _aws(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, *answers: bytes
) -> Iterator[tuple[LastSeen, HttpsServer]]:
    """AWS IoT with these answers, one after the other."""
    with https_server(authority, *answers) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(authority.certificate))
        yield LastSeen(Session(), REGION), server


def _queries(server: HttpsServer) -> list[str]:
    return [
        json.loads(request.partition(b"\r\n\r\n")[2])["queryString"]
        for request in server.requests
        if urlsplit(request.split(b" ")[1]).path == b"/indices/search"
    ]


def test_what_the_index_knows(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connected or not, and since when; never, if it says no time; a Thing that only differs in case is another one."""
    milliseconds = int(_WHEN.timestamp() * 1000)
    found = _found(
        {"thingName": "a", "connectivity": {"connected": True, "timestamp": milliseconds}},
        {"thingName": "A", "connectivity": {"connected": True, "timestamp": 1}},
        {"thingName": "b", "connectivity": {"connected": False, "timestamp": milliseconds}},
        {"thingName": "c", "connectivity": {"connected": False}},
        {"thingName": "d", "connectivity": {"connected": False, "timestamp": 0}},
        {"thingName": "e"},
    )
    with _aws(authority, monkeypatch, _ON, found) as (last_seen, _):
        never = Sighting(False, None)
        known = {"a": Sighting(True, _WHEN), "b": Sighting(False, _WHEN), "c": never, "d": never, "e": never}
        assert last_seen.of([*"abcdef"]) == known


def test_a_query_is_as_long_as_aws_allows(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most 12 Things in each, and 1,000 characters; each Thing is asked for once."""
    short, long = [f"gateway-{number}" for number in range(30)], [f"{number:0128}" for number in range(16)]
    with _aws(authority, monkeypatch, _ON, _found()) as (last_seen, server):
        last_seen.of([*short, *long])
        queries = _queries(server)
    assert [term for query in queries for term in query.split(" OR ")] == [f"thingName:{one}" for one in short + long]
    assert [query.count("thingName:") for query in queries[:2]] == [12, 12]
    assert max(map(len, queries)) <= 1000
    assert len(queries) < 6


def test_what_has_a_meaning_in_queries_is_escaped(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """A colon, and a dash in front; AWS's developer guide has the backslash for that."""
    with _aws(authority, monkeypatch, _ON, _found()) as (last_seen, server):
        last_seen.of(["line3:gateway-1", "-gateway"])
        assert _queries(server) == [r"thingName:line3\:gateway-1 OR thingName:\-gateway"]


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        ([_indexed(thingIndexingMode="OFF")], Unknown.OFF),
        ([_indexed(thingIndexingMode="REGISTRY", thingConnectivityIndexingMode="OFF")], Unknown.OFF),
        ([_refused("403 Forbidden", "AccessDeniedException")], Unknown.FORBIDDEN),
        ([_ON, _refused("401 Unauthorized", "UnauthorizedException")], Unknown.FORBIDDEN),
        ([_ON, _refused("400 Bad Request", "IndexNotReadyException")], Unknown.FAILED),
        ([_ON, response("500 Oops", "<html>")], Unknown.FAILED),
        ([response("200 OK", "<html>")], Unknown.FAILED),
        ([_ON, response("200 OK", "<html>")], Unknown.FAILED),
        ([_ON, response("200 OK", "[[[")], Unknown.FAILED),
        ([_ON, response("200 OK", '{"things": [1]}')], Unknown.FAILED),
        ([_ON, _found({"connectivity": {"connected": True}})], Unknown.FAILED),
        ([_ON, _found({"thingName": "a", "connectivity": {"timestamp": 10**18}})], Unknown.FAILED),
        ([_ON, _found({"thingName": "a", "connectivity": {"timestamp": "soon"}})], Unknown.FAILED),
    ],
)
def test_why_it_is_not_known(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, answers: list[bytes], why: Unknown
) -> None:
    """Not enabled, not allowed, or failed: it is a value, never an error."""
    with _aws(authority, monkeypatch, *answers) as (last_seen, _):
        assert last_seen.of(["a"]) is why


def test_aws_that_cannot_be_reached_is_no_error(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of Things is shown without AWS IoT."""
    with _aws(authority, monkeypatch, _ON) as (last_seen, _):
        pass
    assert last_seen.of(["a"]) is Unknown.FAILED


def test_names_with_a_meaning_in_queries_are_found() -> None:
    """A colon, or a dash in front; moto understands the queries as AWS's developer guide describes them."""
    names = ["line3:gateway", "-gateway", "gateway-17", "a_b"]
    with quick_aws():
        iot = boto3.client("iot", region_name=REGION)
        for name in [*names, "gateway", "another"]:
            iot.create_thing(thingName=name)
        last_seen = LastSeen(Session(), REGION)
        assert last_seen.of(names) is Unknown.OFF
        iot.update_indexing_configuration(
            thingIndexingConfiguration={"thingIndexingMode": "REGISTRY", "thingConnectivityIndexingMode": "STATUS"}
        )
        seen = last_seen.of(names)
        assert isinstance(seen, dict)
        assert sorted(seen) == sorted(names)
