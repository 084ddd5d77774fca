"""The options of ``backend deploy`` that are parameters of the template or tags; what is not named keeps its value."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, NamedTuple

import click

_NONE = "none"
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")
_TOPIC = re.compile(r"arn:[a-z-]+:sns:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_-]+")
_KEY = re.compile(r"arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]+")
_ALIAS = re.compile(r"[a-zA-Z0-9_=,@-]{1,128}")  # AWS IoT, CreateRoleAlias: roleAlias
_BOUNDARY = re.compile(r"arn:[a-z-]+:iam::[0-9]{12}:policy/[A-Za-z0-9+=,.@_/-]+")
_DOMAIN = re.compile(r"[a-z0-9-]+([.][a-z0-9-]+)+")
_CERTIFICATE = re.compile(r"arn:[a-z-]+:acm:[a-z0-9-]+:[0-9]{12}:certificate/[A-Za-z0-9-]+")
_S3_FILE = re.compile(r"s3://[a-z0-9.-]{3,63}/.+")
_LONGEST_KEY, _LONGEST_VALUE = 128, 256  # characters of a tag (CloudFormation, Tag)


class Chosen(NamedTuple):
    """What the command line says.

    Attributes:
        settings: the template's parameters, by name.
        tags: by key.
    """

    settings: Mapping[str, str]
    tags: Mapping[str, str]


def deployment_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options; the function is given a `Chosen` as ``chosen``."""

    @wraps(function)
    def run(*arguments: Any, tag: tuple[tuple[str, str], ...], **rest: Any) -> None:
        given = {name: rest.pop(option) for option, name in _PARAMETERS.items()}
        settings = {name: _text(value) for name, value in given.items() if value is not None}
        function(*arguments, chosen=Chosen(settings, dict(tag)), **rest)

    for option in _OPTIONS:
        run = option(run)
    return run


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value == _NONE else f"{value:g}" if isinstance(value, float) else str(value)


def _matching(
    pattern: re.Pattern[str], what: str
) -> Callable[[click.Context, click.Parameter, str | None], str | None]:
    def check(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
        if value is not None and value != _NONE and not pattern.fullmatch(value):
            raise click.BadParameter(f"{value!r} is neither {what} nor the word {_NONE}")
        return value

    return check


def _tags(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    pairs = []
    for value in values:
        key, separator, text = value.partition("=")
        if not separator or not 0 < len(key) <= _LONGEST_KEY or len(text) > _LONGEST_VALUE or key.startswith("aws:"):
            raise click.BadParameter(f"{value!r} is not KEY=VALUE, as AWS accepts it for a tag")
        pairs.append((key, text))
    return tuple(pairs)


_PARAMETERS = {
    "attestation": "Attestation",
    "existing_things": "AllowExistingThings",
    "edge": "Edge",
    "certificate_rate": "CertificateRate",
    "throttle_rate": "ThrottleRate",
    "throttle_burst": "ThrottleBurst",
    "reserved_concurrency": "ReservedConcurrency",
    "address_limit": "AddressLimit",
    "sweep": "Sweep",
    "sweep_limit": "SweepLimit",
    "renewal_days": "RenewalDays",
    "delete_retired_things": "DeleteThingOnRetirement",
    "kms_key": "KmsKey",
    "permissions_boundary": "PermissionsBoundary",
    "role_alias": "RoleAlias",
    "role_boundary": "RoleBoundary",
    "est_domain": "EstDomainName",
    "est_certificate": "EstCertificate",
    "est_truststore": "EstTruststore",
    "alarm_email": "AlarmEmail",
    "alarm_topic": "AlarmTopic",
}

_OPTIONS = (
    click.option(
        "--tag", metavar="KEY=VALUE", multiple=True, callback=_tags, help="A tag of the stack and its resources."
    ),
    click.option(
        "--alarm-topic",
        metavar="ARN",
        callback=_matching(_TOPIC, "the ARN of an SNS topic"),
        help="The SNS topic that the alarms notify, or none.",
    ),
    click.option(
        "--alarm-email",
        metavar="ADDRESS",
        callback=_matching(_EMAIL, "an address"),
        help="The address that the alarms notify, or none; AWS asks it for confirmation first.",
    ),
    click.option(
        "--kms-key",
        metavar="ARN",
        callback=_matching(_KEY, "the ARN of a KMS key"),
        help="Your KMS key for the ledger, or none for the one that AWS manages.",
    ),
    click.option(
        "--permissions-boundary",
        metavar="ARN",
        callback=_matching(_BOUNDARY, "the ARN of an IAM policy"),
        help="The IAM policy that limits what the functions' role can be given, or none.",
    ),
    click.option(
        "--role-boundary",
        metavar="ARN",
        callback=_matching(_BOUNDARY, "the ARN of an IAM policy"),
        help="The IAM policy that limits what the devices' role can be given, or none.",
    ),
    click.option(
        "--role-alias",
        metavar="NAME",
        callback=_matching(_ALIAS, "a name for a role alias"),
        help="Make a role alias of this name, by which devices get AWS credentials; needs --role-policy the first "
        "time. The word none removes it.",
    ),
    click.option(
        "--est-truststore",
        metavar="S3-URI",
        callback=_matching(_S3_FILE, "the URI of a file in S3"),
        help="With --est-domain, a PEM file with the CAs that issue the devices' certificates.",
    ),
    click.option(
        "--est-certificate",
        metavar="ARN",
        callback=_matching(_CERTIFICATE, "the ARN of a certificate in AWS Certificate Manager"),
        help="With --est-domain, the server's certificate for it, in the same region.",
    ),
    click.option(
        "--est-domain",
        metavar="NAME",
        callback=_matching(_DOMAIN, "a host name"),
        help="Host name of the API with mutual TLS, which EST's simplereenroll needs; none removes it.",
    ),
    click.option(
        "--delete-retired-things/--keep-retired-things",
        default=None,
        help="Whether a Thing is deleted from AWS IoT when its device is retired (default keep).",
    ),
    click.option(
        "--renewal-days",
        metavar="DAYS",
        type=click.IntRange(min=0),
        help="Age of a certificate from which fleet list says that its renewal is due (default 365); 0 for never.",
    ),
    click.option(
        "--sweep-limit",
        metavar="COUNT",
        type=click.IntRange(min=0),
        help="A sweep that would disable more certificates stops (default 20).",
    ),
    click.option(
        "--sweep/--no-sweep",
        default=None,
        help="Whether the sweep runs every hour (default yes); hold it while the ledger is restored.",
    ),
    click.option(
        "--certificate-rate",
        metavar="RATE",
        type=click.FloatRange(min=0.1),
        help="Enrollments per second (default 14.25); raise it after AWS has raised the quotas.",
    ),
    click.option(
        "--reserved-concurrency",
        metavar="COUNT",
        type=click.IntRange(min=0),
        help="How many requests the function handles at once (default 20); 0 reserves nothing.",
    ),
    click.option(
        "--throttle-burst",
        metavar="COUNT",
        type=click.IntRange(min=1),
        help="Burst of requests that the API admits (default 20); not more than --reserved-concurrency.",
    ),
    click.option(
        "--throttle-rate",
        metavar="RATE",
        type=click.FloatRange(min=1),
        help="Requests per second that the API admits for each route (default 100).",
    ),
    click.option(
        "--address-limit",
        metavar="COUNT",
        type=click.IntRange(min=10),
        help="With --edge, requests of one address in five minutes (default 2000).",
    ),
    click.option(
        "--edge/--no-edge",
        default=None,
        help="Limit the requests of each address, by AWS WAF in front of a REST API. Either way the API gets another "
        "address.",
    ),
    click.option(
        "--attestation",
        type=click.Choice(["off", "prefer", "require"]),
        help="Whether devices have to prove that their keys are in TPMs: off (default) leaves that to invites, prefer "
        "asks for it and accepts other tokens, require refuses these.",
    ),
    click.option(
        "--existing-things/--no-existing-things",
        default=None,
        help="Whether invites may be for Things that were not created here (default no).",
    ),
)
