"""AWS credentials by the key in the token: from enrollment to a bucket, kept, and gone with the certificate."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.authority import Authority
from tests.support.devices import Cloud, Device, Operator
from tests.support.https_server import HttpsServer, https_server, response
from tests.support.mounts import with_own_mounts
from tests.support.processes import is_awaited, wait_until
from tests.support.screen import Screen

# What a program on the gateway is: it knows nothing of hsm-enroll but AWS's configuration.
PROGRAM = """
import sys, boto3
bucket, thing = sys.argv[1:]
session = boto3.Session()
s3 = session.client("s3")
s3.put_object(Bucket=bucket, Key=f"{thing}/reading", Body=b"21.5")
listed = s3.list_objects_v2(Bucket=bucket, Prefix=f"{thing}/")
print(session.get_credentials().method, session.client("sts").get_caller_identity()["Arn"], *(
    found["Key"] for found in listed["Contents"]))
"""


@pytest.fixture
def enrolled(device: Device, thing: str) -> Device:
    """A device that is enrolled."""
    device.json("init", "--thing", thing, "--no-publish")
    return device


def requests_to(cloud: Cloud) -> int:
    """Return how often the credentials provider was asked."""
    return cloud.log("credentials").count("GET /role-aliases/")


def configured(device: Device, cloud: Cloud, folder: Path) -> dict[str, str]:
    """Return the environment of a program that uses AWS's SDK with the device's credentials, and no others."""
    file = folder / "aws-config"
    command = f"{sys.executable} -m hsm_enroll aws-credentials"
    lines = ["[default]", f"region = {cloud.environment['AWS_REGION']}", f"credential_process = {command}"]
    file.write_text("\n".join([*lines, f"endpoint_url = {cloud.environment['AWS_ENDPOINT_URL']}", ""]))
    environment = {name: value for name, value in device.environment.items() if not name.startswith("AWS_")}
    return {**environment, "AWS_CONFIG_FILE": str(file), "AWS_EC2_METADATA_DISABLED": "true"}


def test_a_program_with_awss_sdk_uses_a_bucket(enrolled: Device, cloud: Cloud, thing: str, tmp_path: Path) -> None:
    """boto3 runs the command, gets a session of the devices' role, and lists what it has written; so it does again.

    The second program costs neither a connection to the provider nor a login to the token.
    """
    bucket = thing.lower()
    cloud.aws("s3").create_bucket(Bucket=bucket)
    before = requests_to(cloud)
    environment = configured(enrolled, cloud, tmp_path)
    for _ in range(2):
        program = subprocess.run(
            [sys.executable, "-c", PROGRAM, bucket, thing],
            env=environment, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert program.returncode == 0, program.stderr
        method, arn, key = program.stdout.split()
        assert method == "custom-process"
        assert "/hsm-enroll-DeviceRole-" in arn
        assert arn.endswith(enrolled.json("status")["certificate"]["id"])
        assert key == f"{thing}/reading"
        assert requests_to(cloud) == before + 1


def test_several_programs_at_once_log_in_once(enrolled: Device, cloud: Cloud) -> None:
    """And all have the same credentials."""
    before = requests_to(cloud)
    with ThreadPoolExecutor(3) as pool:
        printed = {run.stdout for run in pool.map(lambda _: enrolled.run("aws-credentials"), range(3))}
    assert len(printed) == 1
    assert json.loads(printed.pop())["Version"] == 1
    assert requests_to(cloud) == before + 1


def test_nobody_waits_for_a_person_who_is_asked_for_the_pin(enrolled: Device, cloud: Cloud) -> None:
    """Another process gets credentials meanwhile; whoever types the PIN then has those, without another login."""
    (enrolled.home / "pin").rename(enrolled.folder / "pin")
    before = requests_to(cloud)
    with Screen(enrolled, "aws-credentials") as screen:
        screen.expect("PIN of token 'gateway': ")
        enrolled.extra["HSM_ENROLL_PIN_FILE"] = str(enrolled.folder / "pin")
        got = enrolled.json("aws-credentials")
        screen.type(f"{(enrolled.folder / 'pin').read_text()}\n")
        assert screen.end() == 0
    assert f'"AccessKeyId": "{got["AccessKeyId"]}"' in screen.text
    assert requests_to(cloud) == before + 1


def test_the_pin_that_a_person_types_is_tried_once(enrolled: Device) -> None:
    """The right one gets credentials; a wrong one is an error, and counts as one try."""
    (enrolled.home / "pin").rename(enrolled.folder / "pin")
    with Screen(enrolled, "aws-credentials") as screen:
        screen.expect("PIN of token 'gateway': ")
        screen.type("wrong\n")
        assert screen.end() == 12
    assert screen.text.count("PIN of token 'gateway': ") == 1
    with Screen(enrolled, "aws-credentials") as screen:
        screen.expect("PIN of token 'gateway': ")
        screen.type((enrolled.folder / "pin").read_text() + "\n")
        assert screen.end() == 0
    assert '"AccessKeyId": "' in screen.text


def test_a_device_that_was_enrolled_before_learns_of_the_role_alias(enrolled: Device, cloud: Cloud) -> None:
    """``recover`` asks the backend; an identity without one says so."""
    file = enrolled.home / "identity.json"
    identity = json.loads(file.read_text())
    del identity["role_alias"]
    file.write_text(json.dumps(identity))
    assert enrolled.refused("aws-credentials") == (31, "role-alias-missing")
    assert enrolled.json("recover")["roleAlias"] == enrolled.json("status")["roleAlias"]
    assert enrolled.json("status")["roleAlias"] == {
        "name": "hsm-enroll-local",
        "endpoint": cloud.document["credentialsEndpoint"],
        "port": cloud.document["credentialsPort"],
    }
    enrolled.json("aws-credentials")


def test_they_go_with_the_certificate(enrolled: Device, cloud: Cloud, thing: str, tmp_path: Path) -> None:
    """A renewed certificate gets others; a revoked one gets none, and the error says what to do."""
    first = enrolled.json("aws-credentials")
    enrolled.json("renew")
    second = enrolled.json("aws-credentials")
    assert second["AccessKeyId"] != first["AccessKeyId"]
    Operator(tmp_path / "operator", cloud.environment).json("fleet", "revoke", thing, "--yes")
    assert enrolled.json("aws-credentials") == second
    (enrolled.home / "aws-credentials.json").unlink()
    error = enrolled.error("aws-credentials")
    assert (error["code"], error["exitStatus"]) == ("credentials-refused", 31)
    assert "doctor --login" in error["hint"]


def test_retiring_removes_them(enrolled: Device) -> None:
    """The certificate is off, and what its key got is not left behind."""
    enrolled.json("aws-credentials")
    enrolled.json("retire", "--yes")
    assert [file.name for file in enrolled.home.iterdir() if file.name.startswith("aws-credentials")] == []
    assert enrolled.refused("aws-credentials") == (3, "not-enrolled")


def test_what_a_process_is_getting_while_the_device_is_retired_is_not_left_behind(
    enrolled: Device, tmp_path: Path
) -> None:
    """The key is destroyed meanwhile; retire waits for that process's answer, and removes what it has kept."""
    authority, retired = Authority(tmp_path / "authority"), threading.Event()
    bundle = tmp_path / "ca.pem"
    bundle.write_text(Path(enrolled.cloud["HSM_ENROLL_CA_FILE"]).read_text() + authority.certificate.read_text())
    members = {"accessKeyId": "ASIA", "secretAccessKey": "s", "sessionToken": "t", "expiration": "2049-01-01T00:00:00Z"}

    def answer(stream: ssl.SSLSocket, _: HttpsServer) -> None:
        asked.set()
        retired.wait(60)
        stream.sendall(response("200 OK", json.dumps({"credentials": members})))

    asked = threading.Event()
    with https_server(authority, answer, client_ca=bundle) as provider:
        enrolled.extra["HSM_ENROLL_CA_FILE"] = str(bundle)
        enrolled.extra["HSM_ENROLL_CREDENTIALS_PORT"] = provider.url.rpartition(":")[2]
        getting = enrolled.start("aws-credentials")
        assert asked.wait(60)
        retiring = enrolled.start("retire", "--yes")
        lock = enrolled.home / "aws-credentials.lock"
        wait_until(lambda: not lock.exists() or is_awaited(lock), "retire's end", bundle)
        retired.set()
        printed, told = getting.communicate(timeout=60)
        _, error = retiring.communicate(timeout=60)
    assert (getting.returncode, retiring.returncode) == (0, 0), told + error
    assert json.loads(printed)["AccessKeyId"] == "ASIA"
    assert [file.name for file in enrolled.home.iterdir() if file.name.startswith("aws-credentials")] == []


def test_a_state_folder_that_is_read_only_will_do(enrolled: Device) -> None:
    """As a service with ProtectSystem=strict has it: the credentials are got each time, with a warning."""
    mounting = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'
    command = (sys.executable, "-m", "hsm_enroll", "aws-credentials")
    run = subprocess.run(
        with_own_mounts("sh", "-c", mounting, "sh", str(enrolled.home), *command),
        env=enrolled.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert json.loads(run.stdout)["AccessKeyId"], run.stderr
    assert "warning: the credentials are not kept for the next call" in run.stderr
    assert not (enrolled.home / "aws-credentials.json").exists()
