"""The operator's AWS credentials and region, found where AWS's own tools find them, and errors of any AWS service."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import Session

from hsm_enroll.backend_api.answer import printable
from hsm_enroll.errors import HsmEnrollError, ThrottledError, UsageError

CREDENTIALS_HINT = (
    "Log in (aws sso login, aws login), name a profile with --profile or in AWS_PROFILE, or set AWS_ACCESS_KEY_ID."
)
_REGION_HINT = "Give the region of the deployment with --region, or in AWS_REGION."
_REGION = re.compile(r"[a-z][a-z0-9-]{0,62}")
_LONGEST_LIST = 10  # of profiles in a hint
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


def session(profile: str | None = None, region: str | None = None) -> Session:
    """Return a session for this environment. Does *not* look for credentials yet.

    Args:
        profile: of AWS's configuration files; None is the one in AWS_PROFILE, or none.
        region: None is the one in AWS_REGION, then AWS_DEFAULT_REGION (botocore knows only the latter), then the
            profile's: the order of the AWS CLI.

    Raises:
        UsageError: there is no such profile, the region cannot be one, or AWS's configuration cannot be read.
    """
    if region is not None:
        _check_region(region)
    made = Session(profile=profile)
    if profile is not None:
        with _configuration_faults():
            known = made.available_profiles
        if profile not in known:
            names = ", ".join(known[:_LONGEST_LIST]) or "none"
            raise UsageError(f"there is no AWS profile {profile!r}", hint=f"The profiles of your AWS CLI are: {names}.")
    if name := region or os.environ.get("AWS_REGION"):
        made.set_config_variable("region", name)
    return made


def region(of: Session) -> str:
    """Return the session's region.

    Raises:
        UsageError: none is set, it cannot be a region's name, or AWS's configuration cannot be read.
    """
    with _configuration_faults():
        name = of.get_config_variable("region")
    if not isinstance(name, str) or not name:
        raise UsageError("no AWS region is set", hint=_REGION_HINT)
    _check_region(name)
    return name


def unreachable_hint(of: Session, region: str) -> str:
    """Return what to check if no service of a region can be reached."""
    from difflib import get_close_matches

    known = [name for part in of.get_available_partitions() for name in of.get_available_regions("sts", part)]
    if region in known:
        return f"Check the network, and the region {region}."
    close = get_close_matches(region, known, n=1)
    return f"Check --region and AWS_REGION: {region} is not a known region" + (
        f"; did you mean {close[0]}?" if close else "."
    )


def credentials(of: Session) -> ReadOnlyCredentials:
    """Return credentials for signing one request. Those that have expired are renewed first, if they can be.

    Raises:
        UsageError: there are none, or they have expired.
    """
    with _configuration_faults():
        found = of.get_credentials()
        if found is None:
            place = f" for the profile {of.profile!r}" if of.profile else ""
            raise _unusable(f"no AWS credentials were found{place}")
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
        hint = f"{CREDENTIALS_HINT} A region that the account has not enabled rejects them too."
        return _unusable(f"AWS rejected the credentials: {reason(error)}", hint)
    if code(error) in _THROTTLED:
        return ThrottledError(f"{service} is busy", hint="Wait a moment, then run the same command again.")
    return None


def _check_region(name: str) -> None:
    if not _REGION.fullmatch(name):
        raise UsageError(f"{name!r} is not a valid AWS region", hint=_REGION_HINT)


def _unusable(message: str, hint: str = CREDENTIALS_HINT) -> UsageError:
    return UsageError(message, hint=hint, reason="aws-credentials")


@contextmanager
def _configuration_faults() -> Iterator[None]:
    try:
        yield
    except BotoCoreError as error:
        why = " ".join(str(error).split())
        raise _unusable(f"the AWS credentials or configuration cannot be used: {why}") from error
    except ClientError as error:  # of the service that a profile gets its credentials from
        refused = _unusable(
            f"the AWS credentials cannot be obtained: {error.operation_name}: {reason(error)}",
            "Check the profile: its role, its source and its account.",
        )
        raise common_refusal("AWS", error) or refused from error
