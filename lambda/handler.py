"""The Lambda function's entry point: builds the adapters once, calls the routes, and catches every error.

Environment: the variables of `enrollment_backend.settings`, such as POLICY_NAME, and those that AWS's library reads
itself (AWS_DEFAULT_REGION, AWS_ENDPOINT_URL, credentials).
"""

# ruff: noqa: E402

from __future__ import annotations

import gc

gc.disable()  # until the end of this module: what it loads stays in memory, so looking for garbage only costs time

# Not used here: without these lines, Python and cryptography would import them during the first request.
import encodings.idna  # noqa: F401 - for the name of a host
import os
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

import cryptography.hazmat.backends.openssl.backend  # noqa: F401 - for the signature of a request

from enrollment_backend import device_api, est, http, log, operator_api, tpm_api, trust_anchors
from enrollment_backend.adoption import Adoption
from enrollment_backend.attesting import Attesting
from enrollment_backend.aws import concurrently, connect
from enrollment_backend.binding import Binding
from enrollment_backend.claims import Removal
from enrollment_backend.errors import ConfigurationError
from enrollment_backend.inspection import Inspection
from enrollment_backend.issuer import Issuer
from enrollment_backend.issuing import Issuing, RoleAlias
from enrollment_backend.known_tpms import KnownTpms
from enrollment_backend.ledger import Ledger
from enrollment_backend.lifecycle import Lifecycle
from enrollment_backend.operator import Operator
from enrollment_backend.rebuild import Rebuilder
from enrollment_backend.recovery import unrecorded_certificates
from enrollment_backend.reenrolling import Reenrolling
from enrollment_backend.removal import Remover
from enrollment_backend.rest_event import as_http_event
from enrollment_backend.scheduled_sweep import OutOfTimeError, Patience, ScheduledSweep
from enrollment_backend.service import OPEN, EnrollmentService
from enrollment_backend.settings import Settings
from enrollment_backend.sweep import Sweeper
from enrollment_backend.table import Table
from enrollment_backend.turns import Turns

_SHARE_OF_THE_SWEEP = 0.7  # of the time of the scheduled function


def lambda_handler(event: Mapping[str, Any], context: Any) -> dict[str, Any]:
    """Respond to one event of API Gateway: an HTTP API's (payload format 2.0) or a REST API's (see `rest_event`).

    Args:
        event: the request.
        context: Lambda's context; it may be None.

    Returns:
        The response in payload format 2.0. An unexpected exception becomes a 500 that does not reveal the cause, and a
        log line that says where it was raised, without its text, which may quote what the caller sent.
    """
    event = as_http_event(event)
    request_id = http.request_id_of(event, context)
    log.begin(request_id)
    try:
        return http.handle(event, _routes(), request_id)
    except ConfigurationError as error:
        log.error("configuration-error", **error.facts)
    except Exception as error:  # noqa: BLE001 - the outermost layer: the caller must get a response
        log.error("internal-error", exception=type(error).__name__, where=_where(error))
    return http.internal_error(request_id)


def sweep_handler(_event: object, context: Any) -> None:
    """Catch up on removals, then sweep, as far as the time allows: the entry point of the function that is scheduled.

    Args:
        context: Lambda's context.

    Raises:
        Exception: one of the two failed; Lambda logs it and counts an error.
    """
    log.begin(context.aws_request_id)

    def seconds_left() -> float:
        return float(context.get_remaining_time_in_millis() / 1000)

    patience = Patience(time.time, time.sleep, seconds_left, seconds_left() * _SHARE_OF_THE_SWEEP)
    try:
        with suppress(OutOfTimeError):
            _remover().catch_up(patience)
        log.info("catch-up", throttled=patience.throttled)
    finally:
        ScheduledSweep(_sweeper(), time.sleep, seconds_left).run()


def _where(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return " < ".join(f"{frame.filename}:{frame.lineno} {frame.name}" for frame in reversed(frames))


@cache
def _routes() -> http.Routes:
    settings = _settings()
    alias = RoleAlias(settings.role_alias, settings.credentials_endpoint, settings.credentials_port)
    issuing = Issuing(
        ledger=_ledger,
        issuer=_issuer,
        turns=_turns,
        concurrently=concurrently,
        unrecorded_certificates=unrecorded_certificates,
        remove=_remove,
        settle_adoption=lambda claim, certificate: _adoption().settle(claim, certificate),
        allow_existing_things=settings.allow_existing_things,
        mqtt_endpoint=settings.mqtt_endpoint,
        mqtt_port=settings.mqtt_port,
        role_alias=alias if settings.role_alias else None,
        now=time.time,
        sleep=time.sleep,
    )
    attesting = Attesting(
        is_open=settings.auth_mode == OPEN,
        ledger=_ledger,
        authorities=lambda: _known_tpms().authorities(),
        now=time.time,
    )
    service = EnrollmentService(
        auth_mode=settings.auth_mode,
        attestation=settings.attestation,
        binding=_binding,
        issuing=issuing,
        attesting=attesting,
        now=time.time,
    )
    lifecycle = Lifecycle(
        binding=_binding,
        issuing=issuing,
        remove=_remove,
        delete_things=settings.delete_thing_on_retirement,
        attestation=settings.attestation,
        attesting=attesting,
    )
    return {
        **device_api.routes(service, lifecycle),
        **est.routes(service, Reenrolling(_binding, lifecycle), _trust_anchors),
        **operator_api.routes(_operator, _sweeper, _rebuilder, time.time),
        **tpm_api.routes(_known_tpms),
    }


@cache
def _trust_anchors() -> bytes:
    return trust_anchors.certs_only(_settings().trust_anchors_file)


@cache
def _settings() -> Settings:
    return Settings.from_environment(os.environ)


_clients = cache(connect)


@cache
def _issuer() -> Issuer:
    return Issuer(_clients(), _settings().policy_name, time.sleep)


@cache
def _ledger() -> Ledger:
    return Ledger(Table(_clients().dynamodb, _settings().table_name), time.time, time.sleep)


@cache
def _binding() -> Binding:
    return Binding(_ledger(), _remove)


@cache
def _remover() -> Remover:
    return Remover(_ledger(), _issuer(), _inspection())


def _remove(removals: Sequence[Removal]) -> None:
    if removals:
        _remover().remove_now(removals)


@cache
def _turns() -> Turns:
    return Turns(_ledger().table, _settings().certificate_rate, time.time)


@cache
def _inspection() -> Inspection:
    return Inspection(_clients(), _settings().policy_name)


@cache
def _adoption() -> Adoption:
    return Adoption(_ledger(), _inspection(), _issuer().deactivate)


@cache
def _operator() -> Operator:
    settings = _settings()
    return Operator(
        _ledger(), _issuer(), _adoption(), _remove, time.time, settings.allow_existing_things, settings.renewal_days
    )


@cache
def _known_tpms() -> KnownTpms:
    return KnownTpms(_ledger().table, time.time)


@cache
def _sweeper() -> Sweeper:
    return Sweeper(_ledger(), _inspection(), _issuer().deactivate, time.time, _settings().sweep_limit)


@cache
def _rebuilder() -> Rebuilder:
    return Rebuilder(_ledger(), _inspection(), concurrently, time.time)


def _initialize() -> None:
    """Create in Lambda's INIT phase, which has the full processor, all that an enrollment needs.

    No connection to AWS is opened: that takes a call, and Lambda may freeze the function for minutes before the first
    request, after which the connection would be dead.
    """
    with suppress(ConfigurationError):  # every request reports it
        _routes()
        _issuer()
        _turns()
    gc.freeze()  # later collections skip what is in memory now


if "AWS_LAMBDA_FUNCTION_NAME" in os.environ:
    _initialize()
gc.enable()
