"""When Things were last seen, as AWS IoT's fleet indexing knows it, where it is enabled (SearchIndex)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from botocore.session import Session

from hsm_enroll.operator import aws

_CONFIG = Config(connect_timeout=5, read_timeout=10, retries={"mode": "standard", "total_max_attempts": 2})
# A query has up to 12 terms and 1,000 characters (quotas of AWS IoT Device Management).
_MOST_TERMS, _LONGEST_QUERY = 12, 1000
_MOST_FOUND = 100
_FORBIDDEN = {"AccessDeniedException", "UnauthorizedException", "ForbiddenException"}
# What botocore, and the code below, do with an answer that is not AWS IoT's: botocore does not check it.
_INVALID = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, ResponseParserError)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Unknown(Enum):
    """Why nobody knows when Things were last seen."""

    OFF = "off"
    """Fleet indexing, or its index of connectivity, is not enabled in the account."""
    FORBIDDEN = "forbidden"
    """IAM does not allow the question."""
    FAILED = "failed"
    """AWS IoT could not be asked, or its index is still being built."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """The last that AWS IoT has seen of a Thing.

    Attributes:
        connected: whether it is connected now.
        since: when it connected or disconnected, in UTC; None if it never connected, or long before the index began.
    """

    connected: bool
    since: datetime | None


class LastSeen:
    """Asks fleet indexing.

    Args:
        session: whose credentials to use.
        region: the AWS region of the deployment.
    """

    def __init__(self, session: Session, region: str) -> None:
        self._client: Any = session.create_client("iot", region_name=region, config=_CONFIG)

    def of(self, things: Sequence[str]) -> dict[str, Sighting] | Unknown:
        """Return what is known of Things by their names, without those that are not in the index; or why nothing is.

        It never raises an error: a list of Things is useful without this.
        """
        try:
            configuration = self._client.get_indexing_configuration()["thingIndexingConfiguration"]
            if configuration.get("thingConnectivityIndexingMode", "OFF") == "OFF":
                return Unknown.OFF
            return dict(self._found(things))
        except ClientError as error:
            return Unknown.FORBIDDEN if aws.code(error) in _FORBIDDEN else Unknown.FAILED
        except (BotoCoreError, *_INVALID):
            return Unknown.FAILED

    def _found(self, things: Iterable[str]) -> Iterator[tuple[str, Sighting]]:
        wanted = set(things)
        for query in _queries(things):
            for found in self._client.search_index(queryString=query, maxResults=_MOST_FOUND)["things"]:
                # The index ignores case, Things' names do not.
                if found["thingName"] in wanted:
                    yield found["thingName"], _sighting(found.get("connectivity", {}))


def _queries(things: Iterable[str]) -> Iterator[str]:
    """Yield queries for all Things, with as many of them in each as a query may have."""
    terms: list[str] = []
    for thing in things:
        term = f"thingName:{_escaped(thing)}"
        if len(terms) == _MOST_TERMS or len(" OR ".join([*terms, term])) > _LONGEST_QUERY:
            yield " OR ".join(terms)
            terms = []
        terms.append(term)
    if terms:
        yield " OR ".join(terms)


def _escaped(thing: str) -> str:
    """Escape what has a meaning in a query: a colon separates a field from its value, a dash in front excludes."""
    escaped = thing.replace(":", r"\:")
    return f"\\{escaped}" if escaped.startswith("-") else escaped


def _sighting(connectivity: dict[str, Any]) -> Sighting:
    milliseconds = connectivity.get("timestamp") or 0
    since = _EPOCH + timedelta(milliseconds=milliseconds) if milliseconds > 0 else None
    return Sighting(bool(connectivity.get("connected")), since)
