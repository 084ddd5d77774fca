"""The signature of a request, and the region that it is for."""

from __future__ import annotations

import pytest

from hsm_enroll.backend_api.transport import Outgoing
from hsm_enroll.errors import UsageError
from hsm_enroll.operator import aws
from hsm_enroll.operator.api import OperatorClient
from hsm_enroll.operator.signing import region_in, signer

pytestmark = pytest.mark.usefixtures("operator_credentials")
_POST = Outgoing("POST", "https://api.example/v1?a=b", {"Content-Type": "application/json"}, b"{}")


@pytest.mark.parametrize(
    ("url", "region"),
    [
        ("https://a1b2c3d4e5.execute-api.eu-central-1.amazonaws.com", "eu-central-1"),
        ("https://a1b2c3d4e5.execute-api.cn-north-1.amazonaws.com.cn/stage", "cn-north-1"),
        ("https://enroll.example", None),
        ("https://a1b2c3d4e5.execute-api.eu-central-1.amazonaws.com.example", None),
    ],
)
def test_api_gateways_host_name_tells_the_region(url: str, region: str | None) -> None:
    """Only a host name that API Gateway gives away counts."""
    assert region_in(url) == region


def test_where_nothing_tells_the_region_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """An API with a name of its own needs AWS_REGION; API Gateway's own name needs nothing."""
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    OperatorClient("https://a1b2c3d4e5.execute-api.eu-central-1.amazonaws.com")
    with pytest.raises(UsageError, match="no AWS region is set"):
        OperatorClient("https://enroll.example")


def test_host_and_content_type_are_signed_for_the_region() -> None:
    """What a proxy may change or add is not under the signature: only host, content type and AWS's own headers are."""
    headers = signer(aws.session(), "eu-central-1")(_POST)
    assert "/eu-central-1/execute-api/aws4_request" in headers["Authorization"]
    assert "SignedHeaders=content-type;host;x-amz-date," in headers["Authorization"]


def test_credentials_are_read_for_each_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were renewed meanwhile are used, and where there are none any more nothing is signed."""
    session = aws.session()
    sign = signer(session, "eu-central-1")
    for key in ("AKIAFIRST", "AKIASECOND"):
        session.set_credentials(key, "secret")
        assert f"Credential={key}/" in sign(_POST)["Authorization"]
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(UsageError, match="no AWS credentials"):
        signer(aws.session(), "eu-central-1")(_POST)
