"""AWS's APIs and the enrollment API of a local cloud, seen by AWS's own client and by plain HTTPS."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import ssl
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
import requests
from botocore.exceptions import ClientError
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from hsm_enroll.backend_folder import backend_folder
from hsm_enroll.local.cloud import Endpoints
from tests.support.clients import (
    TIME_LIMIT,
    SoftwareDevice,
    aws,
    connect,
    iot,
    openssl,
    policy_name,
    publish,
    receive,
    stack_outputs,
)
from tests.support.devices import Operator

if TYPE_CHECKING:
    from mypy_boto3_iot.literals import ThingPrincipalTypeType


def test_the_certificate_is_for_the_csrs_key_and_chains_to_the_ca(cloud: Endpoints, enrolled: SoftwareDevice) -> None:
    """OpenSSL verifies it against the CA file for a TLS client, and its public key is the key file's."""
    verified = openssl("verify", "-CAfile", cloud.ca_file, "-purpose", "sslclient", enrolled.identity.certificate)
    assert verified.endswith(": OK\n")
    key = load_pem_private_key(enrolled.identity.key.read_bytes(), None)
    assert _certificate(enrolled).public_key() == key.public_key()


def test_aws_iot_describes_what_it_issued(cloud: Endpoints, enrolled: SoftwareDevice) -> None:
    """The id is the SHA-256 of the DER, the ARN has AWS's shape, the dates and the PEM are the certificate's."""
    der = ssl.PEM_cert_to_DER_cert(enrolled.identity.certificate.read_text())
    certificate_id = hashlib.sha256(der).hexdigest()
    description = iot(cloud).describe_certificate(certificateId=certificate_id)["certificateDescription"]
    assert description["certificateArn"] == f"arn:aws:iot:us-east-1:123456789012:cert/{certificate_id}"
    assert description["status"] == "ACTIVE"
    assert description["certificatePem"] == enrolled.identity.certificate.read_text()
    assert description["validity"]["notAfter"] == _certificate(enrolled).not_valid_after_utc


def test_a_certificate_is_inactive_unless_asked_otherwise(cloud: Endpoints, device: SoftwareDevice) -> None:
    """CreateCertificateFromCsr without setAsActive, and with it false, gives an INACTIVE certificate."""
    for options in ({}, {"setAsActive": False}):
        issued = iot(cloud).create_certificate_from_csr(certificateSigningRequest=device.csr, **options)
        description = iot(cloud).describe_certificate(certificateId=issued["certificateId"])
        assert description["certificateDescription"]["status"] == "INACTIVE"


def test_a_bad_csr_is_an_invalid_request(cloud: Endpoints) -> None:
    """AWS IoT's own error code, and nothing a client would try again."""
    with pytest.raises(ClientError) as caught:
        iot(cloud).create_certificate_from_csr(certificateSigningRequest="junk", setAsActive=True)
    assert caught.value.response["Error"]["Code"] == "InvalidRequestException"
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400


def test_the_exports_lead_awss_own_client_here(cloud: Endpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the environment of ``local env`` and no argument, boto3 finds the deployed policy."""
    for name, value in cloud.exports().items():
        monkeypatch.setenv(name, value)
    policies = boto3.session.Session().client("iot").list_policies()["policies"]
    assert policy_name(cloud) in [policy["policyName"] for policy in policies]


def test_the_exports_lead_the_client_here(cloud: Endpoints) -> None:
    """``local env`` names API, trust anchor and broker in the client's own variables."""
    exports = cloud.exports()
    ca_file = exports["HSM_ENROLL_CA_FILE"]
    assert requests.get(exports["HSM_ENROLL_API_URL"] + "/v1/health", verify=ca_file, timeout=60).status_code == 200
    assert exports["HSM_ENROLL_MQTT_ENDPOINT"] == "localhost"
    assert exports["HSM_ENROLL_MQTT_PORT"] == str(cloud.mqtt_port)


@pytest.mark.parametrize(
    ("before", "value"),
    [
        ({}, "127.0.0.1,localhost"),
        ({"NO_PROXY": "example.com"}, "127.0.0.1,localhost,example.com"),
        ({"NO_PROXY": "ignored", "no_proxy": "example.com"}, "127.0.0.1,localhost,example.com"),
        ({"no_proxy": "127.0.0.1,localhost,example.com"}, "127.0.0.1,localhost,example.com"),
        ({"NO_PROXY": "*"}, "*"),
    ],
    ids=["unset", "upper", "both", "again", "all"],
)
def test_the_exports_bypass_a_proxy(
    before: dict[str, str], value: str, cloud: Endpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a proxy, the local cloud's addresses are reached directly; what was bypassed before still is."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, text in before.items():
        monkeypatch.setenv(name, text)
    exports = cloud.exports()
    assert exports["NO_PROXY"] == exports["no_proxy"] == value
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", value)
    health = requests.get(exports["HSM_ENROLL_API_URL"] + "/v1/health", verify=str(cloud.ca_file), timeout=60)
    assert health.status_code == 200


def test_the_document_of_local_up(cloud: Endpoints) -> None:
    """The JSON has the contract's keys, and what is read back is what was written."""
    document = json.loads(json.dumps(cloud.to_json()))
    contract = {"apiUrl", "mqttEndpoint", "mqttPort", "caFile", "awsEndpointUrl", "region", "home"}
    assert contract <= document.keys()
    assert Endpoints.from_json(document) == cloud


def test_the_v1_route_answers_as_the_contract_says(cloud: Endpoints, thing: str, tmp_path: Path) -> None:
    """POST /v1/certificates through the gateway: 201, and the broker of this cloud as the place to go."""
    device = SoftwareDevice(thing, tmp_path / "device", f"/CN={thing}")
    body = {"thingName": device.thing, "csr": device.csr}
    answer = requests.post(f"{cloud.api_url}/v1/certificates", json=body, verify=str(cloud.ca_file), timeout=60)
    assert answer.status_code == 201
    document = answer.json()
    assert (document["mqttEndpoint"], document["mqttPort"]) == (cloud.mqtt_endpoint, cloud.mqtt_port)
    device.store(document["certificatePem"])
    assert publish(cloud, device.identity, f"certtest/{device.thing}", "x").returncode == 0


@pytest.mark.parametrize("content_type", ["application/json", "application/x-www-form-urlencoded", "text/plain"])
def test_a_csr_posted_with_curl_gets_a_certificate(cloud: Endpoints, device: SoftwareDevice, content_type: str) -> None:
    """Whether the body travels as text or in base64, the real handler understands it."""
    body = device.folder / "body.json"
    body.write_text(json.dumps({"thingName": device.thing, "csr": device.csr}))
    command = ["curl", "--silent", "--fail", "--noproxy", "*", "--cacert", str(cloud.ca_file)]
    options = ["-H", f"content-type: {content_type}", "--data-binary", f"@{body}", f"{cloud.api_url}/getCertificate"]
    device.store(subprocess.run([*command, *options], capture_output=True, text=True, check=True).stdout)
    assert publish(cloud, device.identity, f"certtest/{device.thing}", "x").returncode == 0


def test_a_body_that_is_no_text_is_refused_by_the_handler(cloud: Endpoints) -> None:
    """Bytes that are no UTF-8 reach the handler in base64, and it answers with a problem document."""
    answer = requests.post(
        f"{cloud.api_url}/v1/certificates",
        data=b"\xff\xfe",
        headers={"content-type": "application/json"},
        verify=str(cloud.ca_file),
        timeout=60,
    )
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")


def test_the_function_has_the_stacks_variables(cloud: Endpoints) -> None:
    """What the template gives the deployed function exists in AWS: the table, with its keys, and the policy."""
    outputs = stack_outputs(cloud)
    function = aws(cloud, "lambda").get_function_configuration(FunctionName=outputs["FunctionName"])
    variables = function["Environment"]["Variables"]
    assert (variables["AUTH_MODE"], variables["MQTT_ENDPOINT"]) == ("open", cloud.mqtt_endpoint)
    assert variables["POLICY_NAME"] == policy_name(cloud)
    table = aws(cloud, "dynamodb").describe_table(TableName=variables["TABLE_NAME"])["Table"]
    assert {key["AttributeName"] for key in table["KeySchema"]} == {"kind", "id"}


def test_an_unknown_path_is_the_gateways_answer(cloud: Endpoints) -> None:
    """The template has no $default route: API Gateway answers, the handler does not see the request."""
    answer = requests.get(f"{cloud.api_url}/v2/health", verify=str(cloud.ca_file), timeout=60)
    assert (answer.status_code, answer.json()) == (404, {"message": "Not Found"})


def test_an_operators_route_wants_a_signature(cloud: Endpoints) -> None:
    """The template says AWS_IAM of it: unsigned it is forbidden."""
    answer = requests.get(f"{cloud.api_url}/v1/operator/fleet", verify=str(cloud.ca_file), timeout=60)
    assert (answer.status_code, answer.json()) == (403, {"message": "Forbidden"})


def test_creating_a_thing_again(cloud: Endpoints, thing: str) -> None:
    """The same configuration succeeds and keeps the Thing; another one is a conflict, and changes nothing."""
    api: Any = iot(cloud)
    ours, another = ({"attributes": {"hsm-enroll": value}} for value in ("ours", "another"))
    first = api.create_thing(thingName=thing, attributePayload=ours)
    assert api.create_thing(thingName=thing, attributePayload=ours)["thingId"] == first["thingId"]
    for options in ({"attributePayload": another}, {}):
        with pytest.raises(ClientError) as caught:
            api.create_thing(thingName=thing, **options)
        assert caught.value.response["Error"]["Code"] == "ResourceAlreadyExistsException"
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 409
    described = api.describe_thing(thingName=thing)
    assert (described["thingId"], described["attributes"]) == (first["thingId"], ours["attributes"])


def test_a_certificate_can_be_deleted_with_its_policy(
    cloud: Endpoints, new_device: Callable[[str], SoftwareDevice]
) -> None:
    """A forced deletion takes the attachments along, and others can be deleted after it."""
    api = iot(cloud)
    for device in (new_device("-1"), new_device("-2")):
        issued = api.create_certificate_from_csr(certificateSigningRequest=device.csr)
        api.attach_policy(policyName=policy_name(cloud), target=issued["certificateArn"])
        api.delete_certificate(certificateId=issued["certificateId"], forceDelete=True)
        assert issued["certificateArn"] not in api.list_targets_for_policy(policyName=policy_name(cloud))["targets"]


def test_certificates_are_listed_in_pages(cloud: Endpoints, device: SoftwareDevice) -> None:
    """The latest come first unless asked otherwise, 25 to a page, each once, also when one is deleted meanwhile."""
    api = iot(cloud)
    issued = [api.create_certificate_from_csr(certificateSigningRequest=device.csr)["certificateId"] for _ in range(30)]
    first = api.list_certificates()
    assert [found["certificateId"] for found in first["certificates"]] == issued[:4:-1]
    api.delete_certificate(certificateId=issued[5])
    second = api.list_certificates(pageSize=2, marker=first["nextMarker"])
    assert [found["certificateId"] for found in second["certificates"]] == issued[4:2:-1]

    pages = list(api.get_paginator("list_certificates").paginate(ascendingOrder=True, PaginationConfig={"PageSize": 7}))
    listed = [found["certificateId"] for page in pages for found in page["certificates"]]
    assert {len(page["certificates"]) for page in pages[:-1]} == {7}
    assert listed[-29:] == issued[:5] + issued[6:]
    assert len(listed) == len(set(listed))


def attached(cloud: Endpoints, certificate_arn: str, **options: Any) -> list[tuple[str, str]]:
    """Return the Things that a certificate is attached to, with the types; of one type where the options say so."""
    found = iot(cloud).list_principal_things_v2(principal=certificate_arn, **options)["principalThingObjects"]
    return [(thing["thingName"], thing["thingPrincipalType"]) for thing in found]


def refused(attach: Callable[..., Any], **options: Any) -> str:
    """Return the message with which AWS IoT refuses to attach."""
    with pytest.raises(ClientError) as caught:
        attach(**options)
    assert caught.value.response["Error"]["Code"] == "InvalidRequestException"
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    return caught.value.response["Error"]["Message"]


def test_a_certificate_that_is_one_things_alone_cannot_be_anothers(cloud: Endpoints, enrolled: SoftwareDevice) -> None:
    """Nor can one that is several Things', or has become a Thing's otherwise, be made one's alone; nothing changes."""
    api, other = iot(cloud), f"{enrolled.thing}-other"
    api.create_thing(thingName=other)
    (arn,) = api.list_thing_principals(thingName=enrolled.thing)["principals"]
    alone, besides = [(enrolled.thing, "EXCLUSIVE_THING")], [(other, "NON_EXCLUSIVE_THING")]
    attach = partial(api.attach_thing_principal, principal=arn)

    attach(thingName=enrolled.thing, thingPrincipalType="EXCLUSIVE_THING")
    has_one = "Principal already has an exclusive Thing attached to it"
    for options in ({}, {"thingPrincipalType": "NON_EXCLUSIVE_THING"}):
        assert refused(attach, thingName=other, **options) == has_one
        assert refused(attach, thingName=enrolled.thing, **options) == has_one
    has_any = "Principal already has a Thing attached to it"
    assert refused(attach, thingName=other, thingPrincipalType="EXCLUSIVE_THING") == has_any
    assert attached(cloud, arn) == alone

    api.detach_thing_principal(thingName=enrolled.thing, principal=arn)
    attach(thingName=other)
    for thing in (other, enrolled.thing):
        assert refused(attach, thingName=thing, thingPrincipalType="EXCLUSIVE_THING") == has_any
    attach(thingName=enrolled.thing, thingPrincipalType="NON_EXCLUSIVE_THING")
    assert attached(cloud, arn) == [*besides, (enrolled.thing, "NON_EXCLUSIVE_THING")]

    for thing in (other, enrolled.thing):
        api.detach_thing_principal(thingName=thing, principal=arn)
    attach(thingName=enrolled.thing, thingPrincipalType="EXCLUSIVE_THING")
    assert attached(cloud, arn) == alone


def test_attachments_are_listed_with_their_types(cloud: Endpoints, new_device: Callable[[str], SoftwareDevice]) -> None:
    """From the certificate and from the Thing; with a type in the request, those of that type."""
    api, alone, shared = iot(cloud), new_device("-1"), new_device("-2")
    issued = [api.create_certificate_from_csr(certificateSigningRequest=each.csr) for each in (alone, shared)]
    arns = [certificate["certificateArn"] for certificate in issued]
    api.create_thing(thingName=alone.thing)
    kinds: list[ThingPrincipalTypeType] = ["EXCLUSIVE_THING", "NON_EXCLUSIVE_THING"]
    for arn, kind in zip(arns, kinds, strict=True):
        api.attach_thing_principal(thingName=alone.thing, principal=arn, thingPrincipalType=kind)
    everything = [{"principal": arn, "thingPrincipalType": kind} for arn, kind in zip(arns, kinds, strict=True)]
    assert api.list_thing_principals_v2(thingName=alone.thing)["thingPrincipalObjects"] == everything
    for arn, kind, each, other in zip(arns, kinds, everything, reversed(kinds), strict=True):
        listed = api.list_thing_principals_v2(thingName=alone.thing, thingPrincipalType=kind)
        assert listed["thingPrincipalObjects"] == [each]
        assert attached(cloud, arn, thingPrincipalType=kind) == [(alone.thing, kind)]
        assert attached(cloud, arn, thingPrincipalType=other) == []


def test_an_attachment_of_no_known_type_is_an_invalid_request(cloud: Endpoints, enrolled: SoftwareDevice) -> None:
    """It is not taken for one of the two."""
    options: Any = {"thingName": enrolled.thing, "thingPrincipalType": "THING"}
    (arn,) = iot(cloud).list_thing_principals(thingName=enrolled.thing)["principals"]
    assert "THING" in refused(iot(cloud).attach_thing_principal, principal=arn, **options)


def test_what_is_attached_cannot_be_deleted(cloud: Endpoints, enrolled: SoftwareDevice) -> None:
    """Detached, it can; a Thing and a certificate that come after it begin without any attachment."""
    api = iot(cloud)
    (arn,) = api.list_thing_principals(thingName=enrolled.thing)["principals"]
    certificate_id = arn.rpartition("/")[2]
    api.update_certificate(certificateId=certificate_id, newStatus="INACTIVE")
    for delete in (
        lambda: api.delete_thing(thingName=enrolled.thing),
        lambda: api.delete_certificate(certificateId=certificate_id, forceDelete=True),
    ):
        with pytest.raises(ClientError):
            delete()
    api.detach_thing_principal(thingName=enrolled.thing, principal=arn)
    api.delete_certificate(certificateId=certificate_id, forceDelete=True)
    for _ in range(2):  # the second time there is none, which is no error
        api.delete_thing(thingName=enrolled.thing)
    api.create_thing(thingName=enrolled.thing)
    assert api.list_thing_principals_v2(thingName=enrolled.thing)["thingPrincipalObjects"] == []


@pytest.mark.parametrize("options", [{"pageSize": 251}, {"pageSize": 1, "marker": "AAAA"}, {"marker": "no base64!"}])
def test_a_page_that_cannot_be_is_an_invalid_request(cloud: Endpoints, options: dict[str, Any]) -> None:
    """AWS IoT's own limit of a page, and a marker that it did not give out."""
    with pytest.raises(ClientError) as caught:
        iot(cloud).list_certificates(**options)
    assert caught.value.response["Error"]["Code"] == "InvalidRequestException"


def test_ten_devices_at_once(cloud: Endpoints, new_device: Callable[[str], SoftwareDevice]) -> None:
    """Simultaneous enrollments all succeed, and every device connects as soon as it has its answer."""

    def enroll(device: SoftwareDevice) -> str:
        device.enroll(cloud)
        return connect(cloud, device.identity)

    devices = [new_device(f"-{number}") for number in range(10)]
    with ThreadPoolExecutor(10) as pool:
        assert list(pool.map(enroll, devices)) == ["admitted"] * 10


def test_another_version_of_the_policy_reaches_the_broker(cloud: Endpoints, enrolled: SoftwareDevice) -> None:
    """When the deployed policy's default version changes, so do the topics; back again, they do too."""
    api, topic = iot(cloud), f"certtest/{enrolled.thing}"
    document: dict[str, Any] = {
        "Version": "2012-10-17",
        "Statement": {
            "Effect": "Allow",
            "Action": "iot:Connect",
            "Resource": "arn:aws:iot:us-east-1:123456789012:client/${iot:Connection.Thing.ThingName}",
        },
    }
    policy = policy_name(cloud)
    version = api.create_policy_version(policyName=policy, policyDocument=json.dumps(document), setAsDefault=True)
    try:
        assert "RC:135)" in publish(cloud, enrolled.identity, topic, "x").stdout
    finally:
        api.set_default_policy_version(policyName=policy, policyVersionId="1")
        api.delete_policy_version(policyName=policy, policyVersionId=version["policyVersionId"])
    assert "RC:16)" in publish(cloud, enrolled.identity, topic, "x").stdout


@pytest.mark.parametrize("qos", [0, 1])
def test_what_aws_publishes_reaches_a_device(cloud: Endpoints, enrolled: SoftwareDevice, qos: int) -> None:
    """D27: boto3's ``iot-data.publish`` goes to the subscribers of the local broker, whatever the policies say."""
    topic = f"device/{enrolled.thing}/orders/ä b"
    subscriber = receive(cloud, enrolled.identity, f"device/{enrolled.thing}/#")
    aws(cloud, "iot-data").publish(topic=topic, qos=qos, payload="öffnen".encode())
    output, _ = subscriber.communicate(timeout=TIME_LIMIT)
    assert f"message: {topic} öffnen" in output.splitlines()


def test_what_aws_publishes_is_retained_if_asked(cloud: Endpoints, enrolled: SoftwareDevice) -> None:
    """D27: a device that subscribes later gets the retained message, and not the other one."""
    topics = [f"device/{enrolled.thing}/{name}" for name in ("fleeting", "lasting")]
    for topic, retain in zip(topics, (False, True), strict=True):
        aws(cloud, "iot-data").publish(topic=topic, qos=1, retain=retain, payload=b"state")
    output, _ = receive(cloud, enrolled.identity, f"device/{enrolled.thing}/#").communicate(timeout=TIME_LIMIT)
    aws(cloud, "iot-data").publish(topic=topics[1], retain=True)  # an empty message removes it
    assert [line for line in output.splitlines() if line.startswith("message: ")] == [f"message: {topics[1]} state"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"topic": "a/+"}, "InvalidRequestException"),
        ({"topic": "a/b/c/d/e/f/g/h/i"}, "InvalidRequestException"),
        ({"topic": "x" * 257}, "InvalidRequestException"),
        ({"topic": "a", "qos": 2}, "InvalidRequestException"),
        ({"topic": "a", "payload": bytes(128 * 1024 + 1)}, "RequestEntityTooLargeException"),
    ],
)
def test_what_aws_cannot_publish_is_refused(cloud: Endpoints, arguments: dict[str, Any], error: str) -> None:
    """D14: the quotas of topic and payload hold for AWS's own API too."""
    with pytest.raises(ClientError) as caught:
        aws(cloud, "iot-data").publish(**arguments)
    assert caught.value.response["Error"]["Code"] == error


def test_the_stack_says_where_the_api_is(cloud: Endpoints, tmp_path: Path) -> None:
    """D27: the output ApiUrl is this cloud's, and so an operator needs no setting but those of AWS's own tools."""
    assert stack_outputs(cloud)["ApiUrl"] == cloud.api_url
    environment = cloud.exports()
    del environment["HSM_ENROLL_API_URL"]
    created = Operator(tmp_path / "operator", environment).run("invite", "create", "--thing", "any", "--quiet")
    assert created.stdout.startswith(f"{cloud.api_url}/#"), created.stderr


def test_logs_are_kept_and_say_what_happened(cloud: Endpoints, enrolled: SoftwareDevice) -> None:
    """The home's logs show the request, the handler's line, the AWS call and the broker's view; none holds the CSR."""
    publish(cloud, enrolled.identity, "certtest/another", "x")
    logs = {path.stem: path.read_text() for path in (cloud.home / "logs").iterdir()}
    assert "POST /getCertificate" in logs["gateway"]
    assert '"/getCertificate"' in logs["handler"]
    assert "/certificates" in logs["aws"]
    assert re.search("is not allowed: .*certtest/another", logs["mqtt"])
    assert not any(base64.b64encode(b"-----BEGIN") in text.encode() or "BEGIN CERT" in text for text in logs.values())


def _certificate(device: SoftwareDevice) -> x509.Certificate:
    return x509.load_pem_x509_certificate(Path(device.identity.certificate).read_bytes())


def test_a_change_set_changes_all_that_it_says(cloud: Endpoints) -> None:
    """Its outputs are those of the new parameters, and the same once more is no change; the endpoint is one only."""
    formation = aws(cloud, "cloudformation")
    (there,) = formation.describe_stacks()["Stacks"]
    kept = [each for each in there["Parameters"] if each["ParameterKey"] != "Version"]
    wanted = [*kept, {"ParameterKey": "Version", "ParameterValue": "1.2.3"}]
    template = (backend_folder() / "template.yaml").read_text()
    told = {"StackName": "hsm-enroll", "TemplateBody": template, "Parameters": wanted, "ChangeSetType": "UPDATE"}
    formation.execute_change_set(ChangeSetName=formation.create_change_set(ChangeSetName="first", **told)["Id"])
    assert stack_outputs(cloud)["Version"] == "1.2.3"
    again = formation.create_change_set(ChangeSetName="second", **told)["Id"]
    assert "didn't contain changes" in formation.describe_change_set(ChangeSetName=again)["StatusReason"]
    endpoints = {iot(cloud).describe_endpoint(endpointType="iot:Data-ATS")["endpointAddress"] for _ in range(2)}
    assert endpoints == {cloud.mqtt_endpoint}
