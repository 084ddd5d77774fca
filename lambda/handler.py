"""Where Lambda enters: builds the adapters once, hands over, and lets nothing escape.

Environment: AUTH_MODE, POLICY_NAME, TABLE_NAME, MQTT_ENDPOINT, MQTT_PORT (see `enrollment_backend.settings`), and what
AWS's library reads by itself (AWS_REGION, AWS_ENDPOINT_URL, credentials).
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

_SCHEDULED_SWEEP = {"hsm-enroll": "sweep"}  # what the template's schedule sends; API Gateway sends nothing like it
_PAGE_OF_A_SWEEP_MILLISECONDS = 10_000


def lambda_handler(event: Mapping[str, Any], context: Any) -> dict[str, Any]:
    """Answer one API Gateway HTTP API event (payload format 2.0), whatever happens; or do what the schedule asks for.

    Args:
        event: the request.
        context: Lambda's context. Of a request it may be None.

    Returns:
        The answer in payload format 2.0. A failure nobody foresaw is a 500 that says nothing, and a log line that
        says where it came from, without the exception's text: that may quote what the caller sent.
    """
    if event == _SCHEDULED_SWEEP:
        log.begin(context.aws_request_id)
        _sweeper().go_on(lambda: context.get_remaining_time_in_millis() > _PAGE_OF_A_SWEEP_MILLISECONDS)
        return {}
    request_id = http.request_id_of(event, context)
    log.begin(request_id)
    try:
        return http.handle(event, _routes(), request_id)
    except ConfigurationError as error:
        log.error("configuration-error", **error.facts)
    except Exception as error:  # noqa: BLE001 - the outermost layer: nothing stands behind it
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
        ledger=_ledger,
        issuer=_issuer,
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


# From here on nothing is imported at the top: a refused request, and the health check, need none of AWS's library.


@cache
def _clients() -> Clients:
    # boto3's modules and descriptions of APIs stay; while they are made, looking for garbage in them only costs time.
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
def _issuer() -> Issuer:
    from enrollment_backend.issuer import Issuer

    return Issuer(_clients(), _settings().policy_name)


@cache
def _ledger() -> Ledger:
    from enrollment_backend.ledger import Ledger
    from enrollment_backend.table import Table

    return Ledger(Table(_clients().dynamodb, _settings().table_name), time.time, time.sleep)


@cache
def _operator() -> Operator:
    from enrollment_backend.operator import Operator

    return Operator(_ledger(), _issuer(), time.time)


@cache
def _sweeper() -> Sweeper:
    from enrollment_backend.sweep import Sweeper

    return Sweeper(_ledger(), _issuer(), time.time)
