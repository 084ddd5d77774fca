"""The backend's handler against the original article's: a client made at import, four AWS calls one after the other.

Ours is shown an invite, and keeps its ledger. Both talk to the same stand-in for AWS on loopback, which takes equally
long over every call.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import Mock

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from benchmarks.measuring import ratios, show

_LAMBDA = Path(__file__).parents[2] / "lambda"
_AWS_DELAY_SECONDS = 0.2
_THING = "bench-1"
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
# What each start pays until its first client is ready; the health check of ours would not need one.
_COLD_ARTICLE = "import article"
_COLD_OURS = "import handler; handler.issuer(); handler.ledger()"


def measure() -> None:
    """Measure and print a line for each figure."""
    with tempfile.TemporaryDirectory() as folder, _aws() as url:
        Path(folder, "article.py").write_text(_ARTICLE, encoding="utf-8")
        os.environ.update(_environment(url))
        sys.path[:0] = [folder, str(_LAMBDA)]
        import article  # type: ignore[import-not-found]  # written a moment ago

        import handler
        from enrollment_backend.invites import create_code

        event = _event(_csr(), create_code())
        with Path(os.devnull).open("w") as log, redirect_stderr(log):
            ours, peer = handler.lambda_handler, article.lambda_handler
            warm = ratios(lambda: _call(ours, event), lambda: _call(peer, event), 11)
            cpu = [_cpu_milliseconds(event) for _ in range(30)]
        cold = ratios(lambda: _start(_COLD_OURS, folder), lambda: _start(_COLD_ARTICLE, folder), 9)
    show("warm handler / four sequential calls, at most 0.75", warm)
    show("cold start / the article's, at most 1.25", cold)
    show("own CPU per enrollment (P-256), ms, below 3", cpu)


def _call(handle: Callable[[Any, Any], Any], event: dict[str, Any]) -> float:
    begin = time.perf_counter()
    answer = handle(event, None)
    seconds = time.perf_counter() - begin
    if answer["statusCode"] not in {200, 201}:
        raise RuntimeError(answer["body"])
    return seconds


def _start(program: str, folder: str) -> float:
    environment = {**os.environ, "PYTHONPATH": f"{folder}:{_LAMBDA}"}
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
    return time.perf_counter() - begin


def _cpu_milliseconds(event: dict[str, Any]) -> float:
    """CPU time of everything but AWS: the request parsed, the code hashed, the CSR checked, the answer written."""
    from enrollment_backend import device_api, http
    from enrollment_backend.claims import Certificate, Claim
    from enrollment_backend.service import EnrollmentService

    aws = Mock()
    aws.issue.return_value = Certificate("pem", "0" * 64, "arn"), False
    aws.claim.return_value.claim = Claim(_THING, "", "", None, "", 0, 0)
    aws.claim.return_value.resumed = False
    one_by_one = lambda *calls: [call() for call in calls]  # noqa: E731
    service = EnrollmentService("invite", lambda: aws, lambda: aws, one_by_one, Mock(), "", 8883, time.time)
    begin = time.process_time()
    answer = http.handle(event, device_api.routes(service.enroll, service.show_invite), "bench")
    milliseconds = (time.process_time() - begin) * 1000
    if answer["statusCode"] != 201:
        raise RuntimeError(answer["body"])
    return milliseconds


def _environment(url: str) -> dict[str, str]:
    return {
        "AUTH_MODE": "invite", "POLICY_NAME": "hsm-enroll-device", "TABLE_NAME": "ledger", "MQTT_ENDPOINT": "localhost",
        "AWS_ENDPOINT_URL": url, "AWS_REGION": "eu-central-1", "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench", "AWS_CONFIG_FILE": os.devnull,
    }  # fmt: skip


def _event(csr: str, code: str) -> dict[str, Any]:
    return {
        "version": "2.0",
        "rawPath": "/v1/certificates",
        "headers": {"content-type": "application/json", "authorization": f"Bearer {code}"},
        "requestContext": {"http": {"method": "POST"}, "requestId": "bench"},
        "body": json.dumps({"thingName": _THING, "csr": csr}),
        "isBase64Encoded": False,
    }


def _csr() -> str:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, _THING)])
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return request.public_bytes(Encoding.PEM).decode()


def _certificate(csr: str) -> str:
    request = x509.load_pem_x509_csr(csr.encode())
    name, now = request.subject, datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, request.public_key(), 1, now, now + timedelta(days=1))
    return builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(Encoding.PEM).decode()


class _Aws(BaseHTTPRequestHandler):
    """Answers every call after the same delay; the certificate, which costs time, is made once a CSR."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer goes out at once, not in two packets of which the second waits
    issued: dict[str, str] = {}  # noqa: RUF012 - shared by all requests on purpose

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        content: dict[str, str] = {}
        if self.path.startswith("/certificates"):
            csr = json.loads(body)["certificateSigningRequest"]
            if csr not in self.issued:
                self.issued[csr] = _certificate(csr)
            content = {"certificatePem": self.issued[csr], "certificateId": "0" * 64, "certificateArn": "arn"}
        time.sleep(_AWS_DELAY_SECONDS)
        text = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_POST = do_PUT = answer  # noqa: N815 - http.server's names

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        """Say nothing."""


@contextmanager
def _aws() -> Iterator[str]:
    """Run the stand-in in a process of its own: it is not to take computing time from who is measured."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Aws) as server:
        process = get_context("fork").Process(target=server.serve_forever, daemon=True)
        process.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            process.terminate()
            process.join()
