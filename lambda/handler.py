"""Where Lambda enters: builds the adapters once, hands over, and lets nothing escape.

Environment: AUTH_MODE, POLICY_NAME, MQTT_ENDPOINT, MQTT_PORT (see `enrollment_backend.settings`), and what AWS's
library reads by itself (AWS_REGION, AWS_ENDPOINT_URL, credentials).
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from enrollment_backend import http, log
from enrollment_backend.errors import ConfigurationError
from enrollment_backend.service import EnrollmentService
from enrollment_backend.settings import Settings

if TYPE_CHECKING:
    from enrollment_backend.csr_policy import AcceptedCsr
    from enrollment_backend.issuer import IssuedCertificate, Issuer


def lambda_handler(event: Mapping[str, Any], context: object) -> dict[str, Any]:
    """Answer one API Gateway HTTP API event (payload format 2.0), whatever happens.

    Args:
        event: the request.
        context: Lambda's context; only its `aws_request_id` is used, and it may lack it.

    Returns:
        The answer in payload format 2.0. A failure nobody foresaw is a 500 that says nothing, and a log line that
        says where it came from, without the exception's text: that may quote what the caller sent.
    """
    request_id = http.request_id_of(event, context)
    log.request_id.set(request_id)
    try:
        return http.handle(event, _service().enroll, request_id)
    except ConfigurationError as error:
        log.error("configuration-error", **error.facts)
    except Exception as error:  # noqa: BLE001 - the outermost layer: nothing stands behind it
        log.error("internal-error", exception=type(error).__name__, where=_where(error))
    return http.internal_error(request_id)


def _where(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return " < ".join(f"{frame.filename}:{frame.lineno} {frame.name}" for frame in reversed(frames))


@cache
def _service() -> EnrollmentService:
    settings = Settings.from_environment(os.environ)

    def issue(thing_name: str, csr: AcceptedCsr) -> IssuedCertificate:
        return _issuer(settings.policy_name).issue(thing_name, csr)

    return EnrollmentService(settings.auth_mode, issue, settings.mqtt_endpoint, settings.mqtt_port)


@cache
def _issuer(policy_name: str) -> Issuer:
    # Not at the top: a refused request, and the health check, need none of AWS's library.
    from enrollment_backend.issuer import Issuer, connect

    return Issuer(connect(), policy_name)
