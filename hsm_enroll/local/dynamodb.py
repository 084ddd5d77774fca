"""Corrects moto's DynamoDB: what it forgets, and what takes it seconds where AWS's answers within milliseconds."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from moto.core.serialize import BaseJSONSerializer
from moto.dynamodb.models.dynamo_type import DynamoType
from moto.dynamodb.models.table import Table

_serialize_slowly = BaseJSONSerializer._serialize_type_structure  # noqa: SLF001 - moto has no other way


def update_table(*, original_resource: Any, cloudformation_json: Any, **_where: Any) -> Any:
    """Update a table as CloudFormation does. Replaces `Table.update_from_cloudformation_json`."""
    # AWS::DynamoDB::Table: most properties are updated without interruption. moto updates none and forgets the table.
    original_resource.deletion_protection_enabled = cloudformation_json["Properties"].get(
        "DeletionProtectionEnabled", False
    )
    return original_resource


def copying_little(transact: Callable[..., Any]) -> Callable[..., Any]:
    """Return a `DynamoDBBackend.transact_write_items` that copies only the items it writes, to restore them.

    For each write of a transaction, moto copies the whole table. With a thousand items in the ledger, a transaction
    then takes seconds.
    """

    def transact_write_items(self: Any, transact_items: list[dict[str, Any]]) -> None:
        before = [_item_of(self, write) for operation in transact_items for write in operation.values()]
        Table.__deepcopy__ = lambda table, _memo: table
        try:
            transact(self, transact_items)
        except Exception:
            for table, hash_key, range_key, item in before:
                table.items[hash_key].pop(range_key, None)
                if item is not None:
                    table.items[hash_key][range_key] = item
            raise
        finally:
            del Table.__deepcopy__

    return transact_write_items


def _item_of(backend: Any, write: dict[str, Any]) -> tuple[Any, Any, Any, Any]:
    """Return the table, the hash key, the range key and a copy of the item that a write of a transaction refers to."""
    table = backend.get_table(write["TableName"])
    key = write.get("Key") or write["Item"]
    hash_key, range_key = (DynamoType(key[name]) for name in (table.hash_key_attr, table.range_key_attr))
    return table, hash_key, range_key, copy.deepcopy(table.get_item(hash_key, range_key))


def serialize_structure(serializer: Any, serialized: Any, value: Any, shape: Any, key: str) -> None:
    """Serialize a structure; of an item's value, the member it has. Replaces `_serialize_type_structure`.

    moto looks for each of the ten members that a value may have under several names. So a page of 800 items took it a
    second, which is as long as the backend waits for DynamoDB.
    """
    if shape.name != "AttributeValue":
        _serialize_slowly(serializer, serialized, value, shape, key)
        return
    members: dict[str, Any] = {}
    for name, member in value.items():
        serializer._serialize(members, member, shape.members[name], name)  # noqa: SLF001 - as moto's own does
    serializer._default_serialize(serialized, members, shape, key)  # noqa: SLF001
