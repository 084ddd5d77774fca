"""AWS's APIs and the enrollment API of a local cloud, seen by AWS's own client and by plain HTTPS."""

from __future__ import annotations

import base64
import hashlib
import json
import ssl
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests
from botocore.exceptions import ClientError
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from hsm_enroll.local.cloud import Endpoints
from tests.local.clients import Device, handshake, iot, openssl, publish


def test_the_certificate_is_for_the_csrs_key_and_chains_to_the_ca(cloud: Endpoints, enrolled: Device) -> None:
    """OpenSSL verifies it against the CA file for a TLS client, and its public key is the key file's."""
    verified = openssl("verify", "-CAfile", cloud.ca_file, "-purpose", "sslclient", enrolled.identity.certificate)
    assert verified.endswith(": OK\n")
    key = load_pem_private_key(enrolled.identity.key.read_bytes(), None)
    assert _certificate(enrolled).public_key() == key.public_key()


def test_aws_iot_describes_what_it_issued(cloud: Endpoints, enrolled: Device) -> None:
    """The id is the SHA-256 of the DER, the ARN has AWS's shape, the dates and the PEM are the certificate's."""
    der = ssl.PEM_cert_to_DER_cert(enrolled.identity.certificate.read_text())
    certificate_id = hashlib.sha256(der).hexdigest()
    description = iot(cloud).describe_certificate(certificateId=certificate_id)["certificateDescription"]
    assert description["certificateArn"] == f"arn:aws:iot:us-east-1:123456789012:cert/{certificate_id}"
    assert description["status"] == "ACTIVE"
    assert description["certificatePem"] == enrolled.identity.certificate.read_text()
    assert description["validity"]["notAfter"] == _certificate(enrolled).not_valid_after_utc


def test_a_certificate_is_inactive_unless_asked_otherwise(cloud: Endpoints, device: Device) -> None:
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
    assert "hsm-enroll-device" in [policy["policyName"] for policy in policies]


def test_the_exports_lead_the_client_here(cloud: Endpoints) -> None:
    """``local env`` names API, trust anchor and broker in the client's own variables."""
    exports = cloud.exports()
    ca_file = exports["HSM_ENROLL_CA_FILE"]
    assert requests.get(exports["HSM_ENROLL_API_URL"] + "/v1/health", verify=ca_file, timeout=60).status_code == 200
    assert exports["HSM_ENROLL_MQTT_ENDPOINT"] == "localhost"
    assert exports["HSM_ENROLL_MQTT_PORT"] == str(cloud.mqtt_port)


def test_the_document_of_local_up(cloud: Endpoints) -> None:
    """The JSON has the contract's keys, and what is read back is what was written."""
    document = json.loads(json.dumps(cloud.to_json()))
    contract = {"apiUrl", "mqttEndpoint", "mqttPort", "caFile", "awsEndpointUrl", "region", "home"}
    assert contract <= document.keys()
    assert Endpoints.from_json(document) == cloud


def test_the_v1_route_answers_as_the_contract_says(cloud: Endpoints, device: Device) -> None:
    """POST /v1/certificates through the gateway: 201, and the broker of this cloud as the place to go."""
    body = {"thingName": device.thing, "csr": device.csr}
    answer = requests.post(f"{cloud.api_url}/v1/certificates", json=body, verify=str(cloud.ca_file), timeout=60)
    assert answer.status_code == 201
    document = answer.json()
    assert (document["mqttEndpoint"], document["mqttPort"]) == (cloud.mqtt_endpoint, cloud.mqtt_port)
    device.store(document["certificatePem"])
    assert publish(cloud, device.identity, f"certtest/{device.thing}", "x").returncode == 0


@pytest.mark.parametrize("content_type", ["application/json", "application/x-www-form-urlencoded", "text/plain"])
def test_a_csr_posted_with_curl_gets_a_certificate(cloud: Endpoints, device: Device, content_type: str) -> None:
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


def test_ten_devices_at_once(cloud: Endpoints, new_device: Callable[[str], Device]) -> None:
    """Simultaneous enrollments all succeed, and every device connects as soon as it has its answer."""

    def enroll(device: Device) -> str:
        device.enroll(cloud)
        return handshake(cloud, device.identity)

    devices = [new_device(f"-{number}") for number in range(10)]
    with ThreadPoolExecutor(10) as pool:
        assert list(pool.map(enroll, devices)) == ["ok"] * 10


def test_another_version_of_the_policy_reaches_the_broker(cloud: Endpoints, enrolled: Device) -> None:
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
    version = api.create_policy_version(
        policyName="hsm-enroll-device", policyDocument=json.dumps(document), setAsDefault=True
    )
    try:
        assert "RC:135)" in publish(cloud, enrolled.identity, topic, "x").stdout
    finally:
        api.set_default_policy_version(policyName="hsm-enroll-device", policyVersionId="1")
        api.delete_policy_version(policyName="hsm-enroll-device", policyVersionId=version["policyVersionId"])
    assert "RC:16)" in publish(cloud, enrolled.identity, topic, "x").stdout


def test_logs_are_kept_and_say_what_happened(cloud: Endpoints, enrolled: Device) -> None:
    """The home's logs show the request, the handler's line, the AWS call and the broker's view; none holds the CSR."""
    publish(cloud, enrolled.identity, "certtest/another", "x")
    logs = {path.stem: path.read_text() for path in (cloud.home / "logs").iterdir()}
    assert "POST /getCertificate" in logs["gateway"]
    assert '"/getCertificate"' in logs["handler"]
    assert "/certificates" in logs["aws"]
    assert "Denied PUBLISH" in logs["mosquitto"]
    assert not any(base64.b64encode(b"-----BEGIN") in text.encode() or "BEGIN CERT" in text for text in logs.values())


def _certificate(device: Device) -> x509.Certificate:
    return x509.load_pem_x509_certificate(Path(device.identity.certificate).read_bytes())
