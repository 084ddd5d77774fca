"""An exported identity is used by the programs themselves, against the local cloud, as their files say."""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import tpm2
from tests.support.broker import free_port
from tests.support.clients import connect_packet
from tests.support.devices import Cloud, Device, Observer
from tests.support.processes import children, program, running, wait_until
from tests.support.self_signed import pem, self_signed
from tests.support.tpm_device import TpmDevice

_TIME_LIMIT = 60
_ADMITTED = b"\x20\x02\x00\x00"  # CONNACK of MQTT 3.1.1

# What a program of an integrator's may look like; paho-mqtt and urllib know nothing of tokens.
_HTTPS = """
import sys, urllib.request
import hsm_enroll_ssl
request = urllib.request.Request(sys.argv[1], headers={"x-amzn-iot-thingname": sys.argv[2]})
print(urllib.request.urlopen(request, context=hsm_enroll_ssl.context()).read().decode())
"""
_PYTHON_GET = (
    "python3 -c 'import hsm_enroll_ssl, sys, urllib.request; "
    "urllib.request.urlopen(sys.argv[1], context=hsm_enroll_ssl.context())' https://…"
)
_PAHO = """
import os, sys
import hsm_enroll_ssl
from paho.mqtt.client import Client, CallbackAPIVersion
client = Client(CallbackAPIVersion.VERSION2, client_id=sys.argv[3])
client.tls_set_context(hsm_enroll_ssl.context())
client.connect(sys.argv[1], int(sys.argv[2]))
client.loop_start()
sent = client.publish(f"certtest/{sys.argv[3]}", "by paho", qos=1)
sent.wait_for_publish(30)
client.disconnect()
"""


def _enrolled(folder: Path, cloud: Cloud, fresh_device: Device, *options: str) -> Device:
    made = Device(folder / "device", cloud.environment)
    made.take_token_of(fresh_device)
    made.json("init", "--thing", f"export-{folder.name.replace('_', '-')}-{os.getpid()}", "--no-publish", *options)
    return made


@pytest.fixture(scope="module")
def enrolled(cloud: Cloud, fresh_device: Device, tmp_path_factory: pytest.TempPathFactory) -> Device:
    """A device with an EC key, which these tests share."""
    return _enrolled(tmp_path_factory.mktemp("ec"), cloud, fresh_device)


@pytest.fixture(scope="module")
def rsa(cloud: Cloud, fresh_device: Device, tmp_path_factory: pytest.TempPathFactory) -> Device:
    """One with an RSA key, which signs otherwise."""
    return _enrolled(tmp_path_factory.mktemp("rsa"), cloud, fresh_device, "--key-type", "rsa-2048")


def _thing(device: Device) -> str:
    return str(json.loads((device.home / "identity.json").read_text())["thing_name"])


def _export(device: Device, name: str) -> Path:
    folder = device.folder / name
    for file in device.json("export", name, "--output", str(folder))["files"]:
        assert (folder / file["name"]).read_text() == file["text"]
        assert device.pin() not in file["text"]
    return folder


def _command(file: Path, begin: str) -> str:
    """Return the command line in a file's comments that has these words."""
    (line,) = (line for line in file.read_text().splitlines() if line.startswith("#") and begin in line)
    return line.lstrip("# ")


def _shell(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command line in a folder, with nothing in its environment that leads to the device."""
    return subprocess.run(
        ["sh", "-c", command],
        cwd=folder,
        env={"PATH": os.environ["PATH"] + ":/usr/sbin", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_TIME_LIMIT,
        check=False,
    )


def _provider(device: Device) -> str:
    """Return a URL that only devices are answered at: that of the credentials of their role alias."""
    alias = json.loads((device.home / "identity.json").read_text())["role_alias"]
    return f"https://{alias['endpoint']}:{alias['port']}/role-aliases/{alias['name']}/credentials"


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
@pytest.mark.parametrize("key", ["enrolled", "rsa"])
def test_openssl_connects(key: str, version: str, request: pytest.FixtureRequest) -> None:
    """The command in openssl.cnf opens a connection on which the broker admits the Thing."""
    device: Device = request.getfixturevalue(key)
    folder = _export(device, "openssl")
    command = ["sh", "-c", f"exec env {_command(folder / 'openssl.cnf', 'openssl s_client')} {version} -quiet"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, cwd=folder, env={"PATH": os.environ["PATH"]}, **pipes) as process:  # type: ignore[call-overload]
        process.stdin.write(connect_packet(_thing(device)))
        process.stdin.flush()
        assert process.stdout.read(len(_ADMITTED)) == _ADMITTED
        process.kill()


def test_curl_sends_requests(enrolled: Device, cloud: Cloud) -> None:
    """With curl.conf the credentials provider, which wants a client certificate, answers; without it, it does not."""
    folder = _export(enrolled, "curl")
    rest = f"--silent --show-error --header x-amzn-iot-thingname:{_thing(enrolled)}"
    command = _command(folder / "curl.conf", "curl --config").replace("https://…", f"{_provider(enrolled)} {rest}")
    done = _shell(command, folder)
    assert json.loads(done.stdout)["credentials"]["sessionToken"], done.stderr
    without = f"curl {_provider(enrolled)} {rest} --cacert {cloud.document['caFile']} --fail"
    assert _shell(without, folder).returncode != 0


def test_mosquittos_clients_run_from_any_folder(
    enrolled: Device, observe: Callable[[str], Observer], tmp_path: Path
) -> None:
    """The script publishes and subscribes, wherever it is called."""
    topic = f"certtest/{_thing(enrolled)}"
    observer = observe(topic)
    script = _export(enrolled, "mosquitto") / "mosquitto.sh"
    done = _shell(f"sh {script} mosquitto_pub -q 1 -t {topic} -m 'by mosquitto'", tmp_path)
    assert done.returncode == 0, done.stderr
    assert observer.message() == (topic, "by mosquitto")
    link = tmp_path / "client"
    link.symlink_to(script)
    own = f"device/{_thing(enrolled)}/echo"
    done = _shell(f"{link} mosquitto_rr -t {own} -e {own} -m request -W 20", tmp_path)
    assert done.stdout == "request\n", done.stderr
    assert list(tmp_path.iterdir()) == [link]


def test_a_bridge_goes_through_stunnel(enrolled: Device, observe: Callable[[str], Observer], tmp_path: Path) -> None:
    """Messages of a mosquitto on the gateway arrive at the cloud's broker, earlier ones too; commands come back."""
    topic = f"device/{_thing(enrolled)}/temperature"
    observer = observe(topic)
    folder, port = _export(enrolled, "stunnel"), str(free_port())
    for file in folder.iterdir():  # tests run at the same time
        file.write_text(file.read_text().replace("127.0.0.1:8884", f"127.0.0.1:{port}"))
    command = _command(folder / "stunnel.conf", "stunnel4 ").partition("stunnel4 ")[0].split()
    configuration = folder / "mosquitto.conf"
    local = f"listener 0 {tmp_path / 'socket'}\nallow_anonymous true\nuser root\ninclude_dir {tmp_path / 'conf.d'}\n"
    configuration.write_text(local)
    (tmp_path / "conf.d").mkdir()
    bridge = (folder / "bridge.conf").read_text()
    (tmp_path / "conf.d" / "bridge.conf").write_text(f"{bridge}restart_timeout 1\n")
    tunnel_log, broker_log = tmp_path / "stunnel.log", tmp_path / "mosquitto.log"
    environment = dict(variable.split("=", 1) for variable in command)
    stunnel = [program("stunnel4", package="stunnel4"), str(folder / "stunnel.conf")]
    mosquitto = [program("mosquitto", package="mosquitto"), "-c", str(configuration)]
    at_mosquitto = ["--unix", str(tmp_path / "socket"), "-q", "1"]
    with running(mosquitto, broker_log):
        wait_until((tmp_path / "socket").is_socket, "mosquitto's start", broker_log)
        publish = ["mosquitto_pub", *at_mosquitto, "-t", topic, "-m"]
        subprocess.run([*publish, "before"], check=True, timeout=_TIME_LIMIT)
        with running(stunnel, tunnel_log, environment):
            assert observer.message() == (topic, "before")
            subprocess.run([*publish, "by bridge"], check=True, timeout=_TIME_LIMIT)
            assert observer.message() == (topic, "by bridge")
            commands, heard = f"device/{_thing(enrolled)}/commands", tmp_path / "heard"
            listen = ["stdbuf", "-oL", "mosquitto_sub", *at_mosquitto, "-d", "-C", "1", "-t", f"{commands}/#"]
            with running(listen, heard):
                wait_until(lambda: "Subscribed" in heard.read_text(), "a subscription", heard)
                enrolled.json("publish", f"{commands}/report", "now")
                wait_until(lambda: "\nnow\n" in heard.read_text(), "a command", heard)


def test_pythons_ssl_uses_the_key(enrolled: Device, cloud: Cloud, observe: Callable[[str], Observer]) -> None:
    """urllib gets an answer that only devices get, and paho-mqtt publishes, in an interpreter of their own."""
    thing = _thing(enrolled)
    folder = _export(enrolled, "python-ssl")
    observer = observe(f"certtest/{thing}")
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(folder)}
    arguments = {_HTTPS: [_provider(enrolled), thing], _PAHO: ["localhost", str(cloud.document["mqttPort"]), thing]}
    printed = {
        text: subprocess.run(
            [sys.executable, "-c", text, *given],
            env=environment,
            capture_output=True,
            text=True,
            timeout=_TIME_LIMIT,
            check=True,
        ).stdout
        for text, given in arguments.items()
    }
    assert json.loads(printed[_HTTPS])["credentials"]["sessionToken"]
    assert observer.message() == (f"certtest/{thing}", "by paho")


@pytest.mark.parametrize(
    ("name", "begin", "rest"),
    [
        ("openssl", "openssl s_client", ""),
        ("curl", "curl --config", " --silent --show-error"),
        ("mosquitto", "sh mosquitto.sh", ""),
        ("python-ssl", "", _PYTHON_GET),
    ],
)
def test_a_server_that_is_not_trusted_is_refused(
    enrolled: Device, monkeypatch: pytest.MonkeyPatch, name: str, begin: str, rest: str
) -> None:
    """Each program checks the server by the authorities of the export, before it sends anything."""
    foreign = enrolled.folder / "foreign-ca.pem"
    foreign.write_text(pem(self_signed()))
    monkeypatch.setitem(enrolled.extra, "HSM_ENROLL_CA_FILE", str(foreign))
    folder = _export(enrolled, name)
    file = next(file for file in folder.iterdir() if file.suffix in {".cnf", ".conf", ".sh", ".py"})
    command = (_command(file, begin) if begin else "") + rest
    done = _shell(command.replace("https://…", _provider(enrolled)), folder, PYTHONPATH=str(folder))
    assert done.returncode != 0
    assert re.search("certificate|TLS error|Protocol error", done.stderr), done.stderr


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("h.KEY = h.KEY.replace('serial=', 'serial=ff')", "SSLError: the token's key: "),
        ("h.CERTIFICATE_FILE = h.CA_FILE", "SSLError: the key is not the certificate's: "),
        ("h.MODULE = '/dev/null'", "SSLError: "),
        ("h._ssl = __import__('math')", "RuntimeError: OpenSSL "),
        ("h.ssl.OPENSSL_VERSION_NUMBER += 1", "RuntimeError: the library that was found is not OpenSSL "),
    ],
    ids=["token", "certificate", "module", "static", "foreign"],
)
def test_python_says_why_the_key_cannot_be_used(enrolled: Device, change: str, expected: str) -> None:
    """Each obstacle has a message of its own, with OpenSSL's reasons."""
    folder = _export(enrolled, "python-ssl")
    text = f"import hsm_enroll_ssl as h\n{change}\nh.context()\n"
    done = subprocess.run(
        [sys.executable, "-c", text],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=_TIME_LIMIT,
        check=False,
    )
    assert expected in done.stderr.splitlines()[-1]


def test_greengrass_finds_what_its_configuration_names(enrolled: Device) -> None:
    """The commands in config.yaml put the certificate beside the key, in the slot that the file names."""
    folder = _export(enrolled, "greengrass")
    file = folder / "config.yaml"
    (slot,) = (line.partition(": ")[2] for line in file.read_text().splitlines() if " slot: " in line)
    listed = [token for module in enrolled.json("tokens")["modules"] for token in module["tokens"]]
    assert [token["slot"] for token in listed if token["label"] == "gateway"] == [int(slot)]
    for command in (_command(file, "openssl x509"), f"{_command(file, 'pkcs11-tool')} --pin env:TESTS_PIN"):
        done = _shell(command, folder, TESTS_PIN=enrolled.pin())
        assert done.returncode == 0, done.stderr
    (key_id,) = enrolled.key_ids()
    read = enrolled.pkcs11_tool("--read-object", "--type", "cert", "--id", key_id)
    assert read == (folder / "certificate.der").read_bytes()
    labels = re.findall(r"label:\s+(\S+)", enrolled.pkcs11_tool("--list-objects").decode())
    assert labels == [f"hsm-enroll-{key_id}"] * 3  # certificate, private and public key


def test_a_pin_file_that_would_burn_a_try_is_refused(enrolled: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PIN file with a line end works for hsm-enroll; export and run refuse it, and say how to take that off."""
    file = enrolled.folder / "pin-with-line-end"
    file.write_text(f"{enrolled.pin()}\n")
    file.chmod(0o600)
    monkeypatch.setitem(enrolled.extra, "HSM_ENROLL_PIN_FILE", str(file))
    assert enrolled.refused("export", "curl") == (2, "usage")
    error = enrolled.error("run", "--json", "true")
    assert _shell(error["hint"].rpartition(": ")[2], enrolled.folder).returncode == 0
    assert enrolled.json("export", "curl")["files"]
    assert enrolled.json("doctor", "--login")["ok"]


@pytest.fixture(scope="module")
def in_a_tpm(cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TpmDevice]:
    """A device whose key is in an emulated TPM, which is behind a resource manager."""
    folder = tmp_path_factory.mktemp("tpm")
    (folder / "tpm").mkdir()
    with tpm2.provided(folder / "tpm") as tpm:
        made = TpmDevice(folder / "device", cloud.environment, tpm=tpm)
        made.create_token()
        made.json("init", "--thing", f"export-tpm-{os.getpid()}", "--no-publish")
        yield made


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose path leaves room for a socket's."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _assert_a_killed_run_takes_its_server_with_it(device: Device) -> None:
    """Kill run, and wait until the kernel has ended the server; its program goes on."""
    process = device.start("run", "cat", stdin=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("running\n")
    process.stdin.flush()
    assert process.stdout.readline() == "running\n"
    (server,) = (child for child in children(process.pid) if "p11-kit" in str(Path(f"/proc/{child}/exe").readlink()))
    ended = os.pidfd_open(server)
    process.kill()
    assert select.select([ended], [], [], _TIME_LIMIT)[0] == [ended]
    os.close(ended)
    process.communicate(timeout=_TIME_LIMIT)


def test_a_key_in_a_tpm_is_used_through_p11_kits_server(
    in_a_tpm: TpmDevice, observe: Callable[[str], Observer], tmp_path: Path, short: Path
) -> None:
    """tpm2-pkcs11 fails in a process where curl and others have made the engine OpenSSL's default: they do without."""
    thing = _thing(in_a_tpm)
    topic = f"certtest/{thing}"
    observer = observe(topic)
    # How a program finds the bus of the resource manager is the machine's matter; here it is the tests'.
    outside = {"DBUS_SESSION_BUS_ADDRESS": in_a_tpm.environment["DBUS_SESSION_BUS_ADDRESS"], "TMPDIR": str(tmp_path)}
    folder = _export(in_a_tpm, "curl")
    file, url = folder / "curl.conf", _provider(in_a_tpm)
    command = _command(file, "curl --config").replace("https://…", f"{url} -sS -H x-amzn-iot-thingname:{thing}")
    started = _command(file, "p11-kit server")
    done = _shell(f"{started}; {command}; kill $P11_KIT_SERVER_PID", folder, **outside)
    assert json.loads(done.stdout)["credentials"]["sessionToken"], done.stderr
    (left,) = tmp_path.iterdir()  # the folder of the server's socket
    script = _export(in_a_tpm, "mosquitto") / "mosquitto.sh"
    done = _shell(f"echo by a TPM | sh {script} mosquitto_pub -q 1 -t {topic} -l", folder, **outside)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == [left]
    assert observer.message() == (topic, "by a TPM")
    log = in_a_tpm.folder / "subscriber"
    with running(["stdbuf", "-oL", "sh", str(script), "mosquitto_sub", "-t", topic, "-d"], log, outside) as client:
        wait_until(lambda: "Subscribed" in log.read_text(), "a subscription", log)
        client.terminate()  # as a supervisor does, who knows of the script alone
        client.wait(_TIME_LIMIT)
    assert list(tmp_path.iterdir()) == [left]
    blanks = short / "a %41;,é"
    blanks.mkdir()
    in_a_tpm.extra["TMPDIR"] = str(blanks)
    done = in_a_tpm.run("run", "--", "curl", "-sS", "-H", f"x-amzn-iot-thingname:{thing}", url)
    assert json.loads(done.stdout)["credentials"]["sessionToken"], done.stderr
    assert list(blanks.iterdir()) == []
    _assert_a_killed_run_takes_its_server_with_it(in_a_tpm)
    assert in_a_tpm.run("run", "true").returncode == 0
    assert list(blanks.iterdir()) == []
    in_a_tpm.extra["TMPDIR"] = str(blanks / ("x" * 60))
    Path(in_a_tpm.extra["TMPDIR"]).mkdir()
    assert "TMPDIR" in in_a_tpm.error("run", "--json", "true")["hint"]
    # Where the engine is no default, the module is loaded as any other.
    folder = _export(in_a_tpm, "python-ssl")
    environment = {**outside, "PATH": os.environ["PATH"], "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", _HTTPS, url, thing], env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["credentials"]["sessionToken"]
