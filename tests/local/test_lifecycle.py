"""Up, down, and everything that may come between: no process, no port and no lock stays behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import requests
from moto.cloudformation import parsing
from moto.core.config import default_user_config
from moto.iot.models import IoTBackend
from moto.iot.responses import IoTResponse

from hsm_enroll.backend_folder import backend_folder
from hsm_enroll.errors import LocalCloudError
from hsm_enroll.local import mosquitto
from hsm_enroll.local.cloud import Endpoints, LocalCloud, Options, Ports, default_home, detach, down, running, serve
from hsm_enroll.local.home import Home
from tests.support.clients import (
    TIME_LIMIT,
    SoftwareDevice,
    Watched,
    connect,
    is_listening,
    ports,
    publish,
    supervisor,
)
from tests.support.devices import Observer, Operator
from tests.support.processes import children, wait_until

Watch = Callable[[Endpoints], list[Watched]]
Foreground = Callable[..., "tuple[subprocess.Popen[bytes], Endpoints]"]
ROOT = Path(mosquitto.__file__).parents[2]


@pytest.fixture
def foreground(home: Path) -> Iterator[Foreground]:
    """Starts ``serve`` in a process that is this one's child, and waits until it is up.

    Argument: the words before its command line.
    """
    with ExitStack() as started:

        def start(*before: str) -> tuple[subprocess.Popen[bytes], Endpoints]:
            reading, writing = os.pipe()
            command = [
                *before,
                sys.executable,
                "-m",
                "hsm_enroll.local",
                str(home),
                str(writing),
                json.dumps(Options().to_json()),
            ]
            process = started.enter_context(
                subprocess.Popen(
                    command, cwd=ROOT, pass_fds=[writing], stderr=subprocess.DEVNULL, start_new_session=True
                )
            )
            started.callback(process.kill)
            os.close(writing)
            with os.fdopen(reading) as announcement:
                assert '"endpoints"' in announcement.read()
            return process, running(home)

        yield start


def test_ctrl_c_ends_everything(foreground: Foreground, watch: Watch, home: Path) -> None:
    """Exit status 0, no process, no port, no record, and the home is free."""
    process, endpoints = foreground()
    watched = watch(endpoints)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole process group
    assert process.wait(TIME_LIMIT) == 0
    _assert_gone(endpoints, watched)
    with pytest.raises(LocalCloudError, match="No local cloud is running"):
        running(home)


def test_an_impatient_second_signal_leaves_nothing_either(foreground: Foreground, watch: Watch, home: Path) -> None:
    """Further signals end the process at once or find it gone; mosquitto goes with it, and the home is free."""
    process, endpoints = foreground()
    watched = watch(endpoints)
    for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
        process.send_signal(number)
    process.wait(TIME_LIMIT)
    _assert_gone(endpoints, watched)
    with pytest.raises(LocalCloudError, match="No local cloud is running"):
        running(home)


def test_sigterm_ends_everything_also_where_ctrl_c_is_ignored(foreground: Foreground, watch: Watch, home: Path) -> None:
    """As Ctrl-C does; Ctrl-C itself stays ignored if a script started the cloud with ``&``, where the shell does so."""
    process, endpoints = foreground("sh", "-c", 'trap "" INT; exec "$@"', "sh")
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
    assert int(status["SigIgn"], 16) & 1 << (signal.SIGINT - 1)  # proc(5): bit 0 is signal 1
    watched = watch(endpoints)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(TIME_LIMIT) == 0
    _assert_gone(endpoints, watched)
    with pytest.raises(LocalCloudError, match="No local cloud is running"):
        running(home)


def test_a_signal_during_the_start_is_not_lost(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told to end while it comes up, a cloud goes down as soon as it is up; afterwards signals mean what they did."""
    prepare, handlers = Home.prepare, [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    def interrupted(place: Home) -> None:
        signal.raise_signal(signal.SIGTERM)
        prepare(place)

    monkeypatch.setattr(Home, "prepare", interrupted)
    announced: list[Endpoints] = []
    serve(home, announced.append)
    assert not any(map(is_listening, ports(announced[0])))
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_sigkill_leaves_no_process(foreground: Foreground, watch: Watch, home: Path) -> None:
    """Killed outright, the supervisor takes mosquitto along; what it left is stale and known as such.

    The recorded number may belong to another process by then: ``down`` leaves that one alone.
    """
    process, endpoints = foreground()
    watched = watch(endpoints)
    process.kill()
    process.wait(TIME_LIMIT)
    _assert_gone(endpoints, watched)
    assert (home / "cloud.json").exists()
    with pytest.raises(LocalCloudError, match="No local cloud is running"):
        running(home)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as innocent:
        (home / "lock").write_text(str(innocent.pid))
        down(home)
        assert innocent.poll() is None
    again = detach(home, TIME_LIMIT)
    assert running(home) == again


def test_a_broker_that_dies_is_started_again_up_to_a_limit(
    foreground: Foreground, watch: Watch, home: Path, device: SoftwareDevice
) -> None:
    """D27: its log says so, and devices can connect again; in the end the cloud fails: no half of it stays up."""
    process, endpoints = foreground()
    device.enroll(endpoints)
    first = watch(endpoints)
    os.kill(first[1].pid, signal.SIGKILL)
    log = home / "logs" / "mqtt.log"
    wait_until(lambda: connect(endpoints, device.identity) == "admitted", "a connection", log)
    assert "mosquitto ended with status -9, and is started again" in log.read_text()
    assert first[1].is_gone()
    second = watch(endpoints)
    assert second[1].pid != first[1].pid
    assert process.poll() is None

    def kill_and_look() -> bool:
        for child in children(process.pid):
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        return process.poll() is not None

    wait_until(kill_and_look, "the end", log)
    assert process.returncode == 1
    _assert_gone(endpoints, second)
    assert not (home / "cloud.json").exists()


def test_ports_can_be_chosen(home: Path, tmp_path: Path) -> None:
    """D27: each of the five options of ``local up`` is about its own port."""
    with ExitStack() as free:
        numbers = [free.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in Ports._fields]
    options = [
        word for name, port in zip(Ports._fields, numbers, strict=True) for word in (f"--{name}-port", str(port))
    ]
    Operator(tmp_path / "operator", {}).json("local", "up", "--detach", "--home", str(home), *options)
    found = running(home)
    named = (found.api_url, found.mqtt_port, found.aws_endpoint_url, found.credentials_port, found.est_url)
    assert [int(str(where).rpartition(":")[2]) for where in named] == numbers
    assert all(map(is_listening, numbers))


@pytest.mark.parametrize("name", Ports._fields)
def test_a_port_that_is_in_use_is_named_with_its_option(home: Path, name: str) -> None:
    """D27: the error names the port, and its hint the option; nothing is left running."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        message = f"Port {port} on 127.0.0.1 cannot be used: Address already in use"
        options = Options(ports=Ports(**{name: port}))
        with pytest.raises(LocalCloudError, match=message) as caught, LocalCloud(home, options=options):
            pass
    assert caught.value.code == "local-cloud"
    assert f"--{name}-port" in caught.value.hint
    with Home(home).locked():
        pass


def test_detach_run_down(home: Path, watch: Watch, device: SoftwareDevice) -> None:
    """A detached cloud answers when ``detach`` returns, is found, and is gone when ``down`` returns; twice is fine.

    A second one in the same home is refused by an error that says what runs there, and does not disturb the first.
    After it, another has the same trust anchor; what was enrolled before is unknown there, and refused.
    """
    endpoints = detach(home, TIME_LIMIT)
    watched = watch(endpoints)
    assert running(home) == endpoints
    health = requests.get(endpoints.api_url + "/v1/health", verify=str(endpoints.ca_file), timeout=TIME_LIMIT)
    assert health.status_code == 200
    pid = supervisor(endpoints)
    with pytest.raises(LocalCloudError, match="already runs") as caught:
        detach(home, TIME_LIMIT)
    assert caught.value.hint.endswith(f"hsm-enroll local down --home {home}")
    assert running(home) == endpoints
    assert supervisor(endpoints) == pid
    anchor = endpoints.ca_file.read_bytes()
    device.enroll(endpoints)
    assert connect(endpoints, device.identity) == "admitted"
    down(home)
    _assert_gone(endpoints, watched, timeout=0)
    down(home)

    again = detach(home, TIME_LIMIT)
    assert again.ca_file.read_bytes() == anchor
    assert connect(again, device.identity) == "closed"
    device.enroll(again)
    assert connect(again, device.identity) == "admitted"


def test_down_where_nothing_ever_ran(tmp_path: Path) -> None:
    """Neither a missing nor an empty folder is an error, and nothing is made of it."""
    down(tmp_path / "missing")
    down(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_two_clouds_at_once(cloud: Endpoints, home: Path, device: SoftwareDevice) -> None:
    """They share no port and no CA: a device of the one is a stranger to the other."""
    other = detach(home, TIME_LIMIT)
    assert set(ports(cloud)).isdisjoint(ports(other))
    device.enroll(other)
    assert connect(other, device.identity) == "admitted"
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(other.api_url + "/v1/health", verify=str(cloud.ca_file), timeout=TIME_LIMIT)


def test_only_loopback_is_listened_on(cloud: Endpoints, watch: Watch) -> None:
    """Every listening socket of supervisor and mosquitto is bound to 127.0.0.1, and they are those that are told."""
    sockets = {inode for process in watch(cloud) for inode in _socket_inodes(process.pid)}
    listening = [
        fields[1].split(":")
        for table in ("tcp", "tcp6")
        for fields in map(str.split, Path(f"/proc/net/{table}").read_text().splitlines()[1:])
        if fields[3] == "0A" and fields[9] in sockets
    ]
    assert {address for address, _ in listening} == {socket.inet_aton("127.0.0.1")[::-1].hex().upper()}
    assert sorted(int(port, 16) for _, port in listening) == sorted(ports(cloud))


def test_in_this_process(home: Path, device: SoftwareDevice) -> None:
    """As a context manager: it works, refuses a second one, and leaves moto, environment and modules as they were."""
    before = (_children(), dict(os.environ), _moto())
    for _ in range(2):
        with LocalCloud(home) as cloud:
            with pytest.raises(LocalCloudError, match="already"), LocalCloud(home.with_name("second")):
                pass
            device_of_this_run = SoftwareDevice(device.thing, device.folder / str(cloud.endpoints.mqtt_port))
            device_of_this_run.enroll(cloud.endpoints)
            observer = Observer(cloud.endpoints.to_json(), "#")
            publish(cloud.endpoints, device_of_this_run.identity, f"certtest/{device.thing}", "hello")
            assert observer.message() == (f"certtest/{device.thing}", "hello")
            observer.close()
        assert not any(map(is_listening, ports(cloud.endpoints)))
    assert (_children(), dict(os.environ), _moto()) == before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("template.yaml", "{", "cannot be deployed"),
        ("template.yaml", '{"Resources": {"Bucket": {"Type": "AWS::S3::Bucket"}}}', "its outputs are"),
        ("handler.py", "import no_such_module", "cannot be loaded"),
    ],
)
def test_a_start_that_fails_leaves_nothing(home: Path, tmp_path: Path, name: str, content: str, message: str) -> None:
    """A broken template or handler, met when broker and AWS are already up: all is taken down, and the home is free."""
    before = (_children(), dict(os.environ))
    function = tmp_path / "function"
    shutil.copytree(backend_folder(), function)
    (function / name).write_text(content)
    with pytest.raises(LocalCloudError, match=message), LocalCloud(home, function):
        pass
    assert (_children(), dict(os.environ)) == before
    with LocalCloud(home):
        pass


def test_a_detached_start_that_fails_says_why(home: Path) -> None:
    """The error is the child's own, and names its log."""
    home.mkdir()
    (home / "ca.pem").write_text("junk")
    with pytest.raises(LocalCloudError, match="damaged") as caught:
        detach(home, TIME_LIMIT)
    assert str(home / "logs" / "supervisor.log") in caught.value.message
    assert str(home) in caught.value.hint


def test_a_detached_start_that_takes_too_long_is_ended(home: Path) -> None:
    """The time limit is kept, and the process that was starting is gone."""
    before = _children()
    began = time.monotonic()
    with pytest.raises(LocalCloudError, match=r"not up after 0\.2 seconds"):
        detach(home, 0.2)
    assert time.monotonic() - began < TIME_LIMIT / 2
    assert _children() == before
    with pytest.raises(LocalCloudError, match="No local cloud is running"):
        running(home)


@pytest.mark.parametrize(("program", "package"), [("mosquitto", "mosquitto"), ("setpriv", "util-linux")])
def test_a_missing_program_is_named_with_its_package(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, package: str
) -> None:
    """Without mosquitto there is no cloud, and the hint says what to install."""
    binaries = tmp_path / "bin"
    binaries.mkdir()
    for other in {"mosquitto", "setpriv"} - {program}:
        (binaries / other).symlink_to(shutil.which(other, path="/usr/bin:/usr/sbin") or "")
    monkeypatch.setenv("PATH", str(binaries))
    monkeypatch.setattr(mosquitto, "SYSTEM_PATH", str(binaries))
    with pytest.raises(LocalCloudError, match=f"{program} is not installed") as caught, LocalCloud(home):
        pass
    assert f"apt-get install {package}" in caught.value.hint


def test_mosquitto_is_found_outside_the_path(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian puts it into /usr/sbin, which is not on every user's PATH."""
    monkeypatch.setenv("PATH", "/usr/bin")
    with LocalCloud(home) as cloud:
        assert is_listening(cloud.endpoints.mqtt_port)


def test_a_broker_that_does_not_start_names_its_log(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mosquitto that ends by itself is an error at once, what it said can be read, and nothing is left."""
    before = _children()
    program = tmp_path / "bin" / "mosquitto"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho no memory >&2; exit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    with pytest.raises(LocalCloudError, match=r"mosquitto\.log"), LocalCloud(home):
        pass
    assert _children() == before
    assert "no memory" in (home / "logs" / "mosquitto.log").read_text()


def test_a_home_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    """A file in its place is named in the error."""
    (tmp_path / "file").touch()
    with pytest.raises(LocalCloudError, match="cannot be used"):
        detach(tmp_path / "file" / "home", TIME_LIMIT)


def test_a_file_that_cannot_be_written_is_an_error(home: Path) -> None:
    """Whichever file of the home it is: the error names it, and the home is free again."""
    (home / "server.pem.new").mkdir(parents=True)
    with pytest.raises(LocalCloudError, match=r"server\.pem\.new"), LocalCloud(home):
        pass
    (home / "server.pem.new").rmdir()
    with Home(home).locked():
        pass


def test_everything_in_the_home_is_its_owners_alone(cloud: Endpoints) -> None:
    """The folder has mode 0700; keys have mode 0600."""
    assert cloud.home.stat().st_mode & 0o777 == 0o700
    keys = [*cloud.home.glob("*.key")]
    assert {key.name for key in keys} == {"ca.key", "server.key", "observer.key"}
    assert {key.stat().st_mode & 0o777 for key in keys} == {0o600}


@pytest.mark.parametrize(
    ("state", "expected"),
    [("/var/state", "/var/state"), ("", "{home}/.local/state"), ("relative", "{home}/.local/state")],
)
def test_the_default_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, expected: str) -> None:
    """XDG Base Directory: the state folder, where it is given as an absolute path."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", state)
    assert default_home() == Path(expected.format(home=tmp_path)) / "hsm-enroll" / "local"


def test_asking_for_a_cloud_imports_nothing_heavy() -> None:
    """``local env`` and ``local down`` need neither AWS's libraries nor a web server."""
    program = "import sys, hsm_enroll.local.cloud; print(*sys.modules)"
    output = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {"boto3", "moto", "werkzeug", "cryptography"}.isdisjoint(output.stdout.split())


def _assert_gone(endpoints: Endpoints, watched: list[Watched], timeout: float = TIME_LIMIT) -> None:
    assert all(process.is_gone(timeout) for process in watched)
    assert not any(map(is_listening, ports(endpoints)))


def _moto() -> object:
    methods = {**vars(IoTBackend)}, IoTResponse.list_certificates
    return methods, dict(default_user_config["iot"]), parsing.parse_resource, parsing.logger.disabled


def _children() -> set[int]:
    return set(children(os.getpid()))


def _socket_inodes(pid: int) -> Iterator[str]:
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        target = str(descriptor.readlink())
        if target.startswith("socket:["):
            yield target[len("socket:[") : -1]
