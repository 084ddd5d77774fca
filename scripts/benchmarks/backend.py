"""The backend's handler against the original article's: a client made at import, four AWS calls one after the other.

Ours is shown an invite, keeps its ledger, and spaces new enrollments in time. Both talk over TLS to the same stand-in
for AWS on loopback, in which DynamoDB takes 10 ms and AWS IoT takes 200 ms over a call.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from datetime import UTC, datetime, timedelta
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from pathlib import Path
from shutil import copy, copytree, ignore_patterns
from typing import Any
from unittest.mock import Mock

import botocore
import cryptography
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from benchmarks.figures import Figure
from benchmarks.measuring import ratios, runs
from hsm_enroll.local.authority import Authority
from hsm_enroll.local.home import Home
from hsm_enroll.local.tls import for_api

_LAMBDA = Path(__file__).parents[2] / "lambda"
_DYNAMODB_SECONDS = 0.01
_AWS_IOT_SECONDS = 0.2
_THING = "bench-1"
_CODE = "00000-00000-00000-00000-00000"  # of the one invite there is; the last character is the right one
_ARTICLE = """
import json
import boto3

iot = boto3.client("iot")

def lambda_handler(event, context):
    body = json.loads(event["body"])
    iot.create_thing(thingName=body["thingName"])
    certificate = iot.create_certificate_from_csr(certificateSigningRequest=body["csr"], setAsActive=True)
    iot.attach_policy(policyName="hsm-enroll-device", target=certificate["certificateArn"])
    iot.attach_thing_principal(thingName=body["thingName"], principal=certificate["certificateArn"])
    return {"statusCode": 200, "body": certificate["certificatePem"]}
"""
# Runs in a new process, whose arguments are the module, and when the process was started.
_COLD = """
import json, sys, time
from importlib import import_module
module, started, event = sys.argv[1], float(sys.argv[2]), json.load(sys.stdin)
handle = import_module(module).lambda_handler
ready = time.perf_counter()
answer = handle(event, None)
answered = time.perf_counter()
if answer["statusCode"] not in {200, 201}:
    sys.exit(answer["body"])
print(json.dumps([ready - started, answered - ready]))
"""


def measure(*, quick: bool) -> Iterator[Figure]:
    """Measure."""
    with tempfile.TemporaryDirectory() as folder, _aws(Home(Path(folder))) as url:
        Path(folder, "article.py").write_text(_ARTICLE, encoding="utf-8")
        os.environ.update(_environment(url, Home(Path(folder))))
        sys.path[:0] = [folder, str(_LAMBDA)]
        import article  # type: ignore[import-not-found]  # written a moment ago

        import handler

        event = _event(_csr())
        with Path(os.devnull).open("w") as log, redirect_stderr(log):
            ours, peer = handler.lambda_handler, article.lambda_handler
            warm = ratios(lambda: _call(ours, event), lambda: _call(peer, event), runs(11, quick=quick))
            each = runs(30, quick=quick)
            cpu = [(_cpu_milliseconds(event), _bare_milliseconds(event)) for _ in range(each)]
            renewal_cpu = _renewal(ec.generate_private_key(ec.SECP256R1()), each)
        task = Path(folder, "task")
        _copy_task(task)
        pairs = range(runs(15, quick=quick) + 1)
        cold = [(_start("handler", task, event), _start("article", Path(folder), event)) for _ in pairs][1:]
    what, article = "cold handler, until its first answer", "the article's handler"
    yield Figure.of("handler-warm", "warm handler", "the article's four sequential calls", warm, at_most=0.6)
    firsts = [sum(own) / sum(other) for own, other in cold]
    yield Figure.of("handler-cold", what, article, firsts, at_most=1.1)
    yield Figure.of("handler-cold-init", "INIT alone", article, [own[0] / other[0] for own, other in cold])
    yield Figure.of("handler-cold-request", "first request alone", article, [own[1] / other[1] for own, other in cold])
    for kind, times in (("enrollment", cpu), ("renewal", renewal_cpu)):
        what = f"own CPU per {kind} (P-256)"
        yield Figure.of(f"{kind}-cpu-ms", what, "", [own for own, _ in times], unit="ms", at_most=3.0)
        peer = "reading and verifying the CSR with bare cryptography"
        yield Figure.of(f"{kind}-cpu", what, peer, [own / other for own, other in times])


def _call(handle: Callable[[Any, Any], Any], event: dict[str, Any]) -> float:
    begin = time.perf_counter()
    answer = handle(event, None)
    seconds = time.perf_counter() - begin
    if answer["statusCode"] not in {200, 201}:
        raise RuntimeError(answer["body"])
    return seconds


def _copy_task(task: Path) -> None:
    """Make a folder of what the zip has that is imported: like the zip, it has no bytecode."""
    for package in (_LAMBDA / "enrollment_backend", Path(cryptography.__file__).parent):
        copytree(package, task / package.name, ignore=ignore_patterns("__pycache__"))
    copy(_LAMBDA / "handler.py", task)


def _start(module: str, task: Path, event: dict[str, Any]) -> tuple[float, float]:
    """Start a process as Lambda does; return the seconds that INIT took, and those of the first request."""
    environment = {
        **os.environ,
        "AWS_LAMBDA_FUNCTION_NAME": "bench",
        "PYTHONPATH": str(task),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-c", _COLD, module, str(time.perf_counter())]
    run = subprocess.run(command, env=environment, input=json.dumps(event), capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise RuntimeError(run.stderr)
    init, first = json.loads(run.stdout)
    return init, first


def _cpu_milliseconds(event: dict[str, Any], *, key: ec.EllipticCurvePrivateKey | None = None) -> float:
    """CPU time of everything but AWS: the request parsed, code or proof and CSR checked, the answer written.

    Args:
        event: the request; a renewal's gets a new proof.
        key: the key that signs a renewal; None for an enrollment.
    """
    from enrollment_backend import device_api, http
    from enrollment_backend.attesting import Attesting
    from enrollment_backend.binding import Claimed
    from enrollment_backend.claims import Certificate, Claim
    from enrollment_backend.issuing import Issuing
    from enrollment_backend.lifecycle import Lifecycle
    from enrollment_backend.service import EnrollmentService

    aws = Mock()
    claimed = Claimed(Claim(_THING, "", "", None, "", 0, 0), is_new=True)
    aws.claim.return_value = aws.claim_renewal.return_value = claimed
    aws.create_certificate.return_value = Certificate("pem", "0" * 64, "arn")
    aws.create_thing.return_value = False
    aws.record.return_value = ()
    aws.ledger.now = time.time
    if key is not None:
        event = {**event, "body": _proof(key, event["body"])}
        hashed = hashlib.sha256(_spki(key)).hexdigest()
        held = Certificate(_certificate_of(key), "1" * 64, "arn")
        aws.ledger.find_key.return_value = {"thing": _THING}
        claim = Claim(_THING, "", hashed, None, "", 0, 0, certificate=held)
        aws.ledger.find_holder.return_value = ({"thing": _THING}, claim, None)
    issuing = Issuing(
        ledger=lambda: aws,
        issuer=lambda: aws,
        turns=lambda: aws,
        concurrently=lambda *calls: [call() for call in calls],
        unrecorded_certificates=aws,
        remove=aws,
        settle_adoption=aws,
        allow_existing_things=False,
        mqtt_endpoint="",
        mqtt_port=8883,
        role_alias=None,
        now=time.time,
        sleep=time.sleep,
    )
    attesting = Attesting(is_open=False, ledger=lambda: aws, authorities=aws, now=time.time)
    service = EnrollmentService("invite", "off", lambda: aws, issuing, attesting, time.time)
    lifecycle = Lifecycle(lambda: aws, issuing, aws, delete_things=False, attestation="off", attesting=attesting)
    routes = device_api.routes(service, lifecycle)
    begin = time.process_time()
    answer = http.handle(event, routes, "bench")
    milliseconds = (time.process_time() - begin) * 1000
    if answer["statusCode"] != 201:
        raise RuntimeError(answer["body"])
    return milliseconds


def _bare_milliseconds(event: dict[str, Any]) -> float:
    """CPU time of what no backend can do without."""
    begin = time.process_time()
    request = x509.load_pem_x509_csr(json.loads(event["body"])["csr"].encode())
    if not request.is_signature_valid:
        raise RuntimeError(event["body"])
    return (time.process_time() - begin) * 1000


def _renewal(key: ec.EllipticCurvePrivateKey, times: int) -> list[tuple[float, float]]:
    """Return the CPU time of renewals, each with a new proof, and that of the peer, in milliseconds."""
    event = {
        "version": "2.0",
        "rawPath": "/v1/renewals",
        "headers": {"content-type": "application/jose"},
        "requestContext": {
            "domainName": "api.example.com",
            "http": {"method": "POST", "path": "/v1/renewals"},
            "requestId": "bench",
        },
        "body": _csr(),
        "isBase64Encoded": False,
    }
    bare = {"body": json.dumps({"csr": event["body"]})}
    return [(_cpu_milliseconds(event, key=key), _bare_milliseconds(bare)) for _ in range(times)]


def _proof(key: ec.EllipticCurvePrivateKey, csr: str) -> str:
    header = {
        "alg": "ES256",
        "kid": hashlib.sha256(_spki(key)).hexdigest(),
        "url": "https://api.example.com/v1/renewals",
        "iat": int(time.time()),
        "jti": secrets.token_urlsafe(16),
    }
    signed = ".".join(_base64url(json.dumps(part).encode()) for part in (header, {"csr": csr}))
    r, s = decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{signed}.{_base64url(r.to_bytes(32) + s.to_bytes(32))}"


def _base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@cache
def _certificate_of(key: ec.EllipticCurvePrivateKey) -> str:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, _THING)])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=1))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def _environment(url: str, home: Home) -> dict[str, str]:
    # As on Lambda, the list of authorities that a client reads is botocore's.
    authorities = Path(botocore.__file__).with_name("cacert.pem").read_bytes() + home.ca_certificate.read_bytes()
    bundle = home.folder / "authorities.pem"
    bundle.write_bytes(authorities)
    return {
        "AUTH_MODE": "invite", "POLICY_NAME": "hsm-enroll-device", "TABLE_NAME": "ledger", "MQTT_ENDPOINT": "localhost",
        "AWS_ENDPOINT_URL": url, "AWS_CA_BUNDLE": str(bundle), "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench", "AWS_CONFIG_FILE": os.devnull,
    }  # fmt: skip


def _event(csr: str) -> dict[str, Any]:
    return {
        "version": "2.0",
        "rawPath": "/v1/certificates",
        "headers": {"content-type": "application/json", "authorization": f"Bearer {_CODE}"},
        "requestContext": {"http": {"method": "POST"}, "requestId": "bench"},
        "body": json.dumps({"thingName": _THING, "csr": csr}),
        "isBase64Encoded": False,
    }


def _csr() -> str:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, _THING)])
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return request.public_bytes(Encoding.PEM).decode()


def _invite() -> dict[str, dict[str, str]]:
    """Return the invite as an item of the ledger; it is never used up."""
    code_sha256 = hashlib.sha256(_CODE.replace("-", "").encode()).hexdigest()
    texts = {"kind": "invite", "id": code_sha256[:16], "code_sha256": code_sha256, "thing": _THING, "created_by": "x"}
    numbers = {"uses": 1, "uses_left": 1, "created": 0, "expires": 1 << 40}
    return {name: {"S": text} for name, text in texts.items()} | {
        name: {"N": str(number)} for name, number in numbers.items()
    }


class _Aws(BaseHTTPRequestHandler):
    """Answers each call after its service's delay; the certificate, which costs time, is made once for each CSR."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer goes out at once, not in two packets of which the second waits
    authority: Authority
    issued: dict[str, str] = {}  # noqa: RUF012 - shared by all requests on purpose

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "X-Amz-Target" in self.headers:  # DynamoDB's protocol: every call is to the same path
            time.sleep(_DYNAMODB_SECONDS)
            self._send({"Attributes": {}, "Responses": {"ledger": [_invite()]}})
            return
        content = {"thingArn": "arn"}
        if self.path.startswith("/certificates"):
            csr = json.loads(body)["certificateSigningRequest"]
            if csr not in self.issued:
                self.issued[csr] = self.authority.issue_device(csr).public_bytes(Encoding.PEM).decode()
            content = {"certificatePem": self.issued[csr], "certificateId": "0" * 64, "certificateArn": "arn"}
        time.sleep(_AWS_IOT_SECONDS)
        self._send(content)

    do_POST = do_PUT = answer  # noqa: N815 - http.server's names

    def _send(self, content: Mapping[str, object]) -> None:
        text = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        """Say nothing."""


@contextmanager
def _aws(home: Home) -> Iterator[str]:
    """Run the stand-in in a process of its own: it is not to take computing time from who is measured."""
    _Aws.authority = Authority.of(home)
    home.write_pair(home.server_certificate, home.server_key, _Aws.authority.issue_server())
    with ThreadingHTTPServer(("127.0.0.1", 0), _Aws) as server:
        server.socket = for_api(home).wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        process = get_context("fork").Process(target=server.serve_forever, daemon=True)
        process.start()
        try:
            yield f"https://localhost:{server.server_address[1]}"
        finally:
            process.terminate()
            process.join()
