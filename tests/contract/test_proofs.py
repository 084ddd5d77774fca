"""What a device signs is a proof to the backend: of the URL that it called, at the time that it was called."""

from __future__ import annotations

import secrets
import time
from datetime import UTC, datetime

import pytest

from enrollment_backend import http, proof
from enrollment_backend.proof_errors import ClockSkewError, ProofMalformedError
from enrollment_backend.rest_event import as_http_event
from hsm_enroll.key import KeyType
from hsm_enroll.local.payload import Request, to_event
from hsm_enroll.x509 import jws
from tests.support.deployment import event
from tests.support.software_signer import SoftwareSigner

PATH = "/v1/renewals"
URL = f"https://api.example.com{PATH}"


def built(signer: SoftwareSigner, url: str = URL) -> bytes:
    """Return a proof as a device sends it."""
    return jws.build(signer, url, b'{"csr": "text"}', time.time(), secrets.token_urlsafe(16)).encode("ascii")


@pytest.mark.parametrize("key_type", KeyType)
def test_the_backend_accepts_what_a_device_builds(key_type: KeyType) -> None:
    """Of each type of key that a device may have."""
    signer = SoftwareSigner(key_type)
    made = event("POST", PATH, built(signer).decode("ascii"), content_type=jws.MEDIA_TYPE)
    read = proof.read(http.proof_body(made), http.called_url(made), time.time())
    read.check_signature(signer.public_key_info)
    assert read.fields() == {"csr": "text"}


@pytest.mark.parametrize("url", ["https://API.example.com/v1/renewals", "https://api.example.com:443/v1/renewals"])
def test_the_backend_knows_the_url_however_the_device_writes_it(url: str) -> None:
    """Upper case and the default port are no part of what API Gateway says was called."""
    made = event("POST", PATH, content_type=jws.MEDIA_TYPE)
    made["requestContext"]["domainName"] = "API.example.com"  # as the client has sent it
    proof.read(built(SoftwareSigner(), url), http.called_url(made), time.time())


def test_a_rest_apis_url_has_its_stage() -> None:
    """With `backend deploy --edge`, the API's URL ends in the stage, and API Gateway takes it off the path."""
    rest = {
        "httpMethod": "POST",
        "path": PATH,
        "requestContext": {"domainName": "abc123.execute-api.eu-central-1.amazonaws.com", "path": f"/edge{PATH}"},
    }
    url = http.called_url(as_http_event(rest))
    assert url == "https://abc123.execute-api.eu-central-1.amazonaws.com/edge/v1/renewals"
    proof.read(built(SoftwareSigner(), url), url, time.time())
    with pytest.raises(ProofMalformedError, match="url"):
        proof.read(built(SoftwareSigner()), url, time.time())


def test_the_local_clouds_url_is_the_one_that_clients_have() -> None:
    """Its host name and port, by either of its names."""
    for host in ("localhost:8443", "127.0.0.1:8443"):
        request = Request("POST", PATH, "HTTP/1.1", {"host": host}, b"", "127.0.0.1")
        made = to_event(request, f"POST {PATH}", "id", datetime.now(UTC))
        proof.read(built(SoftwareSigner(), f"https://{host}{PATH}"), http.called_url(made), time.time())


def test_a_device_with_a_wrong_clock_is_told_so() -> None:
    """Five minutes, by the backend's own clock."""
    with pytest.raises(ClockSkewError):
        proof.read(built(SoftwareSigner()), URL, time.time() + 301)
