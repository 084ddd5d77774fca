"""A TPM for tests: swtpm, a complete TPM 2.0 in software, and a tpm2-pkcs11 token on it.

The TPM is manufactured with endorsement key certificates and stands on loopback; a D-Bus of its own connects
tpm2-abrmd, the resource manager, with its clients. So any number of them live side by side, and beside a real one.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import pytest

from hsm_enroll.secret import Secret
from hsm_enroll.token import discovery
from tests.support.processes import program, run, running, wait_until
from tests.support.under_test import LABEL, KeyName, OwnToken

_AUTHORITY = "authority"
_PID_FILE = "swtpm.pid"
_LISTENING = "0A"  # proc(5), /proc/net/tcp: TCP_LISTEN


class Tpm2(OwnToken):
    """A tpm2-pkcs11 token on a TPM that is powered.

    Args:
        home: its folder.
        connection: the environment that leads clients to the TPM.
    """

    def __init__(self, home: Path, connection: Mapping[str, str]) -> None:
        self.home = home
        self.connection = dict(connection)
        self.environment = {**connection, "TPM2_PKCS11_STORE": str(home / "store")}
        self.module = self.module_copy(home)
        self.pin = Secret("right-1234")

    @property
    def ek_authorities(self) -> list[Path]:
        """The PEM files of the CA that the certificates of the TPM's endorsement keys come from: root, intermediate."""
        return [self.home / _AUTHORITY / name for name in ("swtpm-localca-rootca-cert.pem", "issuercert.pem")]

    def module_copy(self, folder: Path) -> Path:
        """Copy tpm2-pkcs11's module into a folder that has no copy yet."""
        installed = [path for path in discovery.discover() if path.name == "libtpm2_pkcs11.so"]
        if not installed:
            pytest.fail("the token tests need tpm2-pkcs11, from the Debian package libtpm2-pkcs11-1", pytrace=False)
        return Path(shutil.copy(installed[0], folder))

    def create_token(self) -> None:
        """Make the store and in it the token."""
        store = self.home / "store"
        store.mkdir(mode=0o700)
        self._ptool("init")
        self._ptool("addtoken", "--pid", "1", "--sopin", "officer-1234", "--userpin", self.pin.reveal())

    def import_key(self, private_key_file: Path, key: KeyName) -> None:
        """Import a P-256 key of a PEM file into the token; its CKA_ID becomes the id's hexadecimal digits."""
        named = ["--key-label", key.label, "--id", key.id.hex(), "--algorithm", "ecc"]
        self._ptool("import", "--userpin", self.pin.reveal(), "--privkey", str(private_key_file), *named)

    def forget_wrong_pins(self) -> None:
        """Set the TPM's count of failed authorisations back (TPM 2.0 Part 3, TPM2_DictionaryAttackLockReset)."""
        run([program("tpm2_dictionarylockout", package="tpm2-tools"), "--clear-lockout"], self.environment)

    def wrong_pins(self) -> int:
        """Ask the TPM for its count of failed authorisations (TPM 2.0 Part 2, TPM_PT_LOCKOUT_COUNTER)."""
        return self._property("LOCKOUT_COUNTER")

    def wrong_pins_that_lock(self) -> int:
        """Ask the TPM how many failed authorisations lock it (TPM_PT_MAX_AUTH_FAIL)."""
        return self._property("MAX_AUTH_FAIL")

    def seconds_to_forget_one(self) -> int:
        """Ask the TPM in which time it forgets one failed authorisation (TPM_PT_LOCKOUT_INTERVAL)."""
        return self._property("LOCKOUT_INTERVAL")

    @contextmanager
    def locking_after(self, wrong_pins: int, *, seconds_to_forget_one: int) -> Iterator[None]:
        """Set the TPM's limit and interval inside the block, and its count to nought before and after."""
        before = self.wrong_pins_that_lock(), self.seconds_to_forget_one()
        self.set_limits(wrong_pins, seconds_to_forget_one)
        self.forget_wrong_pins()
        try:
            yield
        finally:
            self.set_limits(*before)
            self.forget_wrong_pins()

    def cut_power(self) -> None:
        """Kill the TPM, which is told nothing before; it is dead at the return, and the block of it is to be left."""
        process = int((self.home / _PID_FILE).read_text())
        os.kill(process, signal.SIGKILL)
        os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop the TPM inside the block, as one that hangs."""
        process = int((self.home / _PID_FILE).read_text())
        os.kill(process, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(process, signal.SIGCONT)

    def set_limits(self, tries: int, seconds: int) -> None:
        """Set how many failed authorisations lock the TPM, and in which time it forgets one; they outlast its power."""
        tool = program("tpm2_dictionarylockout", package="tpm2-tools")
        limits = [f"--max-tries={tries}", f"--recovery-time={seconds}", f"--lockout-recovery-time={seconds}"]
        run([tool, "--setup-parameters", *limits], self.environment)

    def _property(self, name: str) -> int:
        properties = run([program("tpm2_getcap", package="tpm2-tools"), "properties-variable"], self.environment)
        value = re.search(rf"^TPM2_PT_{name}: (0x[0-9A-Fa-f]+)$", properties, re.MULTILINE)
        assert value, properties
        return int(value[1], 16)

    def create_token_without_pin(self, key: KeyName) -> None:
        """Make the store and in it a token that wants no login, with a P-256 key that its own tool makes."""
        (self.home / "store").mkdir(mode=0o700)
        self._ptool("init")
        self._ptool("addtoken", "--pid", "1", "--sopin", "officer-1234", "--userpin", "")
        self._ptool("addkey", "--userpin", "", "--algorithm", "ecc256", "--key-label", key.label, "--id", key.id.hex())

    def _ptool(self, verb: str, *arguments: str) -> None:
        tool = program("tpm2_ptool", package="libtpm2-pkcs11-tools")
        label = [] if verb == "init" else ["--label", LABEL]
        run([tool, verb, "--path", str(self.home / "store"), *label, *arguments], self.environment)


@contextmanager
def provided(home: Path) -> Iterator[Tpm2]:
    """Manufacture a TPM, power it, and make a token; inside the block it is served by a resource manager."""
    manufacture(home)
    with powered(home) as tpm:
        tpm.create_token()
        yield tpm


@contextmanager
def powered(
    home: Path, through: Callable[[int], AbstractContextManager[int]] = nullcontext, *, bus_address: str = ""
) -> Iterator[Tpm2]:
    """Power a TPM that was provided in this folder before; inside the block it is served by a resource manager.

    Args:
        home: the TPM's folder.
        through: takes the TPM's port and gives the one on which the resource manager is to reach it.
        bus_address: the D-Bus on which the resource manager is to be; by default one of its own.
    """
    with (
        _powered(home) as port,
        through(port) as reached,
        nullcontext(bus_address) if bus_address else bus(home) as address,
        _resource_managed(home, reached, address) as connection,
    ):
        yield Tpm2(home, connection)


@contextmanager
def cloned_without_resource_manager(original: Tpm2, home: Path) -> Iterator[Tpm2]:
    """Copy a TPM with its token and power the copy, as :func:`powered_without_resource_manager`."""
    for folder in (_AUTHORITY, "state", "store"):
        shutil.copytree(original.home / folder, home / folder)
    with powered_without_resource_manager(home) as tpm:
        yield tpm


@contextmanager
def powered_without_resource_manager(home: Path) -> Iterator[Tpm2]:
    """Power a TPM that was provided in this folder before; nothing moves objects out of its few slots for them."""
    with _powered(home) as port:
        yield Tpm2(home, {"TPM2_PKCS11_TCTI": f"swtpm:host=127.0.0.1,port={port}"})


def certificate_sha256(file: Path) -> str:
    """Return the SHA-256 of a certificate's DER, in hexadecimal digits, as a vendor publishes it."""
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(file.read_text())).hexdigest()


def manufacture(home: Path) -> None:
    """Make a TPM with endorsement keys that a CA of its own has certified; it has no token, and no power yet."""
    authority = home / _AUTHORITY
    authority.mkdir()
    options = home / "localca.options"
    options.write_text("--platform-manufacturer Test\n--platform-version 1\n--platform-model Test\n")
    certificates = home / "localca.conf"
    certificates.write_text(
        f"statedir = {authority}\n"
        f"signingkey = {authority}/signkey.pem\n"
        f"issuercert = {authority}/issuercert.pem\n"
        f"certserial = {authority}/certserial\n"
    )
    setup = home / "setup.conf"
    setup.write_text(
        f"create_certs_tool = {program('swtpm_localca', package='swtpm-tools')}\n"
        f"create_certs_tool_config = {certificates}\n"
        f"create_certs_tool_options = {options}\n"
        "active_pcr_banks = sha256\n"
    )
    state = home / "state"
    state.mkdir()
    tool = program("swtpm_setup", package="swtpm-tools")
    made = ["--create-ek-cert", "--lock-nvram", "--config", str(setup)]
    run([tool, "--tpm2", "--tpmstate", str(state), *made])


@contextmanager
def _powered(home: Path) -> Iterator[int]:
    """Run swtpm on two neighbouring ports of loopback, as its TCTI wants them, and give the first."""
    log = home / "swtpm.log"
    swtpm = program("swtpm", package="swtpm")
    while True:
        # Another program may take a port after it was found free: swtpm ends then, and others are tried.
        port = _two_free_ports()
        channels = ["--server", f"type=tcp,port={port}", "--ctrl", f"type=tcp,port={port + 1}"]
        start = ["--flags", "not-need-init,startup-clear", "--pid", f"file={home / _PID_FILE}"]
        with running([swtpm, "socket", "--tpm2", "--tpmstate", f"dir={home / 'state'}", *channels, *start], log) as tpm:
            if _comes_up(tpm, port, log):
                yield port
                return
        if "in use" not in log.read_text():
            pytest.fail(f"swtpm did not start:\n{log.read_text()}", pytrace=False)


def _two_free_ports() -> int:
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port


def _comes_up(tpm: subprocess.Popen[bytes], port: int, log: Path) -> bool:
    wait_until(lambda: tpm.poll() is not None or _both_listen(port), "a TPM's start", log)
    return tpm.poll() is None


def _both_listen(port: int) -> bool:
    """Whether servers listen on both ports; asked of the kernel, for swtpm would take a connection for its client."""
    sockets = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    listening = {int(fields[1].partition(":")[2], 16) for fields in sockets if fields[3] == _LISTENING}
    return {port, port + 1} <= listening


@contextmanager
def bus(home: Path) -> Iterator[str]:
    """Run a D-Bus, with its log in a folder, and give its address."""
    configuration = home / "bus.conf"
    configuration.write_text(
        '<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"\n'
        ' "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">\n'
        "<busconfig>\n"
        "  <type>session</type>\n"
        f"  <listen>unix:tmpdir={tempfile.gettempdir()}</listen>\n"
        "  <auth>EXTERNAL</auth>\n"
        '  <policy context="default">\n'
        '    <allow send_destination="*"/>\n'
        '    <allow receive_sender="*"/>\n'
        '    <allow own="*"/>\n'
        "  </policy>\n"
        "</busconfig>\n"
    )
    log = home / "bus.log"
    daemon = program("dbus-daemon", package="dbus-daemon")
    command = [daemon, f"--config-file={configuration}", "--nofork", "--nopidfile", "--print-address=1"]
    with running(command, log):
        address = re.compile(r"^unix:\S+$", re.MULTILINE)
        wait_until(lambda: bool(address.search(log.read_text())), "a D-Bus's start", log)
        found = address.search(log.read_text())
        assert found
        yield found[0]


@contextmanager
def _resource_managed(home: Path, port: int, bus: str) -> Iterator[Mapping[str, str]]:
    log = home / "abrmd.log"
    daemon = program("tpm2-abrmd", package="tpm2-abrmd")
    command = [daemon, "--allow-root", "--session", f"--tcti=swtpm:host=127.0.0.1,port={port}"]
    # It tells that it has its name on the bus at this level of chattiness only.
    with running(command, log, {"DBUS_SESSION_BUS_ADDRESS": bus, "G_MESSAGES_DEBUG": "all"}):
        wait_until(lambda: "on_name_acquired" in log.read_text(errors="replace"), "the resource manager's start", log)
        connection = "tabrmd:bus_type=session"
        yield {
            "DBUS_SESSION_BUS_ADDRESS": bus,
            "TPM2_PKCS11_TCTI": connection,
            "TPM2TOOLS_TCTI": connection,
        }
