"""What AWS IoT's registry says, with principals and targets that are not certificates, and refusals of a deletion."""

from __future__ import annotations

import boto3
import pytest
from botocore.stub import Stubber

from enrollment_backend.aws import Clients
from enrollment_backend.aws_errors import AwsRefusedError
from enrollment_backend.inspection import Inspection
from tests.support.deployment import REGION

ID = "ab" * 32
ARN = f"arn:aws:iot:{REGION}:123456789012"


def stubbed() -> tuple[Inspection, Stubber]:
    """Return an inspection, and what says how AWS IoT answers."""
    client = boto3.client("iot", region_name=REGION, aws_access_key_id="testing", aws_secret_access_key="testing")
    dynamodb = boto3.client("dynamodb", region_name=REGION, aws_access_key_id="x", aws_secret_access_key="x")
    stubber = Stubber(client)
    stubber.activate()
    return Inspection(Clients(client, client, dynamodb), "device"), stubber


def test_targets_of_the_policy_that_are_not_certificates_are_left_out() -> None:
    """A group of Things and an identity of Amazon Cognito may have it too; neither can be disabled here."""
    inspection, aws = stubbed()
    targets = [f"{ARN}:thinggroup/site", f"{ARN}:cert/{ID}", f"{REGION}:1a2b3c4d-0000-0000-0000-000000000000"]
    aws.add_response("list_targets_for_policy", {"targets": targets, "nextMarker": "2"})
    assert inspection.certificates_with_policy("", 250) == ([ID], "2")


def test_principals_of_a_thing_that_are_not_certificates_are_left_out() -> None:
    """Only certificates are described."""
    inspection, aws = stubbed()
    aws.add_response("list_thing_principals", {"principals": [f"{REGION}:1a2b3c4d-0000-0000-0000-000000000000"]})
    assert inspection.attached_to("gateway-1") == []
    aws.assert_no_pending_responses()


@pytest.mark.parametrize("cause", ["DeleteConflictException", "CertificateStateException"])
def test_a_certificate_that_something_depends_on_is_kept(cause: str) -> None:
    """AWS IoT says so at the moment of deletion."""
    inspection, aws = stubbed()
    aws.add_client_error("delete_certificate", cause, http_status_code=409)
    assert not inspection.delete(ID)


def test_a_certificate_that_is_gone_already_counts_as_deleted() -> None:
    """Somebody else has deleted it."""
    inspection, aws = stubbed()
    aws.add_client_error("delete_certificate", "ResourceNotFoundException", http_status_code=404)
    assert inspection.delete(ID)


def test_a_deletion_that_may_not_be_asked_for_is_an_error() -> None:
    """Otherwise every orphan would be marked as one that AWS IoT keeps, and never be deleted."""
    inspection, aws = stubbed()
    aws.add_client_error("delete_certificate", "AccessDeniedException", http_status_code=403)
    with pytest.raises(AwsRefusedError):
        inspection.delete(ID)
