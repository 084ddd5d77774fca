"""DynamoDB of a local cloud, seen by AWS's own client."""

from __future__ import annotations

from typing import Any
from unittest import mock

import boto3
import pytest
from moto.core.serialize import ResponseSerializer

from hsm_enroll.local.cloud import Endpoints
from tests.support.clients import aws
from tests.support.deployment import REGION, TABLE, deployed

_KEY: Any = {
    "AttributeDefinitions": [{"AttributeName": name, "AttributeType": "S"} for name in ("kind", "id")],
    "KeySchema": [{"AttributeName": "kind", "KeyType": "HASH"}, {"AttributeName": "id", "KeyType": "RANGE"}],
    "BillingMode": "PAY_PER_REQUEST",
}


@pytest.fixture
def table(cloud: Endpoints) -> Any:
    """A client of DynamoDB, where the table ``any`` is empty."""
    client = aws(cloud, "dynamodb")
    client.create_table(TableName="any", **_KEY)
    yield client
    client.delete_table(TableName="any")


def _query(client: Any, table: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.query(
        TableName=table,
        KeyConditionExpression="kind = :kind",
        ExpressionAttributeValues={":kind": {"S": "of all"}},
    )["Items"]
    return found


def test_a_value_of_each_type_comes_back_as_it_was_put(table: Any) -> None:
    """GetItem, Query and Scan answer with the same item, nested values, sets and bytes too."""
    item = {
        "kind": {"S": "of all"},
        "id": {"S": "ä\n"},
        "number": {"N": "-12.5"},
        "bytes": {"B": b"\x00\xff"},
        "truth": {"BOOL": False},
        "nothing": {"NULL": True},
        "list": {"L": [{"S": ""}, {"L": []}, {"M": {"inner": {"N": "0"}}}]},
        "map": {"M": {"B": {"B": b"B"}, "S": {"S": "N"}}},
        "strings": {"SS": ["a", "b"]},
        "numbers": {"NS": ["1", "2"]},
        "several bytes": {"BS": [b"\x01", b"\x02"]},
    }
    table.put_item(TableName="any", Item=item)
    key = {name: item[name] for name in ("kind", "id")}
    assert table.get_item(TableName="any", Key=key)["Item"] == item
    assert _query(table, "any") == [item]
    assert table.scan(TableName="any")["Items"] == [item]


def test_items_are_written_without_looking_for_what_they_lack() -> None:
    """An answer with twenty items takes as many look-ups of members as one with a single item."""
    seen: list[str] = []
    lookups: list[int] = []
    look_up = ResponseSerializer.get_value

    def seeing(self: Any, value: Any, key: str, shape: Any) -> Any:
        seen.append(key)
        return look_up(self, value, key, shape)

    with deployed(), mock.patch.object(ResponseSerializer, "get_value", seeing):
        client = boto3.client("dynamodb", region_name=REGION)
        for count in (1, 20):
            for number in range(count):
                client.put_item(TableName=TABLE, Item={"kind": {"S": "of all"}, "id": {"S": str(number)}})
            seen.clear()
            assert len(_query(client, TABLE)) == count
            lookups.append(len(seen))
    assert lookups[0] == lookups[1] > 0
