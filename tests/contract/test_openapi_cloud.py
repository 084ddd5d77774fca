"""openapi.yaml against the local cloud: whatever is sent, each operation answers as the contract says."""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import pytest
import requests
import schemathesis
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from requests.auth import AuthBase
from schemathesis import GenerationMode
from schemathesis.checks import load_all_checks, not_a_server_error
from schemathesis.config import HealthCheck
from schemathesis.generation.hypothesis.builder import HypothesisTestConfig, HypothesisTestMode, create_test
from schemathesis.specs.openapi import checks

from hsm_enroll.local.cloud import Endpoints, Options, detach, down, running
from tests.support import proofs
from tests.support.clients import TIME_LIMIT, SoftwareDevice, iot, sign
from tests.support.csr_factory import der_of, pem_of, request, spki_of
from tests.support.deployment import LAMBDA
from tests.support.devices import Cloud
from tests.support.ek_authority import EkAuthority, pem
from tests.support.software_tpm import SoftwareTpm

# Not among them are checks that fit no API Gateway (a method that no route has gets 404), or that send on their own.
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    checks.positive_data_acceptance,
]
CERTIFICATES, ARTICLE = "POST /v1/certificates", "POST /getCertificate"
ATTESTATIONS = "POST /v1/attestations"
EST_ENROLL, EST_REENROLL = "POST /.well-known/est/simpleenroll", "POST /.well-known/est/simplereenroll"
INVITE = "/v1/invite"
INVITES, FLEET, SWEEP = "/v1/operator/invites", "/v1/operator/fleet", "/v1/operator/sweep"
REBUILD, REPLACEMENTS = "/v1/operator/rebuild", "/v1/operator/replacements"
EKS, AUTHORITIES = "/v1/operator/eks", "/v1/operator/ek-authorities"
Case = schemathesis.Case[Any]
EXAMPLES = 5  # of each operation, beside those of the boundaries


def _schema() -> schemathesis.BaseSchema:
    """Load openapi.yaml, to be tried in the same way each time."""
    # How long examples take to make says nothing on a machine that is busy.
    config = schemathesis.Config(seed=1, suppress_health_check=[HealthCheck.too_slow])
    project = config.projects.default
    # The signature is made of what is sent in the end; an Authorization header made up before would be lost.
    project.generation.update(
        max_examples=EXAMPLES, deterministic=True, database="none", with_security_parameters=False
    )
    project.phases.coverage.unexpected_methods = set()
    # A parameter that the schema allows can still name nothing, a hundred invites can be more than 16 KiB, and the
    # deployment allows no invites for existing Things.
    project.checks.positive_data_acceptance.expected_statuses = ["2xx", "404", "409", "413"]
    project.checks.negative_data_rejection.expected_statuses = ["400", "401", "413", "415"]
    for phase in (project.phases.fuzzing, project.phases.coverage):
        phase.extra_data_sources.responses = False
    project.phases.fuzzing.error_feedback.is_enabled = False
    load_all_checks()
    return schemathesis.openapi.from_path(LAMBDA / "openapi.yaml", config=config)


SCHEMA = _schema()
LABELS = [f"{method.upper()} {path}" for path in SCHEMA for method in SCHEMA[path]]
OPERATOR_LABELS = [label for label in LABELS if " /v1/operator/" in label]


def operation_of(label: str) -> schemathesis.APIOperation[Any, Any, Any, Any]:
    """Return an operation by its method and path."""
    operation = SCHEMA.find_operation_by_label(label)
    assert operation is not None
    return operation


@schemathesis.serializer("application/jose", "application/pkcs10")
def as_it_is(_context: object, value: object) -> bytes:
    """Send a text as it is, and anything else in JSON, which is no proof."""
    return (value if isinstance(value, str) else json.dumps(value)).encode("utf-8", "surrogatepass")


class Signature(AuthBase):
    """Signs what is about to be sent, as an operator's client does."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Write the query with RFC 3986's escapes, as SigV4 wants it, and sign."""
        parts = urlsplit(str(request.url))
        query = urlencode(parse_qsl(parts.query, keep_blank_values=True), quote_via=quote, safe="")
        request.url = parts._replace(query=query).geturl()
        body = request.body or b""
        content = body.encode() if isinstance(body, str) else body
        request.headers.update(sign(str(request.method), request.url, content))
        return request


@dataclass
class Api:
    """A local cloud's API, spoken to in the contract's terms; each answer is held against the contract."""

    cloud: Endpoints
    session: requests.Session
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def send(self, case: Case, *, signed: bool | None = None) -> schemathesis.Response:
        """Send, check, return the answer. An operator's is signed unless told otherwise; an invite has a code."""
        operators = case.operation.path.startswith("/v1/operator/")
        if case.operation.path == INVITE and "Authorization" not in case.headers:
            case.headers["Authorization"] = f"Bearer {self.invite(self.new_name())}"
        return case.call_and_validate(
            base_url=self.cloud.api_url,
            session=self.session,
            verify=str(self.cloud.ca_file),
            timeout=TIME_LIMIT,
            auth=Signature() if (operators if signed is None else signed) else None,
            checks=CHECKS,
        )

    def ask(
        self, label: str, *, signed: bool | None = None, code: str | None = None, **parts: Any
    ) -> schemathesis.Response:
        """Send a request made of given parts."""
        if "body" in parts:
            parts.setdefault("media_type", "application/json")
        if code is not None:
            parts["headers"] = {"Authorization": f"Bearer {code}"}
        return self.send(operation_of(label).Case(**parts), signed=signed)

    def new_name(self, beginning: str = "thing") -> str:
        """Return a Thing's name that is not in use; of at most 64 characters, as a common name is."""
        return f"{beginning[:50]}-{next(self.numbers)}"

    def invite(self, thing: str, **members: object) -> str:
        """Have an invite made and return its code."""
        answer = self.ask(f"POST {INVITES}", body={"invites": [{"thing": thing, **members}]})
        assert answer.status_code == 201
        code: str = answer.json()["invites"][0]["code"]
        return code


def code_of(answer: schemathesis.Response) -> str:
    """Return a problem's code, or "" of what is none."""
    is_problem = answer.headers.get("content-type") == ["application/problem+json"]
    return str(answer.json()["code"]) if is_problem else ""


@contextmanager
def speaking_to(endpoints: Endpoints) -> Iterator[Api]:
    """Keep a connection to a cloud's API until the block ends."""
    with requests.Session() as session:
        session.trust_env = False
        yield Api(endpoints, session)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A cloud of these tests alone, where an invite is needed; in a process of its own."""
    folder = tmp_path_factory.mktemp("cloud")
    endpoints = detach(folder, TIME_LIMIT, Options("invite"))
    try:
        with speaking_to(endpoints) as speaking:
            yield speaking
    finally:
        down(folder)


@pytest.fixture
def open_api(cloud: Cloud) -> Iterator[Api]:
    """The cloud where anyone may enroll."""
    with speaking_to(running(Path(cloud.document["home"]))) as speaking:
        yield speaking


def csr_for(thing: str, key: ec.EllipticCurvePrivateKey | None = None) -> str:
    """Return a CSR in PEM; of a new key unless one is given."""
    return pem_of(request(key or ec.generate_private_key(ec.SECP256R1()), thing))


def with_a_device(case: Case, api: Api) -> None:
    """Put a real CSR and a real code in the place of what nobody would be issued a certificate for."""
    asked: dict[str, Any] = case.body if isinstance(case.body, dict) else {}
    thing = api.new_name(asked.get("thingName", "thing"))
    members: dict[str, Any] = {"csr": csr_for(thing)} | ({"thingName": thing} if "thingName" in asked else {})
    if case.media_type == "application/json":
        case.body = members
    elif case.media_type == "text/plain":
        case.body = members["csr"]
    else:  # one of */*; what is sent then is JSON that is declared to be something else
        case.media_type, case.body = "text/plain", json.dumps(members)
    case.headers["Authorization"] = f"Bearer {api.invite(thing)}"


def with_a_proof(case: Case, api: Api) -> None:
    """Put an enrolled device's real proof in the place of what nobody has signed."""
    key, thing, path = ec.generate_private_key(ec.SECP256R1()), api.new_name(), case.operation.path
    enrolled = api.ask(CERTIFICATES, body={"csr": csr_for(thing, key), "thingName": thing}, code=api.invite(thing))
    assert enrolled.status_code == 201
    payload = json.dumps({"csr": csr_for(thing)} if path == "/v1/renewals" else {}).encode()
    case.body = proofs.sign(key, proofs.header(key, f"{api.cloud.api_url}{path}", time.time()), payload).decode()


def as_an_est_client(case: Case, api: Api) -> None:
    """Put a real CSR and a real code in the place of what nobody would be issued a certificate for."""
    thing = api.new_name()
    case.body = est_body(ec.generate_private_key(ec.SECP256R1()), thing)
    password = b64encode(f":{api.invite(thing)}".encode()).decode()
    case.headers["Authorization"] = f"Basic {password}"


def est_body(key: ec.EllipticCurvePrivateKey, thing: str) -> str:
    """Return a CSR as an EST client sends it."""
    return b64encode(der_of(request(key, thing))).decode()


def with_a_certificate(case: Case, api: Api, *, fits: bool) -> schemathesis.Response:
    """Send from an enrolled device, at the address that asks for its certificate; a real CSR, if the case's fits."""
    device = SoftwareDevice(api.new_name(), api.cloud.home / api.new_name(), "/CN=any")
    sent = {"csr": device.csr, "thingName": device.thing}
    device.store(api.ask(ARTICLE, body=sent, code=api.invite(device.thing)).text)
    if fits:
        case.body = est_body(ec.generate_private_key(ec.SECP256R1()), device.thing)
    return case.call_and_validate(
        base_url=api.cloud.est_url,
        verify=str(api.cloud.ca_file),
        cert=(str(device.identity.certificate), str(device.identity.key)),
        timeout=TIME_LIMIT,
        checks=CHECKS,
    )


def with_a_tpm(case: Case, api: Api) -> None:
    """Put a TPM that the operator has listed in the place of one that does not exist; for a renewal, in a proof."""
    asked: dict[str, Any] = case.body if isinstance(case.body, dict) else {}
    key, thing, tpm = ec.generate_private_key(ec.SECP256R1()), api.new_name(), SoftwareTpm("ec-p256")
    listed = {"ekSha256": hashlib.sha256(spki_of(tpm.ek_key)).hexdigest(), "thing": thing}
    assert api.ask("POST /v1/operator/eks", body={"keys": [listed]}).status_code == 200
    if case.media_type == "application/json":
        named = thing if "thingName" in asked else None
        body: Any = tpm.request(certified="ekCertificate" in asked, thing_name=named)
        case.body = body
        case.headers["Authorization"] = f"Bearer {api.invite(thing)}"
        return
    enrolled = api.ask(CERTIFICATES, body={"csr": csr_for(thing, key), "thingName": thing}, code=api.invite(thing))
    assert enrolled.status_code == 201
    payload = json.dumps(tpm.request()).encode()
    header = proofs.header(key, f"{api.cloud.api_url}{case.operation.path}", time.time())
    case.body = proofs.sign(key, header, payload).decode()


def root_body() -> dict[str, Any]:
    """Return a body that adds the root of a TPM vendor."""
    root = EkAuthority().root
    return {"certificate": pem(root), "sha256": hashlib.sha256(root.public_bytes(Encoding.DER)).hexdigest()}


def with_each_ek_once(body: Any) -> Any:
    """Return a body that lists TPMs without a second entry of the same EK, which JSON Schema cannot ask for."""
    return {"keys": list({key["ekSha256"]: key for key in body["keys"]}.values())}


def with_digits(value: Any) -> Any:
    """Return a body whose whole numbers are written without a fraction, which JSON Schema cannot ask for."""
    if isinstance(value, dict):
        return {name: with_digits(member) for name, member in value.items()}
    if isinstance(value, list):
        return [with_digits(member) for member in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


# What a request that fits is made of, and the status of its response.
REAL: dict[str, tuple[Callable[[Case, Api], None], int]] = {
    CERTIFICATES: (with_a_device, 201),
    ARTICLE: (with_a_device, 200),
    EST_ENROLL: (as_an_est_client, 200),
    ATTESTATIONS: (with_a_tpm, 201),
    "POST /v1/renewals": (with_a_proof, 201),
    "POST /v1/renewals/commit": (with_a_proof, 204),
    "POST /v1/recoveries": (with_a_proof, 200),
    "POST /v1/retirements": (with_a_proof, 204),
}


@pytest.mark.parametrize("label", LABELS)
def test_every_operation_answers_anything_as_the_contract_says(api: Api, label: str) -> None:
    """Status, headers, type and body of the answer are the contract's, what fits it is done, all else is refused."""
    # Not by SCHEMA.parametrize(), which makes the cases of all operations wherever tests are collected.
    config = SCHEMA.config
    phase = HypothesisTestMode.FUZZING
    settings = config.get_hypothesis_settings(operation=operation_of(label), phase=phase)
    made = HypothesisTestConfig(config, list(HypothesisTestMode), settings, seed=config.seed)

    def try_one(case: Case) -> None:
        hold(case, api)

    create_test(operation=operation_of(label), test_func=try_one, config=made)()


def hold(case: Case, api: Api) -> None:
    """Send what was made up, with something real in it if it fits the contract; hold the answer against it."""
    assert case.meta is not None
    fits = case.meta.generation.mode is GenerationMode.POSITIVE
    if case.operation.label == EST_REENROLL:
        assert (with_a_certificate(case, api, fits=fits).status_code == 200) is fits
        return
    if fits and case.operation.label in REAL:
        prepare, status = REAL[case.operation.label]
        prepare(case, api)
        assert api.send(case).status_code == status
        return
    if fits and case.operation.label in {f"POST {SWEEP}", f"POST {REBUILD}"}:
        case.body = {}  # AWS IoT takes no marker but its own
    if fits and case.operation.label == f"POST {EKS}":
        case.body = with_each_ek_once(case.body)
    if fits and case.operation.label == f"POST {AUTHORITIES}":
        case.body = root_body()
    if fits and isinstance(case.body, dict):
        case.body = with_digits(case.body)
    api.send(case)


@pytest.mark.parametrize("label", OPERATOR_LABELS)
def test_what_nobody_signed_is_forbidden(api: Api, label: str) -> None:
    """The operator's operations answer 403, as the contract says, to a request without a signature."""
    assert api.ask(label, signed=False).status_code == 403


def new(api: Api, thing: str) -> dict[str, Any]:
    """Return what a device sends that was never here, and its invite's code."""
    return {"body": {"csr": csr_for(thing), "thingName": thing}, "code": api.invite(thing)}


def known(api: Api, thing: str) -> dict[str, Any]:
    """Return the same of a device that is enrolled."""
    sent = new(api, thing)
    assert api.ask(CERTIFICATES, **sent).status_code == 201
    return sent


def another_key(api: Api, thing: str) -> dict[str, Any]:
    """Return a request for an enrolled Thing with a new key and a new invite."""
    known(api, thing)
    return new(api, thing)


def another_thing(api: Api, thing: str) -> dict[str, Any]:
    """Return a request for a new Thing with an enrolled key."""
    key = ec.generate_private_key(ec.SECP256R1())
    other = api.new_name()
    first = {"csr": csr_for(other, key), "thingName": other}
    assert api.ask(CERTIFICATES, body=first, code=api.invite(other)).status_code == 201
    return {"body": {"csr": csr_for(thing, key), "thingName": thing}, "code": api.invite(thing)}


def revoked(api: Api, thing: str) -> dict[str, Any]:
    """Return the request of a device that was revoked."""
    sent = known(api, thing)
    assert api.ask(f"DELETE {FLEET}", query={"thing": thing}).status_code == 204
    return sent


def foreign(api: Api, thing: str) -> dict[str, Any]:
    """Return a request for a Thing that AWS IoT has from elsewhere."""
    iot(api.cloud).create_thing(thingName=thing)
    return new(api, thing)


def bound_to_a_tpm(api: Api, thing: str) -> dict[str, Any]:
    """Return a request with an invite for one TPM."""
    return new(api, thing) | {"code": api.invite(thing, ekSha256="0" * 64)}


def too_large(api: Api, thing: str) -> dict[str, Any]:
    """Return a request of more than 16 KiB."""
    return {"body": {"csr": "A" * 17000, "thingName": thing}, "code": api.invite(thing)}


# Status of /v1/certificates and of /getCertificate, and the code.
ENROLLMENTS: dict[str, tuple[Callable[[Api, str], dict[str, Any]], int, int, str]] = {
    "new": (new, 201, 200, ""),
    "known": (known, 200, 200, ""),
    "another key": (another_key, 409, 409, "thing-enrolled"),
    "another Thing": (another_thing, 409, 409, "key-enrolled"),
    "revoked": (revoked, 409, 409, "thing-revoked"),
    "foreign": (foreign, 409, 409, "thing-exists"),
    "bound to a TPM": (bound_to_a_tpm, 403, 403, "attestation-required"),
    "too large": (too_large, 413, 413, "body-too-large"),
    "without a code": (lambda api, thing: new(api, thing) | {"code": None}, 401, 401, "invite-required"),
    "with a wrong code": (lambda api, thing: new(api, thing) | {"code": "wrong"}, 401, 401, "invite-invalid"),
    "for another": (
        lambda api, thing: new(api, thing) | {"code": api.invite(api.new_name())},
        *(401, 401, "invite-invalid"),
    ),
}


@pytest.mark.parametrize("situation", ENROLLMENTS)
def test_a_real_enrollment_ends_as_the_contract_says(api: Api, situation: str) -> None:
    """A real CSR with a real code is answered with its certificate, or refused by the contract's code."""
    sent, status, status_of_article, code = ENROLLMENTS[situation]
    for label, expected in ((CERTIFICATES, status), (ARTICLE, status_of_article)):
        answer = api.ask(label, **sent(api, api.new_name()))
        assert (answer.status_code, code_of(answer)) == (expected, code)


def test_anyone_enrolls_where_the_deployment_is_open(open_api: Api) -> None:
    """Without a code the first request is answered 201 and its repetition 200, each as the contract says."""
    thing = open_api.new_name()
    sent = {"csr": csr_for(thing), "thingName": thing}
    answers = [open_api.ask(label, body=sent) for label in (CERTIFICATES, CERTIFICATES, ARTICLE)]
    assert [answer.status_code for answer in answers] == [201, 200, 200]
    assert answers[1].json() == answers[0].json()
    assert answers[2].text == answers[0].json()["certificatePem"]


def test_an_operators_day_is_as_the_contract_says(api: Api) -> None:
    """Each operation of the operator succeeds with its one status, and says 404 of what there is not."""
    thing = api.new_name()
    made = api.ask(f"POST {INVITES}", body={"invites": [{"thing": thing}, {"thing": "spare-*", "uses": 2}]})
    first, spare = made.json()["invites"]
    sent = {"csr": csr_for(thing)}
    assert api.ask(CERTIFICATES, body=sent, code=first["code"]).status_code == 201
    answers = [
        api.ask(f"GET {INVITES}"),
        api.ask(f"GET {FLEET}"),
        shown := api.ask(f"GET {FLEET}", query={"thing": thing}),
        replaced := api.ask(f"POST {REPLACEMENTS}", body={"thing": thing}),
        api.ask(f"POST {SWEEP}", body={}),
        api.ask(f"DELETE {INVITES}", query={"id": spare["id"]}),
        api.ask(f"DELETE {FLEET}", query={"thing": thing}),
        api.ask(f"DELETE {INVITES}", query={"id": "none"}),
        api.ask(f"DELETE {FLEET}", query={"thing": "none"}),
        api.ask(f"GET {FLEET}", query={"thing": "none"}),
        api.ask(f"POST {REPLACEMENTS}", body={"thing": "none"}),
    ]
    statuses = [answer.status_code for answer in (made, *answers)]
    assert statuses == [201, 200, 200, 200, 201, 200, 204, 204, 404, 404, 404, 404]
    (replacement,) = replaced.json()["invites"]
    assert (replacement["thing"], replacement["uses"], replacement["thingStatus"]) == (thing, 1, "issued")
    assert (shown.json()["thing"]["thing"], shown.json()["thing"]["inviteId"]) == (thing, first["id"])


def test_what_an_operator_says_of_tpms_is_as_the_contract_says(api: Api) -> None:
    """Chips and CAs are added, listed and removed, and 404 says of what there is not."""
    chip, root = {"ekSha256": hashlib.sha256(api.new_name().encode()).hexdigest(), "thing": api.new_name()}, root_body()
    answers = [
        api.ask(f"POST {EKS}", body={"keys": [chip]}),
        api.ask(f"POST {EKS}", body={"keys": [chip | {"thing": "other"}]}),
        api.ask(f"GET {EKS}", query={"prefix": chip["thing"]}),
        api.ask(f"DELETE {EKS}", query={"ekSha256": chip["ekSha256"]}),
        api.ask(f"DELETE {EKS}", query={"ekSha256": chip["ekSha256"]}),
        api.ask(f"POST {AUTHORITIES}", body=root),
        api.ask(f"POST {AUTHORITIES}", body=root | {"sha256": "0" * 64}),
        api.ask(f"GET {AUTHORITIES}"),
        api.ask(f"DELETE {AUTHORITIES}", query={"sha256": root["sha256"]}),
        api.ask(f"DELETE {AUTHORITIES}", query={"sha256": root["sha256"]}),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 204, 404, 201, 400, 200, 204, 404]
    assert answers[1].json()["conflicts"] == [chip]
    assert [(one["ekSha256"], one["thing"]) for one in answers[2].json()["keys"]] == [tuple(chip.values())]


def test_a_sweeps_marker_that_is_none_is_the_requests_fault(api: Api) -> None:
    """A marker that AWS IoT did not give out is refused with 400: no retry will help, and no alarm should go off."""
    answer = api.ask(f"POST {SWEEP}", body={"next": "none"})
    assert (answer.status_code, code_of(answer)) == (400, "field-invalid")
