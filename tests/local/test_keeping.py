"""``--keep``: what a local cloud leaves behind for the next one in the same home."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import requests
from moto.iot.models import iot_backends

from hsm_enroll.backend_folder import backend_folder
from hsm_enroll.errors import LocalCloudError
from hsm_enroll.local.cloud import Endpoints, LocalCloud, Options, Ports, detach, down
from hsm_enroll.local.home import Home
from tests.support.clients import TIME_LIMIT, SoftwareDevice, aws, connect, publish, receive, sign, stack_outputs

KEPT = Options(keep=True)


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a cloud has left in its home."""
    folder = tmp_path_factory.mktemp("left") / "home"
    with LocalCloud(folder, options=KEPT):
        pass
    return folder


@pytest.fixture
def kept(left: Path, home: Path) -> Path:
    """A home with that in it."""
    return Path(shutil.copytree(left, home))


def test_everything_is_there_again(home: Path, tmp_path: Path) -> None:
    """D27: addresses, devices, ledger, invites, policy, stack, Things of others, retained messages: all as before."""
    first = detach(home, TIME_LIMIT, Options("invite", keep=True, attestation="prefer"))
    before, late = SoftwareDevice("before", tmp_path / "before"), SoftwareDevice("late", tmp_path / "late")
    _enroll(first, before, _invite(first, "before"))
    invite = _invite(first, "late")
    aws(first, "iot").create_thing(thingName="not-ours", attributePayload={"attributes": {"a": "b"}})
    aws(first, "iot-data").publish(topic="device/before/state", qos=1, retain=True, payload=b"retained")
    outputs, fleet = stack_outputs(first), _operator(first, "GET", "/v1/operator/fleet")
    down(home)

    again = detach(home, TIME_LIMIT, KEPT)
    assert again == first
    assert stack_outputs(again) == outputs
    assert connect(again, before.identity) == "admitted"
    assert re.search(r"PUBACK .*RC:(0|16)\)", publish(again, before.identity, "certtest/before", "hello").stdout)
    retained, _ = receive(again, before.identity, "device/before/state").communicate(timeout=TIME_LIMIT)
    assert "message: device/before/state retained" in retained.splitlines()
    assert _operator(again, "GET", "/v1/operator/fleet") == fleet
    assert [thing["thing"] for thing in fleet["things"]] == ["before"]
    assert aws(again, "iot").describe_thing(thingName="not-ours")["attributes"] == {"a": "b"}
    assert _post(again, late, None).status_code == 401  # an invite is still required
    assert _attestation(again) == "prefer"
    _enroll(again, late, invite)
    assert connect(again, late.identity) == "admitted"
    down(home)

    third = detach(home, TIME_LIMIT, KEPT)
    assert [connect(third, device.identity) for device in (before, late)] == ["admitted"] * 2


def test_another_template_updates_the_kept_stack(kept: Path, tmp_path: Path) -> None:
    """D27: after an upgrade the stack is as the new template says; its table and its policy stay the same."""
    function = tmp_path / "function"
    shutil.copytree(backend_folder(), function)
    template = (function / "template.yaml").read_text()
    assert (template.count("\nOutputs:\n"), template.count("POLICY_NAME:")) == (1, 2)  # two functions
    template = template.replace("\nOutputs:\n", "\nOutputs:\n  Added:\n    Value: !Ref Ledger\n")
    (function / "template.yaml").write_text(template.replace("POLICY_NAME:", "ADDED: new\n          POLICY_NAME:"))
    with LocalCloud(kept, options=KEPT) as cloud:
        before = stack_outputs(cloud.endpoints)
    with LocalCloud(kept, function, KEPT) as cloud:
        assert stack_outputs(cloud.endpoints) == {**before, "Added": before["TableName"]}
        assert os.environ["ADDED"] == "new"


def test_a_revoked_device_stays_revoked(home: Path, device: SoftwareDevice) -> None:
    """D27: a certificate that was deactivated is not let in by the next cloud."""
    with LocalCloud(home, options=KEPT) as cloud:
        device.enroll(cloud.endpoints)
        (certificate,) = aws(cloud.endpoints, "iot").list_certificates()["certificates"]
        aws(cloud.endpoints, "iot").update_certificate(certificateId=certificate["certificateId"], newStatus="INACTIVE")
    with LocalCloud(home, options=KEPT) as cloud:
        assert connect(cloud.endpoints, device.identity) == "closed"


def test_the_mode_can_be_changed(kept: Path, device: SoftwareDevice) -> None:
    """D27: an --auth and an --attestation that are named take effect on the kept stack."""
    with LocalCloud(kept, options=Options("invite", keep=True, attestation="require")) as cloud:
        assert _post(cloud.endpoints, device, None).status_code == 401
        assert _attestation(cloud.endpoints) == "require"


def test_without_keep_a_cloud_is_empty_and_leaves_what_is_kept(home: Path, device: SoftwareDevice) -> None:
    """D27: a cloud without the option does not know the devices, and does not lose them either."""
    topic = f"device/{device.thing}/state"
    with LocalCloud(home, options=KEPT) as cloud:
        device.enroll(cloud.endpoints)
        aws(cloud.endpoints, "iot-data").publish(topic=topic, qos=1, retain=True, payload=b"retained")
    with LocalCloud(home) as cloud:
        assert connect(cloud.endpoints, device.identity) == "closed"
    with LocalCloud(home, options=KEPT) as cloud:
        assert connect(cloud.endpoints, device.identity) == "admitted"
        retained, _ = receive(cloud.endpoints, device.identity, topic).communicate(timeout=TIME_LIMIT)
        assert f"message: {topic} retained" in retained.splitlines()


def test_a_kept_port_that_is_taken_meanwhile_is_named(kept: Path) -> None:
    """D27: the error names port and option; with another port the state is still there."""
    ports = Home(kept).read_kept_ports()
    with (
        socket.create_server(("127.0.0.1", ports.mqtt)),
        pytest.raises(LocalCloudError, match=f"Port {ports.mqtt} ") as caught,
        LocalCloud(kept, options=KEPT),
    ):
        pass
    assert "--mqtt-port" in caught.value.hint
    with socket.create_server(("127.0.0.1", 0)) as free:
        chosen = free.getsockname()[1]
    with LocalCloud(kept, options=Options(keep=True, ports=Ports(mqtt=chosen))) as cloud:
        assert cloud.endpoints.mqtt_port == chosen
    assert Home(kept).read_kept_ports() == ports._replace(mqtt=chosen)


def test_ports_are_written_in_a_form_that_is_read_again(kept: Path) -> None:
    """D12: the file is a document of version 1."""
    ports = Home(kept).read_kept_ports()
    assert json.loads((kept / "kept-ports.json").read_text()) == {"version": 1, **ports._asdict()}


def test_kept_ports_of_an_earlier_release_are_read(kept: Path) -> None:
    """D12: it had no credentials provider and no mutual TLS for EST, which get free ports."""
    (kept / "kept-ports.json").write_text('{"version": 1, "api": 40001, "mqtt": 40002, "aws": 40003}')
    assert Home(kept).read_kept_ports() == Ports(40001, 40002, 40003, 0, 0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("kept-state", b"junk", "kept-state is damaged"),
        ("kept-state", None, "kept-state is damaged"),
        ("kept-state", b'{"moto": "1.0", "Python": "3.11"}\n', "was written with moto 1.0 and Python 3.11"),
        ("kept-ports.json", b'{"version": 1, "api": 1}', "kept-ports.json cannot be read"),
        ("kept-ports.json", b'{"version": 1, "api": 65536, "mqtt": 0, "aws": 0}', "kept-ports.json cannot be read"),
        ("kept-ports.json", b'{"version": 1, "api": 0, "mqtt": -1, "aws": 0}', "kept-ports.json cannot be read"),
    ],
    ids=["junk", "cut off", "another version", "ports", "too high a port", "too low a port"],
)
def test_what_cannot_be_read_is_an_error(kept: Path, name: str, content: bytes | None, message: str) -> None:
    """D27: it names the file, says how to go on, and leaves the file as it is."""
    file = kept / name
    written = file.read_bytes()[:-100] if content is None else content
    file.write_bytes(written)
    with pytest.raises(LocalCloudError, match=message) as caught, LocalCloud(kept, options=KEPT):
        pass
    assert f"rm {file}" in caught.value.hint
    assert file.read_bytes() == written


def test_ports_of_a_newer_version_are_told_apart(kept: Path) -> None:
    """D12: in the background too, a start says that a newer version wrote the file."""
    (kept / "kept-ports.json").write_text('{"version": 2}')
    with pytest.raises(LocalCloudError, match=r"reads formats up to 1\. Its log: "):
        detach(kept, TIME_LIMIT, KEPT)


def test_a_start_that_fails_keeps_what_was_kept(kept: Path, tmp_path: Path) -> None:
    """D27: half a cloud does not replace a whole one."""
    before = (kept / "kept-state").read_bytes()
    with pytest.raises(LocalCloudError), LocalCloud(kept, tmp_path / "no function", KEPT):
        pass
    assert (kept / "kept-state").read_bytes() == before


def test_what_cannot_be_kept_is_an_error_and_not_a_loss(kept: Path) -> None:
    """D27: the cloud ends, the error says why, and what was kept before is still there."""
    before = (kept / "kept-state").read_bytes()
    with pytest.raises(LocalCloudError, match="cannot be kept"), LocalCloud(kept, options=KEPT):
        iot_backends["123456789012"]["us-east-1"].odd = lambda: None
    assert (kept / "kept-state").read_bytes() == before
    with LocalCloud(kept, options=KEPT):
        pass


def test_down_says_that_the_state_is_lost(home: Path) -> None:
    """D27: the error of the process in the background reaches whoever ends it, and the cloud is down."""
    detach(home, TIME_LIMIT, KEPT)
    (home / "kept-state.new").mkdir()
    with pytest.raises(LocalCloudError, match="cannot be kept"):
        down(home)
    assert Home(home).holder() is None


def _attestation(endpoints: Endpoints) -> str:
    answer = requests.get(f"{endpoints.api_url}/v1/health", verify=str(endpoints.ca_file), timeout=TIME_LIMIT)
    said: str = answer.json()["attestation"]
    return said


def _post(cloud: Endpoints, device: SoftwareDevice, invite: str | None) -> requests.Response:
    return requests.post(
        f"{cloud.api_url}/getCertificate",
        json={"thingName": device.thing, "csr": device.csr},
        headers={} if invite is None else {"Authorization": f"Bearer {invite}"},
        verify=str(cloud.ca_file),
        timeout=TIME_LIMIT,
    )


def _enroll(cloud: Endpoints, device: SoftwareDevice, invite: str) -> None:
    answer = _post(cloud, device, invite)
    assert answer.status_code == 200, answer.text
    device.store(answer.text)


def _invite(cloud: Endpoints, thing: str) -> str:
    (invite,) = _operator(cloud, "POST", "/v1/operator/invites", {"invites": [{"thing": thing}]})["invites"]
    return str(invite["code"])


def _operator(cloud: Endpoints, method: str, path: str, document: Any = None) -> Any:
    body = b"" if document is None else json.dumps(document).encode()
    headers = sign(method, cloud.api_url + path, body)
    headers |= {} if document is None else {"content-type": "application/json"}
    answer = requests.request(
        method, cloud.api_url + path, data=body, headers=headers, verify=str(cloud.ca_file), timeout=TIME_LIMIT
    )
    assert answer.ok, answer.text
    return answer.json()
