"""What the operator's commands share: the extra that they need, whose account they use, and the API that they call."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from hsm_enroll import extras
from hsm_enroll.cli.invocation import Invocation
from hsm_enroll.cli.terminal import Terminal
from hsm_enroll.errors import UsageError

if TYPE_CHECKING:
    from botocore.session import Session

    from hsm_enroll.operator.api import OperatorClient
    from hsm_enroll.operator.signed_api import SignedApi
    from hsm_enroll.operator.tpms import TpmClient

DEFAULT_STACK = "hsm-enroll"

_SILENCE_SECONDS = 3.0  # doubled each time that something is said
_MOST_SHOWN = 5  # of a list, in a question or a message
_LARGEST_TABLE_BYTES = 32 * 1024 * 1024

T = TypeVar("T")
Client = TypeVar("Client", bound="SignedApi")


class Target(NamedTuple):
    """Which deployment a command is for.

    Attributes:
        stack: name of its CloudFormation stack; None is the default.
        profile, region: of AWS; None are those of the environment.
        api_url: of its API, if it was given on the command line; otherwise None.
    """

    stack: str | None
    profile: str | None
    region: str | None
    api_url: str | None = None

    @property
    def options(self) -> str:
        """The options that name it, after a blank, as they are to be repeated in another command; "" if none does."""
        given = {"--api": self.api_url, "--stack": self.stack, "--profile": self.profile, "--region": self.region}
        return "".join(f" {option} {shlex.quote(value)}" for option, value in given.items() if value)

    def session(self) -> Session:
        """Return AWS's session for its profile and region.

        Raises:
            UsageError: there is no such profile, or AWS's configuration cannot be read.
        """
        from hsm_enroll.operator import aws

        return aws.session(self.profile, self.region)


def require_extra(*names: str) -> None:
    """Check that libraries of the extra ``operator`` are installed.

    Raises:
        UsageError: one of them is missing.
    """
    extras.require("operator", *names)


def stack_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add ``--stack``, ``--profile`` and ``--region``; the function is given a ``target``. boto3 is required."""

    @wraps(function)
    def run(invocation: Invocation, *, stack: str | None, profile: str | None, region: str | None, **rest: Any) -> None:
        require_extra("boto3")
        api_url = click.get_current_context().params.get("api_url")
        function(invocation, target=Target(stack, profile, region, api_url), **rest)

    for option in (
        click.option("--region", metavar="NAME", help="The AWS region; default AWS_REGION, or the profile's."),
        click.option("--profile", metavar="NAME", help="The AWS profile; default AWS_PROFILE."),
        click.option(
            "--stack", metavar="NAME", help=f"The deployment's CloudFormation stack; default {DEFAULT_STACK}."
        ),
    ):
        run = option(run)
    return run


def api_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add ``--api`` and what `stack_options` adds."""
    option = click.option("--api", "api_url", metavar="URL", help="The enrollment API, instead of a stack's.")
    return option(stack_options(function))


def operator_client(invocation: Invocation, target: Target) -> OperatorClient:
    """Return a client for the API of ``--api``, ``--stack``, the configuration, or the default stack; in that order.

    Raises:
        UsageError: ``--api`` and ``--stack`` are both given, there is no such stack, profile or region, or there are no
            AWS credentials.
    """
    from hsm_enroll.operator.api import OperatorClient

    return _client(OperatorClient, invocation, target)


def tpm_client(invocation: Invocation, target: Target) -> TpmClient:
    """Return the same for what concerns TPMs."""
    from hsm_enroll.operator.tpms import TpmClient

    return _client(TpmClient, invocation, target)


def _client(kind: type[Client], invocation: Invocation, target: Target) -> Client:
    from hsm_enroll.operator import endpoint

    if target.stack is not None and target.api_url:
        raise click.UsageError("give --api or --stack, not both")
    session = target.session()
    api_url = invocation.settings.api_url
    if target.stack is not None or api_url is None:
        api_url = endpoint.find_api_url(session, target.stack or DEFAULT_STACK)
    terminal = invocation.terminal
    return kind(
        api_url,
        invocation.settings.ca_file,
        session,
        target.region,
        tell=lambda text: terminal.say(f"  {text}"),
        waiting=terminal.waiting,
    )


def table_of(source: Path) -> bytes:
    """Return the content of the file of ``--from``.

    Raises:
        UsageError: it cannot be read, or is too large.
    """
    try:
        with source.open("rb") as stream:
            content = stream.read(_LARGEST_TABLE_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{source} cannot be read: {error.strerror}", hint="Check --from.") from error
    if len(content) > _LARGEST_TABLE_BYTES:
        raise UsageError(f"{source} is larger than {_LARGEST_TABLE_BYTES} bytes", hint="Split the table.")
    return content


def telling(terminal: Terminal, parts: Iterable[T], size: Callable[[T], int], what: str) -> Iterator[T]:
    """Yield the parts of something long; if they take seconds to come, say now and then how much has come.

    Args:
        terminal: where.
        parts: what to yield.
        size: returns how many things are in a part.
        what: the word for one of these things.
    """
    seen, pause, told = 0, _SILENCE_SECONDS, time.monotonic()
    for part in parts:
        yield part
        seen += size(part)
        if time.monotonic() - told >= pause:
            terminal.say(f"  {counted(seen, what)} so far")
            pause, told = 2 * pause, time.monotonic()


def some(what: Sequence[str]) -> str:
    """Return the first few of a list in words, and how many are left."""
    left = len(what) - _MOST_SHOWN
    return ", ".join(what[:_MOST_SHOWN]) + (f" and {left:,} more" if left > 0 else "")


def counted(number: int, one: str, several: str = "") -> str:
    """Return a number of things in words: ``"1 entry"``, ``"2,000 entries"``.

    Args:
        number: how many.
        one: the word for one of them.
        several: for any other number; the word for one with an s, unless it is given.
    """
    return f"{number:,} {one if number == 1 else several or f'{one}s'}"


def minute(moment: datetime | None) -> str:
    """Return a time for a table, in UTC and to the minute, or "-"."""
    return "-" if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M")
