"""Each fault has its own exit status, code, message and hint, loses nothing and leaves no extra key."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import boto3
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from tests.support.authority import Authority
from tests.support.devices import Cloud, Device, publish_as_observer
from tests.support.https_server import https_server, response
from tests.support.killed_making import kill_token_create

_SPY = "pkcs11-spy.so"
_CODE = "00000-00000-00000-00000-00000"


def _module(device: Device) -> str:
    module: str = device.json("tokens")["modules"][0]["module"]
    return module


@pytest.fixture
def spy(device: Device) -> Callable[[], int]:
    """Put opensc's pkcs11-spy between the device and SoftHSM; counts the C_Login calls so far."""
    (path,) = Path("/usr/lib").glob(f"*/pkcs11/{_SPY}")
    log = device.folder / "spy.log"
    device.extra.update(PKCS11SPY=_module(device), PKCS11SPY_OUTPUT=str(log), HSM_ENROLL_MODULE=str(path))

    def logins() -> int:
        return log.read_text(errors="replace").count(": C_Login\n") if log.exists() else 0

    return logins


@pytest.mark.parametrize("arguments", [("init", "--thing", "x", "--no-publish"), ("csr",)])
def test_a_wrong_pin_is_tried_once(device: Device, spy: Callable[[], int], arguments: tuple[str, ...]) -> None:
    """D1: a wrong PIN is one C_Login, exit 12, and no key; with the right PIN the same command then works."""
    wrong = device.folder / "wrong"
    wrong.write_text("123456-is-wrong\n")
    wrong.chmod(0o600)
    device.extra["HSM_ENROLL_PIN_FILE"] = str(wrong)
    assert device.refused(*arguments) == (12, "pin-wrong")
    assert spy() == 1
    del device.extra["HSM_ENROLL_PIN_FILE"]
    assert device.key_ids() == []
    assert device.run(*arguments).returncode == 0
    assert spy() == 2


def test_status_doctor_and_tokens_try_no_pin(device: Device, spy: Callable[[], int], thing: str) -> None:
    """D1: what a monitor calls every minute logs in to no token."""
    device.json("init", "--thing", thing, "--no-publish")
    before = spy()
    assert before == 1
    device.json("status")
    device.run("doctor")  # which says that MQTT cannot use a module behind this spy
    device.json("tokens")
    assert spy() == before


def test_a_pin_is_never_shown(device: Device, thing: str) -> None:
    """D4: no command shows the PIN, not even with a traceback, and no file but its own holds it."""
    shown = "".join(
        run.stdout + run.stderr
        for run in (
            device.run("init", "--thing", thing, "--verbose"),
            device.run("status", "--verbose"),
            device.run("doctor", "--online", "--verbose"),
            device.run("publish", "not/allowed", "x", "--verbose"),
            device.run("csr", "--key", "pkcs11:object=none", "--verbose"),
        )
    )
    assert "Traceback" in shown
    assert device.pin() not in shown
    holders = [file.name for file in device.home.iterdir() if device.pin().encode() in file.read_bytes()]
    assert holders == ["pin"]


def test_there_is_no_option_for_a_pin(device: Device) -> None:
    """D4: a PIN cannot be given where every user of the machine reads it."""
    assert device.refused("init", "--pin", "1234") == (2, "usage")


def test_an_open_pin_file_is_refused(device: Device) -> None:
    """D4: a PIN file that others can read is not used."""
    exposed = device.folder / "exposed"
    exposed.write_text(device.pin())
    exposed.chmod(0o644)
    device.extra["HSM_ENROLL_PIN_FILE"] = str(exposed)
    assert device.refused("init", "--thing", "x") == (12, "pin-file-exposed")


def test_no_pin_is_said(device: Device) -> None:
    """D4: without a PIN and without a terminal the command says where it looks for one."""
    (device.home / "pin").unlink()
    (device.home / "token.json").unlink()
    assert device.refused("init", "--thing", "x") == (12, "pin-missing")


@pytest.mark.parametrize(
    ("make", "code"),
    [
        pytest.param(lambda _: None, "module-missing", id="missing"),
        pytest.param(lambda path: path.write_text("not a module"), "module-unusable", id="a text file"),
        pytest.param(lambda path: path.mkdir(), "module-missing", id="a folder"),
    ],
)
@pytest.mark.parametrize("command", ["init", "csr", "token create"])
def test_a_module_that_is_none_is_said(device: Device, make: Callable[[Path], object], code: str, command: str) -> None:
    """D5: a module that is missing, or no module, is exit 10."""
    path = device.folder / "module.so"
    make(path)
    arguments = {"init": ("--thing", "x"), "csr": (), "token create": ("--label", "other")}[command]
    assert device.refused(*command.split(), "--module", str(path), *arguments) == (10, code)


def test_a_module_that_crashes_or_hangs_does_not_take_init_with_it(device: Device) -> None:
    """D5: a module that crashes while it is loaded is exit 10 in ``init`` and ``tokens``, and the crash is named."""
    source = device.folder / "crash.c"
    source.write_text("unsigned long C_GetFunctionList(void *list) { (void)list; __builtin_trap(); }\n")
    module = device.folder / "crash.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", module, source], check=True)
    assert device.refused("init", "--thing", "x", "--module", str(module)) == (10, "module-unusable")
    error = device.error("tokens", "--module", str(module))
    assert (error["exitStatus"], error["code"]) == (10, "module-unusable")
    assert error["message"].startswith(f"{module} crashed")


def test_no_such_token_lists_what_is_there(device: Device) -> None:
    """D6: a label that no token has is exit 11, and the message names the tokens that are there."""
    assert device.refused("init", "--thing", "x", "--token-label", "nowhere") == (11, "token-not-found")
    assert "found: 'gateway' with serial" in device.run("init", "--thing", "x", "--token-label", "nowhere").stderr


def test_two_tokens_of_one_label_are_told_apart_by_serial(device: Device, thing: str) -> None:
    """D6: two tokens of one label are exit 11; the serial that the message tells chooses one of them."""
    device.softhsm.add_token("gateway")
    assert device.refused("init", "--thing", thing, "--token-label", "gateway") == (11, "token-ambiguous")
    serial = json.loads((device.home / "token.json").read_text())["serial"]
    enrolled = device.json("init", "--thing", thing, "--no-publish", "--token", f"pkcs11:token=gateway;serial={serial}")
    assert enrolled["token"]["serial"] == serial


def test_a_second_token_of_the_label_stops_publish(device: Device, thing: str) -> None:
    """D6: MQTT selects by label alone, so publish is exit 11 when another token has taken it, before any login."""
    device.json("init", "--thing", thing, "--no-publish")
    device.softhsm.add_token("gateway")
    assert device.refused("publish", f"certtest/{thing}", "x") == (11, "token-ambiguous")


def test_a_slot_that_changed_is_no_matter(device: Device, thing: str) -> None:
    """D6: after another token was added, and slots were counted anew, the identity still finds its key."""
    device.json("init", "--thing", thing)
    device.softhsm.add_token("another")
    assert device.json("status")["key"]["matchesCertificate"] is True
    assert device.run("publish", f"certtest/{thing}", "x").returncode == 0


def test_no_backend_is_exit_30_and_resumes(device: Device, thing: str) -> None:
    """D15: with the backend down init exits 30, with an invite before it generates a key; otherwise it resumes."""
    invite = f"https://localhost:9/#{_CODE}"
    assert device.refused("init", invite, "--thing", thing) == (30, "backend-unreachable")
    assert device.key_ids() == []
    device.extra["HSM_ENROLL_API_URL"] = "https://localhost:9"
    assert device.refused("init", "--thing", thing) == (30, "backend-unreachable")
    assert len(device.key_ids()) == 1
    del device.extra["HSM_ENROLL_API_URL"]
    steps = {step["name"]: step["skipped"] for step in device.json("init", "--thing", thing)["steps"]}
    assert steps["key"] is True
    assert steps["csr"] is True
    assert len(device.key_ids()) == 1


@contextmanager
def _other_api(device: Device, answer: bytes, *, is_ready: bool = True) -> Iterator[None]:
    authority = Authority(Path(tempfile.mkdtemp(dir=device.folder)) / "authority")
    with https_server(authority, answer, is_ready=is_ready) as server:
        device.extra.update(HSM_ENROLL_API_URL=server.url, HSM_ENROLL_CA_FILE=str(authority.certificate))
        yield
    del device.extra["HSM_ENROLL_API_URL"], device.extra["HSM_ENROLL_CA_FILE"]


def test_a_captive_portal_is_exit_33(device: Device, thing: str) -> None:
    """D17: a captive portal's page with status 200 is told from the API, and nothing is stored."""
    page = response("200 OK", "<html>Accept our terms</html>", content_type="text/html")
    with _other_api(device, page, is_ready=False):
        assert device.refused("init", "--thing", thing) == (33, "unexpected-response")
    assert device.refused("status") == (3, "not-enrolled")
    assert device.run("init", "--thing", thing).returncode == 0


def test_another_ca_is_exit_33(device: Device) -> None:
    """D15: an API whose certificate is not trusted is not spoken to."""
    device.extra["HSM_ENROLL_CA_FILE"] = str(Authority(device.folder / "authority").certificate)
    assert device.refused("init", "--thing", "x") == (33, "api-not-trusted")


@pytest.mark.parametrize("fault", ["another key", "expired", "two", "junk"])
def test_a_certificate_that_is_not_ours_is_not_stored(device: Device, thing: str, fault: str) -> None:
    """D18: a certificate for another key, an expired one, two of them and junk are exit 33 and never stored."""
    authority = Authority(device.folder / "issuer")
    if fault == "expired":
        authority.now -= timedelta(days=400)
    # The key of this very device, so that only the fault under test is wrong.
    with _other_api(device, response("500 Internal Server Error", "")):
        device.run("init", "--thing", thing, "--wait", "0")
    identifier = json.loads((device.home / "journal.json").read_text())["key_id"]
    spki = device.pkcs11_tool("--read-object", "--type", "pubkey", "--id", identifier)
    own = authority.issue_client(spki, thing).public_bytes(Encoding.PEM).decode()
    other = authority.issue_pair("other").certificate.read_text()
    pem = {"another key": other, "expired": own, "two": own + own, "junk": "junk"}[fault]
    answer = {
        "certificatePem": pem, "certificateId": "0a" * 32, "certificateArn": "arn", "thingName": thing,
        "mqttEndpoint": "localhost", "mqttPort": 8883, "attested": False,
    }  # fmt: skip
    with _other_api(device, response("201 Created", json.dumps(answer))):
        assert device.refused("init", "--thing", thing) == (33, "certificate-not-ours")
    assert not (device.home / "certificate.pem").exists()
    assert device.json("init", "--thing", thing)["enrolled"] is True
    assert len(device.key_ids()) == 1


def test_a_refusal_of_the_backend_is_exit_31(device: Device, thing: str) -> None:
    """What the backend refuses is exit 31 and names the reason."""
    problem = json.dumps({"detail": "no", "code": "csr-key-not-allowed", "requestId": "r"})
    with _other_api(device, response("400 Bad Request", problem, content_type="application/problem+json")):
        assert device.refused("init", "--thing", thing) == (31, "backend-refused")


@pytest.mark.parametrize("name", ["bad name", "../x", "x" * 65, "*"])
def test_a_name_that_no_thing_can_have_costs_no_key(device: Device, name: str) -> None:
    """S11: a name that no Thing with a certificate can have is refused before a key is made."""
    assert device.refused("init", "--thing", name) == (2, "usage")
    assert device.key_ids() == []


def test_an_inactive_certificate_is_exit_40(device: Device, thing: str, cloud: Cloud) -> None:
    """D19: with its certificate switched off the device is refused by the broker, and let in again when it is on."""
    identifier = device.json("init", "--thing", thing)["certificate"]["id"]
    iot = boto3.client(
        "iot", endpoint_url=cloud.document["awsEndpointUrl"], region_name=cloud.document["region"],
        aws_access_key_id="x", aws_secret_access_key="x",
    )  # fmt: skip
    iot.update_certificate(certificateId=identifier, newStatus="INACTIVE")
    assert device.refused("publish", f"certtest/{thing}", "x") == (40, "mqtt-refused")
    iot.update_certificate(certificateId=identifier, newStatus="ACTIVE")
    assert device.run("publish", f"certtest/{thing}", "x").returncode == 0


def test_an_unreachable_broker_is_exit_40_and_init_resumes_there(device: Device, thing: str) -> None:
    """D19: with the broker out of reach init has its certificate, exits 40, and run again only publishes."""
    port = device.cloud["HSM_ENROLL_MQTT_PORT"]
    device.extra["HSM_ENROLL_MQTT_PORT"] = "9"
    assert device.refused("init", "--thing", thing) == (40, "mqtt-unreachable")
    assert device.json("status")["thingName"] == thing
    device.extra["HSM_ENROLL_MQTT_PORT"] = port
    assert [step["name"] for step in device.json("init", "--thing", thing)["steps"]] == ["message"]
    assert device.json("init", "--thing", thing)["steps"] == []


def test_a_topic_of_another_is_exit_40(device: Device, thing: str) -> None:
    """D19: what the policy does not allow is refused by the broker and said so."""
    device.json("init", "--thing", thing)
    assert device.refused("publish", "certtest/somebody-else", "x") == (40, "mqtt-refused")


@pytest.mark.parametrize("fault", ["a file in its place", "another owner", "disk full"])
def test_a_state_folder_that_cannot_be_used_is_exit_50(device: Device, fault: str) -> None:
    """D11: a state folder that cannot be written is exit 50, before a key is made or a PIN is asked for."""
    if fault == "a file in its place":
        (device.folder / "file").write_text("")
        device.extra["HSM_ENROLL_HOME"] = str(device.folder / "file")
        assert device.refused("init", "--thing", "x", "--module", _module(device)) == (50, "state-unusable")
    elif fault == "another owner":
        os.chown(device.home, 65534, 65534)
        assert device.refused("init", "--thing", "x") == (50, "state-unusable")
        os.chown(device.home, os.geteuid(), os.getegid())
    else:
        run = subprocess.run(
            ["bash", "-c", 'ulimit -f 0; trap "" XFSZ; exec "$@"', "-", *_arguments("init", "--thing", "x", "--json")],
            env=device.environment, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert run.returncode == 50, run.stderr
    assert device.key_ids() == []


def _arguments(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "hsm_enroll", *arguments]


def test_two_at_once_one_works_and_one_is_exit_51(device: Device, thing: str) -> None:
    """D13: of two init at once one holds the lock and works; the other is exit 51 and changes nothing."""
    first = device.start("init", "--thing", thing, "--key-type", "rsa-3072", stderr=subprocess.PIPE)
    assert first.stderr is not None
    # The first line is written while the lock is held, and the key takes its time after it.
    first.stderr.readline()
    assert device.refused("init", "--thing", thing) == (51, "busy")
    first.communicate(timeout=90)
    assert first.returncode == 0
    assert len(device.key_ids()) == 1


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_init_resumes(device: Device, thing: str, sent: signal.Signals, status: int) -> None:
    """D20: Ctrl-C and SIGTERM end init with their own status, and run again it goes on with the key it made."""
    run = device.start("init", "--thing", thing)
    assert run.stderr is not None
    for line in run.stderr:
        if "signing the certificate request" in line:
            break
    run.send_signal(sent)
    run.communicate(timeout=60)
    assert run.returncode == status
    device.json("init", "--thing", thing)
    assert len(device.key_ids()) == 1


def _on_a_terminal(device: Device, *arguments: str, environment: dict[str, str] | None = None) -> str:
    """Run on a pseudo-terminal of 80 columns and return all that a person would see."""
    primary, secondary = pty.openpty()
    child = subprocess.Popen(
        _arguments(*arguments), stdin=secondary, stdout=secondary, stderr=secondary,
        env={**device.environment, "TERM": "xterm-256color", "COLUMNS": "80", **(environment or {})},
    )  # fmt: skip
    os.close(secondary)
    seen = b""
    while select.select([primary], [], [], 60)[0]:
        try:
            seen += os.read(primary, 65536)
        except OSError:
            break
    child.wait(timeout=60)
    os.close(primary)
    return seen.decode(errors="replace")


def test_init_on_a_terminal_shows_each_step_with_its_time_and_a_spinner(device: Device, thing: str) -> None:
    """On a terminal each step gets a line with its seconds, and a spinner turns while the token thinks."""
    seen = _on_a_terminal(device, "init", "--thing", thing, "--key-type", "rsa-2048")
    for step in ("looking for the token", "generating the key in the token", "publishing the first message"):
        assert f"✓\x1b[0m {step}" in seen
    assert any(frame in seen for frame in "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏")
    assert seen.count(" s\r\n") >= 6


def test_no_color_means_neither_colour_nor_spinner(device: Device, thing: str) -> None:
    """With NO_COLOR a terminal is shown plain lines."""
    seen = _on_a_terminal(device, "init", "--thing", thing, environment={"NO_COLOR": "1"})
    assert "publishing the first message" in seen
    assert "\x1b" not in seen


@pytest.mark.parametrize("arguments", [("init", "--nonsense"), ("nonsense",), ("csr", "--key-type", "rsa-1024")])
def test_wrong_usage_is_exit_2(device: Device, arguments: tuple[str, ...]) -> None:
    """Wrong usage is exit 2, as JSON too."""
    assert device.refused(*arguments) == (2, "usage")


def test_the_copy_of_the_certificate_is_restored(device: Device, thing: str) -> None:
    """D10, D12: certificate.pem, which is a copy, is put right by the next init."""
    device.json("init", "--thing", thing, "--no-publish")
    copy = device.home / "certificate.pem"
    content = copy.read_text()
    for damage in (b"", b"another certificate", b"\xff"):
        copy.write_bytes(damage)
        assert device.json("init")["steps"] == []
        assert copy.read_text() == content


def test_what_a_killed_write_left_is_swept(device: Device, thing: str) -> None:
    """D10: a temporary file of a run that was killed while it wrote does not stay."""
    (device.home / ".pin.abcdefgh.tmp").write_text("left over")
    device.json("init", "--thing", thing, "--no-publish")
    assert [file.name for file in device.home.iterdir() if file.name.startswith(".")] == []


def test_a_pin_that_is_not_utf8_is_said(device: Device) -> None:
    """D4: a PIN in the environment that is not UTF-8 is refused by name and not tried."""
    device.extra["HSM_ENROLL_PIN"] = os.fsdecode(b"\xff\xfe")
    assert device.refused("init", "--thing", "x") == (12, "pin-missing")


def test_a_copy_that_is_missing_is_written_when_init_resumes(device: Device, thing: str) -> None:
    """D10: power that went between identity.json and certificate.pem costs no certificate.pem."""
    device.extra["HSM_ENROLL_MQTT_PORT"] = "9"
    assert device.refused("init", "--thing", thing) == (40, "mqtt-unreachable")
    (device.home / "certificate.pem").unlink()
    del device.extra["HSM_ENROLL_MQTT_PORT"]
    assert Path(device.json("init")["certificate"]["file"]).exists()


@pytest.mark.parametrize("source", ["HSM_ENROLL_PIN", "HSM_ENROLL_PIN_FILE"])
def test_create_token_takes_the_pin_that_is_given(device: Device, thing: str, source: str) -> None:
    """A PIN that is given is the new token's: init --create-token logs in with it and burns no try."""
    given = device.folder / "given"
    given.write_text("2468-given\n")
    given.chmod(0o600)
    device.extra[source] = str(given) if source.endswith("FILE") else "2468-given"
    document = device.json("init", "--thing", thing, "--create-token", "--token-label", "another", "--no-publish")
    assert document["token"]["label"] == "another"


@pytest.mark.parametrize("moment", ["token.provision.create_softhsm_token", "device.pin.save_owner"])
def test_a_token_whose_making_was_killed_is_taken_up(device: Device, thing: str, moment: str) -> None:
    """D10: killed before, or right after, the token was made, token create and init go on with the PIN that is kept."""
    for name in ("pin", "token.json"):
        (device.home / name).unlink()
    kill_token_create(f"hsm_enroll.{moment}", "--label", "fresh", environment=device.environment)
    device.create_token("fresh")
    assert device.json("init", "--thing", thing, "--no-publish")["token"]["label"] == "fresh"


def test_a_relative_module_is_remembered_whole(device: Device, thing: str) -> None:
    """A module that was named relative to a folder is found from every other one."""
    module = Path(_module(device))
    command = _arguments("init", "--thing", thing, "--no-publish", "--module", module.name, "--token-label", "gateway")
    subprocess.run(command, env=device.environment, cwd=module.parent, capture_output=True, timeout=60, check=True)
    assert device.json("status")["token"]["module"] == str(module)


def test_a_wrong_subject_costs_no_key(device: Device) -> None:
    """A subject that cannot be read is found before csr makes a key."""
    assert device.refused("csr", "--subject", "garbage") == (2, "usage")
    assert device.key_ids() == []


def test_a_key_named_without_its_token_is_looked_for_in_the_token_that_is_named(device: Device) -> None:
    """``csr --key`` with a URI that names no token keeps what --token-label says."""
    made = device.json("csr")["key"]["uri"]
    device.softhsm.add_token("another")
    label = next(part for part in made.removeprefix("pkcs11:").split(";") if part.startswith("object="))
    again = device.json("csr", "--token-label", "gateway", "--key", f"pkcs11:{label}")
    assert again["key"]["uri"] == made


@pytest.mark.parametrize(
    ("variable", "value"),
    [("HSM_ENROLL_API_URL", "https://a..b"), ("HTTPS_PROXY", "socks5://127.0.0.1:1"), ("REQUESTS_CA_BUNDLE", "/none")],
)
def test_an_address_that_cannot_be_used_is_said_at_once(device: Device, variable: str, value: str) -> None:
    """D15: a host that is none, a proxy of an unknown kind and a missing CA bundle are errors of ours, at once."""
    device.extra |= {variable: value, "NO_PROXY": "", "no_proxy": ""}
    if variable == "REQUESTS_CA_BUNDLE":
        device.cloud = {name: text for name, text in device.cloud.items() if name != "HSM_ENROLL_CA_FILE"}
    run = device.run("init", "--thing", "x", "--no-publish")
    assert run.returncode in {2, 30}
    assert "Traceback" not in run.stderr
    assert "did not finish its answer" not in run.stderr


@pytest.mark.parametrize(
    "closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full", "2>/dev/full", "&>/dev/full", "2>&1 | head -1"]
)
def test_a_closed_standard_stream_is_no_fault(device: Device, thing: str, closed: str) -> None:
    """D30: a caller that closes a standard stream, or gives a full one, gets the command done and no traceback."""
    script = f'"$@" {closed}'
    run = subprocess.run(
        ["bash", "-c", script, "-", *_arguments("init", "--thing", thing, "--no-publish")],
        env=device.environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "Traceback" not in run.stderr
    assert (device.home / "identity.json").exists()
    assert (f"error: this device is enrolled as {thing}, but" in run.stderr) == (closed == ">/dev/full")


def test_a_path_that_is_not_text_is_shown_escaped(device: Device) -> None:
    """``--json`` gives its one document in every locale, also for a path that is no text in it."""
    device.extra.update(HSM_ENROLL_HOME=os.fsdecode(b"/tmp/\xff"), PYTHONIOENCODING="utf-8")
    assert device.refused("status") == (3, "not-enrolled")


def test_an_ended_certificate_keeps_its_thing(device: Device, thing: str) -> None:
    """D14: with a clock past the certificate's end init takes no other name without --new-key, and no other key."""
    device.json("init", "--thing", thing, "--no-publish")
    (library,) = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    device.extra.update(LD_PRELOAD=str(library), FAKETIME="+800000000s", HSM_ENROLL_API_URL="https://localhost:9")
    assert device.refused("init", "--thing", "another") == (2, "usage")
    assert device.refused("init") == (1, "clock-wrong")


def test_subscribe_ended_by_ctrl_c_is_exit_130_and_keeps_what_came(device: Device, thing: str, cloud: Cloud) -> None:
    """``subscribe`` until Ctrl-C prints what came before it and exits 130 without an error."""
    device.json("init", "--thing", thing, "--no-publish")
    subscriber = device.start("subscribe", f"device/{thing}/commands")
    assert subscriber.stderr is not None
    assert subscriber.stdout is not None
    for line in subscriber.stderr:
        if line.startswith("subscribed"):
            break
    publish_as_observer(cloud.document, f"device/{thing}/commands", "open")
    assert subscriber.stdout.readline() == "open\n"
    subscriber.send_signal(signal.SIGINT)
    _, stderr = subscriber.communicate(timeout=60)
    assert (subscriber.returncode, stderr) == (130, "")
