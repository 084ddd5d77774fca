"""One enrollment in a process of its own that may be killed at a chosen point: ``python -m … SPECIFICATION.json``.

Everything is real but the API, whose requests are recorded and answered with certificates of a CA made for the test.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsm_enroll import settings
from hsm_enroll.backend_api.attestation import Policy
from hsm_enroll.backend_api.client import EnrollmentClient, Issued
from hsm_enroll.device import device_token, enrollment, pin, wiring
from hsm_enroll.device.plan import Request
from hsm_enroll.device.ports import Ports
from hsm_enroll.key import TokenName
from hsm_enroll.secret import Secret
from hsm_enroll.store.identity import Identity
from hsm_enroll.token.tokens import Tokens
from tests.support.authority import Authority


@dataclass
class RecordingClient(EnrollmentClient):
    """Answers as the API does and writes each CSR into a file first."""

    folder: Path
    answers: bool  # else the process dies first
    has_invite = False

    @property
    def base_url(self) -> str:
        return "https://api.example"

    def terms(self) -> None:
        return None

    def policy(self) -> Policy:
        return Policy.OFF

    def enroll(self, csr: str, thing_name: str, meanwhile: object = None, evidence: object = None) -> Issued:
        del meanwhile, evidence
        with (self.folder / "requests").open("a", encoding="utf-8") as requests:
            requests.write(json.dumps(csr) + "\n")
        request = x509.load_pem_x509_csr(csr.encode())
        spki = request.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        certificate = Authority(self.folder / f"ca-{os.getpid()}").issue_client(spki, thing_name)
        if not self.answers:
            os.kill(os.getpid(), signal.SIGKILL)
        pem = certificate.public_bytes(Encoding.PEM).decode()
        return Issued(pem, "0a" * 32, thing_name, "localhost", 8883, attested=False)


class Unsent:
    """A first message that reaches nobody."""

    def prepare(self) -> None:
        """Nothing has to be loaded."""

    def send(self, identity: Identity, pin: Secret | None) -> None:
        """Send nothing."""


def main(specification: dict[str, Any]) -> None:
    """Enroll as the specification says: ``kill`` is "STEP begin" or "STEP end"."""
    home = Path(os.environ["HSM_ENROLL_HOME"])
    resolved = settings.load(os.environ, {})
    kill = specification.get("kill")

    @contextmanager
    def progress(step: str) -> Iterator[None]:
        if kill == f"{step} begin":
            os.kill(os.getpid(), signal.SIGKILL)
        yield
        if kill == f"{step} end":
            os.kill(os.getpid(), signal.SIGKILL)

    def token_pin(token: TokenName) -> Secret:
        made = pin.saved_pin(home, token)
        assert made is not None
        return made

    tokens = Tokens()
    ports = Ports(
        tokens=tokens,
        start_finding=lambda: device_token.start_finding(resolved, tokens),
        pin=token_pin,
        client=lambda: RecordingClient(home.parent, answers=specification.get("answers", True)),
        message=Unsent(),
        tpm=wiring.OwnTpm(),
    )
    request = Request("gateway-17", new_key=specification.get("newKey", False))
    with tokens:
        outcome = enrollment.enroll(request, home, ports, progress)
    print(json.dumps({"id": outcome.identity.key_id.hex(), "already": outcome.already_enrolled}))  # noqa: T201


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
