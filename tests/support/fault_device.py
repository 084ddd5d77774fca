"""A gateway whose token fails on demand, and an API beside it: the real command in real processes, without a cloud."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.support.authority import Authority
from tests.support.devices import Device
from tests.support.fault_module import FaultModule
from tests.support.https_server import HttpsServer, https_server, response
from tests.support.softhsm import MODULE

THING = "gateway-17"
_IMPATIENT = (sys.executable, "-m", "tests.tokens.fault_impatient")
_TIME_LIMIT = 60


@dataclass
class FaultyDevice:
    """A device with a SoftHSM token behind a module that can be told to fail.

    Attributes:
        device: as in the end-to-end tests.
        module: what its settings name as the token's module.
        api: what it enrolls with; it issues certificates.
    """

    device: Device
    module: FaultModule
    api: HttpsServer

    def init(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``init`` without the first message."""
        return self.device.run("init", "--thing", THING, "--no-publish", *arguments)

    def impatient(self, *commands: tuple[str, ...], seconds: float) -> list[subprocess.CompletedProcess[str]]:
        """Run commands at once, each of which gives the module so many seconds."""
        pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started = [
            subprocess.Popen([*_IMPATIENT, str(seconds), *command], env=self.device.environment, text=True, **pipes)
            for command in commands
        ]
        try:
            return [
                subprocess.CompletedProcess(run.args, status, stdout, stderr)
                for run in started
                for stdout, stderr in [run.communicate(timeout=_TIME_LIMIT)]
                for status in [run.returncode]
            ]
        finally:
            for run in started:
                run.kill()

    def key_ids(self) -> list[str]:
        """Return the CKA_IDs of all private keys, as pkcs11-tool sees them behind the faults."""
        return self.device.key_ids()

    def journalled_id(self) -> str:
        """Return the CKA_ID of the enrollment under way."""
        key_id: str = json.loads((self.device.home / "journal.json").read_text())["key_id"]
        return key_id


@contextmanager
def faulty_device(folder: Path, fresh: Device) -> Iterator[FaultyDevice]:
    """Provide one, with a copy of a fresh device's token; its API issues to whoever asks."""
    authority = Authority(folder / "authority")

    def issue(stream: Any, server: HttpsServer) -> None:
        request = json.loads(server.requests[-1].partition(b"\r\n\r\n")[2])
        spki = x509.load_pem_x509_csr(request["csr"].encode()).public_key()
        key = spki.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        certificate = authority.issue_client(key, request["thingName"]).public_bytes(Encoding.PEM).decode()
        answer = {
            "certificatePem": certificate, "certificateId": "0a" * 32, "certificateArn": "arn",
            "thingName": request["thingName"], "mqttEndpoint": "localhost", "mqttPort": 9, "attested": False,
        }  # fmt: skip
        stream.sendall(response("201 Created", json.dumps(answer)))

    with https_server(authority, issue, is_ready=True) as api:
        known = {"HSM_ENROLL_API_URL": api.url, "HSM_ENROLL_CA_FILE": str(authority.certificate)}
        device = Device(folder / "device", known)
        device.take_token_of(fresh)
        module = FaultModule(MODULE, device.folder)
        device.extra["HSM_ENROLL_MODULE"] = str(module.file)
        yield FaultyDevice(device, module, api)
