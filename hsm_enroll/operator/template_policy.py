"""The device policy of ``lambda/template.yaml``, as CloudFormation writes it into AWS IoT.

It is known here too, so that a deployment can say what changes for devices before it does. A test compares the two.
"""

from __future__ import annotations

from hsm_enroll.iot_policy import Policy

_THING = "${iot:Connection.Thing.ThingName}"
_TOPICS = (
    f"certtest/{_THING}",
    f"device/{_THING}/*",
    f"$aws/things/{_THING}/shadow/*",
    f"$aws/things/{_THING}/jobs/*",
)


def template_policy(arns: str, role_alias: str = "") -> Policy:
    """Return the template's device policy for an account and region.

    Args:
        arns: what every AWS IoT ARN of theirs begins with.
        role_alias: name of the role alias for devices; empty if there is none.
    """
    connect = {
        "Effect": "Allow",
        "Action": "iot:Connect",
        "Resource": [f"{arns}client/{_THING}", f"{arns}client/{_THING}/*"],
        "Condition": {"Bool": {"iot:Connection.Thing.IsAttached": "true"}},
    }
    publish = {
        "Effect": "Allow",
        "Action": ["iot:Publish", "iot:Receive"],
        "Resource": [f"{arns}topic/{topic}" for topic in _TOPICS],
    }
    subscribe = {
        "Effect": "Allow",
        "Action": "iot:Subscribe",
        "Resource": [f"{arns}topicfilter/{topic}" for topic in _TOPICS],
    }
    credentials = {
        "Effect": "Allow",
        "Action": "iot:AssumeRoleWithCertificate",
        "Resource": f"{arns}rolealias/{role_alias}",
    }
    statements = [connect, publish, subscribe, *([credentials] if role_alias else [])]
    return Policy.parse({"Version": "2012-10-17", "Statement": statements})
