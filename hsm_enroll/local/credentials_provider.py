"""AWS IoT's credentials provider: gives devices AWS credentials of the role behind a role alias.

See the AWS IoT developer guide, "Authorizing direct calls to AWS services using AWS IoT Core credential provider". The
statuses and messages are those of the real one, as far as they are known.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import ssl
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any

from moto.iam.models import iam_backends
from moto.iot.models import iot_backends
from moto.sts.models import sts_backends
from werkzeug.wrappers import Response

from hsm_enroll.local.admission import Admission
from hsm_enroll.local.aws import AwsApis
from hsm_enroll.local.lambda_runtime import ACCOUNT_ID, REGION
from hsm_enroll.local.rights import Principal, Rights

_PATH = re.compile(r"/role-aliases/([\w=,@-]{1,128})/credentials", re.ASCII)  # AWS IoT, CreateRoleAlias: roleAlias
_THING_NAME = "HTTP_X_AMZN_IOT_THINGNAME"
_SERVICE = "credentials.iot.amazonaws.com"
_PARTITION = "aws"
_FORBIDDEN, _MISSING, _INVALID = "AccessDeniedException", "ResourceNotFoundException", "InvalidRequestException"


class _RefusedError(Exception):
    def __init__(self, status: HTTPStatus, kind: str, message: str) -> None:
        super().__init__(message)
        self.response = Response(
            json.dumps({"message": message}),
            status,
            {"content-type": "application/json", "x-amzn-ErrorType": kind},
        )


class CredentialsProvider:
    """The WSGI application; it needs a server that demands client certificates.

    Evaluates the policies of the certificate (iot:AssumeRoleWithCertificate on the role alias), its attachment to the
    Thing that the request names, and that the role trusts the credentials provider. Policy variables about Things have
    no value: AWS promises them for MQTT connections only. Does *not* evaluate the conditions in the role's trust
    policy, and nothing evaluates what the role's permissions say about the credentials: moto accepts any.

    Args:
        admission: knows the certificates that are active.
        apis: moto, in which role aliases and roles are.
        log: gets a line about each request that is refused.
    """

    def __init__(self, admission: Admission, apis: AwsApis, log: logging.Logger) -> None:
        self._admission = admission
        self._apis = apis
        self._log = log

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        try:
            response = self._respond(environ)
        except _RefusedError as error:
            self._log.warning("%s refused: %s", environ["PATH_INFO"], error)
            response = error.response
        body: Iterable[bytes] = response(environ, start_response)
        return body

    def _respond(self, environ: Mapping[str, Any]) -> Response:
        path = _PATH.fullmatch(environ["PATH_INFO"])
        if environ["REQUEST_METHOD"] != "GET" or path is None:
            raise _RefusedError(HTTPStatus.NOT_FOUND, _MISSING, "Not Found")
        fingerprint = hashlib.sha256(ssl.PEM_cert_to_DER_cert(environ["SSL_CLIENT_CERT"])).hexdigest()
        principal = self._admission.admitted.get(fingerprint)
        if principal is None or principal.everything:
            raise _forbidden("Certificate is invalid on this endpoint")
        _check_rights(principal, environ.get(_THING_NAME), path[1])
        credentials = self._apis.between_calls(lambda: _assumed(path[1], fingerprint))
        return Response(json.dumps({"credentials": credentials}), headers={"content-type": "application/json"})


def _check_rights(principal: Principal, thing: str | None, alias: str) -> None:
    if thing is not None and thing not in {attached.thing for attached in principal.attachments}:
        raise _forbidden("Invalid thing name passed")
    if not Rights(principal, None).may_assume_role(alias):
        raise _forbidden("Access Denied")


def _assumed(alias: str, certificate_id: str) -> dict[str, str]:
    """Return new credentials of an alias's role, in a session that is named after the certificate."""
    known = iot_backends[ACCOUNT_ID][REGION].role_aliases.get(alias)
    if known is None:
        raise _RefusedError(HTTPStatus.NOT_FOUND, _MISSING, "Role alias does not exist")
    roles = {role.arn: role for role in iam_backends[ACCOUNT_ID][_PARTITION].get_roles()}
    role = roles.get(known.role_arn)
    if role is None or not _trusts(role):
        raise _invalid("Unable to assume the role, or the role to assume does not exist")
    seconds = int(known.credential_duration_seconds)
    if seconds > int(role.max_session_duration):
        raise _invalid("The requested CredentialDurationSeconds exceeds the MaxSessionDuration set for the role")
    assumed = sts_backends[ACCOUNT_ID][_PARTITION].assume_role(
        region_name=REGION,
        role_session_name=certificate_id,
        role_arn=role.arn,
        policy="",
        duration=seconds,
        external_id="",
    )
    return {
        "accessKeyId": assumed.access_key_id,
        "secretAccessKey": assumed.secret_access_key,
        "sessionToken": assumed.session_token,
        "expiration": f"{assumed.expiration:%Y-%m-%dT%H:%M:%SZ}",
    }


def _trusts(role: Any) -> bool:
    document = role.assume_role_policy_document
    trust = json.loads(document) if isinstance(document, str) else document
    return any(
        statement["Effect"] == "Allow" and _SERVICE in statement.get("Principal", {}).get("Service", ())
        for statement in trust["Statement"]
    )


def _forbidden(message: str) -> _RefusedError:
    return _RefusedError(HTTPStatus.FORBIDDEN, _FORBIDDEN, message)


def _invalid(message: str) -> _RefusedError:
    return _RefusedError(HTTPStatus.BAD_REQUEST, _INVALID, message)
