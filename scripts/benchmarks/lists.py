"""``hsm-enroll invite list`` with 500 invites, against a bare program that reads them from the table with boto3.

Both are whole processes, and talk to the same local cloud. Ours goes through the API and the handler; each page costs
it a request more, so that the figure also tells of too small pages.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.measuring import process_seconds, ratios, show
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
    "ExpressionAttributeValues": {":kind": {"S": "invite"}},
}
for page in dynamodb.get_paginator("query").paginate(**query):
    for item in page["Items"]:
        print(item["id"]["S"], item["thing"]["S"], item["expires"]["N"])
"""


def measure() -> None:
    """Measure and print a line for each figure."""
    with tempfile.TemporaryDirectory() as folder:
        table, cloud_folder = Path(folder, "things.csv"), Path(folder, "cloud")
        table.write_text("thing\n" + "".join(f"gateway-{number}\n" for number in range(_ROWS)), encoding="utf-8")
        cloud = detach(cloud_folder, timeout=60, options=Options(auth="invite"))
        try:
            environment = {**cloud.exports(), "AWS_CONFIG_FILE": os.devnull, "HSM_ENROLL_HOME": folder}
            process_seconds([*COMMAND, "invite", "create", "--from", str(table)], environment)
            seconds: list[float] = []

            def ours() -> float:
                seconds.append(process_seconds([*COMMAND, "invite", "list"], environment))
                return seconds[-1]

            peer = [sys.executable, "-c", _BARE]
            show(
                f"invite list, {_ROWS} rows / bare boto3 query, at most 1.5",
                ratios(ours, lambda: process_seconds(peer, environment), _RUNS),
            )
            print(f"  median in ms: {statistics.median(seconds[1:]) * 1000:.0f}")
        finally:
            down(cloud_folder)
