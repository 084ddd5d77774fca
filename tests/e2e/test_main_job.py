"""The main job, every part real: token, CSR, HTTPS, handler, AWS's API, broker with mutual TLS, another subscriber."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509

from tests.support import documents
from tests.support.devices import Cloud, Device, Observer, publish_as_observer

Observe = Callable[[str], Observer]


@pytest.mark.parametrize("key_type", ["ec-p256", "ec-p384", "rsa-2048"])
def test_init_ends_with_a_message_that_another_client_receives(
    device: Device, thing: str, observe: Observe, key_type: str
) -> None:
    """One command makes the key, gets the certificate and publishes hello to certtest/<thing>."""
    observer = observe(f"certtest/{thing}")
    document = device.json("init", "--thing", thing, "--key-type", key_type)
    topic, payload = observer.message()
    assert topic == f"certtest/{thing}"
    assert json.loads(payload) == {"message": "hello", "thingName": thing}
    assert document["key"]["type"] == key_type


def test_the_answer_of_init_is_the_contracts(device: Device, thing: str, cloud: Cloud) -> None:
    """``init --json`` has the members of the contract, with what the token and the certificate themselves say."""
    document = device.json("init", "--thing", thing)
    certificate = x509.load_pem_x509_certificate(Path(document["certificate"]["file"]).read_bytes())
    assert set(document) == {
        "enrolled", "thingName", "certificate", "key", "token", "api", "mqtt", "topics", "attested", "roleAlias",
        "steps",
    }  # fmt: skip
    assert document["enrolled"] is True
    assert document["thingName"] == thing
    assert document["attested"] is False
    assert document["api"] == cloud.document["apiUrl"]
    assert document["mqtt"] == {"endpoint": "localhost", "port": cloud.document["mqttPort"]}
    assert document["topics"] == {
        "hello": f"certtest/{thing}",
        "own": f"device/{thing}/#",
        "shadow": f"$aws/things/{thing}/shadow/#",
        "jobs": f"$aws/things/{thing}/jobs/#",
    }
    assert certificate.subject.rfc4514_string() == f"CN={thing}"
    not_after = datetime.strptime(document["certificate"]["notAfter"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    assert not_after == certificate.not_valid_after_utc
    assert set(document["certificate"]) == {"id", "sha256", "subject", "notBefore", "notAfter", "file"}
    key = document["key"]
    assert (key["local"], key["sensitive"], key["extractable"]) == (True, True, False)
    assert (key["neverExtractable"], key["alwaysSensitive"], key["matchesCertificate"]) == (True, True, True)
    assert set(document["token"]) == {"label", "serial", "manufacturer", "model", "module"}
    names = [step["name"] for step in document["steps"]]
    assert names == ["token", "invite", "key", "csr", "certificate", "store", "message"]
    assert [step["name"] for step in document["steps"] if step["skipped"]] == ["invite"]


def test_the_certificates_key_is_in_the_token_and_cannot_leave_it(device: Device, thing: str) -> None:
    """Asked by pkcs11-tool: never extractable, always sensitive, made there; its public key is the certificate's."""
    document = device.json("init", "--thing", thing)
    device.assert_key_cannot_leave(Path(document["certificate"]["file"]))


def test_without_the_token_there_is_no_key(device: Device, thing: str) -> None:
    """With the token's folder moved away publish fails with exit 11; with it back it works: the key is there alone."""
    device.json("init", "--thing", thing)
    away = device.folder / "away"
    shutil.move(device.softhsm.tokens, away)
    device.softhsm.tokens.mkdir()
    assert device.refused("publish", f"certtest/{thing}", "x") == (11, "token-not-found")
    device.softhsm.tokens.rmdir()
    shutil.move(away, device.softhsm.tokens)
    assert device.json("publish", f"certtest/{thing}", "x")["published"]["bytes"] == 1


def test_init_on_an_enrolled_device_contacts_nobody(device: Device, thing: str) -> None:
    """With a valid identity init exits 0, asks for no PIN, and opens no connection to API or broker."""
    first = device.json("init", "--thing", thing)
    (device.home / "pin").unlink()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        port = str(listener.getsockname()[1])
        device.extra = {
            "HSM_ENROLL_API_URL": f"https://localhost:{port}",
            "HSM_ENROLL_MQTT_ENDPOINT": "localhost",
            "HSM_ENROLL_MQTT_PORT": port,
        }
        again = device.json("init", "--thing", thing)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert again["steps"] == []
    assert again["certificate"] == first["certificate"]
    assert again["key"] == first["key"]
    assert "already enrolled" in device.run("init").stdout


def test_publish_and_subscribe_work_from_an_enrolled_identity(
    new_device: Callable[[str], Device], cloud: Cloud, thing: str, observe: Observe
) -> None:
    """publish reaches another client, from argument and from stdin; subscribe prints what another client sends."""
    device = new_device("device")
    device.create_token()
    device.json("init", "--thing", thing, "--no-publish")
    observer = observe(f"device/{thing}/#")
    assert device.run("publish", f"device/{thing}/temperature", "21.5").returncode == 0
    assert observer.message() == (f"device/{thing}/temperature", "21.5")
    assert device.run("publish", f"device/{thing}/temperature", stdin="22.5").returncode == 0
    assert observer.message() == (f"device/{thing}/temperature", "22.5")

    subscriber = device.start("subscribe", f"device/{thing}/commands", "--count", "2")
    assert subscriber.stderr is not None
    for line in subscriber.stderr:
        if line.startswith("subscribed"):
            break
    publish_as_observer(cloud.document, f"device/{thing}/commands", "open")
    publish_as_observer(cloud.document, f"device/{thing}/commands", "schließen")
    stdout, _ = subscriber.communicate(timeout=60)
    assert (subscriber.returncode, stdout) == (0, "open\nschließen\n")


def test_the_subject_holds_what_the_configuration_adds(device: Device, thing: str) -> None:
    """C, ST, L, O and OU of the configuration stand in the subject beside CN=<thing>, umlauts included."""
    (device.home / "config.toml").write_text('subject = "OU=Linie 3,O=Müller & Söhne,L=Zürich,ST=ZH,C=CH"\n')
    document = device.json("init", "--thing", thing)
    certificate = x509.load_pem_x509_certificate(Path(document["certificate"]["file"]).read_bytes())
    assert certificate.subject.rfc4514_string() == f"CN={thing},OU=Linie 3,O=Müller & Söhne,L=Zürich,ST=ZH,C=CH"


def test_create_token_makes_the_token_too(new_device: Callable[[str], Device], thing: str) -> None:
    """On a device without a token ``init --create-token`` makes one and enrolls with it."""
    device = new_device("bare")
    document = device.json("init", "--thing", thing, "--create-token")
    assert document["token"]["label"] == "hsm-enroll"
    assert device.json("status")["key"]["matchesCertificate"] is True


def test_csr_prints_a_request_that_openssl_verifies(device: Device) -> None:
    """``csr`` prints nothing but a PEM request on stdout; with --key it uses that key again."""
    first = device.run("csr", "--subject", "CN=gateway-17,O=Müller")
    verified = subprocess.run(
        ["openssl", "req", "-verify", "-noout", "-subject", "-nameopt", "utf8,sep_comma_plus"],
        input=first.stdout, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "verify OK" in verified.stderr + verified.stdout
    assert "CN=gateway-17,O=Müller" in verified.stdout.replace(", ", ",").replace("O=Müller,CN", "CN") or (
        "O=Müller" in verified.stdout and "CN=gateway-17" in verified.stdout
    )
    uri = first.stderr.strip().splitlines()[-1].removeprefix("key: ")
    again = device.json("csr", "--key", uri, "--subject", "CN=other")
    assert again["key"]["uri"] == uri
    keys = [x509.load_pem_x509_csr(text.encode()).public_key() for text in (first.stdout, again["csr"])]
    assert keys[0] == keys[1]


def test_status_of_an_enrolled_device_imports_nothing_heavy(device: Device, thing: str) -> None:
    """Rule 4: status, its token looked at, loads neither an AWS library nor an HTTP client, rich or cryptography."""
    device.json("init", "--thing", thing, "--no-publish")
    program = (
        "import atexit, sys\n"
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
        "sys.argv = ['hsm-enroll', 'status', '--json']\n"
        "from hsm_enroll.cli import main\n"
        "main()\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], env=device.environment, capture_output=True, text=True, check=True
    )
    assert documents.read(["status"], run.stdout)["key"]["matchesCertificate"] is True
    loaded = set(run.stderr.split())
    assert "asn1crypto.x509" in loaded
    heavy = {"boto3", "botocore", "awscrt", "awsiot", "rich", "requests", "moto", "cryptography", "pkcs11"}
    assert loaded & heavy == set()


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_a_cloud_in_the_foreground_ends_on_a_signal(tmp_path: Path, ending: signal.Signals) -> None:
    """``local up`` without --detach serves until Ctrl-C or SIGTERM, exits 0, and nothing listens any more."""
    device = Device(tmp_path / "device", {})
    cloud = device.start("local", "up", "--json", "--home", str(tmp_path / "cloud"))
    assert cloud.stdout is not None
    lines = []
    for line in cloud.stdout:
        lines.append(line)
        if line == "}\n":
            break
    endpoints = documents.read(["local", "up"], "".join(lines))
    socket.create_connection(("localhost", endpoints["mqttPort"])).close()
    cloud.send_signal(ending)
    cloud.communicate(timeout=60)
    assert cloud.returncode == 0
    for port in ("mqttPort", "observerPort"):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", endpoints[port]))
    assert device.refused("local", "env", "--home", str(tmp_path / "cloud")) == (1, "local-cloud")
