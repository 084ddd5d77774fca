"""Requests to the operator's routes are signed with SigV4 (AWS Signature Version 4, service ``execute-api``)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.session import Session

from hsm_enroll.backend_api.transport import Authorize, Outgoing
from hsm_enroll.operator import aws

_EXECUTE_API_HOST = re.compile(r"[a-z0-9]+\.execute-api\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?")


def signer(session: Session, region: str) -> Authorize:
    """Return what signs each request with the session's credentials.

    Those that have expired are renewed first, if they can be; that is why they are read for each request.
    A request raises UsageError where there are none.

    Args:
        session: botocore's.
        region: the AWS region that the API is in.
    """

    def sign(request: Outgoing) -> Mapping[str, str]:
        signed = AWSRequest(request.method, request.url, headers=dict(request.headers), data=request.body)
        SigV4Auth(aws.credentials(session), "execute-api", region).add_auth(signed)
        return dict(signed.headers.items())

    return sign


def region_in(url: str) -> str | None:
    """Return the AWS region in the host name of an API Gateway; None for any other host."""
    match = _EXECUTE_API_HOST.fullmatch(urlsplit(url).hostname or "")
    return match[1] if match else None
