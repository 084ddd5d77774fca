"""An empty AWS account for the operator's tests, kept by moto in this process."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
from moto.apigateway.models import RestAPI, apigateway_backends
from moto.cloudformation.models import ChangeSet
from moto.dynamodb.models.table import Table
from moto.iot.models import FakePolicy

from hsm_enroll.local.dynamodb import update_table
from hsm_enroll.local.fidelity import apply_change_set, policy_in_json, update_policy
from hsm_enroll.operator import package, stack
from tests.support.quick_aws import quick_aws

REGION = "eu-central-1"
ACCOUNT_ID = "123456789012"  # moto's


@pytest.fixture
def aws_environment() -> Iterator[None]:
    """An operator's environment: credentials and a region, and nothing of this machine's own."""
    variables = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_REGION": REGION,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    with mock.patch.dict(os.environ, variables, clear=True):
        yield


@pytest.fixture
def account(aws_environment: None) -> Iterator[None]:  # noqa: ARG001 - the environment comes first
    """An account that holds nothing."""
    updated = mock.patch.object(FakePolicy, "update_from_cloudformation_json", update_policy)
    shown = mock.patch.object(FakePolicy, "to_get_dict", policy_in_json(FakePolicy.to_get_dict))
    protected = mock.patch.object(Table, "update_from_cloudformation_json", update_table)
    applied = mock.patch.object(ChangeSet, "apply", apply_change_set)
    imported = mock.patch.object(RestAPI, "create_from_cloudformation_json", with_body)
    with updated, shown, protected, applied, imported, quick_aws():
        yield


_create_rest_api = RestAPI.create_from_cloudformation_json


def with_body(name: str, cloudformation_json: Any, account_id: str, region_name: str, **named: Any) -> Any:
    """Create a REST API with the methods of its body, which moto ignores."""
    created = _create_rest_api(name, cloudformation_json, account_id, region_name, **named)
    body = cloudformation_json["Properties"]["Body"]
    return apigateway_backends[account_id][region_name].put_rest_api(created.id, body, fail_on_warnings=False)


@pytest.fixture
def quick_build(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Have a zip at hand instead of building it, for tests to exchange; and no waiting between two looks at a stack."""
    content = [code()]
    monkeypatch.setattr(package, "build", lambda _source: content[0])
    monkeypatch.setattr(stack, "POLL_SECONDS", 0)
    return content


def code(content: bytes = b"def lambda_handler(event, context): ...") -> bytes:
    """Return a zip of one file."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr(zipfile.ZipInfo("handler.py"), content)
    return archive.getvalue()
