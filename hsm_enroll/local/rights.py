"""What a certificate may do, decided from its attachments and policies only, as AWS IoT Core does.

The certificate's subject is not used.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import NamedTuple

from hsm_enroll.iot_policy import CLIENT_ID, IS_ATTACHED, THING_NAME, Policy, allows
from hsm_enroll.local.lambda_runtime import ACCOUNT_ID, REGION

_ARN = f"arn:aws:iot:{REGION}:{ACCOUNT_ID}:"
_MAX_CACHED = 1000  # decisions


class Attachment(NamedTuple):
    """A Thing that a certificate is attached to, and whether exclusively (EXCLUSIVE_THING)."""

    thing: str
    exclusive: bool


class Principal(NamedTuple):
    """An active certificate.

    Attributes:
        policies: the policies attached to it.
        attachments: the Things it is attached to.
        everything: whether it may do everything, whatever its policies are; only the observer may.
    """

    policies: tuple[Policy, ...]
    attachments: tuple[Attachment, ...]
    everything: bool = False

    def thing_of(self, client_id: str) -> str | None:
        """Return the Thing that a connection is associated with; None if there is none.

        With an exclusive attachment, that is the attached Thing, whatever the client id is. Otherwise it is the
        attached Thing whose name equals the client id (developer guide, "Associating an AWS IoT thing to an MQTT
        client connection").
        """
        for thing, exclusive in self.attachments:
            if exclusive or thing == client_id:
                return thing
        return None

    def variables(self, client_id: str) -> dict[str, str]:
        """Return the values of the policy variables on a connection."""
        thing = self.thing_of(client_id)
        named = {} if thing is None else {THING_NAME: thing}
        return {CLIENT_ID: client_id, IS_ATTACHED: "true" if thing is not None else "false", **named}


OBSERVER = Principal((), (), everything=True)


class Rights:
    """What one connection may do.

    Args:
        principal: the certificate it was opened with.
        client_id: its client id; None if it is not an MQTT connection, so that no variable has a value.
    """

    def __init__(self, principal: Principal, client_id: str | None) -> None:
        self._principal = principal
        self._client_id = client_id
        self._decisions: dict[tuple[str, str], bool] = {}

    @property
    def may_connect(self) -> bool:
        """Whether it may connect with its client id (iot:Connect)."""
        return self._may("iot:Connect", f"client/{self._client_id}")

    def may_publish(self, topic: str, *, retain: bool = False) -> bool:
        """Whether it may publish to a topic (iot:Publish, iot:RetainPublish)."""
        resource = f"topic/{topic}"
        return self._may("iot:Publish", resource) and (not retain or self._may("iot:RetainPublish", resource))

    def may_subscribe(self, topic_filter: str) -> bool:
        """Whether it may subscribe to a topic filter (iot:Subscribe)."""
        return self._may("iot:Subscribe", f"topicfilter/{topic_filter}")

    def may_receive(self, topic: str) -> bool:
        """Whether it may receive messages that are published to a topic (iot:Receive)."""
        return self._may("iot:Receive", f"topic/{topic}")

    def may_assume_role(self, alias: str) -> bool:
        """Whether it may have credentials of the role behind a role alias (iot:AssumeRoleWithCertificate)."""
        return self._may("iot:AssumeRoleWithCertificate", f"rolealias/{alias}")

    @cached_property
    def _variables(self) -> Mapping[str, str]:
        return {} if self._client_id is None else self._principal.variables(self._client_id)

    def _may(self, action: str, resource: str) -> bool:
        if self._principal.everything:
            return True
        request = action, resource
        if request not in self._decisions:
            if len(self._decisions) >= _MAX_CACHED:
                self._decisions.clear()
            self._decisions[request] = allows(self._principal.policies, action, _ARN + resource, self._variables)
        return self._decisions[request]
