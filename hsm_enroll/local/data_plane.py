"""AWS IoT's data plane: Publish reaches the subscribers of the local broker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

from moto.iotdata.exceptions import InvalidRequestException, IoTDataPlaneClientError
from moto.iotdata.responses import IoTDataPlaneResponse

from hsm_enroll.local.delivery import Message
from hsm_enroll.local.limits import MAX_PAYLOAD, topic_fault

_QOS = {"": 0, "0": 0, "1": 1}


@contextmanager
def publishing(publish: Callable[[Message], None]) -> Iterator[None]:
    """Pass on each message that is published through the data plane, until the block ends; moto only stores them.

    Policies do not apply: it is IAM that allows callers to publish.

    Args:
        publish: takes the message; it raises an exception if the broker does not have it.

    Does not pass on the properties of MQTT 5 that API_iotdata_Publish accepts, such as contentType.
    """

    def replacement(self: Any) -> str:
        publish(_message(self))
        return "{}"

    original = IoTDataPlaneResponse.publish
    IoTDataPlaneResponse.publish = replacement
    try:
        yield
    finally:
        IoTDataPlaneResponse.publish = original


def _message(response: Any) -> Message:
    """Return the message in a request.

    Raises:
        IoTDataPlaneClientError: AWS IoT would refuse it.
    """
    topic = unquote(response.path.split("/topics/", 1)[-1])
    parameters = {name: response.querystring.get(name, [""])[0] for name in ("qos", "retain")}
    payload = response.body if isinstance(response.body, bytes) else response.body.encode()
    if parameters["qos"] not in _QOS:
        raise InvalidRequestException("qos must be 0 or 1")
    if not topic or {"+", "#", "\x00"} & set(topic) or topic_fault(topic) is not None:
        raise InvalidRequestException("The topic is not valid")
    if len(payload) > MAX_PAYLOAD:
        too_large = IoTDataPlaneClientError("RequestEntityTooLargeException", "The payload is larger than 128 KiB")
        too_large.code = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        raise too_large
    return Message(topic, payload, _QOS[parameters["qos"]], parameters["retain"] == "true")
