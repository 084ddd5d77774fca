"""The built zip under AWS's own runtime interface client, and nothing but the zip."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding

from hsm_enroll.local.payload import Request, to_event
from tests.runtime.execution_environment import ExecutionEnvironment, Function
from tests.runtime.runtime_api import Report
from tests.support.csr_factory import request, rsa_key, spki_of
from tests.support.devices import Cloud
from tests.support.software_tpm import SoftwareTpm

if TYPE_CHECKING:
    from mypy_boto3_iot import IoTClient

# What is importable where the function runs, each with its file; null for what is not.
_LOOK_AROUND = """
import importlib.util, json, sys
def place(name):
    found = importlib.util.find_spec(name)
    return found and found.origin
print(json.dumps({{"path": sys.path, "places": {{name: place(name) for name in {names!r}}}}}))
"""

# Loads the handler, then passes events to it, and prints the statuses of the answers and what was loaded meanwhile.
_WATCH = """
import json, sys
import botocore.session, handler

modules = set(sys.modules)
clients, files = [], []
create_client = botocore.session.Session.create_client

def watched(session, service, *arguments, **options):
    clients.append(service)
    return create_client(session, service, *arguments, **options)

botocore.session.Session.create_client = watched
sys.addaudithook(lambda event, arguments: files.append(str(arguments[0])) if event == "open" else None)
statuses = [handler.lambda_handler(event, None)["statusCode"] for event in json.loads({events!r})]
loaded = {{"modules": sorted(set(sys.modules) - modules), "clients": clients, "files": files}}
print(json.dumps({{"statuses": statuses, "loaded": loaded}}))
"""


@pytest.fixture
def function(execution_environment: ExecutionEnvironment, tmp_path: Path) -> Iterator[Function]:
    """A cold function."""
    with execution_environment.start(tmp_path / "log") as started:
        yield started


def _post(
    path: str,
    body: bytes,
    content_type: str,
    request_id: str = "JKJaXmPLvHcESHA=",
    code: str | None = None,
    iam: dict[str, str | None] | None = None,
) -> dict[str, Any]:
    """The event that API Gateway makes of a request."""
    headers = {"host": "api.example.com", "content-type": content_type}
    if code is not None:
        headers["authorization"] = f"Bearer {code}"
    sent = Request("POST", path, "HTTP/1.1", headers, body, "192.0.2.1")
    return to_event(sent, f"POST {path}", request_id, dt.datetime.now(dt.UTC), iam)


def _enrollment(thing: str, key: CertificateIssuerPrivateKeyTypes, code: str | None = None) -> dict[str, Any]:
    document = {"thingName": thing, "csr": _pem(thing, key)}
    return _post("/v1/certificates", json.dumps(document).encode(), "application/json", code=code)


def _pem(thing: str, key: CertificateIssuerPrivateKeyTypes) -> str:
    return request(key, thing).public_bytes(Encoding.PEM).decode()


def _body(report: Report, status: int) -> str:
    """The body of an answer that has this status."""
    assert report.what == "response", report
    assert report.body["statusCode"] == status, report.body
    body: str = report.body["body"]
    return body


def _assert_certified(certificate: str, key: ec.EllipticCurvePrivateKey) -> None:
    issued = x509.load_pem_x509_certificate(certificate.encode())
    assert issued.public_key() == key.public_key()


def test_a_device_enrolls_through_the_zip(
    function: Function, execution_environment: ExecutionEnvironment, iot: IoTClient, cloud: Cloud, thing: str
) -> None:
    """A CSR in, 201 and a certificate for its key out; in AWS IoT it is active, attached, and has the policy."""
    key = ec.generate_private_key(ec.SECP256R1())
    answer = json.loads(_body(function.invoke(_enrollment(thing, key)), 201))
    _assert_certified(answer["certificatePem"], key)
    assert (answer["thingName"], answer["mqttPort"]) == (thing, cloud.document["mqttPort"])

    arn = answer["certificateArn"]
    assert iot.list_thing_principals(thingName=thing)["principals"] == [arn]
    certificate = iot.describe_certificate(certificateId=answer["certificateId"])["certificateDescription"]
    assert certificate["status"] == "ACTIVE"
    (policy,) = iot.list_attached_policies(target=arn)["policies"]
    assert policy["policyName"] == execution_environment.variables["POLICY_NAME"]


def test_an_invited_device_enrolls_through_the_zip(
    execution_environment: ExecutionEnvironment, tmp_path: Path, thing: str
) -> None:
    """Where an invite is needed, the zip makes one, admits nobody without it, and its bearer once and again."""
    variables = {**execution_environment.variables, "AUTH_MODE": "invite"}
    key = ec.generate_private_key(ec.SECP256R1())
    wanted = json.dumps({"invites": [{"thing": thing}]}).encode()
    operator: dict[str, str | None] = {"userArn": "arn:aws:iam::123456789012:user/operator"}
    with replace(execution_environment, variables=variables).start(tmp_path / "log") as function:
        made = function.invoke(_post("/v1/operator/invites", wanted, "application/json", iam=operator))
        code = json.loads(_body(made, 201))["invites"][0]["code"]
        refused = json.loads(_body(function.invoke(_enrollment(thing, key)), 401))
        first, again = (
            json.loads(_body(function.invoke(_enrollment(thing, key, code)), status)) for status in (201, 200)
        )
    assert refused["code"] == "invite-required"
    _assert_certified(first["certificatePem"], key)
    assert again == first


def test_all_that_the_first_requests_need_is_loaded_in_init(
    execution_environment: ExecutionEnvironment, thing: str
) -> None:
    """Once the handler is loaded, no request imports a module, reads a file, or creates a client of AWS's."""
    operator: dict[str, str | None] = {"userArn": "arn:aws:iam::123456789012:user/operator"}
    tpm = SoftwareTpm("rsa-2048")
    listed = {"keys": [{"ekSha256": sha256(spki_of(tpm.ek_key)).hexdigest(), "thing": f"{thing}-tpm"}]}
    events = [
        _enrollment(thing, ec.generate_private_key(ec.SECP256R1())),
        _enrollment(f"{thing}-rsa", rsa_key()),
        _post("/v1/certificates", b"{", "application/json"),
        _post("/v1/operator/invites", b'{"invites": [{"thing": "press-17"}]}', "application/json", iam=operator),
        _post("/v1/operator/eks", json.dumps(listed).encode(), "application/json", iam=operator),
        _post("/v1/attestations", json.dumps(tpm.request()).encode(), "application/json"),
    ]
    seen = execution_environment.python(_WATCH.format(events=json.dumps(events)))
    assert seen == {
        "statuses": [201, 201, 400, 201, 200, 201],
        "loaded": {"modules": [], "clients": [], "files": []},
    }


def test_a_warm_function_serves_one_after_the_other(function: Function, thing: str) -> None:
    """One process: it enrolls, refuses, and enrolls another device, each with an answer and a log line of its own."""
    first, second = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    enrolled = json.loads(_body(function.invoke(_enrollment(thing, first)), 201))
    refused = json.loads(_body(function.invoke(_post("/v1/certificates", b"{", "application/json", "second")), 400))
    again = json.loads(_body(function.invoke(_enrollment(f"{thing}-2", second)), 201))
    _assert_certified(enrolled["certificatePem"], first)
    _assert_certified(again["certificatePem"], second)
    assert (refused["code"], refused["requestId"]) == ("json-malformed", "second")
    assert [(line["status"], line["requestId"]) for line in function.log_lines() if line["event"] == "request"] == [
        (201, "JKJaXmPLvHcESHA="),
        (400, "second"),
        (201, "JKJaXmPLvHcESHA="),
    ]


def test_the_schedules_function_sweeps_through_the_zip(
    execution_environment: ExecutionEnvironment, tmp_path: Path
) -> None:
    """The zip's other entry point, which the schedule runs, ends without an error, and logs what it did."""
    with execution_environment.start(tmp_path / "log", "sweep_handler") as function:
        report = function.invoke({"source": "aws.events"})
        assert report.what == "response", report
        assert {line["requestId"] for line in function.log_lines()} == {report.request_id}


def test_a_refused_request_is_an_answer_and_no_failure_of_the_function(function: Function, thing: str) -> None:
    """A CSR that is not for the Thing asked for is a 400 with a problem: to the Runtime API a response."""
    document = {"thingName": thing, "csr": _pem("somebody-else", ec.generate_private_key(ec.SECP256R1()))}
    event = _post("/v1/certificates", json.dumps(document).encode(), "application/json")
    problem = json.loads(_body(function.invoke(event), 400))
    assert problem["code"] == "csr-common-name-mismatch"


def test_a_body_in_base64_is_decoded(function: Function, thing: str) -> None:
    """A CSR that is sent as no text, which API Gateway passes on in base64, enrolls as well."""
    key = ec.generate_private_key(ec.SECP256R1())
    event = _post("/getCertificate", _pem(thing, key).encode(), "application/pkcs10")
    assert event["isBase64Encoded"] is True
    _assert_certified(_body(function.invoke(event), 200), key)


def test_the_log_has_the_runtime_apis_request_id(function: Function) -> None:
    """Where API Gateway has given the request no id, its log line and its problem have the one of the Runtime API."""
    event = _post("/v1/certificates", b"{", "application/json", request_id="")
    report = function.invoke(event)
    (line,) = function.log_lines()
    assert line["requestId"] == report.request_id
    assert json.loads(_body(report, 400))["requestId"] == report.request_id


def test_only_the_zip_and_what_lambda_brings_is_importable(execution_environment: ExecutionEnvironment) -> None:
    """Backend and cryptography come from the zip, the SDK from the runtime; neither checkout nor site-packages do."""
    expected = {
        "handler": execution_environment.task,
        "enrollment_backend": execution_environment.task,
        "cryptography": execution_environment.task,
        "cffi": execution_environment.task,
        "boto3": execution_environment.runtime,
        "awslambdaric": execution_environment.runtime,
        **dict.fromkeys(("hsm_enroll", "tests", "moto", "pytest", "click", "asn1crypto", "requests", "pip")),
    }
    seen = execution_environment.python(_LOOK_AROUND.format(names=list(expected)))
    places = seen["places"]
    for name, folder in expected.items():
        assert places[name] is None if folder is None else Path(places[name]).is_relative_to(folder), places
    assert seen["path"][:2] == ["", str(execution_environment.runtime)]
    standard_library = Path(sys.base_prefix)
    assert [
        entry
        for entry in map(Path, seen["path"][2:])
        if not entry.is_relative_to(standard_library) or {"site-packages", "dist-packages"} & set(entry.parts)
    ] == []


def test_the_machine_code_that_runs_is_the_zips(
    function: Function, execution_environment: ExecutionEnvironment, thing: str
) -> None:
    """After an enrollment, the function's process has mapped cryptography's and cffi's modules, both from the zip."""
    _body(function.invoke(_enrollment(thing, ec.generate_private_key(ec.SECP256R1()))), 201)
    mapped = {file for file in function.loaded_libraries() if file.name.startswith(("_rust", "_cffi"))}
    assert len(mapped) == 2
    assert {file for file in mapped if not file.is_relative_to(execution_environment.task)} == set()


def test_without_the_wheels_the_function_cannot_start(
    execution_environment: ExecutionEnvironment, tmp_path: Path
) -> None:
    """Nobody lends it cryptography: the backend's files alone end in an initialisation error that names the module."""
    task = tmp_path / "task"
    shutil.copytree(execution_environment.task / "enrollment_backend", task / "enrollment_backend")
    shutil.copy(execution_environment.task / "handler.py", task)
    with replace(execution_environment, task=task).start(tmp_path / "log") as function:
        report = function.api.next_report()
    assert (report.what, report.body["errorType"]) == ("init/error", "Runtime.ImportModuleError")
    assert "No module named 'cryptography'" in report.body["errorMessage"]
