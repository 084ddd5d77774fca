"""AWS IoT's credentials provider of a local cloud: who gets AWS credentials, and how the others are refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests

from hsm_enroll.local.cloud import Endpoints
from tests.support.clients import TIME_LIMIT, Identity, SoftwareDevice, aws, openssl

ALIAS = "hsm-enroll-local"


def ask(
    cloud: Endpoints, identity: Identity, thing: str | None = None, alias: str = ALIAS, *, method: str = "GET"
) -> tuple[int, dict[str, Any]]:
    """Ask for credentials as curl would, with a key file; return status and document."""
    url = f"https://{cloud.credentials_endpoint}:{cloud.credentials_port}/role-aliases/{alias}/credentials"
    answer = requests.request(
        method,
        url,
        headers={} if thing is None else {"x-amzn-iot-thingname": thing},
        cert=(str(identity.certificate), str(identity.key)),
        verify=str(cloud.ca_file),
        timeout=TIME_LIMIT,
    )
    return answer.status_code, answer.json()


def caller(cloud: Endpoints, credentials: dict[str, str]) -> str:
    """Return whose credentials they are, as STS says."""
    session: Any = boto3.session.Session(
        credentials["accessKeyId"], credentials["secretAccessKey"], credentials["sessionToken"], cloud.region
    )
    return str(session.client("sts", endpoint_url=cloud.aws_endpoint_url).get_caller_identity()["Arn"])


def certificate_arn(cloud: Endpoints, thing: str) -> str:
    """Return the one certificate of a Thing."""
    (arn,) = aws(cloud, "iot").list_thing_principals(thingName=thing)["principals"]
    return str(arn)


@contextmanager
def role_alias(cloud: Endpoints, name: str, role: str, seconds: int = 3600) -> Iterator[str]:
    """Have another role alias until the block ends."""
    iot = aws(cloud, "iot")
    iot.create_role_alias(roleAlias=name, roleArn=role, credentialDurationSeconds=seconds)
    try:
        yield name
    finally:
        iot.delete_role_alias(roleAlias=name)


@contextmanager
def further_policy(cloud: Endpoints, thing: str, effect: str) -> Iterator[None]:
    """Have a further policy at a Thing's certificate until the block ends, which allows or denies any role alias."""
    statement = {"Effect": effect, "Action": "iot:AssumeRoleWithCertificate", "Resource": "*"}
    iot, name = aws(cloud, "iot"), f"{effect}-every-alias-{thing[:20]}".replace(":", "-")
    document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    iot.create_policy(policyName=name, policyDocument=document)
    arn = certificate_arn(cloud, thing)
    iot.attach_policy(policyName=name, target=arn)
    yield
    iot.detach_policy(policyName=name, target=arn)


@pytest.fixture
def every_alias(cloud: Endpoints, enrolled: SoftwareDevice) -> Iterator[None]:
    """A further policy of the device, which allows any role alias."""
    with further_policy(cloud, enrolled.thing, "Allow"):
        yield


def test_an_enrolled_device_gets_credentials_of_the_role(cloud: Endpoints, enrolled: SoftwareDevice) -> None:
    """STS knows them as a session of the role, which is named after the certificate; with or without the Thing."""
    for thing in (enrolled.thing, None):
        status, document = ask(cloud, enrolled.identity, thing)
        assert status == 200
        assert document["credentials"].keys() == {"accessKeyId", "secretAccessKey", "sessionToken", "expiration"}
        assert document["credentials"]["expiration"].endswith("Z")
        arn = caller(cloud, document["credentials"])
        assert ":assumed-role/hsm-enroll-DeviceRole-" in arn
        assert arn.rpartition("/")[2] == certificate_arn(cloud, enrolled.thing).rpartition("/")[2]


def test_without_a_certificate_there_is_no_connection(cloud: Endpoints, tmp_path: Path) -> None:
    """And none with a certificate that another authority has issued."""
    url = f"https://localhost:{cloud.credentials_port}/role-aliases/{ALIAS}/credentials"
    with pytest.raises(requests.exceptions.ConnectionError):
        requests.get(url, verify=str(cloud.ca_file), timeout=TIME_LIMIT)
    foreign = Identity(tmp_path / "foreign.pem", tmp_path / "foreign.key")
    openssl(
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=foreign"),
        *("-keyout", foreign.key, "-out", foreign.certificate),
    )
    with pytest.raises(requests.exceptions.ConnectionError):
        ask(cloud, foreign)


def test_the_observer_is_no_device(cloud: Endpoints) -> None:
    """The identity that may read every topic gets no AWS credentials."""
    observer = Identity(cloud.observer_certificate, cloud.observer_key)
    assert ask(cloud, observer) == (403, {"message": "Certificate is invalid on this endpoint"})


def test_an_inactive_certificate_gets_none(cloud: Endpoints, enrolled: SoftwareDevice) -> None:
    """From the moment that it is deactivated."""
    certificate_id = certificate_arn(cloud, enrolled.thing).rpartition("/")[2]
    aws(cloud, "iot").update_certificate(certificateId=certificate_id, newStatus="INACTIVE")
    assert ask(cloud, enrolled.identity, enrolled.thing)[0] == 403


def test_another_things_name_is_refused(
    cloud: Endpoints, enrolled: SoftwareDevice, new_device: Callable[[str], SoftwareDevice]
) -> None:
    """The certificate has to be attached to the Thing of the header, which a role's policy may rely on."""
    other = new_device("-other")
    other.enroll(cloud)
    for thing in (other.thing, "nobody"):
        assert ask(cloud, enrolled.identity, thing) == (403, {"message": "Invalid thing name passed"})


def test_a_policy_without_the_action_is_refused(cloud: Endpoints, enrolled: SoftwareDevice) -> None:
    """The deployed policy allows the deployed alias alone, unless another one denies it; without it, nothing is."""
    denied = (403, {"message": "Access Denied"})
    with further_policy(cloud, enrolled.thing, "Deny"):
        assert ask(cloud, enrolled.identity, enrolled.thing) == denied
    assert ask(cloud, enrolled.identity, enrolled.thing, "another") == denied
    arn = certificate_arn(cloud, enrolled.thing)
    iot = aws(cloud, "iot")
    for policy in iot.list_attached_policies(target=arn)["policies"]:
        iot.detach_policy(policyName=policy["policyName"], target=arn)
    assert ask(cloud, enrolled.identity, enrolled.thing) == denied


@pytest.mark.usefixtures("every_alias")
def test_what_the_alias_leads_to_has_to_work(cloud: Endpoints, enrolled: SoftwareDevice) -> None:
    """No alias, no role, a role of somebody else's, a role whose sessions are shorter: each has its own message."""
    assert ask(cloud, enrolled.identity, alias="another") == (404, {"message": "Role alias does not exist"})
    no_role = (400, {"message": "Unable to assume the role, or the role to assume does not exist"})
    with role_alias(cloud, "no-role", "arn:aws:iam::123456789012:role/there-is-none") as alias:
        assert ask(cloud, enrolled.identity, alias=alias) == no_role
    (functions,) = [role for role in aws(cloud, "iam").list_roles()["Roles"] if "-Role-" in role["RoleName"]]
    with role_alias(cloud, "functions", functions["Arn"]) as alias:
        assert ask(cloud, enrolled.identity, alias=alias) == no_role
    (devices,) = [role for role in aws(cloud, "iam").list_roles()["Roles"] if "-DeviceRole-" in role["RoleName"]]
    with role_alias(cloud, "too-long", devices["Arn"], 7200) as alias:
        status, document = ask(cloud, enrolled.identity, alias=alias)
        assert (status, "MaxSessionDuration" in document["message"]) == (400, True)


def test_other_paths_and_methods_are_not_there(cloud: Endpoints, enrolled: SoftwareDevice) -> None:
    """One path, one method."""
    assert ask(cloud, enrolled.identity, method="POST")[0] == 404
    assert ask(cloud, enrolled.identity, alias=f"{ALIAS}/x")[0] == 404
