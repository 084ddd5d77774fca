"""What is written for each program, where a program's own rules matter; tests/e2e/test_export.py uses it for real."""

from __future__ import annotations

import ast
import configparser
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from hsm_enroll.device.export import MARK, PROGRAMS, Exported, environment, isolation
from hsm_enroll.device.export.gathering import find_pin_file, gather
from hsm_enroll.errors import UsageError
from hsm_enroll.role_alias import RoleAlias
from hsm_enroll.settings import Settings
from hsm_enroll.token import discovery
from hsm_enroll.uri import Pkcs11Uri
from tests.support.identities import TOKEN, identity
from tests.support.self_signed import pem, self_signed

_KEY = Pkcs11Uri(token="a b;c", serial="01", manufacturer="m", model="o", object="key", id=b"\x01\xff", type="private")


def _exported(**members: Any) -> Exported:
    example = Exported(
        thing_name="gateway-17",
        module=Path("/opt/a b/module.so"),
        key=_KEY,
        certificate_file=Path("/state/certificate.pem"),
        ca_file=Path("/state/ca.pem"),
        endpoint="broker.example",
        port=8883,
        pin_file=Path("/run/pin"),
        environment={"SOFTHSM2_CONF": "/etc/it's.conf"},
        command=("/usr/bin/hsm-enroll",),
        slot=7,
    )
    return example._replace(**members)


def _files(program: str, **members: Any) -> dict[str, str]:
    return {file.name: file.text for file in PROGRAMS[program](_exported(**members))}


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_file_says_where_it_comes_from(program: str) -> None:
    """Each file that is not empty has the mark in its first lines, and the program that it is for."""
    for text in filter(None, _files(program).values()):
        assert f"{MARK} {program}, for the Thing gateway-17." in "".join(text.splitlines()[:2])


def test_the_uri_names_token_key_and_pin_file_and_no_more() -> None:
    """Label and serial select the token, label and id the key; what libp11 splits at is encoded (RFC 7512 §2.3)."""
    path = "pkcs11:token=a%20b%3Bc;serial=01;object=key;id=%01%FF;type=private"
    assert _exported().key_uri == f"{path}?pin-source=file:%2Frun%2Fpin"
    assert _exported(pin_file=None).key_uri == path


def test_openssls_configuration_takes_a_path_literally() -> None:
    """What is special in config(5), such as a dollar sign, has a backslash before it."""
    text = _files("openssl", module=Path("/opt/$x#1\"'.so"))["openssl.cnf"]
    assert "\nMODULE_PATH = /opt/\\$x\\#1\\\"\\'.so\n" in text


def test_the_brokers_name_is_checked() -> None:
    """curl, mosquitto and Python do so by themselves; the others are told, or any server of the same CA would do."""
    assert " -verify_return_error -verify_hostname broker.example " in _files("openssl")["openssl.cnf"]
    tunnel = _files("stunnel")["stunnel.conf"]
    assert "\nCAfile = /state/ca.pem\nverifyChain = yes\ncheckHost = broker.example\n" in tunnel
    assert "insecure" not in _files("curl")["curl.conf"] + _files("mosquitto")["mosquitto.sh"]


def test_curls_configuration_takes_a_path_literally() -> None:
    """Quotes and backslashes in a path have a backslash before them (curl(1), --config)."""
    text = _files("curl", ca_file=Path('/a "b"\\c'))["curl.conf"]
    assert '\ncacert = "/a \\"b\\"\\\\c"\n' in text


def test_the_script_for_mosquitto_takes_values_literally() -> None:
    """The shell sees each value as one word, and mosquitto a file that has the key's URI as its name."""
    made = _files("mosquitto", ca_file=Path("/a 'b'"))
    lines = made.pop("mosquitto.sh").splitlines()
    exported, executed = (shlex.split(line) for line in lines if line.startswith(("export ", "exec ")))
    (name,) = made
    assert exported == ["export", "SOFTHSM2_CONF=/etc/it's.conf", "PKCS11_MODULE_PATH=/opt/a b/module.so"]
    options = dict(zip(executed[2:-1:2], executed[3:-1:2], strict=True))
    assert (options["--cafile"], options["--key"]) == ("/a 'b'", name)


def test_the_script_for_mosquitto_wants_a_client(tmp_path: Path) -> None:
    """Without an argument it says how it is used."""
    script = tmp_path / "mosquitto.sh"
    script.write_text(_files("mosquitto")[script.name])
    run = subprocess.run(["sh", str(script)], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr.partition(" mosquitto_pub")[0]) == (2, "usage: sh mosquitto.sh")


def test_mosquitto_gets_no_name_that_is_too_long() -> None:
    """A URI that cannot be a file's name is refused, with what can be done about it."""
    with pytest.raises(UsageError, match="too long") as caught:
        _files("mosquitto", pin_file=Path("/" + "p" * 200))
    assert "HSM_ENROLL_PIN_FILE" in caught.value.hint


def test_other_programs_do_without_mosquitto() -> None:
    """``run`` leaves its files out where the URI is too long, as with a PIN file in folders with Japanese names."""
    short = {file.name for file in environment.files(_exported())}
    pin_file = Path("/ゲートウェイ" * 4)
    long = {file.name for file in environment.files(_exported(pin_file=pin_file))}
    assert {name for name in short - long if not name.startswith("pkcs11:")} == {"mosquitto.sh"}
    assert {"openssl.cnf", "curl.conf", ".curlrc", "hsm_enroll_ssl.py"} <= long


def test_port_443_is_named_by_alpn() -> None:
    """AWS IoT wants the protocol's name there: mosquitto's clients say it, and stunnel, which cannot, is refused."""
    assert "--tls-alpn x-amzn-mqtt-ca" in _files("mosquitto", port=443)["mosquitto.sh"]
    assert "--tls-alpn" not in _files("mosquitto")["mosquitto.sh"]
    with pytest.raises(UsageError, match="ALPN"):
        _files("stunnel", port=443)


def test_greengrass_gets_what_its_guide_documents() -> None:
    """The documented keys, and no other; the PIN and what is not known are words to replace, in a private file."""
    (file,) = PROGRAMS["greengrass"](_exported())
    assert file.mode == 0o600
    document = yaml.safe_load(file.text)
    assert document["system"] == {
        "certificateFilePath": "pkcs11:object=key;type=cert",
        "privateKeyPath": "pkcs11:object=key;type=private",
        "rootCaPath": "/state/ca.pem",
        "rootpath": "/greengrass/v2",
        "thingName": "gateway-17",
    }
    nucleus = document["services"].pop("aws.greengrass.Nucleus")
    assert nucleus.pop("configuration") == {
        "awsRegion": "AWS-REGION",
        "iotRoleAlias": "ROLE-ALIAS",
        "iotDataEndpoint": "broker.example",
        "iotCredEndpoint": "CREDENTIALS-ENDPOINT",
    }
    assert nucleus == {"componentType": "NUCLEUS", "version": "NUCLEUS-VERSION"}
    assert document["services"] == {
        "aws.greengrass.crypto.Pkcs11Provider": {
            "configuration": {
                "name": "hsm-enroll",
                "library": "/opt/a b/module.so",
                "slot": 7,
                "userPin": "PIN-OF-THE-TOKEN",
            }
        }
    }


def test_greengrass_and_aws_get_what_is_known_of_aws() -> None:
    """Region, role alias and its provider are filled in."""
    known: dict[str, Any] = {"region": "eu-central-1", "role_alias": RoleAlias("gateways", "c.example")}
    nucleus = yaml.safe_load(_files("greengrass", **known)["config.yaml"])["services"]["aws.greengrass.Nucleus"]
    assert nucleus["configuration"]["awsRegion"] == "eu-central-1"
    assert nucleus["configuration"]["iotRoleAlias"] == "gateways"
    assert nucleus["configuration"]["iotCredEndpoint"] == "c.example"
    profile = configparser.ConfigParser()
    profile.read_string(_files("aws", **known)["aws-config"])
    assert dict(profile["profile hsm-enroll"]) == {
        "credential_process": "/usr/bin/hsm-enroll aws-credentials",
        "region": "eu-central-1",
    }


def test_the_environment_has_the_identity() -> None:
    """Each variable its value; what is set already stays, but for the PIN, and what AWS's SDKs prefer to a profile."""
    given = {"PATH": "/bin", "PYTHONPATH": "/lib/mine", "AWS_ACCESS_KEY_ID": "AKIA", "AWS_REGION": "eu-central-1"}
    exported, folder = _exported(), Path("/run/folder")
    ours = {
        "HSM_ENROLL_RUN_FOLDER": "/run/folder",
        "HSM_ENROLL_THING": "gateway-17",
        "HSM_ENROLL_KEY_URI": exported.key_uri,
        "HSM_ENROLL_CERTIFICATE_FILE": "/state/certificate.pem",
        "HSM_ENROLL_CA_FILE": "/state/ca.pem",
        "HSM_ENROLL_MQTT_ENDPOINT": "broker.example",
        "HSM_ENROLL_MQTT_PORT": "8883",
        "PKCS11_MODULE_PATH": "/opt/a b/module.so",
        "PKCS11_PROVIDER_MODULE": "/opt/a b/module.so",
        "OPENSSL_CONF": "/run/folder/openssl.cnf",
        "CURL_HOME": "/run/folder",
        "PYTHONPATH": "/run/folder:/lib/mine",
        "SOFTHSM2_CONF": "/etc/it's.conf",
    }
    assert environment.variables(exported, folder, {**given, "HSM_ENROLL_PIN": "1234"}) == given | ours
    assert environment.variables(exported, folder, {})["PYTHONPATH"] == "/run/folder"
    del given["AWS_ACCESS_KEY_ID"]
    profile = {"AWS_CONFIG_FILE": "/run/folder/aws-config", "AWS_PROFILE": "hsm-enroll"}
    with_alias = exported._replace(role_alias=RoleAlias("gateways", "c.example"))
    keys = {
        "HSM_ENROLL_PIN": "1234",
        "AWS_ACCESS_KEY_ID": "AKIA",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_SESSION_TOKEN": "t",
        "AWS_DEFAULT_PROFILE": "p",
    }
    assert environment.variables(with_alias, folder, given | keys) == given | ours | profile


def test_the_module_for_python_has_the_identity_in_its_constants() -> None:
    """All five are set, as Python literals."""
    body = ast.parse(_files("python-ssl", pin_file=None)["hsm_enroll_ssl.py"]).body
    constants: dict[str, Any] = {}
    for statement in body:
        if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
            target = statement.targets[0] if isinstance(statement, ast.Assign) else statement.target
            if isinstance(target, ast.Name) and target.id.isupper() and not target.id.startswith("_"):
                constants[target.id] = ast.literal_eval(statement.value)
    assert constants == {
        "MODULE": "/opt/a b/module.so",
        "KEY": "pkcs11:token=a%20b%3Bc;serial=01;object=key;id=%01%FF;type=private",
        "CERTIFICATE_FILE": "/state/certificate.pem",
        "CA_FILE": "/state/ca.pem",
        "ENVIRONMENT": {"SOFTHSM2_CONF": "/etc/it's.conf"},
    }


@pytest.mark.parametrize(
    ("endpoint", "region"),
    [
        ("a1b2-ats.iot.eu-central-1.amazonaws.com", "eu-central-1"),
        ("a1b2.iot.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        ("data.iot-fips.us-gov-west-1.amazonaws.com", "us-gov-west-1"),
        ("broker.example", None),
    ],
)
def test_the_region_is_in_the_brokers_name(tmp_path: Path, endpoint: str, region: str | None) -> None:
    """As far as the name is one of AWS's."""
    mine = identity(mqtt_endpoint=endpoint)
    assert gather(mine, _settings(tmp_path), {}, Path("/usr/bin/hsm-enroll")).region == region


def test_what_another_process_needs_to_find_the_state_goes_with_the_command(tmp_path: Path) -> None:
    """Variables of this process's environment are in the credential_process, paths whole; the PIN is not."""
    environment = {
        "HSM_ENROLL_HOME": "gateway",
        "SOFTHSM2_CONF": "/etc/softhsm2.conf",
        "HSM_ENROLL_PIN": "1234",
        "HSM_ENROLL_ROLE_ALIAS": "gateways",
        "PATH": "/bin",
    }
    made = gather(identity(), _settings(tmp_path), environment, Path("/usr/bin/hsm-enroll"))
    assert made.environment == {"SOFTHSM2_CONF": "/etc/softhsm2.conf"}
    assert set(made.command) == {
        "env",
        f"HSM_ENROLL_HOME={Path('gateway').absolute()}",
        "SOFTHSM2_CONF=/etc/softhsm2.conf",
        "HSM_ENROLL_ROLE_ALIAS=gateways",
        "/usr/bin/hsm-enroll",
    }
    assert made.command[-1] == "/usr/bin/hsm-enroll"


@pytest.mark.parametrize("name", ["a\nengine = evil", "a\x1b[2J", "a\udcff"])
def test_what_would_begin_a_line_of_its_own_is_refused(tmp_path: Path, name: str) -> None:
    """D17: a path or label with a control character, or that is not UTF-8, wherever it comes from."""
    folder, program = tmp_path / name, Path("/usr/bin/hsm-enroll")
    folder.mkdir()
    attempts: list[Callable[[], Exported]] = [
        lambda: gather(identity(), _settings(folder), {}, program),
        lambda: gather(identity(), _settings(tmp_path), {"HSM_ENROLL_HOME": name}, program),
        lambda: gather(identity(), _settings(tmp_path), {"SOFTHSM2_CONF": name}, program),
        lambda: gather(identity(), _settings(tmp_path), {}, program, pin_file=folder / "pin"),
        lambda: gather(identity(token=TOKEN._replace(label=name)), _settings(tmp_path), {}, program),
    ]
    for attempt in attempts:
        with pytest.raises(UsageError, match="cannot be written into other programs' files") as caught:
            attempt()
        assert caught.value.message.isprintable()


def test_a_name_in_any_script_is_none_of_those(tmp_path: Path) -> None:
    """Blanks, quotes and letters of any language stay as they are."""
    folder = tmp_path / "ゲート\u3000ウェイ '\"%;$é"
    folder.mkdir()
    assert gather(identity(), _settings(folder), {}, Path("/usr/bin/hsm-enroll")).ca_file == folder / "ca.pem"


def _settings(folder: Path) -> Settings:
    trusted = folder / "ca.pem"
    trusted.write_text(pem(self_signed()))
    return Settings(state=folder, ca_file=trusted)


def _pin(folder: Path, content: str, name: str = "other-pin") -> Path:
    file = folder / name
    file.write_text(content)
    file.chmod(0o600)
    return file


def test_the_pins_file_is_the_one_that_hsm_enroll_reads(tmp_path: Path) -> None:
    """The configured file, or else systemd's credential; a PIN in a variable is in no file, and so is none."""
    configured, credential = _pin(tmp_path, "1234"), _pin(tmp_path, "5678", "hsm-enroll.pin")
    unit = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert find_pin_file(identity(), Settings(state=tmp_path, pin_file=configured), unit) == configured
    assert find_pin_file(identity(), Settings(state=tmp_path), unit) == credential
    assert find_pin_file(identity(), Settings(state=tmp_path), {"HSM_ENROLL_PIN": "1234"}) is None
    assert find_pin_file(identity(), Settings(state=tmp_path), {}) is None


@pytest.mark.parametrize(
    ("content", "remedy"),
    [("1234\n", "truncate -s -1 "), (" 1234", "printf %s"), ("1234\nmore\n", "printf %s"), ("\ufeff1234", "printf %s")],
)
def test_a_pins_file_with_more_in_it_than_the_pin_is_refused(tmp_path: Path, content: str, remedy: str) -> None:
    """libp11 would try all of it and a TPM count it, so the error says how to leave the PIN alone in the file."""
    file = _pin(tmp_path, content)
    with pytest.raises(UsageError, match="more in it than the PIN") as caught:
        find_pin_file(identity(), Settings(state=tmp_path, pin_file=file), {})
    assert remedy in caught.value.hint
    assert "1234" not in caught.value.message + caught.value.hint


def test_a_credential_with_a_line_end_is_encrypted_again(tmp_path: Path) -> None:
    """systemd's file is read-only and made anew at each start, so truncating it is no remedy."""
    _pin(tmp_path, "1234\n", "hsm-enroll.pin")
    with pytest.raises(UsageError, match="more in it than the PIN") as caught:
        find_pin_file(identity(), Settings(state=tmp_path / "state"), {"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert "encrypt it for the service again" in caught.value.hint


def test_a_program_can_use_p11_kits_server_instead_of_the_module() -> None:
    """It loads p11-kit's client; the server, which a command in the files starts, loads the module as it needs it."""
    made = isolation.through_server(_exported())
    assert (made.module, made.environment) == (discovery.client(), {})
    (curl,) = PROGRAMS["curl"](made)
    (command,) = (line for line in curl.text.splitlines() if "p11-kit server" in line)
    inner = command.partition('eval "$(')[2].partition(')"')[0]
    start = ["env", "SOFTHSM2_CONF=/etc/it's.conf", "p11-kit", "server", "--provider", "/opt/a b/module.so"]
    assert shlex.split(inner)[:7] == [*start, "pkcs11:token=a%20b%3Bc;serial=01"]
    assert f"PKCS11_MODULE_PATH={made.module} curl " in curl.text
    assert f"MODULE_PATH = {made.module}\n" in PROGRAMS["openssl"](made)[0].text
    assert inner.partition(" --name")[0] in PROGRAMS["mosquitto"](made)[0].text
    guarded = ["env", "--unset=HSM_ENROLL_PIN", start[1], "setpriv", "--pdeathsig", "TERM", "p11-kit", "server"]
    assert isolation.server(_exported(), Path("/s"))[:11] == [*guarded, "--foreground", "--name", "/s"]


def test_without_p11_kits_client_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no way round it."""
    monkeypatch.setattr(discovery, "client", lambda: None)
    with pytest.raises(UsageError, match="p11-kit's client is not installed") as caught:
        isolation.through_server(_exported())
    assert "p11-kit-modules" in caught.value.hint


def test_the_store_of_tpm2_pkcs11_is_named_if_it_is_in_a_home_folder(tmp_path: Path) -> None:
    """A service has no home folder, and its module would look elsewhere."""
    (tmp_path / ".tpm2_pkcs11").mkdir()
    (tmp_path / ".tpm2_pkcs11" / "tpm2_pkcs11.sqlite3").touch()
    mine = identity(token=TOKEN._replace(serial="0" * 16, manufacturer="IBM"))
    made = gather(mine, _settings(tmp_path), {"HOME": str(tmp_path)}, Path("/usr/bin/hsm-enroll"))
    assert made.environment == {"TPM2_PKCS11_STORE": str(tmp_path / ".tpm2_pkcs11")}
    assert gather(identity(), _settings(tmp_path), {"HOME": str(tmp_path)}, Path("/x")).environment == {}
