"""AWS_IAM of the local API Gateway: whose signature counts, and when."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Mapping

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from hsm_enroll.local.authorizer import Authorization, ForbiddenError, authorize
from hsm_enroll.local.endpoints import ACCESS_KEY_ID, SECRET_ACCESS_KEY
from hsm_enroll.local.payload import Request

TARGET = "/v1/operator/fleet?thing=pump-1"
BODY = b'{"a": 1}'


def signed(
    *,
    key: str = ACCESS_KEY_ID,
    token: str | None = None,
    service: str = "execute-api",
    region: str = "us-east-1",
    headers: Mapping[str, str] | None = None,
) -> Request:
    """Return a request as a client of AWS signs it."""
    request = AWSRequest("POST", f"https://localhost{TARGET}", data=BODY, headers=dict(headers or {}))
    SigV4Auth(Credentials(key, SECRET_ACCESS_KEY, token), service, region).add_auth(request)
    received = {name.lower(): value for name, value in request.headers.items()}
    return Request("POST", TARGET, "HTTP/1.1", {"host": "localhost", **received}, BODY, "127.0.0.1")


def changed(request: Request, *, target: str = TARGET, body: bytes = BODY, **headers: str | None) -> Request:
    """Return it with other headers, underscores standing for dashes and None for none."""
    new = {name.replace("_", "-"): value for name, value in headers.items()}
    kept = {name: value for name, value in {**request.headers, **new}.items() if value is not None}
    return Request("POST", target, "HTTP/1.1", kept, body, "127.0.0.1")


def now() -> dt.datetime:
    """Return the time."""
    return dt.datetime.now(dt.UTC)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "application/json", "x-several": "a  b"},
        {"x-amz-content-sha256": hashlib.sha256(BODY).hexdigest()},
    ],
    ids=str,
)
def test_what_awss_library_signs_is_authorized(headers: dict[str, str]) -> None:
    """Whatever else is signed along, the caller is named."""
    iam = authorize(signed(headers=headers), now())
    assert iam["userArn"] == "arn:aws:iam::123456789012:user/local"


@pytest.mark.parametrize("minutes", [-6, 6])
def test_a_signature_of_another_time_is_forbidden(minutes: int) -> None:
    """More than five minutes off, either way; four are let pass."""
    request = signed()
    with pytest.raises(ForbiddenError, match="five minutes"):
        authorize(request, now() + dt.timedelta(minutes=minutes))
    authorize(request, now() + dt.timedelta(minutes=minutes // 6 * 4))


_SIGNED = now()  # as the requests below are, when this module is read


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (signed(key="another"), "credential"),
        (signed(service="iot"), "credential"),
        (signed(region="eu-central-1"), "credential"),
        (signed(token="left-over"), "session token"),
        (changed(signed(), authorization=None), "Authorization"),
        (changed(signed(), x_amz_date=None), "x-amz-date"),
        (changed(signed(), x_amz_date="now"), "x-amz-date"),
        (changed(signed(), host="elsewhere"), "match"),
        (changed(signed(), body=b"{}"), "match"),
        (changed(signed(), target="/v1/operator/fleet?thing=pump-2"), "match"),
        (changed(signed(), target="/v1/operator/sweep?thing=pump-1"), "match"),
        (changed(signed(), target=TARGET + "#x"), "fragment"),
        (changed(signed(headers={"x-one": "1"}), x_one="2"), "match"),
        (changed(signed(headers={"x-one": "1"}), x_one=None), "missing"),
        (changed(signed(), x_amz_content_sha256="UNSIGNED-PAYLOAD"), "content-sha256"),
        (changed(signed(headers={"x-amz-content-sha256": "0" * 64})), "content-sha256"),
    ],
    ids=lambda value: value if isinstance(value, str) else "request",  # which bears the time
)
def test_anything_else_is_forbidden(request_: Request, reason: str) -> None:
    """Another key, scope, header, target or body: the error says which, for the log."""
    with pytest.raises(ForbiddenError, match=reason):
        authorize(request_, _SIGNED)


def test_host_and_time_have_to_be_signed() -> None:
    """A signature over fewer headers could be replayed elsewhere or later."""
    header = signed().headers["authorization"].replace("SignedHeaders=host;x-amz-date", "SignedHeaders=host")
    with pytest.raises(ForbiddenError, match="not signed"):
        authorize(changed(signed(), authorization=header), now())


@pytest.mark.parametrize("names", ["x-amz-date;host", "host;host;x-amz-date"])
def test_signed_headers_come_in_order(names: str) -> None:
    """As the canonical request has them: sorted, each once."""
    header = signed().headers["authorization"].replace("host;x-amz-date", names)
    with pytest.raises(ForbiddenError, match="not sorted"):
        Authorization.parse(header)
