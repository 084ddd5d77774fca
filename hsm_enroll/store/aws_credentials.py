"""AWS credentials that a device has got by its certificate, kept in ``aws-credentials.json`` (0600) until they end."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from hsm_enroll.errors import StateCorruptError, StateError, StateTooNewError
from hsm_enroll.role_alias import RoleAlias
from hsm_enroll.secret import Secret
from hsm_enroll.store import documents, files

_FORMAT = documents.Format()
_FILE = "aws-credentials.json"
_LOCK_FILE = "aws-credentials.lock"
_LONGEST = 16 * 1024  # characters of a member; a session token has about a thousand
# boto3 asks for others from 15 minutes before the end on, and Go's, Java's and JavaScript's SDKs later than that.
_MARGIN = timedelta(minutes=15)
_MARGIN_SHARE = 4  # of a lifetime, for credentials that do not live for an hour


@dataclass(frozen=True, slots=True)
class AwsCredentials:
    """Credentials of a role, for a limited time.

    Attributes:
        access_key_id: which they are; not a secret.
        secret_access_key: signs requests.
        session_token: goes with each request.
        expiration: when they end, with a time zone.
    """

    access_key_id: str
    secret_access_key: Secret
    session_token: Secret
    expiration: datetime

    @classmethod
    def of_answer(cls, members: Mapping[str, Any]) -> AwsCredentials:
        """Return what the credentials provider calls ``credentials``, or what :meth:`to_members` returned.

        Raises:
            ValueError: a member is missing, or has another form.
        """
        access_key_id, expiration = members.get("accessKeyId"), members.get("expiration")
        if not isinstance(access_key_id, str) or not _is_printable(access_key_id):
            raise ValueError("accessKeyId is missing or invalid")
        if not isinstance(expiration, str):
            raise ValueError("expiration is missing or invalid")  # noqa: TRY004 - foreign data, not a caller's mistake
        end = _time("expiration", expiration)
        return cls(access_key_id, _secret(members, "secretAccessKey"), _secret(members, "sessionToken"), end)

    def to_process_output(self) -> str:
        """Return them as AWS's SDKs read them from a ``credential_process``, one JSON document."""
        return json.dumps(
            {
                "Version": 1,
                "AccessKeyId": self.access_key_id,
                "SecretAccessKey": self.secret_access_key.reveal(),
                "SessionToken": self.session_token.reveal(),
                "Expiration": _text(self.expiration),
            },
            indent=2,
        )


@dataclass(frozen=True, slots=True)
class Cached:
    """Credentials, and what they were given for.

    Attributes:
        credentials: the credentials.
        certificate_id: the certificate they were got with.
        alias: the role alias, and the provider.
        obtained: when, by this machine's clock, with a time zone.
    """

    credentials: AwsCredentials
    certificate_id: str
    alias: RoleAlias
    obtained: datetime

    @classmethod
    def load(cls, folder: Path) -> Cached | None:
        """Read them; None if there are none, or they cannot be used: others can be got at any time."""
        try:
            return _FORMAT.load(folder / _FILE, cls._from_members)
        except (StateError, StateCorruptError, StateTooNewError):
            return None

    def save(self, folder: Path) -> None:
        """Keep them, in one rename.

        Raises:
            StateError: they cannot be written.
        """
        files.write(folder / _FILE, self._document)

    def is_for(self, certificate_id: str, alias: RoleAlias) -> bool:
        """Whether they were got with a certificate, by a role alias of a provider."""
        return (self.certificate_id, self.alias) == (certificate_id, alias)

    def is_valid(self, now: datetime) -> bool:
        """Whether they have not ended; False if the clock has been set back since, so that nobody knows."""
        return self.obtained <= now < self.credentials.expiration

    def is_fresh(self, now: datetime) -> bool:
        """Whether they have not ended and will not end so soon that AWS's SDKs would ask again."""
        end = self.credentials.expiration
        margin = min(_MARGIN, (end - self.obtained) / _MARGIN_SHARE)
        return self.is_valid(now) and now < end - margin

    def _document(self) -> str:
        credentials = self.credentials
        document = {
            "version": _FORMAT.version,
            "certificate_id": self.certificate_id,
            "alias": self.alias._asdict(),
            "obtained": _text(self.obtained),
            "credentials": {
                "accessKeyId": credentials.access_key_id,
                "secretAccessKey": credentials.secret_access_key.reveal(),
                "sessionToken": credentials.session_token.reveal(),
                "expiration": _text(credentials.expiration),
            },
        }
        return json.dumps(document, indent=2) + "\n"

    @classmethod
    def _from_members(cls, document: dict[str, Any]) -> Cached:
        members = documents.members(
            document, {"certificate_id": str, "alias": dict, "obtained": str, "credentials": dict}
        )
        alias = documents.members(members["alias"], {"name": str, "endpoint": str, "port": int})
        obtained = _time("obtained", members["obtained"])
        return cls(
            AwsCredentials.of_answer(members["credentials"]), members["certificate_id"], RoleAlias(**alias), obtained
        )


@contextmanager
def turn(folder: Path) -> Iterator[None]:
    """Wait until no other process is getting credentials: of several at once, one logs in to the token.

    Where nothing can be written, as in a service with ``ProtectSystem=strict``, nobody waits.

    Raises:
        StateError: the folder cannot be used.
    """
    if folder.is_dir() and not os.access(folder, os.W_OK):
        yield
        return
    with files.awaited(folder, _LOCK_FILE):
        yield


def remove(folder: Path) -> None:
    """Remove them, and what processes wait for in turn, once no process is getting any: it would save them after that.

    Raises:
        StateError: they cannot be removed.
    """
    with turn(folder):
        for name in (_FILE, _LOCK_FILE):
            files.remove(folder / name)


def _secret(members: Mapping[str, Any], name: str) -> Secret:
    value = members.get(name)
    secret = value if isinstance(value, Secret) else Secret(value) if isinstance(value, str) else None
    if secret is None or not _is_printable(secret.reveal()):
        raise ValueError(f"{name} is missing or invalid")
    return secret


def _is_printable(text: str) -> bool:
    return 0 < len(text) <= _LONGEST and text.isascii() and text.isprintable()


def _time(name: str, text: str) -> datetime:
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(f"{name} has no time zone")
    try:
        return time.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"{name} is before the year 1 or after the year 9999") from error


def _text(time: datetime) -> str:
    return f"{time:%Y-%m-%dT%H:%M:%SZ}"
