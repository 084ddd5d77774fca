"""The Lambda function's entry point: builds the adapters once, calls the routes, and catches every error.

Environment: AUTH_MODE, POLICY_NAME, TABLE_NAME, MQTT_ENDPOINT, MQTT_PORT (see `enrollment_backend.settings`), and the
variables that AWS's library reads itself (AWS_REGION, AWS_ENDPOINT_URL, credentials).
"""

from __future__ import annotations

import gc
import os
import time
import traceback
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from enrollment_backend import device_api, http, log, operator_api
from enrollment_backend.errors import ConfigurationError
from enrollment_backend.service import EnrollmentService
from enrollment_backend.settings import Settings

if TYPE_CHECKING:
    from enrollment_backend.aws import Clients
    from enrollment_backend.claims import Certificate, Claim
    from enrollment_backend.issuer import Issuer
    from enrollment_backend.ledger import Ledger
    from enrollment_backend.operator import Operator
    from enrollment_backend.sweep import Sweeper

_SCHEDULED_SWEEP = {"hsm-enroll": "sweep"}  # the event of the template's schedule; API Gateway never sends one like it
_SWEEP_PAGE_MILLISECONDS = 10_000  # that one page may take


def lambda_handler(event: Mapping[str, Any], context: Any) -> dict[str, Any]:
    """Respond to one API Gateway HTTP API event (payload format 2.0), or run the scheduled sweep.

    Args:
        event: the request, or the schedule's event.
        context: Lambda's context. For a request it may be None.

    Returns:
        The response in payload format 2.0. An unexpected exception becomes a 500 that does not reveal the cause, and a
        log line that says where it was raised, without its text, which may quote what the caller sent.

    Raises:
        Exception: the scheduled sweep failed; Lambda logs it and counts an error.
    """
    if event == _SCHEDULED_SWEEP:
        log.begin(context.aws_request_id)
        _sweeper().sweep(lambda: context.get_remaining_time_in_millis() > _SWEEP_PAGE_MILLISECONDS)
        return {}
    request_id = http.request_id_of(event, context)
    log.begin(request_id)
    try:
        return http.handle(event, _routes(), request_id)
    except ConfigurationError as error:
        log.error("configuration-error", **error.facts)
    except Exception as error:  # noqa: BLE001 - the outermost layer: the caller must get a response
        log.error("internal-error", exception=type(error).__name__, where=_where(error))
    return http.internal_error(request_id)


def _where(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return " < ".join(f"{frame.filename}:{frame.lineno} {frame.name}" for frame in reversed(frames))


@cache
def _routes() -> http.Routes:
    settings = _settings()
    service = EnrollmentService(
        auth_mode=settings.auth_mode,
        ledger=ledger,
        issuer=issuer,
        concurrently=_concurrently,
        unrecorded_certificates=_unrecorded_certificates,
        mqtt_endpoint=settings.mqtt_endpoint,
        mqtt_port=settings.mqtt_port,
        now=time.time,
    )
    return {
        **device_api.routes(service.enroll, service.show_invite),
        **operator_api.routes(_operator, _sweeper, time.time),
    }


@cache
def _settings() -> Settings:
    return Settings.from_environment(os.environ)


# The functions below import their modules themselves: a refused request and the health check do not need AWS's library.


@cache
def _clients() -> Clients:
    # boto3's modules and API descriptions stay in memory; collecting garbage while they are loaded only costs time.
    gc.disable()
    try:
        from enrollment_backend.aws import connect

        return connect()
    finally:
        gc.freeze()
        gc.enable()


def _concurrently(*calls: Callable[[], Any]) -> list[Any]:
    from enrollment_backend.aws import concurrently

    return concurrently(*calls)


def _unrecorded_certificates(claim: Claim, ledger: Ledger, issuer: Issuer) -> list[Certificate]:
    from enrollment_backend.recovery import unrecorded_certificates

    return unrecorded_certificates(claim, ledger, issuer)


@cache
def issuer() -> Issuer:
    """Return the one adapter to AWS IoT, with its clients, which the first call creates."""
    from enrollment_backend.issuer import Issuer

    return Issuer(_clients(), _settings().policy_name)


@cache
def ledger() -> Ledger:
    """Return the one adapter to the table, with its client, which the first call creates."""
    from enrollment_backend.ledger import Ledger
    from enrollment_backend.table import Table

    return Ledger(Table(_clients().dynamodb, _settings().table_name), time.time, time.sleep)


@cache
def _operator() -> Operator:
    from enrollment_backend.operator import Operator

    return Operator(ledger(), issuer(), time.time)


@cache
def _sweeper() -> Sweeper:
    from enrollment_backend.sweep import Sweeper

    return Sweeper(ledger(), issuer(), time.time)
