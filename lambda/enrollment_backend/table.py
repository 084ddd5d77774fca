"""The ledger's DynamoDB table: translates between plain Python values and DynamoDB's, and makes the calls.

An item maps names to strings, integers and booleans; a value that is None is left out. Its key consists of `kind` and
`id`. This module does not know what an item means.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from enrollment_backend.aws import call
from enrollment_backend.aws_errors import ThrottledError

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

Item = dict[str, Any]
Key = tuple[str, str]

Position = tuple[int, str]
"""Where an item is in a list: its `created` and its `id`."""

INDEX = "by-time"  # of the template: kind, created
_NAME = re.compile(r"#(\w+)")
_MAX_KEYS_IN_BATCH = 100  # BatchGetItem
# A query reads up to 1 MB. Where a filter finds little, a page ends after so many, before the request takes too long.
_MAX_QUERIES = 8


@dataclass(frozen=True)
class Write:
    """One write of a transaction: an update, unless `replace` or `delete` is set.

    Attributes:
        key: the item's key.
        values: the values to set; None removes a value.
        condition: a condition expression; empty if there is none. It refers to a value of the item as ``#name``, and to
            a member of `expected` as ``:name``.
        expected: the values that the condition refers to.
        replace: whether to replace the whole item by `values`; otherwise its other values stay.
        delete: whether to delete the item.
        add: integers to add to existing values.
    """

    key: Key
    values: Mapping[str, object]
    condition: str
    expected: Mapping[str, object]
    replace: bool = False
    delete: bool = False
    add: Mapping[str, int] | None = None


@dataclass(frozen=True)
class Selection:
    """Which items of a kind a list has.

    Attributes:
        condition: a filter expression, with names and values as in `Write.condition`; empty for all items.
        expected: the values that the condition refers to.
    """

    condition: str = ""
    expected: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """A DynamoDB table.

    Args:
        dynamodb: the client.
        name: the table's name.

    Every method raises the errors of `aws.call`.
    """

    dynamodb: DynamoDBClient
    name: str

    def get(self, keys: Iterable[Key], *names: str) -> dict[Key, Item]:
        """Read items, with strong consistency; the result has only those that exist.

        Args:
            keys: their keys.
            names: which attributes to read besides the key; none for all.
        """
        read_only = "" if not names else ", ".join(f"#{name}" for name in ("kind", "id", *names))
        asked: Any = {"ConsistentRead": True} | _expression("ProjectionExpression", read_only, "", {})
        unique_keys = [_key(key) for key in dict.fromkeys(keys)]
        found: dict[Key, Item] = {}
        for start in range(0, len(unique_keys), _MAX_KEYS_IN_BATCH):
            batch = unique_keys[start : start + _MAX_KEYS_IN_BATCH]
            with call("BatchGetItem"):
                response = self.dynamodb.batch_get_item(RequestItems={self.name: asked | {"Keys": batch}})
                read = response["Responses"].get(self.name, [])
            if response.get("UnprocessedKeys"):
                raise ThrottledError("BatchGetItem", "UnprocessedKeys")
            items = [_plain(item) for item in read]
            found |= {(item["kind"], item["id"]): item for item in items}
        return found

    def snapshot(self, *keys: Key) -> dict[Key, Item]:
        """Read up to a hundred items as they were at one moment; the result has only those that exist.

        Raises:
            ConditionFailedError: a transaction is writing them.
        """
        items: list[Any] = [{"Get": {"TableName": self.name, "Key": _key(key)}} for key in keys]
        with call("TransactGetItems"):
            responses = self.dynamodb.transact_get_items(TransactItems=items)["Responses"]
        found = [_plain(response["Item"]) for response in responses if response.get("Item")]
        return {(item["kind"], item["id"]): item for item in found}

    def transact(self, writes: Iterable[Write]) -> None:
        """Carry out all writes, or none.

        Raises:
            ConditionFailedError: a condition does not hold, or another transaction is writing the same items. Nothing
                was written.
        """
        items: list[Any] = [{_operation(write): {"TableName": self.name, **_arguments(write)}} for write in writes]
        with call("TransactWriteItems"):
            self.dynamodb.transact_write_items(TransactItems=items)

    def update(self, write: Write) -> Item:
        """Carry out one update, without a transaction, and return the item as it is then.

        Raises:
            ConditionFailedError: the condition does not hold. Nothing was written.
        """
        with call("UpdateItem"):
            response = self.dynamodb.update_item(TableName=self.name, ReturnValues="ALL_NEW", **_arguments(write))
            return _plain(response["Attributes"])

    def page(
        self, kind: str, selection: Selection, after: Position | None, size: int
    ) -> tuple[list[Item], Position | None]:
        """Return a page of the items of one kind that have `created`, newest first, as the index has them.

        The index follows the table within moments. Its items have only the attributes that the template projects.

        Args:
            kind: the items' kind.
            selection: which of them.
            after: the position after which the page starts; None for the first page.
            size: the maximum number of items. A page may have fewer, even none, and be followed by another.

        Returns:
            The items, and the position after which the next page starts; None if this is the last page.
        """
        found: list[Item] = []
        for _ in range(_MAX_QUERIES):
            items, after = self._query(kind, selection, after, size - len(found))
            found += items
            if len(found) > size:
                found = found[:size]
                after = _position(found[-1])
            if after is None or len(found) == size:
                break
        return found, after

    def of_kind(self, kind: str) -> list[Item]:
        """Return all items of one kind, in the order of their ids and with strong consistency: for kinds with few."""
        found: list[Item] = []
        start: Any = {}
        key_condition, values = "#kind = :kind", {":kind": _attribute(kind)}
        while True:
            with call("Query"):
                response = self.dynamodb.query(
                    TableName=self.name,
                    ConsistentRead=True,
                    KeyConditionExpression=key_condition,
                    **_expression("FilterExpression", "", key_condition, values),
                    **start,
                )
                found += [_plain(item) for item in response["Items"]]
            if "LastEvaluatedKey" not in response:
                return found
            start = {"ExclusiveStartKey": response["LastEvaluatedKey"]}

    def lacking(self, kind: str, name: str, after: str | None, size: int) -> tuple[list[Item], str | None]:
        """Read a page of the items of one kind, in the order of their ids, and return those without an attribute.

        Args:
            kind: the items' kind.
            name: the attribute.
            after: the id after which the page starts; None for the first page.
            size: how many items are read at most.

        Returns:
            The items, and the id after which the next page starts; None if this is the last page.
        """
        key_condition, condition = "#kind = :kind", f"attribute_not_exists(#{name})"
        values = {":kind": _attribute(kind)}
        start: Any = {} if after is None else {"ExclusiveStartKey": _key((kind, after))}
        with call("Query"):
            response = self.dynamodb.query(
                TableName=self.name,
                KeyConditionExpression=key_condition,
                Limit=size,
                **_expression("FilterExpression", condition, key_condition, values),
                **start,
            )
        last = response.get("LastEvaluatedKey")
        return [_plain(item) for item in response["Items"]], _plain(last)["id"] if last else None

    def _query(
        self, kind: str, selection: Selection, after: Position | None, size: int
    ) -> tuple[list[Item], Position | None]:
        start: Any = {}
        if after is not None:
            start["ExclusiveStartKey"] = _attributes({"kind": kind, "created": after[0], "id": after[1]})
        if not selection.condition:  # otherwise the limit would be that of the items read, not of those found
            start["Limit"] = size
        key_condition = "#kind = :kind"
        values = {f":{name}": _attribute(value) for name, value in {"kind": kind, **selection.expected}.items()}
        with call("Query"):
            response = self.dynamodb.query(
                TableName=self.name,
                IndexName=INDEX,
                KeyConditionExpression=key_condition,
                ScanIndexForward=False,
                **_expression("FilterExpression", selection.condition, key_condition, values),
                **start,
            )
            items = response["Items"]
        last = response.get("LastEvaluatedKey")
        return [_plain(item) for item in items], _position(_plain(last)) if last else None


def _position(item: Item) -> Position:
    return item["created"], item["id"]


def _key(key: Key) -> dict[str, Any]:
    return _attributes({"kind": key[0], "id": key[1]})


def _operation(write: Write) -> str:
    if write.delete:
        return "Delete"
    return "Put" if write.replace else "Update"


def _arguments(write: Write) -> Any:
    """Return the arguments of Put, Delete or Update.

    Every name is passed as a placeholder, because some of ours are reserved words in DynamoDB.
    """
    expected = {f":{name}": _attribute(value) for name, value in write.expected.items()}
    if write.delete:
        return {"Key": _key(write.key)} | _condition(write.condition, "", expected)
    if write.replace:
        return {"Item": _key(write.key) | _attributes(write.values)} | _condition(write.condition, "", expected)
    new = {name: value for name, value in write.values.items() if value is not None}
    clauses = {
        "SET": [f"#{name} = :new_{name}" for name in new],
        "REMOVE": [f"#{name}" for name in write.values if name not in new],
        "ADD": [f"#{name} :add_{name}" for name in write.add or {}],
    }
    values = expected | {f":new_{name}": _attribute(value) for name, value in new.items()}
    values |= {f":add_{name}": _attribute(number) for name, number in (write.add or {}).items()}
    update = " ".join(f"{verb} {', '.join(parts)}" for verb, parts in clauses.items() if parts)
    return {"Key": _key(write.key), "UpdateExpression": update} | _condition(write.condition, update, values)


def _condition(condition: str, update: str, values: dict[str, Any]) -> dict[str, Any]:
    return _expression("ConditionExpression", condition, update, values)


def _expression(kind: str, expression: str, other: str, values: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments for an expression and for the placeholders in it and in another one.

    Only those that are used: DynamoDB refuses unused placeholders and empty arguments.
    """
    parts = {
        kind: expression,
        "ExpressionAttributeNames": {f"#{name}": name for name in _NAME.findall(f"{expression} {other}")},
        "ExpressionAttributeValues": values,
    }
    return {name: part for name, part in parts.items() if part}


def _attributes(item: Mapping[str, object]) -> dict[str, Any]:
    return {name: _attribute(value) for name, value in item.items() if value is not None}


def _attribute(value: object) -> dict[str, object]:
    if isinstance(value, bool):
        return {"BOOL": value}
    return {"N": str(value)} if isinstance(value, int) else {"S": value}


def _plain(item: Mapping[str, Any]) -> Item:
    return {name: _value(attribute) for name, attribute in item.items()}


def _value(attribute: Mapping[str, Any]) -> str | int | bool:
    ((kind, value),) = attribute.items()
    if kind == "N":
        return int(value)
    result: str | bool = value
    return result
