"""Devices and operators for the end-to-end tests: the real command in real processes, and a cloud to look at."""

from __future__ import annotations

import json
import os
import queue
import re
import shutil
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsm_enroll.secret import Secret
from tests.support import commands, documents
from tests.support.processes import pkcs11_tool
from tests.support.softhsm import SoftHsm

_TIME_LIMIT = 90


@dataclass(frozen=True)
class Cloud:
    """A running local cloud: its document, and the environment that points at it."""

    document: dict[str, Any]
    environment: dict[str, str]

    @property
    def gateway_environment(self) -> dict[str, str]:
        """What a gateway knows of it before it has an invite: whom to trust, and neither API nor AWS credentials."""
        return {"HSM_ENROLL_CA_FILE": self.environment["HSM_ENROLL_CA_FILE"]}

    def aws(self, service: str) -> Any:
        """AWS's own client, pointed at this cloud by the environment that it gives and nothing else."""
        import boto3  # not by every process that has devices: it takes long to load

        session: Any = boto3.session.Session()
        return session.client(
            service,
            endpoint_url=self.environment["AWS_ENDPOINT_URL"],
            region_name=self.environment["AWS_REGION"],
            aws_access_key_id=self.environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.environment["AWS_SECRET_ACCESS_KEY"],
        )

    def output(self, name: str) -> str:
        """One of the outputs of the deployed stack."""
        (stack,) = self.aws("cloudformation").describe_stacks()["Stacks"]
        return str({output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}[name])

    def certificates(self) -> dict[str, str]:
        """Every certificate in AWS IoT: id to status."""
        pages = self.aws("iot").get_paginator("list_certificates").paginate()
        return {found["certificateId"]: found["status"] for page in pages for found in page["certificates"]}

    def log(self, name: str) -> str:
        """One of its logs, so far: ``aws``, ``gateway`` or ``handler``."""
        return (Path(self.document["home"]) / "logs" / f"{name}.log").read_text()


@dataclass
class Machine:
    """A machine with ``hsm-enroll`` on it.

    Attributes:
        folder: everything of it.
        cloud: the environment that points it at the local cloud.
        extra: more of the environment, from now on.
        prefix: a command that runs another one, for every process.
    """

    folder: Path
    cloud: Mapping[str, str]
    extra: dict[str, str] = field(default_factory=dict)
    prefix: Sequence[str] = field(default=(), kw_only=True)

    @property
    def home(self) -> Path:
        """The folder of its configuration and state."""
        return self.folder / "home"

    @property
    def environment(self) -> dict[str, str]:
        """The environment of every process on it: nothing of the test's own but PATH."""
        return {
            "PATH": os.environ["PATH"] + ":/usr/sbin",
            "HOME": str(self.folder),
            "HSM_ENROLL_HOME": str(self.home),
            **self.cloud,
            **self.extra,
        }

    def run(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run ``hsm-enroll`` to its end; with ``--json`` its document is checked against its schema."""
        run = commands.run(arguments, self.environment, stdin=stdin, prefix=self.prefix, time_limit=_TIME_LIMIT)
        if "--json" in arguments:
            documents.read(arguments, run.stdout)
        return run

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start ``hsm-enroll`` and return while it runs."""
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return subprocess.Popen([*self.prefix, *commands.COMMAND, *arguments], env=self.environment, text=True, **pipes)

    def json(self, *arguments: str, status: int = 0) -> dict[str, Any]:
        """Run with ``--json``, expect an exit status, and return the one document on stdout."""
        run = self.run(*arguments, "--json")
        assert run.returncode == status, run.stdout + run.stderr
        written: dict[str, Any] = documents.read(arguments, run.stdout)
        return written

    def error(self, *arguments: str, stdin: str = "") -> dict[str, Any]:
        """Run with ``--json``, expect the contract's error document, and return the error."""
        run = self.run(*arguments, "--json", stdin=stdin)
        error: dict[str, Any] = documents.read(arguments, run.stdout)["error"]
        assert error["hint"]
        assert error["exitStatus"] == run.returncode
        assert "Traceback" not in run.stderr
        return error

    def refused(self, *arguments: str) -> tuple[int, str]:
        """As :meth:`error`, and return exit status and code."""
        error = self.error(*arguments)
        return error["exitStatus"], error["code"]


@dataclass
class Operator(Machine):
    """Whoever has AWS credentials, and no token."""

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)

    def invite(self, thing: str, *options: str) -> str:
        """Make an invite for a Thing, or a prefix and ``*``; return its URL."""
        return str(self.json("invite", "create", "--thing", thing, *options)["invite"])


@dataclass
class Device(Machine):
    """One gateway, with SoftHSM.

    Attributes:
        softhsm: its tokens.
    """

    softhsm: SoftHsm = field(init=False)

    def __post_init__(self) -> None:
        self.softhsm = SoftHsm(self.folder)

    @property
    def environment(self) -> dict[str, str]:
        """As any machine's, with SoftHSM's configuration."""
        return {**self.softhsm.environment, **super().environment}

    def create_token(self, label: str = "gateway") -> dict[str, Any]:
        """Make a token."""
        return self.json("token", "create", "--label", label)

    def take_token_of(self, other: Device) -> None:
        """Have what another device has from making its token: quicker than making one more."""
        for folder, original in ((self.softhsm.tokens, other.softhsm.tokens), (self.home, other.home)):
            shutil.copytree(original, folder, dirs_exist_ok=True)

    def pin(self) -> str:
        """The PIN that the device keeps."""
        return (self.home / "pin").read_text().strip()

    def pkcs11_tool(self, *arguments: str) -> bytes:
        """Ask another program about the token, logged in."""
        module = Path(json.loads((self.home / "token.json").read_text())["module"])
        return pkcs11_tool(module, Secret(self.pin()), self.environment, *arguments)

    def key_ids(self) -> list[str]:
        """The CKA_IDs of all private keys in the token."""
        return re.findall(r"^\s+ID:\s+([0-9a-f]+)", self._private_keys(), re.MULTILINE)

    def assert_key_cannot_leave(self, certificate: Path) -> None:
        """Check that the one key was born in the token, cannot leave it, and is the one that a certificate is for."""
        (access,) = re.findall(r"Access:\s+(.*)", self._private_keys())
        said = {part.strip() for part in access.split(",")}
        assert said >= {"sensitive", "always sensitive", "never extractable", "local"}
        assert "extractable" not in said
        (key_id,) = self.key_ids()
        certified = x509.load_pem_x509_certificate(certificate.read_bytes()).public_key()
        public = certified.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        assert self.pkcs11_tool("--read-object", "--type", "pubkey", "--id", key_id) == public

    def _private_keys(self) -> str:
        return self.pkcs11_tool("--list-objects", "--type", "privkey").decode()


class Observer:
    """mosquitto_sub with the local cloud's observer identity; what it hears, line by line.

    Args:
        cloud: the document of ``local up --json``.
        topic: what to subscribe to.
    """

    def __init__(self, cloud: Mapping[str, Any], topic: str) -> None:
        command = ["stdbuf", "-oL", "mosquitto_sub", "-d", "-q", "1", "-F", "message: %t %p", "-t", topic]
        self._process = subprocess.Popen(
            [*command, *connection(cloud)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._expect("Subscribed")

    def message(self) -> tuple[str, str]:
        """Wait for the next message and return its topic and payload."""
        _, topic, payload = self._expect("message: ").split(" ", 2)
        return topic, payload

    def heard_nothing(self) -> bool:
        """Whether no message has come so far."""
        return self._lines.empty()

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(timeout=10)
        self._reader.join(timeout=10)

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout:
            for line in self._process.stdout:
                if line.startswith(("Subscribed", "message: ")):
                    self._lines.put(line.rstrip("\n"))

    def _expect(self, start: str) -> str:
        line = self._lines.get(timeout=30)
        assert line.startswith(start)
        return line


def connection(cloud: Mapping[str, Any]) -> list[str]:
    """The arguments with which mosquitto's clients connect as the observer."""
    return [
        "-h", "localhost", "-p", str(cloud["observerPort"]), "--cafile", cloud["caFile"],
        "--cert", cloud["observerCertificate"], "--key", cloud["observerKey"],
    ]  # fmt: skip


def publish_as_observer(cloud: Mapping[str, Any], topic: str, message: str) -> None:
    """Publish one message as somebody who is not the device."""
    command = ["mosquitto_pub", "-q", "1", "-t", topic, "-m", message, *connection(cloud)]
    subprocess.run(command, timeout=_TIME_LIMIT, capture_output=True, check=True)
