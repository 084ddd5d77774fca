"""The other side of a local cloud: devices with OpenSSL key files, mosquitto's clients, and a look at processes."""

from __future__ import annotations

import os
import select
import socket
import ssl
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from hsm_enroll.local.cloud import Endpoints
from hsm_enroll.local.endpoints import ACCESS_KEY_ID, SECRET_ACCESS_KEY
from tests.support.devices import Cloud

if TYPE_CHECKING:
    from mypy_boto3_iot import IoTClient

TIME_LIMIT = 60.0
_CONNACKS = {b"\x20\x02\x00\x00": "admitted", b"\x20\x02\x00\x05": "not authorized", b"": "closed"}


@dataclass(frozen=True)
class Identity:
    """A certificate and a key as files, and the client id to connect under; None lets the client make one up."""

    certificate: Path
    key: Path
    client_id: str | None = None


@dataclass(frozen=True)
class SoftwareDevice:
    """A Thing with a key file made by OpenSSL."""

    thing: str
    folder: Path
    subject: str = "/C=JP/ST=Tokyo/L=Meguro/O=Amazon Web Services Japan K.K./CN=AWS IoT Certificate"

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", self.identity.key)
        openssl("req", "-new", "-key", self.identity.key, "-subj", self.subject, "-out", self.folder / "csr.pem")

    @property
    def identity(self) -> Identity:
        """Where certificate and key lie; the certificate once it is stored."""
        return Identity(self.folder / "device.pem", self.folder / "device.key", self.thing)

    @property
    def csr(self) -> str:
        """PKCS#10 in PEM."""
        return (self.folder / "csr.pem").read_text()

    def store(self, certificate: str) -> None:
        """Keep the certificate."""
        self.identity.certificate.write_text(certificate)

    def enroll(self, cloud: Endpoints) -> None:
        """Do as the original article's client does."""
        answer = requests.post(
            f"{cloud.api_url}/getCertificate",
            json={"thingName": self.thing, "csr": self.csr},
            verify=str(cloud.ca_file),
            timeout=TIME_LIMIT,
        )
        assert answer.status_code == 200, answer.text
        self.store(answer.text)


def openssl(*arguments: str | Path) -> str:
    """Run OpenSSL and return what it prints."""
    return subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=True).stdout


def publish(
    cloud: Endpoints, identity: Identity, topic: str, payload: str, options: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Publish with QoS 1 over MQTT 5, on the devices' port; ``RC:`` in the output is the PUBACK's reason code."""
    command = ["mosquitto_pub", "-d", "-V", "5", "-q", "1", "-t", topic, "-m", payload]
    return subprocess.run(
        [*command, *tls_options(cloud, identity), *options],
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
        check=False,
    )


def receive(cloud: Endpoints, identity: Identity, topic: str) -> subprocess.Popen[str]:
    """Subscribe as a device, for one message of at most a minute; returns once the subscription stands."""
    options = ["-d", "-q", "1", "-C", "1", "-W", "60", "-F", "message: %t %p", "-t", topic]
    process = subprocess.Popen(
        ["stdbuf", "-oL", "mosquitto_sub", *tls_options(cloud, identity), *options],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    while not process.stdout.readline().startswith("Subscribed"):
        assert process.poll() is None
    return process


def tls_options(cloud: Endpoints, identity: Identity) -> list[str]:
    """Return the options with which mosquitto's clients connect as somebody."""
    return [
        *("-h", cloud.mqtt_endpoint, "-p", str(cloud.mqtt_port), "--cafile", str(cloud.ca_file)),
        *("--cert", str(identity.certificate), "--key", str(identity.key)),
        *(("-i", identity.client_id) if identity.client_id else ()),
    ]


def connect(cloud: Endpoints, identity: Identity | None, client_id: str | None = None) -> str:
    """Connect over MQTT 3.1.1, and say what came of it.

    Returns:
        ``admitted``; ``not authorized``, as CONNACK says it; ``closed``, without a CONNACK; or the TLS alert's name.
    """
    context = ssl.create_default_context(cafile=cloud.ca_file)
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # where the server's verdict falls before the end of the handshake
    if identity is not None:
        context.load_cert_chain(identity.certificate, identity.key)
        client_id = client_id or identity.client_id
    try:
        with (
            socket.create_connection(("127.0.0.1", cloud.mqtt_port), TIME_LIMIT) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as connection,
        ):
            connection.sendall(connect_packet(client_id or "x"))
            return _CONNACKS[connection.recv(4)]
    except ssl.SSLError as error:
        return str(error.reason)
    except ConnectionError:
        return "closed"


def connect_packet(client_id: str) -> bytes:
    """Return a CONNECT of MQTT 3.1.1: a clean session without keep-alive."""
    body = b"\x00\x04MQTT\x04\x02\x00\x00" + len(client_id).to_bytes(2) + client_id.encode()
    return bytes((0x10, len(body))) + body if len(body) < 128 else bytes((0x10, len(body) & 127 | 128, 1)) + body


def aws(cloud: Endpoints, service: str) -> Any:
    """Return AWS's own client, pointed at the local cloud by what ``exports`` gives and nothing else."""
    return Cloud(cloud.to_json(), cloud.exports()).aws(service)


def iot(cloud: Endpoints) -> IoTClient:
    """Return the client for AWS IoT."""
    client: IoTClient = aws(cloud, "iot")
    return client


def sign(method: str, url: str, body: bytes = b"", secret: str = SECRET_ACCESS_KEY) -> dict[str, str]:
    """Return the headers of a request to an IAM-authorized route, made by AWS's own library."""
    request = AWSRequest(method, url, data=body)
    SigV4Auth(Credentials(ACCESS_KEY_ID, secret), "execute-api", "us-east-1").add_auth(request)
    return dict(request.headers)


def stack_outputs(cloud: Endpoints) -> dict[str, str]:
    """Return what the deployed template gives out."""
    (stack,) = aws(cloud, "cloudformation").describe_stacks()["Stacks"]
    return {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}


def policy_name(cloud: Endpoints) -> str:
    """Return the name of the deployed device policy."""
    return stack_outputs(cloud)["PolicyName"]


def supervisor(cloud: Endpoints) -> int:
    """Return the id of the process that runs a cloud."""
    return int((cloud.home / "lock").read_text())


class Watched:
    """A process that can be waited for without being its parent."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._descriptor = os.pidfd_open(pid)

    def is_gone(self, timeout: float = TIME_LIMIT) -> bool:
        """Wait until it has ended; False if it does not."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        return bool(poll.poll(timeout * 1000))

    def close(self) -> None:
        """Stop watching."""
        os.close(self._descriptor)


def is_listening(port: int) -> bool:
    """Say whether somebody takes connections on a loopback port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def ports(cloud: Endpoints) -> list[int]:
    """Return every port a cloud names."""
    urls = (cloud.api_url, cloud.aws_endpoint_url, cloud.est_url)
    return [cloud.mqtt_port, cloud.credentials_port, *(int(url.rpartition(":")[2]) for url in urls)]
