"""The ledger's DynamoDB table: plain items in, plain items out, and the few calls that the ledger makes.

An item is a mapping of names to text, whole numbers and truth values; what is None is left out. Its key is `kind` and
`id`. What it means is not known here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from enrollment_backend.aws import call
from enrollment_backend.errors import ThrottledError

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

Item = dict[str, Any]
Key = tuple[str, str]

_NAME = re.compile(r"#(\w+)")
_MOST_KEYS_OF_A_BATCH = 100  # BatchGetItem


@dataclass(frozen=True)
class Write:
    """One write of a transaction, or one that stands alone.

    Attributes:
        key: of the item.
        values: what it says from now on; None takes a value away.
        condition: a condition expression, empty for none; it says ``#name`` for a value of the item, and ``:name`` for
            a member of `expected`.
        expected: the values in it.
        replace: whether the item consists of `values` alone; otherwise its other values stay.
        delete: whether the item goes away.
        add: whole numbers to add to values that are there.
    """

    key: Key
    values: Mapping[str, object]
    condition: str
    expected: Mapping[str, object]
    replace: bool = False
    delete: bool = False
    add: Mapping[str, int] | None = None


@dataclass(frozen=True)
class Table:
    """One table.

    Args:
        dynamodb: the client.
        name: of the table.

    Every method raises the errors of `aws.call`.
    """

    dynamodb: DynamoDBClient
    name: str

    def get(self, keys: Iterable[Key]) -> dict[Key, Item]:
        """Read items, up to date (strongly consistent); those that are not there are left out."""
        wanted = [_key(key) for key in dict.fromkeys(keys)]
        found: dict[Key, Item] = {}
        for start in range(0, len(wanted), _MOST_KEYS_OF_A_BATCH):
            part = wanted[start : start + _MOST_KEYS_OF_A_BATCH]
            with call("BatchGetItem"):
                answer = self.dynamodb.batch_get_item(RequestItems={self.name: {"Keys": part, "ConsistentRead": True}})
            if answer.get("UnprocessedKeys"):
                raise ThrottledError("BatchGetItem", "UnprocessedKeys")
            items = [_plain(item) for item in answer["Responses"].get(self.name, [])]
            found |= {(item["kind"], item["id"]): item for item in items}
        return found

    def snapshot(self, *keys: Key) -> dict[Key, Item]:
        """Read up to a hundred items as they were at one moment; those that are not there are left out.

        Raises:
            ConditionFailedError: a transaction was at them.
        """
        items: list[Any] = [{"Get": {"TableName": self.name, "Key": _key(key)}} for key in keys]
        with call("TransactGetItems"):
            responses = self.dynamodb.transact_get_items(TransactItems=items)["Responses"]
        found = [_plain(response["Item"]) for response in responses if response.get("Item")]
        return {(item["kind"], item["id"]): item for item in found}

    def transact(self, writes: Iterable[Write]) -> None:
        """Carry out all writes, or none.

        Raises:
            ConditionFailedError: a condition does not hold, or another transaction was at it; nothing was written.
        """
        items: list[Any] = [{_verb(write): {"TableName": self.name, **_arguments(write)}} for write in writes]
        with call("TransactWriteItems"):
            self.dynamodb.transact_write_items(TransactItems=items)

    def page(self, kind: str, after: str | None, size: int) -> tuple[list[Item], str | None]:
        """Return up to `size` items of a kind by order of id, and the id to go on after; None at the end."""
        start: Any = {} if after is None else {"ExclusiveStartKey": _key((kind, after))}
        with call("Query"):
            answer = self.dynamodb.query(
                TableName=self.name,
                KeyConditionExpression="#kind = :kind",
                ExpressionAttributeNames={"#kind": "kind"},
                ExpressionAttributeValues={":kind": {"S": kind}},
                ConsistentRead=True,
                Limit=size,
                **start,
            )
        last = answer.get("LastEvaluatedKey")
        return [_plain(item) for item in answer["Items"]], _plain(last)["id"] if last else None


def _key(key: Key) -> dict[str, Any]:
    return _attributes({"kind": key[0], "id": key[1]})


def _verb(write: Write) -> str:
    if write.delete:
        return "Delete"
    return "Put" if write.replace else "Update"


def _arguments(write: Write) -> Any:
    """Return a write in the words of Put, Delete or Update.

    Every name goes in as a placeholder: some of ours are words of DynamoDB's own.
    """
    expected = {f":{name}": _attribute(value) for name, value in write.expected.items()}
    if write.delete:
        return {"Key": _key(write.key)} | _condition(write.condition, "", expected)
    if write.replace:
        return {"Item": _key(write.key) | _attributes(write.values)} | _condition(write.condition, "", expected)
    kept = {name: value for name, value in write.values.items() if value is not None}
    clauses = {
        "SET": [f"#{name} = :new_{name}" for name in kept],
        "REMOVE": [f"#{name}" for name in write.values if name not in kept],
        "ADD": [f"#{name} :add_{name}" for name in write.add or {}],
    }
    values = expected | {f":new_{name}": _attribute(value) for name, value in kept.items()}
    values |= {f":add_{name}": _attribute(number) for name, number in (write.add or {}).items()}
    update = " ".join(f"{verb} {', '.join(parts)}" for verb, parts in clauses.items() if parts)
    return {"Key": _key(write.key), "UpdateExpression": update} | _condition(write.condition, update, values)


def _condition(condition: str, update: str, values: dict[str, Any]) -> dict[str, Any]:
    """Return the condition with what its placeholders, and the update's, stand for; DynamoDB refuses any more."""
    parts = {
        "ConditionExpression": condition,
        "ExpressionAttributeNames": {f"#{name}": name for name in _NAME.findall(f"{condition} {update}")},
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
