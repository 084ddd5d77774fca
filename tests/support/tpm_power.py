"""The power of an emulated TPM, cut at one of its commands: a meter on its command channel, and what must be true then.

The meter stands between swtpm and the resource manager, so it counts what the resource manager sends by itself too:
it moves objects and sessions out of the TPM and back, and flushes those of a client that has ended.
"""

from __future__ import annotations

import socket
import socketserver
import struct
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.support import tpm2
from tests.support.devices import Cloud
from tests.support.killed_life import Kill, Life
from tests.support.relay import carry
from tests.support.tpm2 import Tpm2
from tests.support.tpm_device import TpmDevice

_Serve = Callable[[socket.socket], None]

# TPM 2.0 Library Part 1, "Command/Response Header Structure": tag, size of the whole, command or response code.
_HEADER = struct.Struct(">HII")

# TPM 2.0 Library Part 2, TPM_CC.
_FLUSH = "FlushContext"
_NAMES = {
    0x157: "Load", 0x15D: "Sign", 0x15E: "Unseal", 0x161: "ContextLoad", 0x162: "ContextSave", 0x165: _FLUSH,
    0x167: "LoadExternal", 0x176: "StartAuthSession", 0x17A: "GetCapability", 0x18A: "TestParms",
    0x191: "CreateLoaded",
}  # fmt: skip
# The last commands are the resource manager's, which a client does not wait for.
_SECONDS_TO_FLUSH = 5.0
# Done, module-unusable, and what token errors share: not that the PIN is wrong, nor that anything else is.
_STATUSES = {0, 10, 15}


@dataclass(frozen=True)
class Cut(Kill):
    """At which command of a TPM its power is cut.

    Attributes:
        number: how many commands it executes before that one, in the reference.
        name: of the command.
        earlier: how many commands of that name it executes before; the resource manager's own may come in between.
        is_executed: whether it executes that one too, so that only the response is lost.
    """

    number: int = 0
    name: str = ""
    earlier: int = 0
    is_executed: bool = False

    def __str__(self) -> str:
        return f"{self.point}, TPM command {self.number}"


def cut(names: list[str], number: int, *, is_executed: bool) -> Cut:
    """Return the cut at one of the commands that a reference named."""
    name = names[number]
    earlier = names[:number].count(name)
    return Cut(f"TPM off {'after' if is_executed else 'before'} {name}", 0.0, number, name, earlier, is_executed)


@dataclass
class Supply:
    """The power of a TPM that was provided before.

    Attributes:
        home: the TPM's folder.
        bus_address: the D-Bus of the resource manager, which does not end with the TPM.
        tpm: the TPM, as it is powered now.
        names: the commands that it received since the meter was set, without what was flushed before any other.
        is_cut: set as soon as its power was cut since then.
    """

    home: Path
    bus_address: str
    tpm: Tpm2 = field(init=False)
    names: list[str] = field(init=False, default_factory=list)
    is_cut: threading.Event = field(init=False, default_factory=threading.Event)
    _cut: Cut | None = field(init=False, default=None)
    _powered: ExitStack = field(init=False, default_factory=ExitStack)

    def on(self) -> None:
        """Power the TPM."""
        powered = tpm2.powered(self.home, self._metered, bus_address=self.bus_address)
        self.tpm = self._powered.enter_context(powered)

    def off(self) -> None:
        """Cut its power, if that has not happened yet."""
        self._powered.close()

    def set(self, cut: Cut | None) -> None:
        """Set the meter back, and have the power cut at a command from now on."""
        self.names.clear()
        self.is_cut.clear()
        self._cut = cut

    @contextmanager
    def _metered(self, port: int) -> Iterator[int]:
        def command(channel: socket.socket) -> None:
            with socket.create_connection(("127.0.0.1", port)) as swtpm:
                while self._pass_command(channel, swtpm):
                    pass

        def control(channel: socket.socket) -> None:
            with socket.create_connection(("127.0.0.1", port + 1)) as swtpm:
                back = threading.Thread(target=carry, args=(swtpm, channel))
                back.start()
                carry(channel, swtpm)
                back.join()

        with _serving(command, control) as own:
            yield own

    def _pass_command(self, client: socket.socket, swtpm: socket.socket) -> bool:
        """Pass on one command and its response, and return whether there may be more."""
        message = _message(client)
        if not message:
            return False
        is_cut_here = self._count(message)
        if is_cut_here and self._cut and not self._cut.is_executed:
            return self._cut_power()
        swtpm.sendall(message)
        response = _message(swtpm)
        if is_cut_here:
            return self._cut_power()
        client.sendall(response)
        return True

    def _count(self, message: bytes) -> bool:
        """Count a command, and return whether the power is to be cut at it."""
        code = _HEADER.unpack_from(message)[2]
        name = _NAMES.get(code, f"{code:#x}")
        if not self.names and name == _FLUSH:
            return False
        self.names.append(name)
        return self._cut is not None and name == self._cut.name and self.names.count(name) == self._cut.earlier + 1

    def _cut_power(self) -> bool:
        self.tpm.cut_power()
        self.is_cut.set()
        return False


class PowerLife(Life):
    """The life of a device whose TPM loses its power in a command, and has it again when the command is over.

    Args:
        cloud: one that is open to everybody.
        device: has a token without keys.
        supply: the power of its TPM.

    Attributes:
        statuses: how often the interrupted commands exited with which status.
        failed_tries: how often the TPM counted how many failed tries after a cut.
    """

    def __init__(self, cloud: Cloud, device: TpmDevice, supply: Supply) -> None:
        super().__init__(cloud, device)
        self._tpm_device = device
        self._supply = supply
        self.statuses: Counter[int] = Counter()
        self.failed_tries: Counter[int] = Counter()

    def tpm_commands(self, command: str) -> list[str]:
        """Run a command without a cut, and return the names of the commands that the TPM received."""
        self.prepare(command)
        self._supply.set(None)
        run = self.run(command)
        names = self._supply.names.copy()
        if run.returncode != 0:
            raise RuntimeError(f"{command} without a cut exits with {run.returncode}: {run.stderr}")
        return names

    def prepare(self, command: str) -> None:
        """As for any device, with a TPM that counts no failed tries."""
        super().prepare(command)
        self._supply.tpm.forget_wrong_pins()

    def interrupt(self, command: str, kill: Kill) -> str:
        """Run a command whose TPM loses its power, and return what is wrong with that; empty if nothing is."""
        assert isinstance(kill, Cut)
        self._supply.set(kill)
        try:
            run = self.run(command)
        except subprocess.TimeoutExpired as error:
            return f"it did not end within {error.timeout:.0f} s"
        if not self._supply.is_cut.wait(_SECONDS_TO_FLUSH):
            return f"the TPM received {len(self._supply.names)} commands only: exit {run.returncode}"
        self._supply.off()
        self._supply.set(None)
        self._supply.on()
        self._tpm_device.tpm = self._supply.tpm
        self.statuses[run.returncode] += 1
        self.failed_tries[self._supply.tpm.wrong_pins()] += 1
        if run.returncode not in _STATUSES:
            return f"it exits with {run.returncode}: {run.stderr.strip()[-400:]}"
        return ""


@contextmanager
def power_life(cloud: Cloud, folder: Path) -> Iterator[PowerLife]:
    """Make a TPM and a device with a token in it; inside the block it lives."""
    with powered_device(cloud, folder) as (device, supply):
        yield PowerLife(cloud, device, supply)


@contextmanager
def powered_device(cloud: Cloud, folder: Path) -> Iterator[tuple[TpmDevice, Supply]]:
    """Make a TPM and a device with a token in it; inside the block the TPM has power, or is given it again."""
    home = folder / "tpm"
    home.mkdir(parents=True)
    with tpm2.provided(home):
        pass
    with tpm2.bus(home) as address:
        supply = Supply(home, address)
        supply.on()
        try:
            device = TpmDevice(folder / "device", cloud.environment, tpm=supply.tpm)
            device.create_token()
            yield device, supply
        finally:
            supply.off()


@contextmanager
def _serving(command: _Serve, control: _Serve) -> Iterator[int]:
    """Serve two neighbouring ports, as swtpm's TCTI wants them, and give the first."""
    servers = _neighbours(command, control)
    threads = [threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield servers[0].port
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def __init__(self, port: int, serve: _Serve) -> None:
        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                # Either side may have lost its power.
                with suppress(OSError):
                    serve(self.request)

        super().__init__(("127.0.0.1", port), Handler)
        self.port = int(self.server_address[1])


def _neighbours(command: _Serve, control: _Serve) -> tuple[_Server, _Server]:
    while True:
        first = _Server(0, command)
        try:
            return first, _Server(first.port + 1, control)
        except (OSError, OverflowError):
            first.server_close()


def _message(channel: socket.socket) -> bytes:
    """Read one command or response; empty at the end."""
    header = channel.recv(_HEADER.size, socket.MSG_WAITALL)
    if len(header) < _HEADER.size:
        return b""
    return header + channel.recv(_HEADER.unpack(header)[1] - _HEADER.size, socket.MSG_WAITALL)
