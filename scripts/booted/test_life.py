"""A gateway's life with the package, on one machine: each test goes on where the one before has ended."""

from __future__ import annotations

import re
import shutil

import pytest

from booted import traces
from booted.cloud import Cloud
from booted.gateway import FORWARD, RENEW, TIMER, Gateway, Writer, block
from booted.machine import Machine
from booted.packages import Packages

_THING, _USERS_THING = "gateway-17", "gateway-18"  # the first one is that of the pages
# What is not the package's: this test's own; what dpkg, apt and systemd write down or keep of all packages and units;
# systemd's folder for encrypted credentials; and the token, which has tools of its own and may hold other keys.
_OTHERS = {
    *("srv", "var/lib/cloud", "var/lib/recorded", "etc/systemd/system/cloud.service"),
    *("etc/systemd/system/recorder.service", "etc/systemd/system/multi-user.target.wants"),
    *("var/lib/dpkg", "var/lib/apt", "var/cache", "var/log", "var/lib/systemd"),
    *("var/tmp", "etc/credstore.encrypted", "var/lib/softhsm/tokens"),
}
_SOON = """\
[Timer]
OnCalendar=
OnActiveSec=1s
RandomizedDelaySec=0
AccuracySec=1s
"""
# A program that uses the identity, for the units of the page.
_PROGRAM = """\
[Service]
ExecStart=/usr/bin/sleep infinity
"""
_IMPATIENT = """\
[Service]
WatchdogSec=10s
RestartSec=1
"""
_IDLE_MICROSECONDS = 15_000_000  # more than what the watchdog has patience for


@pytest.fixture(scope="module")
def gateway(machine: Machine) -> Gateway:
    """The gateway."""
    return Gateway(machine)


@pytest.fixture(scope="module")
def cloud(machine: Machine) -> Cloud:
    """The cloud, which needs the Python that the package has brought."""
    return Cloud(machine)


@pytest.fixture(scope="module")
def untouched(machine: Machine) -> dict[str, str]:
    """The files of the machine before the package that is used was installed."""
    return traces.files(machine.root, _OTHERS)


def test_it_is_installed_with_all_that_it_needs(machine: Machine, packages: Packages) -> None:
    """On a bare Debian 12, apt installs it with its dependencies, and it runs; no service has been started."""
    packages.install(machine, packages.current)
    assert packages.version in machine.run("hsm-enroll", "--version")
    assert machine.run("hsm-enroll", "tokens", "--json")
    assert machine.run("systemctl", "list-units", "--all", "--plain", "--no-legend", "hsm-enroll*") == ""


def test_unused_it_is_purged_without_a_trace(machine: Machine, packages: Packages) -> None:
    """After apt purge, nothing of its name is left, and no user."""
    packages.purge(machine)
    assert _traces(machine, packages) == set()


def test_an_enrolled_gateway_is_connected(
    machine: Machine, packages: Packages, untouched: dict[str, str], cloud: Cloud, gateway: Gateway
) -> None:
    """With the package before, it is enrolled with an invite; the service reads its PIN encrypted, and connects."""
    assert untouched
    packages.install(machine, packages.before)
    gateway.trust(cloud.ca())
    gateway.enroll(cloud.operate("invite", "create", "--thing", _THING))
    pin = gateway.encrypt_pin()
    gateway.wait_until_connected()
    _deliver(machine, cloud, Writer(machine, f"device/{_THING}/first", 10))
    assert pin not in machine.run("journalctl", "--no-pager")


def test_a_renewal_with_the_encrypted_pin_restarts_the_page_s_program(
    machine: Machine, cloud: Cloud, gateway: Gateway
) -> None:
    """The page's command renews by hand with the PIN that only the services have, and its path unit notices that."""
    folder, before = machine.root / "etc/systemd/system", gateway.certificate()
    contents = {
        "gateway.service": _PROGRAM,
        "hsm-enroll-renewed.path": block("ini", "PathChanged="),
        "hsm-enroll-renewed.service": block("ini", "try-restart gateway.service"),
    }
    for name, content in contents.items():
        (folder / name).write_text(content)
    gateway.run_block("enable --now hsm-enroll-renewed.path")
    machine.run("systemctl", "start", "gateway.service")
    program = gateway.service("MainPID", "gateway.service")
    renewed, pin = gateway.run_block("systemd-run").rstrip("\n").rsplit("\n", 1)
    assert f"Thing        {_THING}" in renewed
    # With the PIN that was shown, a command finds the new key.
    assert gateway.certificate() != before
    machine.run("env", f"HSM_ENROLL_PIN={pin}", "hsm-enroll", "csr", "--subject", "CN=test")
    machine.wait_for(
        "the program's restart", lambda: gateway.service("MainPID", "gateway.service") not in {program, "0"}
    )
    machine.run("systemctl", "disable", "--quiet", "--now", "hsm-enroll-renewed.path")
    machine.run("systemctl", "stop", "gateway.service")
    for name in contents:
        (folder / name).unlink()
    machine.run("systemctl", "daemon-reload")
    machine.wait_for("the end of the old one", lambda: before not in cloud.active_certificates(_THING))
    _deliver(machine, cloud, Writer(machine, f"device/{_THING}/by-hand", 10))


@pytest.mark.parametrize("unit", [FORWARD, RENEW])
def test_its_services_are_hardened(machine: Machine, unit: str) -> None:
    """systemd-analyze security gives each of them 2.0 or less, of 10."""
    machine.run("systemd-analyze", "security", "--no-pager", "--threshold=20", unit)


def test_services_that_are_uninstalled_can_be_installed_again(gateway: Gateway) -> None:
    """They are stopped, only the package's units are left, and install has them run again."""
    gateway.command("service", "uninstall")
    assert [gateway.service(name) for name in ("LoadState", "ActiveState", "DropInPaths")] == ["loaded", "inactive", ""]
    gateway.command("service", "install")
    gateway.wait_until_connected()
    assert gateway.command("service", "status")["running"]


def test_its_metrics_are_kept_as_the_page_says(machine: Machine, gateway: Gateway) -> None:
    """With the page's drop-in, forward writes the file for Prometheus in the folder that it may write to."""
    folder = machine.root / "var/lib/hsm-enroll-metrics"
    folder.mkdir()
    with gateway.drop_in(FORWARD, block("ini", "--metrics-file")):
        machine.wait_for("metrics", lambda: list(folder.glob("*.prom")))
    shutil.rmtree(folder)


def test_the_group_that_the_page_creates_may_read_messages(machine: Machine, gateway: Gateway) -> None:
    """With the page's drop-in, its program receives a message as a member of the group, and not as another user."""
    machine.run("groupadd", "--system", "gateway-programs")
    topic, socket = f"device/{_THING}/commands/door", "/run/hsm-enroll/messages.sock"
    reader = block("python", "# commands.py", "docs/integrator.md").replace("~/gateway/messages.sock", socket)
    as_nobody = ("setpriv", "--reuid=nobody", "--regid=nogroup")
    program = ("sh", "-c", 'exec python3 -c "$1" 2>&1', "sh", reader)
    with gateway.drop_in(FORWARD, block("ini", socket, "docs/integrator.md")):
        gateway.wait_until_connected()
        stranger = machine.start(*as_nobody, "--clear-groups", *program)
        member = machine.start(*as_nobody, "--groups=gateway-programs", *program)
        assert member.stdout is not None
        assert member.stdout.readline() == "reading\n"
        for payload in ("open", "bye"):
            machine.run("hsm-enroll", "publish", "--queue", topic, payload)
        assert member.communicate()[0] == f"{topic} open\n{topic} bye\n"
        assert "PermissionError" in stranger.communicate()[0]
    machine.run("groupdel", "gateway-programs")


def test_a_service_that_hangs_is_started_anew(machine: Machine, gateway: Gateway) -> None:
    """The watchdog lets it be while it has nothing to do, and kills it when it does not go on."""
    with gateway.drop_in(FORWARD, _IMPATIENT):
        process, begun = gateway.service("MainPID"), int(gateway.service("ActiveEnterTimestampMonotonic"))
        machine.wait_for(
            "a sign of life after a while",
            lambda: int(gateway.service("WatchdogTimestampMonotonic")) > begun + _IDLE_MICROSECONDS,
        )
        assert gateway.service("MainPID") == process
        machine.run("systemctl", "kill", "--kill-whom=main", "--signal=STOP", FORWARD)
        machine.wait_for("another process", lambda: gateway.service("MainPID") not in {process, "0"})
        assert gateway.service("NRestarts") == "1"
        gateway.wait_until_connected()


def test_no_message_is_lost_by_a_power_cut(machine: Machine, cloud: Cloud, gateway: Gateway) -> None:
    """Killed while four programs write, and booted again, it sends every message that a program was promised."""
    cloud.stop()
    writers = [Writer(machine, f"device/{_THING}/line-{line}", 1_000_000) for line in range(4)]
    machine.wait_for("messages", lambda: all(writer.promised > 500 for writer in writers))
    machine.cut_power()
    assert all(writer.wait() != 0 for writer in writers)
    machine.boot()
    gateway.wait_until_connected()
    for writer in writers:
        _deliver(machine, cloud, writer)


def test_an_upgrade_restarts_the_service_and_loses_nothing(
    machine: Machine, packages: Packages, cloud: Cloud, gateway: Gateway
) -> None:
    """Upgraded by apt while a program writes, the service runs the new version, with the same identity."""
    before, certificate = gateway.service("MainPID"), gateway.certificate()
    writer = Writer(machine, f"device/{_THING}/upgrade", 200, pause=0.05)
    packages.install(machine, packages.current)
    assert packages.version in machine.run("hsm-enroll", "--version")
    gateway.wait_until_connected()
    assert gateway.service("MainPID") != before
    assert gateway.certificate() == certificate
    assert writer.wait() == 0
    _deliver(machine, cloud, writer)


def test_the_timer_renews_and_the_service_takes_the_new_identity(
    machine: Machine, cloud: Cloud, gateway: Gateway
) -> None:
    """Once a renewal is due, the timer has it done without a person, and messages go on with the new certificate."""
    before = gateway.certificate()
    gateway.configure("renew_at_lifetime_share = 0.000000001")
    with gateway.drop_in(TIMER, _SOON):
        machine.wait_for("a new certificate", lambda: gateway.certificate() != before)
    machine.wait_for("the end of the old one", lambda: before not in cloud.active_certificates(_THING))
    _deliver(machine, cloud, Writer(machine, f"device/{_THING}/renewed", 10))
    assert machine.run("systemctl", "is-system-running").strip() == "running"


def test_used_it_is_purged_without_a_trace(machine: Machine, packages: Packages, untouched: dict[str, str]) -> None:
    """After apt purge, the machine's files are what they were, with the state, the settings and the PIN gone."""
    said = packages.purge(machine)
    assert f"hsm-enroll fleet revoke {_THING}\n" in said
    assert _traces(machine, packages) == set()
    now = traces.files(machine.root, _OTHERS)
    assert {path for path in untouched.keys() | now.keys() if untouched.get(path) != now.get(path)} == set()


def test_its_services_run_as_the_packages_user(
    machine: Machine, packages: Packages, cloud: Cloud, gateway: Gateway
) -> None:
    """Enrolled as that user as the page says, the service sends what its programs hand over; it also renews by hand."""
    packages.install(machine, "sudo")
    packages.install(machine, packages.current)
    gateway.trust(cloud.ca())
    gateway.enroll_as_user(cloud.operate("invite", "create", "--thing", _USERS_THING, "--quiet").strip())
    gateway.encrypt_pin()
    gateway.wait_until_connected()
    assert gateway.service("User") == packages.name
    _deliver(machine, cloud, Writer(machine, f"device/{_USERS_THING}/first", 10, user=packages.name))
    by_hand = block("sh", "systemd-run").replace("--property=", f"--property=User={packages.name} --property=", 1)
    assert f"Thing        {_USERS_THING}\n" in machine.run("sh", "-e", "-c", by_hand)


def test_a_user_that_owns_a_token_stays(machine: Machine, packages: Packages) -> None:
    """apt purge removes all of the package's but this user, says so, and leaves the token its owner."""
    tokens = "/var/lib/softhsm/tokens"
    assert f"The user {packages.name} stays: it owns {tokens}/" in packages.purge(machine)
    assert _traces(machine, packages) == {line for line in _accounts(machine) if packages.name in line}
    assert packages.name in machine.run("find", tokens, "-mindepth", "1", "-printf", "%u\n").split()


def _deliver(machine: Machine, cloud: Cloud, writer: Writer) -> None:
    """Wait until a program has ended and what it was promised has arrived, and check that it is in order and whole."""
    writer.wait()
    machine.wait_for(writer.topic, lambda: len(set(cloud.recorded(writer.topic))) >= writer.promised)
    arrived = [int(message) for message in dict.fromkeys(cloud.recorded(writer.topic))]
    assert arrived == list(range(len(arrived)))


def _traces(machine: Machine, packages: Packages) -> set[str]:
    """Return what is left with the package's name: files, folders, users, groups; but for the packages themselves."""
    words = {packages.name, packages.name.replace("-", "_")}
    accounts = "\n".join(_accounts(machine))
    in_memory = machine.run("find", "/run", "-name", f"*{packages.name}*").split()
    on_disk = {path for path in traces.named(machine.root, words) if not path.startswith("srv/")}
    return on_disk | set(in_memory) | set(re.findall(rf".*{packages.name}.*", accounts))


def _accounts(machine: Machine) -> list[str]:
    """Return the lines of its users and groups."""
    return [line for name in ("passwd", "group") for line in (machine.root / "etc" / name).read_text().splitlines()]
