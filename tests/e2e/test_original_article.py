"""The original article's client, its shape kept: a key file, a CSR file, a plain POST, MQTT with the key file."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from tests.e2e.devices import Cloud, Observer


def _key_and_csr(folder: Path, thing: str) -> tuple[Path, Path]:
    key, csr = folder / "device.key", folder / "device.csr"
    subprocess.run(
        [
            "openssl",
            "req",
            "-new",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            key,
            "-out",
            csr,
            "-subj",
            f"/CN={thing}",
        ],
        capture_output=True,
        check=True,
    )
    return key, csr


def _publish(cloud: Cloud, key: Path, certificate: Path, thing: str, message: str) -> None:
    subprocess.run(
        [
            "mosquitto_pub", "-h", "localhost", "-p", str(cloud.document["mqttPort"]),
            "--cafile", cloud.document["caFile"], "--cert", certificate, "--key", key,
            "-i", thing, "-q", "1", "-t", f"certtest/{thing}", "-m", message,
        ],
        capture_output=True, timeout=60, check=True,
    )  # fmt: skip


def test_the_original_client_publishes(
    cloud: Cloud, tmp_path: Path, thing: str, observe: Callable[[str], Observer]
) -> None:
    """In open mode a plain requests.post of thingName and csr to /getCertificate gives a PEM that MQTT accepts."""
    key, csr = _key_and_csr(tmp_path, thing)
    answer = requests.post(
        cloud.document["apiUrl"] + "/getCertificate",
        json={"thingName": thing, "csr": csr.read_text()},
        verify=cloud.document["caFile"],
        timeout=30,
    )
    assert answer.status_code == 200
    certificate = tmp_path / "device.pem"
    certificate.write_text(answer.text)
    observer = observe(f"certtest/{thing}")
    _publish(cloud, key, certificate, thing, "from the article")
    assert observer.message() == (f"certtest/{thing}", "from the article")


@pytest.mark.parametrize("body", ["the CSR itself", "JSON"])
def test_a_csr_posted_with_curl_gives_a_certificate(
    cloud: Cloud, tmp_path: Path, thing: str, observe: Callable[[str], Observer], body: str
) -> None:
    """A raw CSR, or the article's JSON, posted with curl to /getCertificate gives a PEM that MQTT accepts."""
    key, csr = _key_and_csr(tmp_path, thing)
    posted = csr
    if body == "JSON":
        posted = tmp_path / "body.json"
        posted.write_text(json.dumps({"thingName": thing, "csr": csr.read_text()}))
    certificate = tmp_path / "device.pem"
    subprocess.run(
        [
            "curl", "--silent", "--show-error", "--fail", "--cacert", cloud.document["caFile"], "--noproxy", "*",
            "--data-binary", f"@{posted}", "--output", certificate, cloud.document["apiUrl"] + "/getCertificate",
        ],
        capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    observer = observe(f"certtest/{thing}")
    _publish(cloud, key, certificate, thing, "from curl")
    assert observer.message() == (f"certtest/{thing}", "from curl")
