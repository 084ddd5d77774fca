"""A device's whole life against a local cloud, each command of it killed and run again, and what must be true then."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import count
from typing import Any

from tests.support import commands
from tests.support.devices import Cloud, Device

COMMANDS = ("init", "renew", "recover", "retire")
"""In this order they are a device's life: each finds what the one before it left."""

RANDOM = "at a random time"

_KILLABLE = (sys.executable, "-m", "tests.support.kill_points")
_SECONDS = 120
# The request of the killed run may still be at work when the next one is answered.
_CLOUD_SECONDS = 10.0
_BARE = {"lock", "pin", "token.json"}
_ENROLLED = _BARE | {"identity.json", "certificate.pem"}
_NOT_ENROLLED_STATUS = 3
_things = count(1)


@dataclass(frozen=True)
class Kill:
    """When a command is killed.

    Attributes:
        point: a fault point of ``kill_points``, or ``RANDOM``.
        seconds: how long after its start, if at a random time.
    """

    point: str
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.point}, {self.seconds:.3f} s" if self.point == RANDOM else self.point


@dataclass(frozen=True)
class Reference:
    """What a command does if nobody kills it.

    Attributes:
        points: the fault points that it reaches, in this order.
        seconds: how long it takes.
    """

    points: tuple[str, ...]
    seconds: float


class TokenLostError(Exception):
    """SoftHSM was killed in C_Login between emptying its token's file and filling it."""


class Life:
    """One device that lives again and again, each time as another Thing.

    Args:
        cloud: one that is open to everybody.
        device: has a token without keys.

    Attributes:
        thing: the Thing that it is now, or was last.
    """

    def __init__(self, cloud: Cloud, device: Device) -> None:
        self._cloud = cloud
        self._device = device
        self._iot = cloud.aws("iot")
        self.thing = ""
        self._is_enrolled = False

    def references(self) -> dict[str, Reference]:
        """Live once without a kill, and return what each command does."""
        found = {}
        for command in COMMANDS:
            self.prepare(command)
            trace = self._device.folder / f"trace-{command}"
            begin = time.monotonic()
            subprocess.run(
                [*_KILLABLE, *self._arguments(command)], env=self._device.environment | {"KILL_TRACE": str(trace)},
                stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS, check=False,
            )  # fmt: skip
            seconds = time.monotonic() - begin
            wrong = self._wrong_after(command)
            if wrong:
                raise RuntimeError(f"{command} without a kill: {wrong}")
            found[command] = Reference(tuple(dict.fromkeys(trace.read_text().splitlines())), seconds)
        return found

    def killed(self, command: str, kill: Kill) -> str:
        """Kill a command, run it again, and return what is wrong then; empty if nothing is.

        Raises:
            TokenLostError: SoftHSM lost its token.
        """
        self.prepare(command)
        if wrong := self.interrupt(command, kill):
            return wrong
        if self._has_lost_token():
            raise TokenLostError
        return self.repeat(command)

    def repeat(self, command: str) -> str:
        """Run an interrupted command again, and return what is wrong then; empty if nothing is."""
        again = self.run(command)
        # A retirement that was killed at its very end leaves nothing to retire.
        done = (0, _NOT_ENROLLED_STATUS) if command == "retire" else (0,)
        if again.returncode not in done:
            return f"run again, it exits with {again.returncode}: {again.stderr.strip()[-400:]}"
        return self._wrong_after(command)

    def interrupt(self, command: str, kill: Kill) -> str:
        """Kill a command, and return what is wrong with that; empty if nothing is."""
        status = self._killed(command, kill)
        if kill.point != RANDOM and status != -signal.SIGKILL:
            return f"the fault point was not reached: exit {status}"
        return ""

    def end(self) -> None:
        """Retire the device if it is enrolled."""
        if self._is_enrolled:
            self.run("retire")
            self._is_enrolled = False

    def prepare(self, command: str) -> None:
        """Have the device be as a command is to find it."""
        if command == "init":
            self.end()
            self.thing = f"killed-{os.getpid()}-{next(_things)}"
            return
        if not self._is_enrolled:
            self.prepare("init")
            self.run("init")
            if wrong := self._wrong_after("init"):
                raise RuntimeError(f"init without a kill: {wrong}")
        if command == "recover":
            for name in _ENROLLED - _BARE:
                (self._device.home / name).unlink()

    def _arguments(self, command: str) -> list[str]:
        options = {"init": ["--thing", self.thing], "retire": ["--yes"]}
        return [command, *options.get(command, [])]

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return commands.run(self._arguments(command), self._device.environment, time_limit=_SECONDS)

    def _killed(self, command: str, kill: Kill) -> int:
        is_random = kill.point == RANDOM
        running = subprocess.Popen(
            [*(commands.COMMAND if is_random else _KILLABLE), *self._arguments(command)],
            env=self._device.environment | ({} if is_random else {"KILL_AT": kill.point}),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            return running.wait(kill.seconds if is_random else _SECONDS)
        except subprocess.TimeoutExpired:
            # Not reaped yet, so the group is still this one.
            os.killpg(running.pid, signal.SIGKILL)
            return running.wait()

    def _has_lost_token(self) -> bool:
        return any(not file.stat().st_size for file in self._device.softhsm.tokens.glob("*/token.object"))

    def _wrong_after(self, command: str) -> str:
        is_retired = command == "retire"
        found = self._wrong(is_retired=is_retired)
        until = time.monotonic() + _CLOUD_SECONDS
        while found.startswith("cloud: ") and time.monotonic() < until:
            time.sleep(0.1)
            found = self._wrong(is_retired=is_retired)
        self._is_enrolled = not is_retired and not found
        return found

    def _wrong(self, *, is_retired: bool) -> str:
        return self._wrong_folder(is_retired=is_retired) or self._wrong_token() or self._wrong_cloud()

    def _wrong_folder(self, *, is_retired: bool) -> str:
        names = {file.name for file in self._device.home.iterdir()}
        if names != (_BARE if is_retired else _ENROLLED):
            return f"the state folder has {', '.join(sorted(names))}"
        identity = self._identity()
        copy = self._device.home / "certificate.pem"
        if identity and copy.read_text() != identity["certificate_pem"]:
            return "certificate.pem is not the identity's"
        if identity and identity["thing_name"] != self.thing:
            return f"the identity is that of {identity['thing_name']}"
        return ""

    def _wrong_token(self) -> str:
        identity = self._identity()
        expected = [identity["key_id"]] if identity else []
        listed = self._device.pkcs11_tool("--list-objects").decode()
        for kind in ("Private", "Public"):
            found = re.findall(rf"^{kind} Key Object.*?^\s+ID:\s+([0-9a-f]+)", listed, re.MULTILINE | re.DOTALL)
            if found != expected:
                return f"the token has the {kind.lower()} keys {found}, not {expected}"
        # One file for each half, and one for the token. SoftHSM begins with an empty file, and passes over those that
        # a kill leaves.
        objects = sum(1 for file in self._device.softhsm.tokens.glob("*/*.object") if file.stat().st_size)
        if objects and objects != 1 + 2 * len(expected):
            return f"the token has {objects} files"
        return ""

    def _wrong_cloud(self) -> str:
        identity = self._identity()
        principals = self._iot.list_thing_principals(thingName=self.thing)["principals"]
        expected = [identity["certificate_id"]] if identity else []
        found = [principal.rpartition("/")[2] for principal in principals]
        if found != expected:
            return f"cloud: the Thing has the certificates {found}, not {expected}"
        for certificate in found:
            shown = self._iot.describe_certificate(certificateId=certificate)["certificateDescription"]
            if shown["status"] != "ACTIVE":
                return f"cloud: the certificate is {shown['status']}"
        if identity:
            published = self._device.run("publish", f"certtest/{self.thing}", "hello")
            if published.returncode != 0:
                return f"publish exits with {published.returncode}: {published.stderr.strip()[-400:]}"
        return ""

    def _identity(self) -> dict[str, Any]:
        file = self._device.home / "identity.json"
        found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        return found
