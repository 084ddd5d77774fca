"""The template's parameters, as a deployment sets them: kept, asked for, and those that follow from the account."""

from __future__ import annotations

from collections.abc import Mapping

from hsm_enroll.errors import UsageError
from hsm_enroll.operator import device_role, est_domain
from hsm_enroll.operator.account import Account, UploadedCode
from hsm_enroll.operator.role_policy import RolePolicy
from hsm_enroll.version import __version__

# A deployment keeps the values of these; it sets the other parameters itself.
KEPT = (
    "AddressLimit",
    "AlarmEmail",
    "AlarmTopic",
    "AllowExistingThings",
    "Attestation",
    "AuthMode",
    "CertificateRate",
    "CredentialsEndpoint",
    "DeleteThingOnRetirement",
    "DevicePolicyDocument",
    "Edge",
    "EstCertificate",
    "EstDomainName",
    "EstTruststore",
    "KmsKey",
    "PermissionsBoundary",
    "RenewalDays",
    "ReservedConcurrency",
    "RoleAlias",
    "RoleBoundary",
    "RolePolicyDocument",
    "Sweep",
    "SweepLimit",
    "ThrottleBurst",
    "ThrottleRate",
)
PROTECTION = "LedgerProtection"
_CONCURRENCY, _BURST = "ReservedConcurrency", "ThrottleBurst"
_WANTED_CONCURRENCY = 20  # the template's default, for ThrottleBurst too
_UNRESERVABLE = 100  # PutFunctionConcurrency: the account's other functions must keep this much


def wanted(
    account: Account,
    endpoint: str,
    code: UploadedCode,
    before: Mapping[str, str],
    asked: Mapping[str, str],
    role_policy: RolePolicy | None,
) -> dict[str, str]:
    """Return all parameters of a deployment.

    Args:
        account: where the stack is.
        endpoint: host name of its MQTT broker.
        code: the function's.
        before: the stack's parameters as they are; empty in a first deployment.
        asked: what the operator asks for, by name; those of `KEPT` that are missing keep their values.
        role_policy: what devices may do with AWS credentials; None keeps the present policy.

    Raises:
        UsageError: parameters contradict each other, or one that another one needs is missing.
        AwsError: AWS does not name the credentials provider.
    """
    parameters = {
        **{name: before[name] for name in KEPT if name in before},
        "MqttEndpoint": endpoint,
        "CodeBucket": account.code_bucket,
        "CodeKey": code.key,
        "CodeVersion": code.version,
        "Version": __version__,
        PROTECTION: "yes" if before else "no",
        **asked,
    }
    _check_burst(parameters, asked)
    est_domain.check(parameters)
    return parameters | device_role.parameters(account, parameters, role_policy)


def concurrency(account: Account, settings: Mapping[str, str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return parameters for the account's concurrency in a first deployment, and what to tell a person about it.

    In an account so small that Lambda would refuse a reservation, nothing is reserved, and the API's burst is no larger
    than what all functions of the account have together.

    Args:
        account: the account.
        settings: what the operator asks for; a concurrency among it is theirs to choose.

    Raises:
        AwsError: AWS does not say how much there is.
    """
    if _CONCURRENCY in settings:
        return {}, ()
    unreserved = account.unreserved_concurrency()
    if unreserved is None or unreserved - _WANTED_CONCURRENCY >= _UNRESERVABLE:
        return {}, ()
    burst = max(1, min(_WANTED_CONCURRENCY, unreserved))
    note = (
        f"the account has {unreserved} unreserved concurrent Lambda executions, too few to reserve "
        f"{_WANTED_CONCURRENCY} for this function: it shares them with the account's other functions. Request a higher "
        "quota (Lambda, concurrent executions), then deploy with --reserved-concurrency and --throttle-burst"
    )
    return {_CONCURRENCY: "0", _BURST: str(burst)}, (note,)


def _check_burst(parameters: Mapping[str, str], asked: Mapping[str, str]) -> None:
    """Raise UsageError if the API would let more requests in at once than the function reserves.

    Checked only if one of the two is being set: what somebody has set in CloudFormation stops no deployment.
    """
    reserved, burst = (int(parameters.get(name, _WANTED_CONCURRENCY)) for name in (_CONCURRENCY, _BURST))
    if asked.keys().isdisjoint({_CONCURRENCY, _BURST}) or not reserved or burst <= reserved:
        return
    raise UsageError(
        f"the burst ({burst}) would be above the concurrency ({reserved}), and the requests in between would fail",
        hint="Set --throttle-burst and --reserved-concurrency together.",
    )
