"""S25: connections that died while Lambda had frozen the function."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from enrollment_backend.aws import Clients, connect
from tests.support.deployment import REGION

RESPONSE = json.dumps({"certificatePem": "", "certificateId": "f" * 64, "certificateArn": "", "Attributes": {}})


class Connection(BaseHTTPRequestHandler):
    """A connection that stays open, and gets no answer any more once it is older than the last freeze."""

    protocol_version = "HTTP/1.1"
    server: Aws

    def setup(self) -> None:
        """Note when the connection was opened."""
        super().setup()
        self.opened = self.server.freezes
        self.server.connections += 1

    def do_POST(self) -> None:
        """Answer, unless the connection is dead."""
        self.rfile.read(int(self.headers["content-length"]))
        if self.opened < self.server.freezes:
            self.server.swallowed += 1
            self.server.over.wait()
            return
        self.send_response(200)
        self.send_header("content-length", str(len(RESPONSE)))
        self.end_headers()
        self.wfile.write(RESPONSE.encode())

    def log_message(self, *_: object) -> None:
        """Print nothing."""


class Aws(ThreadingHTTPServer):
    """AWS, as it looks from within the function.

    Attributes:
        freezes: how often the function was frozen.
        connections: how many connections there have been.
        swallowed: how many requests were sent on a dead one.
        over: set at the end of the test.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Connection)
        self.freezes = self.connections = self.swallowed = 0
        self.over = threading.Event()
        self.time = 0.0

    def freeze(self, seconds: float) -> None:
        """Freeze the function: time passes, and its connections die."""
        self.freezes += 1
        self.time += seconds


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    """AWS, with the environment that leads there."""
    with Aws() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        for name, value in (("REGION", REGION), ("ACCESS_KEY_ID", "testing"), ("SECRET_ACCESS_KEY", "testing")):
            monkeypatch.setenv(f"AWS_{name}", value)
        monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
        yield server
        server.over.set()
        server.shutdown()


def issue(clients: Clients) -> str:
    """Have a certificate issued; return its id."""
    created = clients.iot_once.create_certificate_from_csr(certificateSigningRequest="csr", setAsActive=True)
    return created["certificateId"]


def test_s25_a_call_with_one_attempt_does_not_use_a_connection_that_died(aws: Aws) -> None:
    """S25: after a freeze it opens a new one; otherwise the first device after each pause would fail."""
    clients = connect(lambda: aws.time)
    assert issue(clients) == "f" * 64
    aws.freeze(seconds=60)
    assert issue(clients) == "f" * 64
    assert aws.connections == 2


def test_s25_the_other_clients_do_not_lose_time_with_such_connections_either(aws: Aws) -> None:
    """S25: their second attempt could take another dead connection."""
    clients = connect(lambda: aws.time)
    for _ in range(2):
        clients.dynamodb.update_item(TableName="ledger", Key={})
        aws.freeze(seconds=60)
    assert (aws.connections, aws.swallowed) == (2, 0)


def test_a_connection_that_is_in_use_stays_open(aws: Aws) -> None:
    """Requests that follow each other share it."""
    clients = connect(lambda: aws.time)
    for _ in range(3):
        issue(clients)
        aws.time += 4
    assert aws.connections == 1
