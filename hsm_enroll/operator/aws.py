"""The operator's AWS credentials and region, found where AWS's own tools find them, and errors of any AWS service."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import Session

from hsm_enroll.backend_api.answer import printable
from hsm_enroll.errors import HsmEnrollError, ThrottledError, UsageError

CREDENTIALS_HINT = "Log in (aws sso login, aws login), name a profile in AWS_PROFILE, or set AWS_ACCESS_KEY_ID."
_REGION_HINT = "Set AWS_REGION to the region of the deployment."
_THROTTLED = {"Throttling", "ThrottlingException", "RequestLimitExceeded", "SlowDown", "TooManyRequestsException"}
_REJECTED_CREDENTIALS = {
    "AuthFailure",
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "RequestExpired",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}


def session() -> Session:
    """Return a session for this environment. Does *not* look for credentials yet.

    AWS_REGION takes precedence over AWS_DEFAULT_REGION, as in the AWS CLI; botocore knows only the latter.
    """
    made = Session()
    if region := os.environ.get("AWS_REGION"):
        made.set_config_variable("region", region)
    return made


def region(of: Session) -> str:
    """Return the session's region.

    Raises:
        UsageError: none is set, or AWS's configuration cannot be read.
    """
    with _configuration_faults():
        name = of.get_config_variable("region")
    if not isinstance(name, str) or not name:
        raise UsageError("no AWS region is set", hint=_REGION_HINT)
    return name


def credentials(of: Session) -> ReadOnlyCredentials:
    """Return credentials for signing one request. Those that have expired are renewed first, if they can be.

    Raises:
        UsageError: there are none, or they have expired.
    """
    with _configuration_faults():
        found = of.get_credentials()
        if found is None:
            raise UsageError("no AWS credentials were found", hint=CREDENTIALS_HINT)
        return found.get_frozen_credentials()


def ca_bundle(of: Session) -> Path | None:
    """Return the file with the trust anchors that AWS's tools are configured to use (AWS_CA_BUNDLE), or None.

    Raises:
        UsageError: AWS's configuration cannot be read.
    """
    with _configuration_faults():
        name = of.get_config_variable("ca_bundle")
    return Path(name) if isinstance(name, str) and name else None


def code(error: ClientError) -> str:
    """Return AWS's code for an error, or ""."""
    return str(error.response.get("Error", {}).get("Code", ""))


def reason(error: ClientError) -> str:
    """Return AWS's message and code for an error, printable."""
    message = printable(str(error.response.get("Error", {}).get("Message", "")))
    return f"{message} ({code(error)})"


def common_refusal(service: str, error: ClientError) -> HsmEnrollError | None:
    """Return the error for what any AWS service may answer, or None if it is none of that.

    Args:
        service: its usual name.
        error: what it answered.

    Returns:
        UsageError if the credentials were rejected, ThrottledError if the service is busy, else None.
    """
    if code(error) in _REJECTED_CREDENTIALS:
        return UsageError(f"AWS rejected the credentials: {reason(error)}", hint=CREDENTIALS_HINT)
    if code(error) in _THROTTLED:
        return ThrottledError(f"{service} is busy", hint="Wait a moment, then run the same command again.")
    return None


@contextmanager
def _configuration_faults() -> Iterator[None]:
    try:
        yield
    except BotoCoreError as error:
        why = " ".join(str(error).split())
        raise UsageError(
            f"the AWS credentials or configuration cannot be used: {why}", hint=CREDENTIALS_HINT
        ) from error
