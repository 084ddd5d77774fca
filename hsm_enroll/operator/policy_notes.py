"""What hsm-enroll does that an operator's own device policy does not allow."""

from __future__ import annotations

from hsm_enroll.iot_policy import CLIENT_ID, IS_ATTACHED, THING_NAME, Policy, allows

_THING = f"${{{THING_NAME}}}"

ORDINARY = "gateway-17"  # a Thing like any other
TAKES_OVER = (
    "publish and subscribe will connect as <thing> and disconnect a program that is connected under that client id: "
    f"allow client/{_THING}/* too"
)
NO_CLIENT_ID = (
    "hsm-enroll connects as <thing>/<anything> or as <thing>, and this policy allows neither: run init --no-publish"
)
NO_FIRST_MESSAGE = (
    "the first message of init goes to certtest/<thing>, which this policy does not allow: run init --no-publish"
)


NO_CREDENTIALS = (
    "devices get no AWS credentials, since this policy does not allow iot:AssumeRoleWithCertificate on rolealias/{}, "
    "without conditions about Things"
)


def notes(policy: Policy, arns: str, role_alias: str = "") -> list[str]:
    """Return what hsm-enroll does that a policy does not allow, one line for each.

    Does *not* find rules about a certain Thing or about attributes of Things: it evaluates the policy for an ordinary
    one.

    Args:
        policy: any.
        arns: what every AWS IoT ARN of the account and region begins with.
        role_alias: name of the role alias for devices; empty if there is none.
    """
    own = f"{ORDINARY}/publish"

    def may(action: str, resource: str, client_id: str) -> bool:
        variables = {THING_NAME: ORDINARY, CLIENT_ID: client_id, IS_ATTACHED: "true"}
        return allows([policy], action, f"{arns}{resource}", variables)

    by_own_id, by_name = (may("iot:Connect", f"client/{client_id}", client_id) for client_id in (own, ORDINARY))
    if not by_own_id and not by_name:
        return [NO_CLIENT_ID]
    found = [] if by_own_id else [TAKES_OVER]
    if not may("iot:Publish", f"topic/certtest/{ORDINARY}", own if by_own_id else ORDINARY):
        found.append(NO_FIRST_MESSAGE)
    # AWS IoT promises the variables of Things to MQTT connections only.
    if role_alias and not allows([policy], "iot:AssumeRoleWithCertificate", f"{arns}rolealias/{role_alias}", {}):
        found.append(NO_CREDENTIALS.format(role_alias))
    return found
