"""The operator's AWS credentials and region, found where AWS's own tools find them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import BotoCoreError
from botocore.session import Session

from hsm_enroll.errors import UsageError

CREDENTIALS_HINT = "Log in (aws sso login, aws login), name a profile in AWS_PROFILE, or set AWS_ACCESS_KEY_ID."
_REGION_HINT = "Set AWS_REGION to the region of the deployment."


def session() -> Session:
    """Return a session of this environment. Does *not* look for credentials yet.

    AWS_REGION goes before AWS_DEFAULT_REGION, as it does in the AWS CLI; botocore knows only the latter.
    """
    made = Session()
    if region := os.environ.get("AWS_REGION"):
        made.set_config_variable("region", region)
    return made


def region(of: Session) -> str:
    """Return the session's region.

    Raises:
        UsageError: it has none, or its configuration cannot be read.
    """
    with _configuration_faults():
        name = of.get_config_variable("region")
    if not isinstance(name, str) or not name:
        raise UsageError("no AWS region is set", hint=_REGION_HINT)
    return name


def credentials(of: Session) -> ReadOnlyCredentials:
    """Return credentials to sign one request with; those that run out are renewed first, where they can be.

    Raises:
        UsageError: there are none, or they have run out.
    """
    with _configuration_faults():
        found = of.get_credentials()
        if found is None:
            raise UsageError("no AWS credentials were found", hint=CREDENTIALS_HINT)
        return found.get_frozen_credentials()


def ca_bundle(of: Session) -> str | None:
    """Return the file of trust anchors that AWS's tools are told to use (AWS_CA_BUNDLE), or None.

    Raises:
        UsageError: the configuration cannot be read.
    """
    with _configuration_faults():
        name = of.get_config_variable("ca_bundle")
    return name if isinstance(name, str) and name else None


@contextmanager
def _configuration_faults() -> Iterator[None]:
    try:
        yield
    except BotoCoreError as error:
        why = " ".join(str(error).split())
        raise UsageError(
            f"the AWS credentials or configuration cannot be used: {why}", hint=CREDENTIALS_HINT
        ) from error
