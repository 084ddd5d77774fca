"""The use case of AWS credentials: those that an earlier run has kept, or others from the credentials provider."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hsm_enroll.errors import (
    BackendUnreachableError,
    RoleAliasMissingError,
    StateError,
    ThrottledError,
)
from hsm_enroll.role_alias import HTTPS_PORT, RoleAlias
from hsm_enroll.settings import Settings
from hsm_enroll.store.aws_credentials import AwsCredentials, Cached, turn
from hsm_enroll.store.identity import Identity

Fetch = Callable[[RoleAlias], AwsCredentials]
"""Gets credentials from the provider, with one login to the token."""


def alias_of(identity: Identity, resolved: Settings) -> RoleAlias:
    """Return the role alias that the settings name, or else the identity.

    Raises:
        RoleAliasMissingError: neither names one, or its provider.
    """
    known = identity.role_alias
    name = resolved.role_alias or (known.name if known else None)
    endpoint = resolved.credentials_endpoint or (known.endpoint if known else None)
    port = resolved.credentials_port or (known.port if known else HTTPS_PORT)
    if name is None or endpoint is None:
        what = "role alias" if name is None else "endpoint of AWS IoT's credentials provider"
        raise RoleAliasMissingError(
            f"this device knows no {what}: its backend named none when the certificate was issued"
        )
    return RoleAlias(name, endpoint, port)


def current(
    identity: Identity,
    alias: RoleAlias,
    folder: Path,
    fetch: Fetch,
    warn: Callable[[str], None],
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> AwsCredentials:
    """Return credentials that will not end soon; they are kept in the state folder for the next call.

    If the provider cannot be reached, those that are kept are returned until they end.

    Args:
        identity: whose they are.
        alias: the role alias.
        folder: the state folder.
        fetch: called if there are none, or they end soon.
        warn: is told what did not work and does not matter yet.
        clock: the time, with a time zone.

    Raises:
        HsmEnrollError: from `fetch`.
        StateError: the state folder cannot be used.
    """

    def kept() -> Cached | None:
        cached = Cached.load(folder)
        return cached if cached is not None and cached.is_for(identity.certificate_id, alias) else None

    cached = kept()
    if cached is not None and cached.is_fresh(clock()):
        return cached.credentials
    with turn(folder):
        cached = kept()  # another process may have got them while this one waited
        if cached is not None and cached.is_fresh(clock()):
            return cached.credentials
        try:
            credentials = fetch(alias)
        except (BackendUnreachableError, ThrottledError) as error:
            if cached is None or not cached.is_valid(clock()):
                raise
            left = cached.credentials.expiration - clock()
            warn(f"{error.message}; these credentials end in {_minutes(left)}")
            return cached.credentials
        try:
            Cached(credentials, identity.certificate_id, alias, clock()).save(folder)
        except StateError as error:
            warn(f"the credentials are not kept for the next call: {error.message}")
    return credentials


def _minutes(time: timedelta) -> str:
    return f"{max(1, round(time / timedelta(minutes=1)))} min"
