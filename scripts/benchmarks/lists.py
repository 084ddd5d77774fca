"""``hsm-enroll invite list`` and ``fleet list`` with 500 rows, against bare programs that read the table with boto3.

All are whole processes, and talk to the same local cloud. Ours goes through the API and the handler; each page costs
it a request more, so that the figure also tells of too small pages.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import boto3

from benchmarks.figures import Figure
from benchmarks.measuring import process_seconds, ratios, runs
from benchmarks.softhsm import COMMAND
from hsm_enroll.local.cloud import detach, down
from hsm_enroll.local.options import Options

_ROWS = 500
_RUNS = 15
_BARE = """
import boto3

dynamodb = boto3.client("dynamodb")
(table,) = dynamodb.list_tables()["TableNames"]
query = {
    "TableName": table,
    "KeyConditionExpression": "kind = :kind",
    "ExpressionAttributeValues": {":kind": {"S": KIND}},
}
for page in dynamodb.get_paginator("query").paginate(**query):
    for item in page["Items"]:
        print(item["id"]["S"], item["thing"]["S"], item["created"]["N"])
"""
_CLAIMED = 1790000000


def measure(*, quick: bool) -> Iterator[Figure]:
    """Measure."""
    pairs = runs(_RUNS, quick=quick)
    with tempfile.TemporaryDirectory() as folder:
        table, cloud_folder = Path(folder, "things.csv"), Path(folder, "cloud")
        table.write_text("thing\n" + "".join(f"gateway-{number}\n" for number in range(_ROWS)), encoding="utf-8")
        cloud = detach(cloud_folder, timeout=60, options=Options(auth="invite"))
        try:
            environment = {**cloud.exports(), "AWS_CONFIG_FILE": os.devnull, "HSM_ENROLL_HOME": folder}
            process_seconds([*COMMAND, "invite", "create", "--from", str(table)], environment)
            _enroll_things(cloud.aws_endpoint_url, cloud.exports())
            yield from _compare("invite", "invite", environment, pairs)
            yield from _compare("fleet", "thing", environment, pairs)
        finally:
            down(cloud_folder)


def _compare(command: str, kind: str, environment: Mapping[str, str], pairs: int) -> Iterator[Figure]:
    seconds: list[float] = []

    def ours() -> float:
        seconds.append(process_seconds([*COMMAND, command, "list"], environment))
        return seconds[-1]

    peer = [sys.executable, "-c", _BARE.replace("KIND", repr(kind))]
    what, figures = f"{command} list, {_ROWS} rows", ratios(ours, lambda: process_seconds(peer, environment), pairs)
    yield Figure.of(f"{command}-list", what, "bare boto3 query", figures, at_most=1.5)
    milliseconds = [1000 * each for each in seconds[1:]]
    yield Figure.of(f"{command}-list-ms", what, "", milliseconds, unit="ms", at_most=1000.0)


def _enroll_things(aws_url: str, exports: Mapping[str, str]) -> None:
    """Put Things into the ledger as the backend writes them, without their certificates in AWS IoT."""
    dynamodb = boto3.client(
        "dynamodb",
        endpoint_url=aws_url,
        region_name=exports["AWS_REGION"],
        aws_access_key_id=exports["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=exports["AWS_SECRET_ACCESS_KEY"],
    )
    (name,) = dynamodb.list_tables()["TableNames"]
    for number in range(_ROWS):
        dynamodb.put_item(TableName=name, Item=_thing(number))


def _thing(number: int) -> dict[str, Any]:
    texts = {
        "kind": "thing",
        "id": f"gateway-{number}",
        "thing": f"gateway-{number}",
        "claim_id": f"{number:032x}",
        "spki_sha256": f"{number:064x}",
        "certificate_id": f"{number:064x}",
        "certificate_arn": f"arn:aws:iot:us-east-1:123456789012:cert/{number:064x}",
        "certificate_pem": "-" * 1200,
        "key_type": "ec-p256",
    }
    return {
        **{name: {"S": value} for name, value in texts.items()},
        **{name: {"N": str(_CLAIMED + number)} for name in ("created", "enrolled")},
    }
