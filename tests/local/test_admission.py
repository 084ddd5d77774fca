"""Which certificates get into the broker, and where to: AWS IoT's decisions, seen by MQTT clients."""

from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests

from hsm_enroll.local.cloud import Endpoints
from hsm_enroll.local.control import ControlConnection
from hsm_enroll.local.home import Home
from tests.local.clients import (
    TIME_LIMIT,
    Device,
    Identity,
    Observer,
    handshake,
    iot,
    openssl,
    policy_name,
    publish,
    receive,
    sign,
)

REFUSED = "SSLV3_ALERT_CERTIFICATE_REVOKED"
# MQTT 5 §3.4.2.1
SUCCESS, NOT_AUTHORIZED = "RC:0)", "RC:135)"

# MQTT 3.1.1: a clean session without keep-alive under the client id "x", which the broker replaces.
_CONNECT = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01x"
_CONNACK = b"\x20\x02\x00\x00"
_PINGREQ, _PINGRESP = b"\xc0\x00", b"\xd0\x00"


@pytest.fixture
def certificate(device: Device, cloud: Endpoints) -> dict[str, Any]:
    """An active certificate that AWS IoT issued for the device and nothing else was done with."""
    iot(cloud).create_thing(thingName=device.thing)
    answer = iot(cloud).create_certificate_from_csr(certificateSigningRequest=device.csr, setAsActive=True)
    device.store(answer["certificatePem"])
    return dict(answer)


def test_an_enrolled_device_reaches_the_observer(cloud: Endpoints, enrolled: Device, observer: Observer) -> None:
    """A device publishes to certtest/<thing> with its certificate, and the observer receives it."""
    assert SUCCESS in publish(cloud, enrolled.identity, f"certtest/{enrolled.thing}", "hello").stdout
    assert observer.message() == (f"certtest/{enrolled.thing}", "hello")


def test_a_device_is_kept_to_its_own_topics(
    cloud: Endpoints, enrolled: Device, new_device: Callable[[str], Device], observer: Observer
) -> None:
    """A message for another Thing's topic is answered with "not authorized", and reaches nobody."""
    other = new_device("-other")
    other.enroll(cloud)
    for topic in (f"certtest/{other.thing}", f"{other.thing}/x", f"certtest/{enrolled.thing}/x", enrolled.thing):
        assert NOT_AUTHORIZED in publish(cloud, enrolled.identity, topic, "intruder").stdout
    assert SUCCESS in publish(cloud, enrolled.identity, f"{enrolled.thing}/a/b", "own").stdout
    assert observer.message() == (f"{enrolled.thing}/a/b", "own")


def test_a_device_receives_its_own_topics_only(
    cloud: Endpoints, enrolled: Device, new_device: Callable[[str], Device]
) -> None:
    """Subscribed to everything, a device is still given nothing but what its policy lets it receive."""
    other = new_device("-other")
    other.enroll(cloud)
    subscriber = receive(cloud, enrolled.identity, "#")
    publish(cloud, other.identity, f"certtest/{other.thing}", "not for you")
    observer = Identity(cloud.observer_certificate, cloud.observer_key)
    publish(cloud, observer, f"{enrolled.thing}/jobs/1", "for you")
    output, _ = subscriber.communicate(timeout=60)
    assert [line for line in output.splitlines() if line.startswith("message: ")] == [
        f"message: {enrolled.thing}/jobs/1 for you"
    ]


def test_a_client_id_is_the_certificates(
    cloud: Endpoints, enrolled: Device, new_device: Callable[[str], Device]
) -> None:
    """A device that asks for another's client id gets its own: it cannot take over the other's connection."""
    other = new_device("-other")
    other.enroll(cloud)
    subscriber = receive(cloud, enrolled.identity, f"certtest/{enrolled.thing}")
    publish(cloud, other.identity, f"certtest/{other.thing}", "x", ["-i", enrolled.thing])
    observer = Identity(cloud.observer_certificate, cloud.observer_key)
    publish(cloud, observer, f"certtest/{enrolled.thing}", "still there")
    output, _ = subscriber.communicate(timeout=60)
    assert f"message: certtest/{enrolled.thing} still there" in output
    assert "sending CONNECT" not in output  # it had to connect once only, before the subscription


def test_a_retained_message_is_refused(cloud: Endpoints, enrolled: Device) -> None:
    """As AWS IoT does under a policy without iot:RetainPublish, the broker disconnects who sends a retained message."""
    options = ["-V", "mqttv311", "-r"]
    outcome = publish(cloud, enrolled.identity, f"certtest/{enrolled.thing}", "x", options)
    assert "connection was lost" in outcome.stderr


def test_no_certificate_is_refused(cloud: Endpoints) -> None:
    """Without a client certificate the TLS handshake fails."""
    assert handshake(cloud, None) == "SSLV3_ALERT_HANDSHAKE_FAILURE"


def test_a_foreign_certificate_is_refused(cloud: Endpoints, device: Device) -> None:
    """A certificate that another CA issued fails in the TLS handshake."""
    openssl(
        *("req", "-x509", "-key", device.identity.key, "-subj", f"/CN={device.thing}"),
        *("-out", device.identity.certificate),
    )
    assert handshake(cloud, device.identity) == "TLSV1_ALERT_UNKNOWN_CA"


def test_tls_1_1_is_refused(cloud: Endpoints, enrolled: Device) -> None:
    """Below TLS 1.2 the broker does not talk."""
    outcome = subprocess.run(
        [
            *("openssl", "s_client", "-connect", f"127.0.0.1:{cloud.mqtt_port}", "-tls1_1"),
            *("-cipher", "DEFAULT@SECLEVEL=0", "-cert", enrolled.identity.certificate, "-key", enrolled.identity.key),
        ],
        input="",
        capture_output=True,
        text=True,
        check=False,
    )
    assert "alert protocol version" in outcome.stderr


@pytest.mark.parametrize("attached", ["nothing", "policy", "thing"])
def test_a_certificate_needs_policy_and_thing(
    cloud: Endpoints, device: Device, certificate: dict[str, Any], attached: str
) -> None:
    """An active certificate that lacks its policy or its Thing is refused in the TLS handshake."""
    if attached == "policy":
        iot(cloud).attach_policy(policyName=policy_name(cloud), target=certificate["certificateArn"])
    if attached == "thing":
        iot(cloud).attach_thing_principal(thingName=device.thing, principal=certificate["certificateArn"])
    assert handshake(cloud, device.identity) == REFUSED
    assert publish(cloud, device.identity, f"certtest/{device.thing}", "x").returncode != 0


def test_attaching_admits_at_once(cloud: Endpoints, device: Device, certificate: dict[str, Any]) -> None:
    """As soon as the last call has returned, the device connects, without waiting for anything."""
    iot(cloud).attach_policy(policyName=policy_name(cloud), target=certificate["certificateArn"])
    iot(cloud).attach_thing_principal(thingName=device.thing, principal=certificate["certificateArn"])
    assert publish(cloud, device.identity, f"certtest/{device.thing}", "x").returncode == 0


def test_another_policy_does_not_admit(cloud: Endpoints, device: Device, certificate: dict[str, Any]) -> None:
    """The broker's rules are the deployed policy's, so only that policy opens the door."""
    iot(cloud).create_policy(policyName=device.thing, policyDocument='{"Version": "2012-10-17", "Statement": []}')
    iot(cloud).attach_policy(policyName=device.thing, target=certificate["certificateArn"])
    iot(cloud).attach_thing_principal(thingName=device.thing, principal=certificate["certificateArn"])
    assert handshake(cloud, device.identity) == REFUSED


def test_another_thing_does_not_admit(cloud: Endpoints, device: Device, certificate: dict[str, Any]) -> None:
    """A certificate attached to a Thing that its CN does not name would connect under no Thing's name: refused."""
    iot(cloud).create_thing(thingName=f"{device.thing}-other")
    iot(cloud).attach_policy(policyName=policy_name(cloud), target=certificate["certificateArn"])
    iot(cloud).attach_thing_principal(thingName=f"{device.thing}-other", principal=certificate["certificateArn"])
    assert handshake(cloud, device.identity) == REFUSED


def test_nobody_becomes_the_observer(cloud: Endpoints, tmp_path: Path) -> None:
    """A certificate whose CN is the observer's is refused, whatever is attached to it."""
    impostor = Device("local.observer", tmp_path / "impostor")
    api = iot(cloud)
    issued = api.create_certificate_from_csr(certificateSigningRequest=impostor.csr, setAsActive=True)
    impostor.store(issued["certificatePem"])
    api.create_thing(thingName=impostor.thing)
    api.attach_policy(policyName=policy_name(cloud), target=issued["certificateArn"])
    api.attach_thing_principal(thingName=impostor.thing, principal=issued["certificateArn"])
    assert handshake(cloud, impostor.identity) == REFUSED


def test_an_inactive_certificate_is_refused_until_it_is_active_again(cloud: Endpoints, enrolled: Device) -> None:
    """INACTIVE and REVOKED take effect on the next connection, and so does ACTIVE, time and again."""
    certificate_id = _certificate_id(cloud, enrolled)
    for status in ("INACTIVE", "REVOKED", "INACTIVE"):
        iot(cloud).update_certificate(certificateId=certificate_id, newStatus=status)
        assert handshake(cloud, enrolled.identity) == REFUSED
        iot(cloud).update_certificate(certificateId=certificate_id, newStatus="ACTIVE")
        assert publish(cloud, enrolled.identity, f"certtest/{enrolled.thing}", "x").returncode == 0


def test_a_detached_or_deleted_certificate_is_refused(cloud: Endpoints, enrolled: Device) -> None:
    """Detaching the policy or the Thing shuts the door, and deleting the certificate shuts it for good."""
    api, certificate_id = iot(cloud), _certificate_id(cloud, enrolled)
    arn = api.describe_certificate(certificateId=certificate_id)["certificateDescription"]["certificateArn"]
    api.detach_policy(policyName=policy_name(cloud), target=arn)
    assert handshake(cloud, enrolled.identity) == REFUSED
    api.attach_policy(policyName=policy_name(cloud), target=arn)
    assert handshake(cloud, enrolled.identity) == "ok"
    api.detach_thing_principal(thingName=enrolled.thing, principal=arn)
    assert handshake(cloud, enrolled.identity) == REFUSED
    api.update_certificate(certificateId=certificate_id, newStatus="INACTIVE")
    api.delete_certificate(certificateId=certificate_id, forceDelete=True)
    assert handshake(cloud, enrolled.identity) == REFUSED


def test_revoking_ends_the_open_connection(
    cloud: Endpoints, enrolled: Device, new_device: Callable[[str], Device]
) -> None:
    """A connected device is dropped before the revoking call returns, and another one stays connected."""
    other = new_device("-other")
    other.enroll(cloud)
    with _handshaken(cloud, enrolled) as dropped, _handshaken(cloud, other) as staying:
        for connection in (dropped, staying):
            connection.sendall(_CONNECT)
            assert connection.recv(4) == _CONNACK
        iot(cloud).update_certificate(certificateId=_certificate_id(cloud, enrolled), newStatus="INACTIVE")
        dropped.settimeout(0)  # what is not there by now came too late
        assert dropped.recv(1) == b""
        staying.sendall(_PINGREQ)
        assert staying.recv(2) == _PINGRESP


def test_an_operators_revoking_ends_the_open_connection(cloud: Endpoints, enrolled: Device) -> None:
    """What ``fleet revoke`` calls, signed with the cloud's credentials, drops the device before it has answered."""
    url = f"{cloud.api_url}/v1/operator/fleet?thing={quote(enrolled.thing)}"
    with _handshaken(cloud, enrolled) as connection:
        connection.sendall(_CONNECT)
        assert connection.recv(4) == _CONNACK
        answer = requests.delete(url, headers=sign("DELETE", url), verify=str(cloud.ca_file), timeout=TIME_LIMIT)
        assert (answer.status_code, answer.text) == (204, "")
        connection.settimeout(0)  # what is not there by now came too late
        assert connection.recv(1) == b""
    assert handshake(cloud, enrolled.identity) == REFUSED


def test_a_revoked_device_does_not_get_back(cloud: Endpoints, enrolled: Device) -> None:
    """mosquitto's own client connects again by itself after it was dropped: it is refused, and misses what follows."""
    subscriber = receive(cloud, enrolled.identity, f"certtest/{enrolled.thing}")
    iot(cloud).update_certificate(certificateId=_certificate_id(cloud, enrolled), newStatus="INACTIVE")
    observer = Identity(cloud.observer_certificate, cloud.observer_key)
    publish(cloud, observer, f"certtest/{enrolled.thing}", "too late")
    heard, _ = subscriber.communicate(timeout=30)  # it would give up by itself after a minute
    assert "too late" not in heard
    assert subscriber.returncode != 0
    assert handshake(cloud, enrolled.identity) == REFUSED


def test_a_handshake_made_before_revoking_is_of_no_use_after_it(
    cloud: Endpoints, enrolled: Device, observer: Observer
) -> None:
    """A device that had not yet said CONNECT when its certificate became invalid publishes to nobody afterwards."""
    topic = f"certtest/{enrolled.thing}".encode()
    with _handshaken(cloud, enrolled) as connection:
        iot(cloud).update_certificate(certificateId=_certificate_id(cloud, enrolled), newStatus="INACTIVE")
        connection.sendall(_CONNECT)
        assert connection.recv(4) == _CONNACK
        connection.sendall(b"\x30" + bytes((len(topic) + 4,)) + len(topic).to_bytes(2) + topic + b"no")  # PUBLISH
        connection.sendall(_PINGREQ)
        assert connection.recv(2) == _PINGRESP  # so the PUBLISH is done with
    own = Identity(cloud.observer_certificate, cloud.observer_key)
    publish(cloud, own, f"certtest/{enrolled.thing}", "yes", ["-p", str(cloud.observer_port)])
    assert observer.message() == (f"certtest/{enrolled.thing}", "yes")


def test_a_device_that_is_active_again_has_its_topics_back(
    cloud: Endpoints, enrolled: Device, observer: Observer
) -> None:
    """What shut a Thing out does not outlast it."""
    certificate_id = _certificate_id(cloud, enrolled)
    for status in ("INACTIVE", "ACTIVE"):
        iot(cloud).update_certificate(certificateId=certificate_id, newStatus=status)
    assert SUCCESS in publish(cloud, enrolled.identity, f"certtest/{enrolled.thing}", "back").stdout
    assert observer.message() == (f"certtest/{enrolled.thing}", "back")


def test_a_thing_named_like_the_supervisor_disturbs_nothing(cloud: Endpoints, tmp_path: Path) -> None:
    """No Thing's name is the client id of the cloud's own connection: the broker goes on following AWS IoT."""
    namesake = Device("supervisor", tmp_path / "supervisor")
    namesake.enroll(cloud)
    assert publish(cloud, namesake.identity, f"certtest/{namesake.thing}", "x").returncode == 0
    iot(cloud).update_certificate(certificateId=_certificate_id(cloud, namesake), newStatus="INACTIVE")
    assert handshake(cloud, namesake.identity) == REFUSED


def test_the_longest_thing_name_can_be_evicted(cloud: Endpoints) -> None:
    """A Thing's name of 128 characters takes two bytes of MQTT's remaining length."""
    ControlConnection(Home(cloud.home), cloud.observer_port, "x" * 128).close()


def test_devices_are_kept_off_the_observers_port(cloud: Endpoints, enrolled: Device) -> None:
    """On the observer's port, where client ids are free, no device certificate is accepted."""
    port = ["-p", str(cloud.observer_port)]
    assert publish(cloud, enrolled.identity, f"certtest/{enrolled.thing}", "x", port).returncode != 0
    observer = Identity(cloud.observer_certificate, cloud.observer_key)
    assert publish(cloud, observer, f"certtest/{enrolled.thing}", "x", port).returncode == 0


@contextmanager
def _handshaken(cloud: Endpoints, device: Device) -> Iterator[ssl.SSLSocket]:
    """Yield a connection after the TLS handshake, in TLS 1.2, whose end of it is the server's verdict."""
    context = ssl.create_default_context(cafile=cloud.ca_file)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(device.identity.certificate, device.identity.key)
    with (
        socket.create_connection(("127.0.0.1", cloud.mqtt_port), TIME_LIMIT) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        yield connection


def _certificate_id(cloud: Endpoints, device: Device) -> str:
    principals: list[str] = iot(cloud).list_thing_principals(thingName=device.thing)["principals"]
    (arn,) = principals
    return arn.rpartition("/")[2]
