"""Which certificates get into the broker, and where to: AWS IoT's decisions, seen by MQTT clients."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests

from hsm_enroll.local.cloud import Endpoints
from tests.support.clients import (
    TIME_LIMIT,
    Identity,
    SoftwareDevice,
    connect,
    connect_packet,
    iot,
    openssl,
    policy_name,
    publish,
    receive,
    sign,
    tls_options,
)
from tests.support.devices import Observer

NOT_AUTHORIZED = "RC:135)"  # MQTT 5 §3.4.2.1

_CONNACK = b"\x20\x02\x00\x00"
_PINGREQ, _PINGRESP = b"\xc0\x00", b"\xd0\x00"
_THING = "${iot:Connection.Thing.ThingName}"


@pytest.fixture
def certificate(device: SoftwareDevice, cloud: Endpoints) -> dict[str, Any]:
    """An active certificate that AWS IoT issued for the device and nothing else was done with."""
    iot(cloud).create_thing(thingName=device.thing)
    return _issued(cloud, device)


def test_an_enrolled_device_reaches_the_observer(
    cloud: Endpoints, enrolled: SoftwareDevice, observer: Observer
) -> None:
    """A device publishes to certtest/<thing> with its certificate, and the observer receives it."""
    assert _accepted(publish(cloud, enrolled.identity, f"certtest/{enrolled.thing}", "hello"))
    assert observer.message() == (f"certtest/{enrolled.thing}", "hello")


def test_a_device_is_kept_to_its_own_topics(
    cloud: Endpoints, enrolled: SoftwareDevice, new_device: Callable[[str], SoftwareDevice], observer: Observer
) -> None:
    """A message for another Thing's topic is answered with "not authorized", and reaches nobody."""
    other = new_device("-other")
    other.enroll(cloud)
    foreign = (
        *(f"certtest/{other.thing}", f"device/{other.thing}/x", f"$aws/things/{other.thing}/shadow/update"),
        *(f"certtest/{enrolled.thing}/x", f"device/{enrolled.thing}", f"{enrolled.thing}/x", enrolled.thing),
    )
    for topic in foreign:
        assert NOT_AUTHORIZED in publish(cloud, enrolled.identity, topic, "intruder").stdout, topic
    assert _accepted(publish(cloud, enrolled.identity, f"device/{enrolled.thing}/a/b", "own"))
    assert observer.message() == (f"device/{enrolled.thing}/a/b", "own")


@pytest.mark.parametrize("name", ["certtest", "device", "telemetry", "aws"])
def test_s22_a_thing_named_like_a_topic_root_reaches_nobody_elses_topics(
    cloud: Endpoints, enrolled: SoftwareDevice, tmp_path: Path, name: str
) -> None:
    """S22: what its name opens to a Thing lies below a first level that is the same for all."""
    root = SoftwareDevice(name, tmp_path / "root")
    root.enroll(cloud)
    for topic in (f"certtest/{enrolled.thing}", f"device/{enrolled.thing}/x", f"{name}/{enrolled.thing}", f"{name}/x"):
        assert NOT_AUTHORIZED in publish(cloud, root.identity, topic, "intruder").stdout, topic
    assert _accepted(publish(cloud, root.identity, f"certtest/{name}", "own"))


@pytest.mark.parametrize(
    "filter_of", ["#", "certtest/#", "device/#", "device/+/x", "{}/#", "$aws/things/+/shadow/#"], ids=list("abcdef")
)
def test_a_subscription_to_more_than_ones_own_is_refused(
    cloud: Endpoints, enrolled: SoftwareDevice, filter_of: str
) -> None:
    """AWS IoT refuses the filter itself, and not only what would come by it."""
    topic_filter = filter_of.format(enrolled.thing)
    options = [*("-d", "-V", "5", "-q", "1", "-t", topic_filter, "-W", "60"), *tls_options(cloud, enrolled.identity)]
    outcome = subprocess.run(["mosquitto_sub", *options], capture_output=True, text=True, check=False, timeout=70)
    assert "All subscription requests were denied" in outcome.stderr


def test_a_device_receives_what_is_its_own(
    cloud: Endpoints, enrolled: SoftwareDevice, new_device: Callable[[str], SoftwareDevice]
) -> None:
    """Below its own root, a device is given all that is published, and nothing that was published to another's."""
    other = new_device("-other")
    other.enroll(cloud)
    subscriber = receive(cloud, enrolled.identity, f"device/{enrolled.thing}/#")
    publish(cloud, other.identity, f"device/{other.thing}/x", "not for you")
    publish(cloud, _observer(cloud), f"device/{enrolled.thing}/orders/1", "for you")
    output, _ = subscriber.communicate(timeout=60)
    assert [line for line in output.splitlines() if line.startswith("message: ")] == [
        f"message: device/{enrolled.thing}/orders/1 for you"
    ]


def test_a_device_connects_under_its_name_and_below_it(
    cloud: Endpoints, enrolled: SoftwareDevice, new_device: Callable[[str], SoftwareDevice]
) -> None:
    """The client ids of a Thing are its name and whatever follows it behind a slash; any other is not authorized."""
    other = new_device("-other")
    other.enroll(cloud)
    for client_id in (enrolled.thing, f"{enrolled.thing}/publish-1a2b", f"{enrolled.thing}/a/b"):
        assert connect(cloud, enrolled.identity, client_id) == "admitted"
    for client_id in (other.thing, f"{other.thing}/x", f"{enrolled.thing}x", "x", f"x/{enrolled.thing}"):
        assert connect(cloud, enrolled.identity, client_id) == "not authorized", client_id


def test_d26_several_programs_with_one_identity_leave_each_other_alone(
    cloud: Endpoints, enrolled: SoftwareDevice
) -> None:
    """D26: a program under the Thing's name keeps its connection while another publishes under an id of its own."""
    subscriber = receive(cloud, enrolled.identity, f"certtest/{enrolled.thing}")
    beside = replace(enrolled.identity, client_id=f"{enrolled.thing}/publish-1")
    assert _accepted(publish(cloud, beside, f"certtest/{enrolled.thing}", "from beside"))
    output, _ = subscriber.communicate(timeout=60)
    assert f"message: certtest/{enrolled.thing} from beside" in output
    assert "sending CONNECT" not in output  # it had to connect once only, before the subscription


def test_a_device_is_what_its_certificate_is_attached_to(
    cloud: Endpoints, enrolled: SoftwareDevice, tmp_path: Path, observer: Observer
) -> None:
    """S10, S22: a certificate whose common name is another Thing's has its own Thing's topics, and no others."""
    disguised = SoftwareDevice(f"{enrolled.thing}-2", tmp_path / "disguised", subject=f"/CN={enrolled.thing}")
    disguised.enroll(cloud)
    assert NOT_AUTHORIZED in publish(cloud, disguised.identity, f"certtest/{enrolled.thing}", "intruder").stdout
    assert connect(cloud, disguised.identity, enrolled.thing) == "not authorized"
    assert _accepted(publish(cloud, disguised.identity, f"certtest/{disguised.thing}", "own"))
    assert observer.message() == (f"certtest/{disguised.thing}", "own")


def test_a_retained_message_is_refused(cloud: Endpoints, enrolled: SoftwareDevice) -> None:
    """The policy has no iot:RetainPublish: MQTT 5 is told so, and a client of MQTT 3.1.1 is disconnected."""
    topic = f"certtest/{enrolled.thing}"
    assert NOT_AUTHORIZED in publish(cloud, enrolled.identity, topic, "x", ["-r"]).stdout
    outcome = publish(cloud, enrolled.identity, topic, "x", ["-V", "mqttv311", "-r"])
    assert "connection was lost" in outcome.stderr


def test_mqtt_3_1_1_is_disconnected_for_a_foreign_topic(cloud: Endpoints, enrolled: SoftwareDevice) -> None:
    """Its PUBACK cannot say "not authorized", so AWS IoT ends the connection."""
    outcome = publish(cloud, enrolled.identity, "certtest/other", "x", ["-V", "mqttv311"])
    assert "connection was lost" in outcome.stderr


def test_a_will_needs_its_topic(cloud: Endpoints, enrolled: SoftwareDevice) -> None:
    """Who may not publish to a topic cannot have a will for it either."""
    outcome = publish(cloud, enrolled.identity, f"certtest/{enrolled.thing}", "x", ["--will-topic", "certtest/other"])
    assert "Not authorized" in outcome.stderr
    own = ["--will-topic", f"device/{enrolled.thing}/gone"]
    assert _accepted(publish(cloud, enrolled.identity, f"certtest/{enrolled.thing}", "x", own))


def test_no_certificate_is_refused(cloud: Endpoints) -> None:
    """Without a client certificate the TLS handshake fails."""
    assert connect(cloud, None) == "SSLV3_ALERT_HANDSHAKE_FAILURE"


def test_a_foreign_certificate_is_refused(cloud: Endpoints, device: SoftwareDevice) -> None:
    """A certificate that another CA issued fails in the TLS handshake."""
    openssl(
        *("req", "-x509", "-key", device.identity.key, "-subj", f"/CN={device.thing}"),
        *("-out", device.identity.certificate),
    )
    assert connect(cloud, device.identity) == "TLSV1_ALERT_UNKNOWN_CA"


def test_tls_1_1_is_refused(cloud: Endpoints, enrolled: SoftwareDevice) -> None:
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
    cloud: Endpoints, device: SoftwareDevice, certificate: dict[str, Any], attached: str
) -> None:
    """An active certificate that lacks its policy or its Thing may not connect."""
    if attached == "policy":
        iot(cloud).attach_policy(policyName=policy_name(cloud), target=certificate["certificateArn"])
    if attached == "thing":
        _attach(cloud, certificate, device.thing)
    assert connect(cloud, device.identity) == "not authorized"


def test_attaching_admits_at_once(cloud: Endpoints, device: SoftwareDevice, certificate: dict[str, Any]) -> None:
    """As soon as the last call has returned, the device connects, without waiting for anything."""
    iot(cloud).attach_policy(policyName=policy_name(cloud), target=certificate["certificateArn"])
    _attach(cloud, certificate, device.thing)
    assert connect(cloud, device.identity) == "admitted"


def test_a_certificate_attached_without_exclusion_is_the_thing_of_its_client_id(
    cloud: Endpoints, device: SoftwareDevice, certificate: dict[str, Any]
) -> None:
    """Attached as earlier versions did, a device connects under its Thing's name, and under no id below it."""
    iot(cloud).attach_policy(policyName=policy_name(cloud), target=certificate["certificateArn"])
    iot(cloud).attach_thing_principal(thingName=device.thing, principal=certificate["certificateArn"])
    assert connect(cloud, device.identity) == "admitted"
    assert connect(cloud, device.identity, f"{device.thing}/x") == "not authorized"


def test_the_attached_policy_is_the_one_that_counts(
    cloud: Endpoints, device: SoftwareDevice, certificate: dict[str, Any]
) -> None:
    """A policy that an operator attaches in the place of the deployed one is followed, in what it allows and denies."""
    below = f"topic/plant/{_THING}/*"
    document = _document(("iot:Connect", f"client/{_THING}"), ("iot:Publish", below), ("iot:Receive", below))
    document["Statement"].append({"Effect": "Deny", "Action": "iot:Publish", "Resource": _arn("topic/*/secret")})
    _attach_own_policy(cloud, device, certificate, document)
    topic = f"plant/{device.thing}"
    assert _accepted(publish(cloud, device.identity, f"{topic}/open", "x"))
    assert NOT_AUTHORIZED in publish(cloud, device.identity, f"{topic}/secret", "x").stdout
    assert NOT_AUTHORIZED in publish(cloud, device.identity, f"certtest/{device.thing}", "x").stdout


def test_a_message_that_may_not_be_received_is_left_out(
    cloud: Endpoints, device: SoftwareDevice, certificate: dict[str, Any]
) -> None:
    """Where a policy lets a device subscribe to more than it may receive, it gets what it may receive."""
    document = _document(
        ("iot:Connect", f"client/{_THING}"), ("iot:Subscribe", "topicfilter/plant/#"), ("iot:Receive", "topic/plant/a")
    )
    _attach_own_policy(cloud, device, certificate, document)
    subscriber = receive(cloud, device.identity, "plant/#")
    for topic in ("plant/b", "plant/a"):
        publish(cloud, _observer(cloud), topic, "x")
    output, _ = subscriber.communicate(timeout=60)
    assert [line for line in output.splitlines() if line.startswith("message: ")] == ["message: plant/a x"]


def test_a_new_version_of_the_policy_holds_for_open_connections(
    cloud: Endpoints, device: SoftwareDevice, certificate: dict[str, Any]
) -> None:
    """A topic that is taken away is refused on the connection that is open; without iot:Connect it ends."""
    documents = [
        _document(("iot:Connect", f"client/{_THING}"), ("iot:Publish", f"topic/{name}")) for name in ("old", "new")
    ]
    _attach_own_policy(cloud, device, certificate, documents[0])
    with _handshaken(cloud, device) as connection:
        connection.sendall(connect_packet(device.thing))
        assert connection.recv(4) == _CONNACK
        _replace_policy(cloud, device.thing, documents[1])
        connection.sendall(_publish_packet("new"))
        connection.sendall(_PINGREQ)
        assert connection.recv(2) == _PINGRESP
        _replace_policy(cloud, device.thing, _document(("iot:Publish", "topic/new")))
        connection.settimeout(0)  # what is not there by now came too late
        assert connection.recv(1) == b""


def test_a_policy_that_is_not_understood_lets_nobody_in_and_stops_nothing(
    cloud: Endpoints, enrolled: SoftwareDevice, new_device: Callable[[str], SoftwareDevice]
) -> None:
    """Whoever has it is kept out, with a line in the log; and another device's revocation takes effect as ever."""
    other = new_device("-other")
    other.enroll(cloud)
    document = _document(("iot:Connect", f"client/{_THING}"))
    document["Statement"][0]["Condition"] = {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}
    iot(cloud).create_policy(policyName=enrolled.thing, policyDocument=json.dumps(document))
    arn = iot(cloud).list_thing_principals(thingName=enrolled.thing)["principals"][0]
    iot(cloud).attach_policy(policyName=enrolled.thing, target=arn)
    assert connect(cloud, enrolled.identity) == "not authorized"
    assert "IpAddress" in (cloud.home / "logs" / "mqtt.log").read_text()
    iot(cloud).update_certificate(certificateId=_certificate_id(cloud, other), newStatus="INACTIVE")
    assert connect(cloud, other.identity) == "closed"
    iot(cloud).detach_policy(policyName=enrolled.thing, target=arn)
    assert connect(cloud, enrolled.identity) == "admitted"


def test_a_message_of_128_kib_arrives(cloud: Endpoints, enrolled: SoftwareDevice, tmp_path: Path) -> None:
    """AWS IoT's limit for a message is what may be sent here too."""
    (tmp_path / "payload").write_bytes(b"x" * 131072)
    command = ["mosquitto_pub", "-d", "-V", "5", "-q", "1", "-t", f"certtest/{enrolled.thing}", "-f"]
    outcome = subprocess.run(
        [*command, tmp_path / "payload", *tls_options(cloud, enrolled.identity)],
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
        check=False,
    )
    assert _accepted(outcome)


def test_a_message_above_128_kib_ends_the_connection(
    cloud: Endpoints, enrolled: SoftwareDevice, tmp_path: Path, observer: Observer
) -> None:
    """D14: MQTT 5 says "packet too large" (149), and the message reaches nobody."""
    (tmp_path / "payload").write_bytes(bytes(128 * 1024 + 1))
    topic = f"device/{enrolled.thing}/x"
    command = ["mosquitto_pub", "-d", "-V", "5", "-q", "1", "-t", topic, "-f", str(tmp_path / "payload")]
    outcome = subprocess.run(
        [*command, *tls_options(cloud, enrolled.identity)], capture_output=True, text=True, check=False, timeout=70
    )
    assert "Received DISCONNECT (149)" in outcome.stdout
    assert _accepted(publish(cloud, enrolled.identity, topic, "small"))
    assert observer.message() == (topic, "small")


@pytest.mark.parametrize("name", ["x-amzn-mqtt-ca", "mqtt", "other", None])
def test_alpn_is_offered_as_on_aws_iots_port_443(cloud: Endpoints, enrolled: SoftwareDevice, name: str | None) -> None:
    """D14: who asks for one of AWS IoT's names gets it; who asks for another, or for none, gets in as well."""
    context = ssl.create_default_context(cafile=cloud.ca_file)
    context.load_cert_chain(enrolled.identity.certificate, enrolled.identity.key)
    if name is not None:
        context.set_alpn_protocols([name])
    with (
        socket.create_connection(("127.0.0.1", cloud.mqtt_port), TIME_LIMIT) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        assert connection.selected_alpn_protocol() == (None if name == "other" else name)
        connection.sendall(connect_packet(enrolled.thing))
        assert connection.recv(4) == _CONNACK


def test_nobody_becomes_the_observer(cloud: Endpoints, tmp_path: Path) -> None:
    """A certificate with the observer's subject has its own Thing's topics, and no others."""
    impostor = SoftwareDevice("impostor", tmp_path / "impostor", subject="/CN=local.observer")
    impostor.enroll(cloud)
    assert NOT_AUTHORIZED in publish(cloud, impostor.identity, "certtest/x", "x").stdout


def test_an_inactive_certificate_is_refused_until_it_is_active_again(
    cloud: Endpoints, enrolled: SoftwareDevice
) -> None:
    """INACTIVE and REVOKED take effect on the next connection, and so does ACTIVE, time and again."""
    certificate_id = _certificate_id(cloud, enrolled)
    for status in ("INACTIVE", "REVOKED", "INACTIVE"):
        iot(cloud).update_certificate(certificateId=certificate_id, newStatus=status)
        assert connect(cloud, enrolled.identity) == "closed"
        iot(cloud).update_certificate(certificateId=certificate_id, newStatus="ACTIVE")
        assert connect(cloud, enrolled.identity) == "admitted"


def test_a_detached_or_deleted_certificate_is_refused(cloud: Endpoints, enrolled: SoftwareDevice) -> None:
    """Detaching the policy or the Thing shuts the door, and deleting the certificate shuts it for good."""
    api, certificate_id = iot(cloud), _certificate_id(cloud, enrolled)
    arn = api.describe_certificate(certificateId=certificate_id)["certificateDescription"]["certificateArn"]
    api.detach_policy(policyName=policy_name(cloud), target=arn)
    assert connect(cloud, enrolled.identity) == "not authorized"
    api.attach_policy(policyName=policy_name(cloud), target=arn)
    assert connect(cloud, enrolled.identity) == "admitted"
    api.detach_thing_principal(thingName=enrolled.thing, principal=arn)
    assert connect(cloud, enrolled.identity) == "not authorized"
    api.update_certificate(certificateId=certificate_id, newStatus="INACTIVE")
    api.delete_certificate(certificateId=certificate_id, forceDelete=True)
    assert connect(cloud, enrolled.identity) == "closed"


def test_revoking_ends_the_open_connection(
    cloud: Endpoints, enrolled: SoftwareDevice, new_device: Callable[[str], SoftwareDevice]
) -> None:
    """A connected device is dropped before the revoking call returns, and another one stays connected."""
    other = new_device("-other")
    other.enroll(cloud)
    with _handshaken(cloud, enrolled) as dropped, _handshaken(cloud, other) as staying:
        for connection, device in ((dropped, enrolled), (staying, other)):
            connection.sendall(connect_packet(device.thing))
            assert connection.recv(4) == _CONNACK
        iot(cloud).update_certificate(certificateId=_certificate_id(cloud, enrolled), newStatus="INACTIVE")
        dropped.settimeout(0)  # what is not there by now came too late
        assert dropped.recv(1) == b""
        staying.sendall(_PINGREQ)
        assert staying.recv(2) == _PINGRESP


def test_a_thing_can_have_two_certificates_until_one_is_removed(
    cloud: Endpoints, enrolled: SoftwareDevice, new_device: Callable[[str], SoftwareDevice]
) -> None:
    """Both are exclusively the Thing's, and connect; the one that is deactivated, detached and deleted is dropped."""
    api, old = iot(cloud), _certificate_id(cloud, enrolled)
    successor = new_device("-new")
    certificate = _issued(cloud, successor)
    _attach(cloud, certificate, enrolled.thing)
    api.attach_policy(policyName=policy_name(cloud), target=certificate["certificateArn"])
    with _handshaken(cloud, enrolled) as dropped, _handshaken(cloud, successor) as staying:
        for connection, client_id in ((dropped, enrolled.thing), (staying, f"{enrolled.thing}/renew")):
            connection.sendall(connect_packet(client_id))
            assert connection.recv(4) == _CONNACK
        api.update_certificate(certificateId=old, newStatus="INACTIVE")
        dropped.settimeout(0)  # what is not there by now came too late
        assert dropped.recv(1) == b""
        arn = certificate["certificateArn"].replace(certificate["certificateId"], old)
        api.detach_policy(policyName=policy_name(cloud), target=arn)
        api.detach_thing_principal(thingName=enrolled.thing, principal=arn)
        api.delete_certificate(certificateId=old)
        staying.sendall(_PINGREQ)
        assert staying.recv(2) == _PINGRESP
    assert connect(cloud, enrolled.identity) == "closed"
    assert connect(cloud, successor.identity, enrolled.thing) == "admitted"


def test_an_operators_revoking_ends_the_open_connection(cloud: Endpoints, enrolled: SoftwareDevice) -> None:
    """What ``fleet revoke`` calls, signed with the cloud's credentials, drops the device before it has answered."""
    url = f"{cloud.api_url}/v1/operator/fleet?thing={quote(enrolled.thing)}"
    with _handshaken(cloud, enrolled) as connection:
        connection.sendall(connect_packet(enrolled.thing))
        assert connection.recv(4) == _CONNACK
        answer = requests.delete(url, headers=sign("DELETE", url), verify=str(cloud.ca_file), timeout=TIME_LIMIT)
        assert (answer.status_code, answer.text) == (204, "")
        connection.settimeout(0)  # what is not there by now came too late
        assert connection.recv(1) == b""
    assert connect(cloud, enrolled.identity) == "closed"


def test_a_revoked_device_does_not_get_back(cloud: Endpoints, enrolled: SoftwareDevice) -> None:
    """mosquitto's own client connects again by itself after it was dropped: it is refused, and misses what follows."""
    subscriber = receive(cloud, enrolled.identity, f"certtest/{enrolled.thing}")
    iot(cloud).update_certificate(certificateId=_certificate_id(cloud, enrolled), newStatus="INACTIVE")
    publish(cloud, _observer(cloud), f"certtest/{enrolled.thing}", "too late")
    subscriber.terminate()
    heard, _ = subscriber.communicate(timeout=30)
    assert "too late" not in heard
    assert connect(cloud, enrolled.identity) == "closed"


def test_a_handshake_made_before_revoking_is_of_no_use_after_it(cloud: Endpoints, enrolled: SoftwareDevice) -> None:
    """A device that had not yet said CONNECT when its certificate became invalid is cut off as well."""
    with _handshaken(cloud, enrolled) as connection:
        # The server's end of the handshake may come a moment later; the answer to this one has passed it.
        assert connect(cloud, enrolled.identity, f"{enrolled.thing}/x") == "admitted"
        iot(cloud).update_certificate(certificateId=_certificate_id(cloud, enrolled), newStatus="INACTIVE")
        connection.settimeout(TIME_LIMIT)
        assert connection.recv(1) == b""


def test_a_certificate_of_an_earlier_run_is_refused(cloud: Endpoints, enrolled: SoftwareDevice) -> None:
    """One that the home's CA issued, and that AWS IoT does not know any more, is closed on after the handshake."""
    certificate_id = _certificate_id(cloud, enrolled)
    arn = iot(cloud).describe_certificate(certificateId=certificate_id)["certificateDescription"]["certificateArn"]
    iot(cloud).detach_thing_principal(thingName=enrolled.thing, principal=arn)
    iot(cloud).update_certificate(certificateId=certificate_id, newStatus="INACTIVE")
    iot(cloud).delete_certificate(certificateId=certificate_id, forceDelete=True)
    assert connect(cloud, enrolled.identity) == "closed"
    assert "unknown to AWS IoT, or not active" in (cloud.home / "logs" / "mqtt.log").read_text()


@contextmanager
def _handshaken(cloud: Endpoints, device: SoftwareDevice) -> Iterator[ssl.SSLSocket]:
    """Yield a connection after the TLS handshake."""
    context = ssl.create_default_context(cafile=cloud.ca_file)
    context.load_cert_chain(device.identity.certificate, device.identity.key)
    with (
        socket.create_connection(("127.0.0.1", cloud.mqtt_port), TIME_LIMIT) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        yield connection


def _accepted(outcome: subprocess.CompletedProcess[str]) -> bool:
    """Whether the PUBACK says success (MQTT 5 §3.4.2.1), with or without a subscriber."""
    return "RC:0)" in outcome.stdout or "RC:16)" in outcome.stdout


def _issued(cloud: Endpoints, device: SoftwareDevice) -> dict[str, Any]:
    answer = iot(cloud).create_certificate_from_csr(certificateSigningRequest=device.csr, setAsActive=True)
    device.store(answer["certificatePem"])
    return dict(answer)


def _attach(cloud: Endpoints, certificate: dict[str, Any], thing: str) -> None:
    principal = certificate["certificateArn"]
    iot(cloud).attach_thing_principal(thingName=thing, principal=principal, thingPrincipalType="EXCLUSIVE_THING")


def _attach_own_policy(
    cloud: Endpoints, device: SoftwareDevice, certificate: dict[str, Any], document: dict[str, Any]
) -> None:
    """Make the certificate the Thing's, with a policy of that name alone."""
    _attach(cloud, certificate, device.thing)
    iot(cloud).create_policy(policyName=device.thing, policyDocument=json.dumps(document))
    iot(cloud).attach_policy(policyName=device.thing, target=certificate["certificateArn"])


def _replace_policy(cloud: Endpoints, name: str, document: dict[str, Any]) -> None:
    iot(cloud).create_policy_version(policyName=name, policyDocument=json.dumps(document), setAsDefault=True)


def _document(*grants: tuple[str, str]) -> dict[str, Any]:
    statements = [{"Effect": "Allow", "Action": action, "Resource": _arn(resource)} for action, resource in grants]
    return {"Version": "2012-10-17", "Statement": statements}


def _arn(resource: str) -> str:
    return f"arn:aws:iot:us-east-1:123456789012:{resource}"


def _publish_packet(topic: str) -> bytes:
    """Return a PUBLISH of QoS 0."""
    return b"\x30" + bytes((len(topic) + 2,)) + len(topic).to_bytes(2) + topic.encode()


def _observer(cloud: Endpoints) -> Identity:
    return Identity(cloud.observer_certificate, cloud.observer_key)


def _certificate_id(cloud: Endpoints, device: SoftwareDevice) -> str:
    principals: list[str] = iot(cloud).list_thing_principals(thingName=device.thing)["principals"]
    (arn,) = principals
    return arn.rpartition("/")[2]
