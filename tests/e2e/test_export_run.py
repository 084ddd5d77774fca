"""``hsm-enroll run``: a program has the identity in its environment, and else runs as if it had been started itself."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.devices import Cloud, Device, Observer
from tests.support.pages import code, page
from tests.support.processes import program

_TIME_LIMIT = 60
_AWS_KEYS = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_DEFAULT_PROFILE"}
# Says that it runs, and then which signals it gets; ends at SIGTERM. With an argument, the first signal makes it leave
# the terminal's foreground.
_LISTENER = """
import os, signal, sys
def told(number, frame):
    if sys.argv[1:]:
        os.setpgrp()
    os.write(1, f"{signal.Signals(number).name}\\n".encode())
    if number == signal.SIGTERM:
        sys.exit(5)
for name in ("SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGTERM"):
    signal.signal(signal.Signals[name], told)
signal.alarm(60)  # or else a test that fails would wait for ever
os.write(1, b"ready\\n")
while True:
    signal.pause()
"""


@pytest.fixture(scope="module")
def enrolled(cloud: Cloud, fresh_device: Device, tmp_path_factory: pytest.TempPathFactory) -> Device:
    """A device that these tests share; programs find a folder for temporary files that only they use."""
    made = Device(tmp_path_factory.mktemp("run") / "device", cloud.environment)
    made.take_token_of(fresh_device)
    made.json("init", "--thing", f"run-{os.getpid()}", "--no-publish")
    (made.folder / "tmp").mkdir()
    made.extra["TMPDIR"] = str(made.folder / "tmp")
    return made


def _alias(device: Device) -> dict[str, str]:
    alias: dict[str, str] = json.loads((device.home / "identity.json").read_text())["role_alias"]
    return alias


def test_curl_and_openssl_use_the_identity_without_a_word(enrolled: Device) -> None:
    """curl gets an answer that only devices get; OpenSSL finds engine and module by its configuration."""
    alias = _alias(enrolled)
    url = f"https://{alias['endpoint']}:{alias['port']}/role-aliases/{alias['name']}/credentials"
    header = f"x-amzn-iot-thingname:run-{os.getpid()}"
    done = enrolled.run("run", "--", "curl", "--silent", "--show-error", "--header", header, url)
    assert json.loads(done.stdout)["credentials"]["sessionToken"], done.stderr
    sign = 'openssl dgst -sha256 -engine pkcs11 -keyform engine -sign "$HSM_ENROLL_KEY_URI" -out "$1" "$1.txt"'
    check = 'openssl x509 -in "$HSM_ENROLL_CERTIFICATE_FILE" -noout -pubkey >"$1.pub" && openssl dgst -sha256'
    text = f'echo hello >"$1.txt" && {sign} && {check} -verify "$1.pub" -signature "$1" "$1.txt"'
    done = enrolled.run("run", "--", "sh", "-c", text, "sh", str(enrolled.folder / "signature"))
    assert "Verified OK" in done.stdout, done.stderr


def test_mosquittos_clients_are_in_the_programs_folder(enrolled: Device, observe: Callable[[str], Observer]) -> None:
    """The script that the folder has publishes as the Thing that the environment names."""
    topic = f"certtest/run-{os.getpid()}"
    observer = observe(topic)
    client = '"$HSM_ENROLL_RUN_FOLDER/mosquitto.sh" mosquitto_pub -q 1 -t "certtest/$HSM_ENROLL_THING" -m "by run"'
    assert enrolled.run("run", "--", "sh", "-c", client).returncode == 0
    assert observer.message() == (topic, "by run")


def test_awss_sdk_and_command_list_a_bucket_with_the_identitys_credentials(
    enrolled: Device, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both get their credentials from the device's key: others in the environment do not reach the program."""
    s3 = cloud.aws("s3")
    bucket = f"run-{os.getpid()}"
    s3.create_bucket(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key="reading", Body=b"21.5")
    monkeypatch.setitem(enrolled.extra, "AWS_ACCESS_KEY_ID", "AKIAWRONG")
    listing = (
        "import boto3\n"
        "session = boto3.session.Session()\n"
        f"found = session.client('s3').list_objects_v2(Bucket={bucket!r})['Contents']\n"
        "print(*(each['Key'] for each in found), session.get_credentials().method)\n"
        "print(boto3.client('sts').get_caller_identity()['Arn'])\n"
    )
    done = enrolled.run("run", "--", sys.executable, "-c", listing)
    assert done.returncode == 0, done.stderr
    listed, arn = done.stdout.splitlines()
    assert listed == "reading custom-process"
    assert ":assumed-role/" in arn
    # Before version 2.13 AWS's command reads no endpoint from the environment.
    there = ("--endpoint-url", cloud.document["awsEndpointUrl"], "--region", cloud.document["region"])
    done = enrolled.run("run", "--", program("aws", package="awscli"), "s3", "ls", f"s3://{bucket}", *there)
    assert done.stdout.split()[-1:] == ["reading"], done.stderr


def test_the_export_for_aws_is_such_a_profile(enrolled: Device, cloud: Cloud) -> None:
    """The file of export works alone: nothing in the program's environment leads to the device."""
    folder = enrolled.folder / "aws"
    enrolled.json("export", "aws", "--output", str(folder))
    environment = {
        "PATH": os.environ["PATH"],
        "AWS_CONFIG_FILE": str(folder / "aws-config"),
        "AWS_PROFILE": "hsm-enroll",
        **{name: cloud.environment[name] for name in ("AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION")},
    }
    text = "import boto3; print(boto3.client('sts').get_caller_identity()['Arn'])"
    done = subprocess.run(
        [sys.executable, "-c", text], env=environment, capture_output=True, text=True, timeout=_TIME_LIMIT, check=False
    )
    assert ":assumed-role/" in done.stdout, done.stderr


def test_the_variables_are_those_of_the_page(enrolled: Device) -> None:
    """docs/integrator.md lists what is set, and nothing else is changed but AWS's keys, which are taken away."""
    given = {**enrolled.environment, **dict.fromkeys(_AWS_KEYS, "x")}
    program = "import json, os; print(json.dumps(dict(os.environ)))"
    command = [sys.executable, "-m", "hsm_enroll", "run", "--", sys.executable, "-c", program]
    run = subprocess.run(command, env=given, capture_output=True, text=True, timeout=_TIME_LIMIT, check=True)
    seen: dict[str, str] = json.loads(run.stdout)
    changed = {name for name in seen.keys() | given.keys() if seen.get(name) != given.get(name)} - {"LC_CTYPE"}
    documented = {name for row in page("docs/integrator.md").table("variable") for name in code(row[0])}
    same = {"HSM_ENROLL_CA_FILE", "HSM_ENROLL_MQTT_ENDPOINT", "HSM_ENROLL_MQTT_PORT"}  # what the tests have set
    assert changed - _AWS_KEYS | same == documented
    assert _AWS_KEYS & seen.keys() == set()
    assert enrolled.pin() not in run.stdout


@pytest.mark.parametrize(
    ("program", "status"),
    [("exit 0", 0), ("exit 77", 77), ("kill -KILL $$", 137), ("kill -INT $$", 130)],
    ids=["done", "failed", "killed", "interrupted"],
)
def test_the_programs_exit_status_is_that_of_run(enrolled: Device, program: str, status: int) -> None:
    """Also that of one that a signal has ended; nothing is left in the folder for temporary files."""
    done = enrolled.run("run", "sh", "-c", program)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", "")
    assert list((enrolled.folder / "tmp").iterdir()) == []


def test_what_a_killed_run_leaves_is_removed_once_its_program_has_ended(enrolled: Device) -> None:
    """Its folder stays as long as its program, which goes on; then another run removes it, and none of one that lives.

    A folder without a lock, as earlier versions had, is left alone: its run may be alive.
    """
    text = 'echo "$HSM_ENROLL_RUN_FOLDER"; read -r line; cat "$CURL_HOME/.curlrc"'
    killed, alive = (enrolled.start("run", "sh", "-c", text, stdin=subprocess.PIPE) for _ in range(2))
    left, kept = (process.stdout.readline().strip() for process in (killed, alive) if process.stdout is not None)
    tmp = enrolled.folder / "tmp"
    earlier = tmp / "hsm-enroll-run-abcd1234"
    earlier.mkdir()
    killed.kill()
    killed.wait()
    assert enrolled.run("run", "true").returncode == 0
    assert {str(folder) for folder in tmp.iterdir()} == {left, kept, str(earlier)}
    configuration, _ = killed.communicate("\n", timeout=_TIME_LIMIT)
    assert "key" in configuration
    listed = enrolled.run("run", "sh", "-c", 'ls -d "$TMPDIR"/*; echo "$HSM_ENROLL_RUN_FOLDER"').stdout.split()
    assert set(listed) == {kept, str(earlier), listed[-1]}
    alive.communicate("\n", timeout=_TIME_LIMIT)
    earlier.rmdir()
    assert (alive.returncode, list(tmp.iterdir())) == (0, [])


def test_a_pin_in_a_variable_is_not_passed_on(enrolled: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program does not get it, as every program that it starts would; a warning says what to do instead."""
    pin = enrolled.pin()
    monkeypatch.setitem(enrolled.extra, "HSM_ENROLL_PIN", pin)
    done = enrolled.run("run", "env")
    assert "HSM_ENROLL_THING=" in done.stdout
    assert "HSM_ENROLL_PIN=" not in done.stdout
    assert pin not in done.stdout
    assert done.stderr.startswith("warning: the PIN in HSM_ENROLL_PIN is not passed on to the program")
    monkeypatch.setitem(enrolled.extra, "HSM_ENROLL_PIN_FILE", str(enrolled.home / "pin"))
    assert enrolled.run("run", "true").stderr == ""


def test_whoever_ignores_the_end_of_children_gets_the_status_too(enrolled: Device) -> None:
    """A parent may have passed that on, and then the kernel would keep no status."""
    command = ["env", "--ignore-signal=CHLD", sys.executable, "-m", "hsm_enroll", "run", "sh", "-c", "exit 77"]
    run = subprocess.run(command, env=enrolled.environment, capture_output=True, text=True, timeout=60, check=False)
    assert (run.returncode, run.stderr) == (77, "")


def test_the_program_may_change_its_folder(enrolled: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths of hsm-enroll's own variables, and of TMPDIR, are whole for it; arguments may be no UTF-8."""
    folder, home = enrolled.folder / "tmp", f"../{enrolled.home.name}"
    monkeypatch.chdir(folder)
    monkeypatch.setitem(enrolled.extra, "HSM_ENROLL_HOME", home)
    monkeypatch.setitem(enrolled.extra, "TMPDIR", ".")
    text = 'cd /; cat "$CURL_HOME/.curlrc"; echo "$HSM_ENROLL_HOME"; printf %s "$1" | od -An -tx1'
    done = enrolled.run("run", "sh", "-c", text, "sh", "\udcfe")
    assert done.stdout.splitlines()[-2:] == [f"{folder}/{home}", " fe"]
    assert (done.stderr, list(folder.iterdir())) == ("", [])


def test_a_program_is_ended_by_a_closed_pipe(enrolled: Device) -> None:
    """Python ignores SIGPIPE and SIGXFSZ, and what a program inherits so it ignores, too: ``yes | head`` complains."""
    done = enrolled.run("run", "grep", "SigIgn", "/proc/self/status")
    ignored = int(done.stdout.split()[1], 16)
    assert [number for number in (signal.SIGPIPE, signal.SIGXFSZ) if ignored >> number - 1 & 1] == []


def test_stdin_stdout_and_arguments_are_the_programs_own(enrolled: Device) -> None:
    """What stands after PROGRAM is not run's, even if it looks so; input and output go through."""
    text = 'cat; printf "%s " "$@"; echo problem >&2'
    done = enrolled.run("run", "sh", "-c", text, "sh", "-v", "--help", "--", "a b", stdin="typed\n")
    assert (done.stdout, done.stderr) == ("typed\n-v --help -- a b ", "problem\n")


def test_with_json_the_document_is_alone_on_stdout(enrolled: Device) -> None:
    """It has the exit status, so that an error of hsm-enroll can be told from one of the program."""
    done = enrolled.run("run", "--json", "--", "sh", "-c", "echo printed; exit 12")
    assert (done.returncode, json.loads(done.stdout)) == (12, {"program": {"exitStatus": 12}})
    assert done.stderr == "printed\n"


@pytest.mark.parametrize("name", ["no-such-program", "/etc/passwd", "./"])
def test_a_program_that_cannot_be_run_is_named(enrolled: Device, name: str) -> None:
    """The error is hsm-enroll's, with exit status 2, and nothing was begun."""
    error = _refused(enrolled, name)
    assert (error["exitStatus"], error["code"]) == (2, "usage")
    assert repr(name) in error["message"]


def _refused(device: Device, name: str) -> dict[str, Any]:
    run = device.run("run", "--json", "--", name)
    error: dict[str, Any] = json.loads(run.stdout)["error"]
    assert error["exitStatus"] == run.returncode
    return error


def test_an_option_of_the_program_is_not_one_of_run(enrolled: Device) -> None:
    """hsm-enroll's own error is text, although the program would have printed JSON."""
    command = [sys.executable, "-m", "hsm_enroll", "run", "no-such-program", "--json"]
    run = subprocess.run(command, env=enrolled.environment, capture_output=True, text=True, timeout=60, check=False)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith("error: the program 'no-such-program' ")


def test_a_file_that_is_no_program_is_named(enrolled: Device) -> None:
    """An executable file that the kernel does not take is an error of hsm-enroll, too."""
    file = enrolled.folder / "not-a-program"
    file.write_bytes(b"\x7fELF")
    file.chmod(0o755)
    assert str(file) in _refused(enrolled, str(file))["message"]


def test_signals_are_passed_on(enrolled: Device) -> None:
    """A signal that is sent to run reaches the program, once; run ends when the program does, with its status."""
    process = enrolled.start("run", "--", sys.executable, "-c", _LISTENER)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    for name in ("SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGTERM"):
        process.send_signal(signal.Signals[name])
        assert process.stdout.readline() == f"{name}\n"
    rest, _ = process.communicate(timeout=_TIME_LIMIT)
    assert (process.returncode, rest) == (5, "")


def test_ctrl_c_on_a_terminal_comes_once(enrolled: Device) -> None:
    """The terminal sends Ctrl-C to both processes, so run does not pass it on; the program has the terminal."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "hsm_enroll", "run", "--", sys.executable, "-c", _LISTENER, "leave"]
    terminal = {"stdin": theirs, "stdout": theirs, "stderr": theirs, "start_new_session": False}
    controlling = ["setsid", "--ctty", *command]
    with subprocess.Popen(controlling, env=enrolled.environment, **terminal) as process:  # type: ignore[call-overload]
        os.close(theirs)
        lines = _lines(ours)
        assert next(lines) == "ready"
        os.write(ours, b"\x03")
        assert next(lines) == "^CSIGINT"
        os.write(ours, b"\x03")
        assert os.read(ours, 1024) == b"^C"  # now run alone has got another one
        process.send_signal(signal.SIGTERM)
        assert next(lines) == "SIGTERM"
        assert process.wait(_TIME_LIMIT) == 5
    os.close(ours)


def _lines(descriptor: int) -> Iterator[str]:
    text = ""
    while True:
        while "\n" not in text:
            text += os.read(descriptor, 1024).decode()
        line, _, text = text.partition("\n")
        yield line.rstrip("\r")
