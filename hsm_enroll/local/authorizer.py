"""AWS_IAM authorization of an HTTP API: checks Signature Version 4 in the header Authorization, as API Gateway does.

See the IAM user guide, "AWS Signature Version 4 for API requests", and the API Gateway developer guide, "Control access
to HTTP APIs with IAM authorization". botocore computes the expected signature.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import re
from dataclasses import dataclass

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from hsm_enroll.local.endpoints import ACCESS_KEY_ID, SECRET_ACCESS_KEY
from hsm_enroll.local.lambda_runtime import ACCOUNT_ID, REGION
from hsm_enroll.local.payload import Request

SERVICE = "execute-api"
CLOCK_SKEW = dt.timedelta(minutes=5)

_TIMESTAMP = "%Y%m%dT%H%M%SZ"
_HEADER = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([A-Za-z0-9]{1,128})/([0-9]{8})/([a-z0-9-]{1,64})/([a-z0-9-]{1,64})/aws4_request"
    r", ?SignedHeaders=([a-z0-9-]{1,64}(?:;[a-z0-9-]{1,64}){0,63}), ?Signature=([0-9a-f]{64})"
)
_ALWAYS_SIGNED = frozenset({"host", "x-amz-date"})
# What API Gateway passes on about an IAM user. There is only this one, who does not belong to an organization.
_IDENTITY: dict[str, str | None] = {
    "accessKey": ACCESS_KEY_ID,
    "accountId": ACCOUNT_ID,
    "callerId": "AIDALOCAL",
    "cognitoIdentity": None,
    "principalOrgId": None,
    "userArn": f"arn:aws:iam::{ACCOUNT_ID}:user/local",
    "userId": "AIDALOCAL",
}


class ForbiddenError(Exception):
    """The request is not signed correctly; the message says why, for the log."""


@dataclass(frozen=True)
class Authorization:
    """The parts of the header Authorization.

    Attributes:
        access_key_id: the id of the access key that signed.
        date: the day of the credential scope, ``YYYYMMDD``.
        region: the region of the credential scope.
        service: the service of the credential scope.
        signed_headers: names in lower case, sorted, each once.
        signature: 64 hexadecimal digits.
    """

    access_key_id: str
    date: str
    region: str
    service: str
    signed_headers: tuple[str, ...]
    signature: str

    @classmethod
    def parse(cls, header: str) -> Authorization:
        """Parse the header.

        Raises:
            ForbiddenError: it is not valid for Signature Version 4.
        """
        matched = _HEADER.fullmatch(header)
        if matched is None:
            raise ForbiddenError("the header Authorization is not valid for AWS4-HMAC-SHA256")
        access_key_id, date, region, service, names, signature = matched.groups()
        signed_headers = tuple(names.split(";"))
        if list(signed_headers) != sorted(set(signed_headers)):
            raise ForbiddenError("SignedHeaders are not sorted, or not unique")
        return cls(access_key_id, date, region, service, signed_headers, signature)


def authorize(request: Request, now: dt.datetime) -> dict[str, str | None]:
    """Return who signed a request, in the form of ``requestContext.authorizer.iam`` in payload format 2.0.

    Args:
        request: the request as it was received.
        now: the time, with its time zone; the signature's time may differ by five minutes.

    Raises:
        ForbiddenError: the request has no valid signature by this cloud's access key.

    Refuses signatures in the query string, session tokens and signed chunks. Does not check IAM policies.
    """
    authorization = Authorization.parse(request.headers.get("authorization", ""))
    if not _ALWAYS_SIGNED.issubset(authorization.signed_headers):
        raise ForbiddenError("host or x-amz-date is not signed")
    timestamp = request.headers.get("x-amz-date", "")
    if abs(_time(timestamp) - now) > CLOCK_SKEW:
        raise ForbiddenError("the time of the signature differs by more than five minutes")
    scope = (authorization.access_key_id, authorization.date, authorization.region, authorization.service)
    if scope != (ACCESS_KEY_ID, timestamp[:8], REGION, SERVICE):
        raise ForbiddenError("the credential is not valid for this API at this time")
    if "x-amz-security-token" in request.headers:
        raise ForbiddenError("this cloud does not issue session tokens")
    if request.headers.get("x-amz-content-sha256") not in {None, hashlib.sha256(request.body).hexdigest()}:
        raise ForbiddenError("x-amz-content-sha256 does not match the body")
    if not hmac.compare_digest(_signature(request, authorization, timestamp), authorization.signature):
        raise ForbiddenError("the signature does not match")
    return dict(_IDENTITY)


def _time(timestamp: str) -> dt.datetime:
    try:
        return dt.datetime.strptime(timestamp, _TIMESTAMP).replace(tzinfo=dt.UTC)
    except ValueError as error:
        raise ForbiddenError("x-amz-date is not a valid time") from error


def _signature(request: Request, authorization: Authorization, timestamp: str) -> str:
    if "#" in request.target:
        # Everything after it would be ignored when the signature is computed. Clients never send it (RFC 9112 §3.2.1).
        raise ForbiddenError("the request target has a fragment")
    if not request.headers.keys() >= set(authorization.signed_headers):
        raise ForbiddenError("a signed header is missing")
    signer = SigV4Auth(Credentials(ACCESS_KEY_ID, SECRET_ACCESS_KEY), SERVICE, REGION)
    received = AWSRequest(
        method=request.method,
        url=f"https://{SERVICE}{request.target}",
        headers={name: request.headers[name] for name in authorization.signed_headers},
        data=request.body,
    )
    received.context["timestamp"] = timestamp
    return signer.signature(signer.string_to_sign(received, signer.canonical_request(received)), received)
