"""The output ApiUrl of a stack: where the enrollment API of this cloud really is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from moto.cloudformation.models import Stack

_UNRESOLVED = re.compile(r"https://\$\{\w+\}\.execute-api\.[a-z0-9.-]+")


@contextmanager
def api_outputs(api_url: str) -> Iterator[None]:
    """Give each output that is the address of an HTTP API this value, until the block ends.

    moto does not support ``AWS::ApiGatewayV2::Api``, so ``https://${Api}.execute-api.…`` would remain as it is.
    """

    def outputs(stack: Any) -> list[dict[str, Any]] | None:
        found: list[dict[str, Any]] | None = original.fget(stack)
        for output in found or []:
            if _UNRESOLVED.fullmatch(str(output["OutputValue"])):
                output["OutputValue"] = api_url
        return found

    original = Stack.outputs
    Stack.outputs = property(outputs)
    try:
        yield
    finally:
        Stack.outputs = original
