"""The first message: a failure is not one of the enrollment, and a new certificate's rights are waited for."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.support.devices import Cloud, Device
from tests.support.relay import carry


@contextmanager
def _relaying(broker_port: int, at_first: Callable[[], None]) -> Iterator[int]:
    """Relay to the broker, and do something before the first connection goes on."""
    firsts = [at_first]

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            while firsts:
                firsts.pop()()
            with socket.create_connection(("127.0.0.1", broker_port)) as server:
                other_way = threading.Thread(target=carry, args=(server, self.request))
                other_way.start()
                carry(self.request, server)
                other_way.join()

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as relay:
        relay.daemon_threads = True
        threading.Thread(target=relay.serve_forever, kwargs={"poll_interval": 0.05}).start()
        try:
            yield relay.server_address[1]
        finally:
            relay.shutdown()


def test_d19_a_policy_that_is_attached_late_is_waited_for(device: Device, thing: str, cloud: Cloud) -> None:
    """D19: as on AWS, where attachments take seconds, the broker refuses at first; init says so and gets through."""
    iot = cloud.aws("iot")
    attachments: list[dict[str, str]] = []

    def detach() -> None:
        (certificate,) = iot.list_thing_principals(thingName=thing)["principals"]
        (policy,) = iot.list_attached_policies(target=certificate)["policies"]
        attachments.append({"policyName": policy["policyName"], "target": certificate})
        iot.detach_policy(**attachments[0])

    with _relaying(cloud.document["mqttPort"], detach) as port:
        device.extra["HSM_ENROLL_MQTT_PORT"] = str(port)
        run = device.start("init", "--thing", thing)
        assert run.stderr is not None
        seen = []
        for line in run.stderr:
            seen.append(line)
            if "trying again for up to" in line:
                break
        iot.attach_policy(**attachments[0])
        _, rest = run.communicate(timeout=60)
    assert run.returncode == 0, "".join(seen) + rest


def test_a_first_message_that_fails_is_shown_until_it_is_sent(device: Device, thing: str) -> None:
    """Exit 40 says that the device is enrolled; status and doctor show what is missing; init then only sends it."""
    device.extra["HSM_ENROLL_MQTT_PORT"] = "9"
    error = device.error("init", "--thing", thing)
    assert (error["exitStatus"], error["code"]) == (40, "mqtt-unreachable")
    assert error["message"].startswith(f"this device is enrolled as {thing}; only the first message was not sent: ")
    pending = {"what": "message", "thingName": thing, "keyType": "ec-p256", "token": "gateway"}
    assert device.json("status")["pending"] == pending
    assert "the first message was not sent" in device.run("status").stdout
    assert "the first message was not sent" in device.run("doctor").stdout
    del device.extra["HSM_ENROLL_MQTT_PORT"]
    assert [step["name"] for step in device.json("init")["steps"]] == ["message"]
    assert device.json("status")["pending"] is None
