"""EST with clients that exist: curl and OpenSSL, as in RFC 7030's examples, and strongSwan's pki."""

from __future__ import annotations

import base64
import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from hsm_enroll.local.cloud import Endpoints
from tests.support.clients import TIME_LIMIT, Identity, connect, iot, openssl, sign


def invite(cloud: Endpoints, thing: str) -> str:
    """Have an invite made, and return its code."""
    url, body = f"{cloud.api_url}/v1/operator/invites", json.dumps({"invites": [{"thing": thing}]}).encode()
    headers = {**sign("POST", url, body), "content-type": "application/json"}
    answer = requests.post(url, body, headers=headers, verify=str(cloud.ca_file), timeout=TIME_LIMIT)
    code: str = answer.json()["invites"][0]["code"]
    return code


def run(*command: str | Path, given: bytes | None = None) -> bytes:
    """Run a program, and return what it prints."""
    ended = subprocess.run(command, input=given, capture_output=True, timeout=TIME_LIMIT, check=False)
    assert ended.returncode == 0, ended.stderr.decode()
    return ended.stdout


@dataclass(frozen=True)
class Curl:
    """A gateway with curl and OpenSSL."""

    cloud: Endpoints
    thing: str
    folder: Path

    def identity(self, name: str) -> Identity:
        """Return where a certificate and its key are."""
        return Identity(self.folder / f"{name}.pem", self.folder / f"{name}.key", self.thing)

    def new_key(self, name: str) -> None:
        """Make a key and its CSR, as an EST client sends it."""
        key, csr = self.identity(name).key, self.folder / f"{name}.csr"
        openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key)
        openssl("req", "-new", "-key", key, "-subj", f"/CN={self.thing}", "-outform", "DER", "-out", csr)
        (self.folder / f"{name}.b64").write_text(openssl("base64", "-in", csr))

    def post(self, url: str, operation: str, name: str, *options: str | Path) -> None:
        """Send a CSR, and keep the certificate in the answer."""
        content = run(
            *("curl", "--silent", "--fail", "--cacert", self.cloud.ca_file, *options),
            *("--header", "Content-Type: application/pkcs10", "--data-binary", f"@{self.folder / name}.b64"),
            f"{url}/.well-known/est/{operation}",
        )
        cms = run("openssl", "base64", "-d", "-A", given=content)
        certificate = run("openssl", "pkcs7", "-inform", "DER", "-print_certs", given=cms)
        self.identity(name).certificate.write_bytes(certificate)

    def reenroll(self, with_certificate: str, name: str) -> None:
        """Renew a certificate for another key, or the same one."""
        old = self.identity(with_certificate)
        self.post(self.cloud.est_url, "simplereenroll", name, "--cert", old.certificate, "--key", old.key)


def test_curl_and_openssl_enroll_and_renew(cloud: Endpoints, thing: str, tmp_path: Path) -> None:
    """RFC 7030, appendix A: an invite as the password, then the certificate of the connection; each connects to MQTT.

    Both certificates connect until the new one is used for EST; then the old one is refused.
    """
    curl = Curl(cloud, thing, tmp_path)
    curl.new_key("first")
    curl.post(cloud.api_url, "simpleenroll", "first", "--user", f":{invite(cloud, thing)}")
    curl.new_key("second")
    curl.reenroll("first", "second")
    assert [connect(cloud, curl.identity(name)) for name in ("first", "second")] == ["admitted"] * 2
    before = curl.identity("second").certificate.read_bytes()
    curl.reenroll("second", "second")
    assert curl.identity("second").certificate.read_bytes() == before
    assert connect(cloud, curl.identity("first")) != "admitted"
    assert connect(cloud, curl.identity("second")) == "admitted"
    assert len(iot(cloud).list_thing_principals(thingName=thing)["principals"]) == 1


def test_cacerts_of_a_local_cloud_are_its_ca(cloud: Endpoints) -> None:
    """By that, devices check the API and the broker."""
    content = run("curl", "--silent", "--cacert", cloud.ca_file, f"{cloud.api_url}/.well-known/est/cacerts")
    shown = run("openssl", "pkcs7", "-inform", "DER", "-print_certs", given=base64.b64decode(content)).decode()
    (block,) = re.findall("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n", shown, re.DOTALL)
    assert block == cloud.ca_file.read_text()


def test_strongswans_client_enrolls_and_renews(cloud: Endpoints, thing: str, tmp_path: Path) -> None:
    """``pki --estca`` and ``pki --est`` work as they are; the password is in a file, not in argv."""
    trusted = tmp_path / "trusted.pem"
    pki("--estca", "--url", cloud.api_url, "--cacert", cloud.ca_file, "--caout", trusted, "--outform", "pem")
    assert trusted.read_text().strip() == cloud.ca_file.read_text().strip()

    name = f"{thing}-x"
    (options := tmp_path / "options").write_text(f"--userpass {name}:{invite(cloud, name)}\n")
    first, second = (Identity(tmp_path / f"{at}.pem", tmp_path / f"{at}.key", name) for at in ("first", "second"))
    est(cloud.api_url, trusted, first, "--options", options)
    est(cloud.est_url, trusted, second, "--cert", first.certificate, "--key", first.key)
    assert [connect(cloud, who) for who in (first, second)] == ["admitted"] * 2


def est(url: str, trusted: Path, new: Identity, *options: str | Path) -> None:
    """Make a key and have strongSwan's client get a certificate for it."""
    new.key.write_bytes(pki("--gen", "--type", "ecdsa", "--size", "256", "--outform", "pem"))
    csr = pki("--req", "--in", new.key, "--type", "ecdsa", "--dn", f"CN={new.client_id}")
    command = ("--est", "--url", url, "--cacert", trusted, "--outform", "pem", *options)
    new.certificate.write_bytes(pki(*command, given=csr))


def pki(*arguments: str | Path, given: bytes | None = None) -> bytes:
    """Run strongSwan's pki."""
    return run("pki", *arguments, given=given)


@pytest.mark.parametrize("version", ["--tls-max 1.2", "--tlsv1.3"])
def test_nobody_gets_in_without_a_certificate_of_the_ca(cloud: Endpoints, version: str) -> None:
    """As behind a custom domain name with mutual TLS, whatever the request is for."""
    url = f"{cloud.est_url}/.well-known/est/cacerts"
    command = ["curl", "--silent", "--cacert", str(cloud.ca_file), *version.split(), url]
    assert subprocess.run(command, capture_output=True, timeout=TIME_LIMIT, check=False).returncode in {35, 55, 56}


def test_a_certificate_of_the_ca_is_not_yet_one_of_a_device(cloud: Endpoints, thing: str, tmp_path: Path) -> None:
    """S19: the ledger decides; everything else works there as at the other address."""
    curl = Curl(cloud, thing, tmp_path)
    curl.new_key("any")
    body, headers = (tmp_path / "any.b64").read_bytes(), {"content-type": "application/pkcs10"}
    certificate = (str(cloud.observer_certificate), str(cloud.observer_key))
    with requests.Session() as session:
        session.verify, session.cert, session.trust_env = str(cloud.ca_file), certificate, False
        answer = session.post(
            f"{cloud.est_url}/.well-known/est/simplereenroll", body, headers=headers, timeout=TIME_LIMIT
        )
        assert (answer.status_code, answer.json()["code"]) == (403, "client-certificate-unknown")
        assert session.get(f"{cloud.est_url}/v1/health", timeout=TIME_LIMIT).status_code == 200
