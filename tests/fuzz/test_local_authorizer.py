"""The header Authorization of the local API Gateway, whatever is in it: read as it was meant, or forbidden."""

from __future__ import annotations

import datetime as dt

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import assume, given
from hypothesis import strategies as st

from hsm_enroll.local.authorizer import Authorization, ForbiddenError, authorize
from hsm_enroll.local.endpoints import ACCESS_KEY_ID, SECRET_ACCESS_KEY
from hsm_enroll.local.payload import Request

NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=20)
AUTHORIZATIONS = st.builds(
    Authorization,
    access_key_id=st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", min_size=1, max_size=128),
    date=st.dates(dt.date(1970, 1, 1)).map(lambda date: date.strftime("%Y%m%d").zfill(8)),
    region=NAMES,
    service=NAMES,
    signed_headers=st.sets(NAMES, min_size=1, max_size=8).map(lambda names: tuple(sorted(names))),
    signature=st.text("0123456789abcdef", min_size=64, max_size=64),
)


def written(authorization: Authorization) -> str:
    """Return the header."""
    scope = (authorization.access_key_id, authorization.date, authorization.region, authorization.service)
    return (
        f"AWS4-HMAC-SHA256 Credential={'/'.join(scope)}/aws4_request, "
        f"SignedHeaders={';'.join(authorization.signed_headers)}, Signature={authorization.signature}"
    )


def signed(target: str, body: bytes) -> Request:
    """Return a request as a client of AWS signs it."""
    request = AWSRequest("POST", f"https://localhost{target}", data=body)
    SigV4Auth(Credentials(ACCESS_KEY_ID, SECRET_ACCESS_KEY), "execute-api", "us-east-1").add_auth(request)
    headers = {"host": "localhost", **{name.lower(): value for name, value in request.headers.items()}}
    return Request("POST", target, "HTTP/1.1", headers, body, "127.0.0.1")


@given(authorization=AUTHORIZATIONS)
def test_a_header_is_read_as_it_was_written(authorization: Authorization) -> None:
    """Every well-formed header comes back in its parts."""
    assert Authorization.parse(written(authorization)) == authorization


@given(text=st.text() | st.text().map("AWS4-HMAC-SHA256 {}".format) | st.from_regex(r"AWS4-HMAC-SHA256 Credential=.*"))
def test_any_other_text_is_forbidden(text: str) -> None:
    """No text brings the gateway down: what is accepted is what would be written."""
    try:
        authorization = Authorization.parse(text)
    except ForbiddenError:
        return
    assert written(authorization).replace(", ", ",") == text.replace(", ", ",")


@given(body=st.binary(max_size=64), query=st.text("abc=&%20", max_size=20))
def test_what_awss_library_signs_is_authorized(body: bytes, query: str) -> None:
    """Any body and any query."""
    assert authorize(signed(f"/v1/operator/fleet?{query}", body), dt.datetime.now(dt.UTC))["accessKey"] == ACCESS_KEY_ID


@given(data=st.data(), character=st.characters(codec="latin-1"))
def test_one_changed_character_is_forbidden(data: st.DataObject, character: str) -> None:
    """Wherever it is in the header, the request is nobody's any more."""
    request = signed("/v1/operator/fleet?thing=x", b"{}")
    header = request.headers["authorization"]
    place = data.draw(st.integers(0, len(header) - 1))
    assume(header[place] != character)
    headers = {**request.headers, "authorization": header[:place] + character + header[place + 1 :]}
    with pytest.raises(ForbiddenError):
        authorize(
            Request("POST", request.target, request.protocol, headers, request.body, request.source_ip),
            dt.datetime.now(dt.UTC),
        )
