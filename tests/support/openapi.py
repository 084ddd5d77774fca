"""The backend's contract, read once."""

from __future__ import annotations

from typing import Any

import yaml

from tests.support.deployment import LAMBDA

# The parser in C takes a ninth of the other one's time, which each worker would spend when it collects the tests.
SPEC: dict[str, Any] = yaml.load((LAMBDA / "openapi.yaml").read_text("utf-8"), yaml.CSafeLoader)
