"""The role alias by which devices get AWS credentials, as a part of a deployment."""

from __future__ import annotations

from collections.abc import Mapping

from hsm_enroll.errors import UsageError
from hsm_enroll.operator import role_policy
from hsm_enroll.operator.account import Account
from hsm_enroll.operator.role_policy import RolePolicy

ROLE_ALIAS, ROLE_POLICY, _CREDENTIALS_ENDPOINT = "RoleAlias", "RolePolicyDocument", "CredentialsEndpoint"
"""Names of the template's parameters."""

_WIDE_HINT = "Name the actions that devices need; or deploy the policy as it is with --allow-loose-policy."


def check(policy: RolePolicy | None, *, loose_allowed: bool) -> None:
    """Refuse a policy that allows whole services of AWS, unless that is allowed.

    Raises:
        UsageError: it does; the message names each.
    """
    wide = role_policy.whole_services(policy) if policy else []
    if policy and wide and not loose_allowed:
        lines = "".join(f"\n  {one}" for one in wide)
        raise UsageError(f"{policy.file} lets devices use whole services:{lines}", hint=_WIDE_HINT)


def parameters(account: Account, wanted: Mapping[str, str], policy: RolePolicy | None) -> dict[str, str]:
    """Return the parameters that follow from the role alias: without one, its policy and endpoint are empty.

    Args:
        account: whose credentials provider devices use.
        wanted: the stack's parameters, as kept and as asked for.
        policy: the one that is asked for.

    Raises:
        UsageError: there is an alias without a policy, or a policy without an alias.
        AwsError: AWS does not name the credentials provider.
    """
    if wanted.get(ROLE_ALIAS):
        if not wanted.get(ROLE_POLICY):
            raise UsageError(
                "a role alias needs a policy that says what devices may do with AWS credentials",
                hint="Pass --role-policy FILE too: an IAM policy in JSON.",
            )
        return {_CREDENTIALS_ENDPOINT: account.credentials_endpoint()}
    if policy is not None:
        raise UsageError("--role-policy has no effect without a role alias", hint="Pass --role-alias NAME too.")
    return {name: "" for name in (ROLE_POLICY, _CREDENTIALS_ENDPOINT) if wanted.get(name)}
