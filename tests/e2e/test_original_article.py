"""The original article's client against this project, and the requests of people who follow it with their own tools."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509

from tests.support.devices import Cloud, Observer, Operator

_CLIENT = Path(__file__).parent / "article" / "client.py"
_SUBJECT = "/C=JP/ST=Tokyo/L=Meguro/O=Amazon Web Services Japan K.K./CN=AWS IoT Certificate"
_POST = "data=json.dumps(body))"


def _article(cloud: Cloud, folder: Path, header: str = "") -> subprocess.CompletedProcess[str]:
    """Run the article's client with this cloud's addresses in the place of its own, and a header if one is given."""
    script = _CLIENT.read_text()
    with_header = f'{_POST[:-1]}, headers={{"Authorization": "{header}"}})' if header else _POST
    for old, new in {
        "https://API": cloud.document["apiUrl"],
        '"ENDPOINT", 8883': f'"{cloud.document["mqttEndpoint"]}", {cloud.document["mqttPort"]}',
        "AmazonRootCA1.pem": cloud.document["caFile"],
        _POST: with_header,
    }.items():
        assert script.count(old) == 1
        script = script.replace(old, new)
    environment = {"PATH": os.environ["PATH"], "REQUESTS_CA_BUNDLE": cloud.document["caFile"]}
    command = [sys.executable, "-c", script]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=90, check=False)


def test_the_articles_client_runs_to_its_message_twice(
    cloud: Cloud, tmp_path: Path, observe: Callable[[str], Observer]
) -> None:
    """Nothing changed but its addresses, with one key and one CSR, it makes two Things with a certificate each."""
    observer = observe("certtest/#")
    certificates = []
    for _ in range(2):
        run = _article(cloud, tmp_path)
        assert run.returncode == 0, run.stdout + run.stderr
        topic, payload = observer.message()
        assert (topic, json.loads(payload)) == (f"certtest/{run.stdout.strip()}", {"message": "hello"})
        certificates.append(x509.load_pem_x509_certificate((tmp_path / "device.pem").read_bytes()))
    one, other = certificates
    assert one.serial_number != other.serial_number
    assert one.public_key() == other.public_key()


def test_with_invites_the_articles_client_needs_a_header_and_a_key_for_each_thing(
    invite_cloud: Cloud, operator: Operator, tmp_path: Path
) -> None:
    """Without the header it is told what is missing; with it, its second run is told why not, and what to do."""
    refused = _article(invite_cloud, tmp_path)
    assert json.loads(refused.stderr)["code"] == "invite-required"

    code = operator.json("invite", "create", "--thing", "certtest*", "--uses", "5")["invite"].partition("#")[2]
    run = _article(invite_cloud, tmp_path, f"Bearer {code}")
    assert run.returncode == 0, run.stdout + run.stderr

    again = json.loads(_article(invite_cloud, tmp_path, f"Bearer {code}").stderr)
    assert (again["status"], again["code"]) == (409, "key-enrolled")
    assert "another Thing" in again["detail"]
    assert "new key" in again["detail"]


def _csr(folder: Path, subject: str) -> Path:
    """Make a key and a CSR with OpenSSL."""
    csr = folder / "device.csr"
    subprocess.run(
        [
            *("openssl", "req", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout", folder / "device.key"),
            *("-out", csr, "-subj", subject),
        ],
        capture_output=True,
        check=True,
    )
    return csr


def _curl(cloud: Cloud, *options: str) -> str:
    """Post to /getCertificate with curl; return the answer, whatever it is."""
    command = ["curl", "--silent", "--show-error", "--cacert", cloud.document["caFile"], "--noproxy", "*", *options]
    url = cloud.document["apiUrl"] + "/getCertificate"
    return subprocess.run([*command, url], capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.mark.parametrize("body", ["the CSR itself", "JSON"])
def test_a_csr_posted_with_curl_gives_a_certificate(
    cloud: Cloud, tmp_path: Path, thing: str, observe: Callable[[str], Observer], body: str
) -> None:
    """A raw CSR that names its Thing, or the article's JSON, posted with curl gives a PEM that MQTT accepts."""
    posted = _csr(tmp_path, f"/CN={thing}" if body == "the CSR itself" else _SUBJECT)
    if body == "JSON":
        posted = tmp_path / "body.json"
        posted.write_text(json.dumps({"thingName": thing, "csr": (tmp_path / "device.csr").read_text()}))
    certificate = tmp_path / "device.pem"
    certificate.write_text(_curl(cloud, "--data-binary", f"@{posted}"))
    observer = observe(f"certtest/{thing}")
    subprocess.run(
        [
            *("mosquitto_pub", "-h", "localhost", "-p", str(cloud.document["mqttPort"])),
            *("--cafile", cloud.document["caFile"], "--cert", certificate, "--key", tmp_path / "device.key"),
            *("-i", thing, "-q", "1", "-t", f"certtest/{thing}", "-m", "from curl"),
        ],
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert observer.message() == (f"certtest/{thing}", "from curl")


def test_a_raw_csr_that_names_no_thing_is_shown_the_json(cloud: Cloud, tmp_path: Path) -> None:
    """The article's own CSR, posted by itself, is answered with the form that says the Thing's name beside it."""
    answer = json.loads(_curl(cloud, "--data-binary", f"@{_csr(tmp_path, _SUBJECT)}"))
    assert (answer["status"], answer["code"]) == (400, "csr-names-no-thing")
    assert '{"thingName": ' in answer["detail"]


def test_a_csr_that_lost_its_line_ends_is_named_as_that(cloud: Cloud, tmp_path: Path, thing: str) -> None:
    """``curl -d @FILE`` strips line ends: the answer says so, and what to use in its place."""
    answer = json.loads(_curl(cloud, "-d", f"@{_csr(tmp_path, f'/CN={thing}')}"))
    assert (answer["status"], answer["code"]) == (400, "csr-line-ends-missing")
    assert "--data-binary" in answer["detail"]
