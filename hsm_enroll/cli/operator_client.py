"""What the operator's commands share: the extra that they need, and the API that they call."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import TYPE_CHECKING

import click

from hsm_enroll.cli.invocation import Invocation
from hsm_enroll.errors import UsageError

if TYPE_CHECKING:
    from hsm_enroll.operator.api import OperatorClient


def require_extra(*names: str) -> None:
    """Check that libraries of the extra ``operator`` are installed.

    Raises:
        UsageError: one of them is missing.
    """
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"this command needs {' and '.join(missing)}, which is not installed",
            hint="Run: pip install 'hsm-enroll[operator]'",
        )


def api_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add ``--api`` and ``--stack``; the function is given ``stack``."""
    for option in (
        click.option("--stack", metavar="NAME", help="The deployment's CloudFormation stack; default hsm-enroll."),
        click.option("--api", "api_url", metavar="URL", help="The enrollment API, instead of a stack's."),
    ):
        function = option(function)
    return function


def operator_client(invocation: Invocation, stack: str | None) -> OperatorClient:
    """Return a client for the API of ``--api``, ``--stack``, the configuration, or the default stack; in that order.

    Raises:
        UsageError: ``--api`` and ``--stack`` are both given, there is no such stack, or there are no AWS credentials.
    """
    from hsm_enroll.operator import endpoint
    from hsm_enroll.operator.api import OperatorClient

    if stack is not None and click.get_current_context().params.get("api_url"):
        raise click.UsageError("give --api or --stack, not both")
    api_url = invocation.settings.api_url
    if stack is not None or api_url is None:
        api_url = endpoint.find_api_url(endpoint.DEFAULT_STACK if stack is None else stack)
    return OperatorClient(api_url, invocation.settings.ca_file)


def minute(moment: datetime | None) -> str:
    """Return a time for a table, in UTC and to the minute, or "-"."""
    return "-" if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M")
