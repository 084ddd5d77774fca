"""The main job on a TPM: the token made in it, the key born in it, and the handshake of MQTT signed by it."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.support import documents, tpm2
from tests.support.devices import Cloud, Observer
from tests.support.killed_making import kill_token_create
from tests.support.mounts import with_own_mounts
from tests.support.tpm2 import Tpm2
from tests.support.tpm_device import TpmDevice

Observe = Callable[[str], Observer]

_KEY_TYPES = ("ec-p256", "ec-p384", "rsa-2048")

# Preloaded, it stands in front of the TSS's function with which tpm2-pkcs11 has the TPM make a key.
_SLOW_TPM = r"""
#include <dlfcn.h>
#include <stddef.h>
#include <unistd.h>

typedef unsigned int handle;
typedef unsigned int make(void *, handle, handle, handle, handle, const void *, const void *, handle *, void **,
                          void **);

unsigned int Esys_CreateLoaded(void *context, handle parent, handle first, handle second, handle third,
                               const void *sensitive, const void *template, handle *object, void **private,
                               void **public)
{
    void *tss = dlopen("libtss2-esys.so.0", RTLD_NOW);
    make *real = (make *)dlsym(tss, "Esys_CreateLoaded");
    sleep(3);
    return real(context, parent, first, second, third, sensitive, template, object, private, public);
}
"""


@pytest.fixture(scope="module")
def tpm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tpm2]:
    """A TPM that is powered and has a resource manager."""
    with tpm2.provided(tmp_path_factory.mktemp("tpm")) as provided:
        yield provided


@pytest.fixture
def new_tpm_device(cloud: Cloud, tpm: Tpm2, tmp_path: Path) -> Callable[[str], TpmDevice]:
    """Makes devices by name, without a token, that share the TPM and nothing else."""
    return lambda name: TpmDevice(tmp_path / name, cloud.environment, tpm=tpm)


@pytest.fixture
def device(new_tpm_device: Callable[[str], TpmDevice]) -> TpmDevice:
    """One of them."""
    return new_tpm_device("device")


@pytest.mark.parametrize("key_type", _KEY_TYPES)
def test_the_whole_way_on_a_tpm(device: TpmDevice, thing: str, observe: Observe, key_type: str) -> None:
    """From no token to a message that another client receives; then status, doctor and publish go on with that key."""
    device.create_token()
    observer = observe(f"certtest/{thing}")
    document = device.json("init", "--thing", thing, "--key-type", key_type)
    assert observer.message() == (f"certtest/{thing}", json.dumps({"message": "hello", "thingName": thing}))
    assert document["key"]["type"] == key_type
    assert document["token"]["label"] == "gateway"
    assert Path(document["token"]["module"]).name.startswith("libtpm2_pkcs11.so")
    names = [step["name"] for step in document["steps"]]
    assert names == ["token", "invite", "key", "csr", "certificate", "store", "message"]
    assert [step["name"] for step in document["steps"] if step["skipped"]] == ["invite"]

    certificate = x509.load_pem_x509_certificate(Path(document["certificate"]["file"]).read_bytes())
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey)
    assert key_type.endswith(str(key.key_size))
    assert device.json("status")["key"]["matchesCertificate"] is True
    report = device.json("doctor", "--online")
    assert [check for check in report["checks"] if check["status"] == "failed"] == []
    found = {check["id"]: check["status"] for check in report["checks"]}
    for check in ("token", "token.pin-tries", "key.matches-certificate", "key.origin", "mqtt.reachable"):
        assert found[check] == "ok"
    assert device.run("publish", f"certtest/{thing}", "21.5").returncode == 0
    assert observer.message() == (f"certtest/{thing}", "21.5")


def test_the_rest_of_its_life_on_a_tpm(device: TpmDevice, thing: str) -> None:
    """Renewed, recovered and retired, with one key in the TPM all along, which cannot leave it; and none in the end."""
    device.create_token()
    first = device.json("init", "--thing", thing)
    second = device.json("renew")
    assert second["certificate"]["id"] != first["certificate"]["id"]
    device.assert_key_cannot_leave(Path(second["certificate"]["file"]))
    (device.home / "identity.json").unlink()
    assert device.json("recover")["certificate"] == second["certificate"]
    device.json("retire", "--yes")
    assert device.key_ids() == []


def test_the_key_cannot_leave_the_tpm(device: TpmDevice, thing: str) -> None:
    """Asked by pkcs11-tool: never extractable, always sensitive, made there; its public key is the certificate's."""
    device.create_token()
    document = device.json("init", "--thing", thing, "--no-publish")
    device.assert_key_cannot_leave(Path(document["certificate"]["file"]))


def test_a_copied_disk_is_no_device(device: TpmDevice, thing: str, tmp_path: Path) -> None:
    """With everything of the disk, PIN included, and another TPM, nobody publishes as the device."""
    device.create_token()
    device.json("init", "--thing", thing)
    (tmp_path / "other").mkdir()
    with tpm2.provided(tmp_path / "other") as other:
        thief = TpmDevice(tmp_path / "thief", device.cloud, tpm=other)
        subprocess.run(["cp", "-a", f"{device.folder}/.", str(thief.folder)], check=True)
        run = thief.run("publish", f"certtest/{thing}", "x")
    assert run.returncode != 0
    assert "Traceback" not in run.stderr
    assert device.run("publish", f"certtest/{thing}", "x").returncode == 0


def test_two_tpms_side_by_side(cloud: Cloud, tpm: Tpm2, tmp_path: Path, thing: str) -> None:
    """Two devices, each with a TPM of its own, enroll at the same time."""
    (tmp_path / "second").mkdir()
    with tpm2.provided(tmp_path / "second") as second:
        devices = [
            TpmDevice(tmp_path / name, cloud.environment, tpm=own)
            for name, own in (("one", tpm), ("two", second))
        ]  # fmt: skip
        creating = [device.start("token", "create", "--label", "gateway", "--backend", "tpm2") for device in devices]
        assert [process.communicate(timeout=90) and process.returncode for process in creating] == [0, 0]
        enrolling = [device.start("init", "--thing", f"{thing}-{n}") for n, device in enumerate(devices)]
        assert [process.communicate(timeout=90) and process.returncode for process in enrolling] == [0, 0]
        assert [device.json("status")["thingName"] for device in devices] == [f"{thing}-0", f"{thing}-1"]


def test_the_store_is_closed_to_others(device: TpmDevice, thing: str) -> None:
    """Whatever the umask, the store's folder is 0700 and each file in it 0600, before a token is in it and after."""
    script = 'umask 000; "$@"'
    for arguments in (["token", "create", "--label", "gateway", "--backend", "tpm2"], ["init", "--thing", thing]):
        command = ["bash", "-c", script, "-", sys.executable, "-m", "hsm_enroll", *arguments]
        subprocess.run(command, env=device.environment, capture_output=True, timeout=90, check=True)
        assert _modes(device.store) == {".": 0o700, "tpm2_pkcs11.sqlite3": 0o600}


def test_a_store_that_was_open_is_closed(device: TpmDevice) -> None:
    """A store that tpm2-pkcs11 made by itself, when the tokens were listed, is closed before the token is in it."""
    device.store.mkdir(mode=0o755)
    # 1.9.1 makes one by itself only where the variable says.
    device.extra["TPM2_PKCS11_STORE"] = str(device.store)
    device.run("tokens")
    del device.extra["TPM2_PKCS11_STORE"]
    assert _modes(device.store)["tpm2_pkcs11.sqlite3"] & 0o077
    assert device.create_token()["store"] == str(device.store)
    assert _modes(device.store) == {".": 0o700, "tpm2_pkcs11.sqlite3": 0o600}


def test_the_store_is_where_the_variable_says(device: TpmDevice, thing: str) -> None:
    """TPM2_PKCS11_STORE names the store, made where it is missing; without the variable the token is not there."""
    store = device.folder / "elsewhere" / "store"
    device.extra["TPM2_PKCS11_STORE"] = str(store)
    told = device.run("token", "create", "--label", "gateway", "--backend", "tpm2").stdout.splitlines()
    assert told[-2] == f"Its store is {store}"
    assert "TPM2_PKCS11_STORE" in told[-1]
    assert _modes(store) == {".": 0o700, "tpm2_pkcs11.sqlite3": 0o600}
    device.json("init", "--thing", thing)
    del device.extra["TPM2_PKCS11_STORE"]
    error = device.error("publish", f"certtest/{thing}", "x")
    # tpm2-pkcs11 1.9.0 makes itself an empty store; 1.9.1 fails.
    assert error["code"] in {"token-not-found", "module-unusable"}
    assert str(device.store) in error["message"]
    assert "TPM2_PKCS11_STORE" in error["hint"]


_KILLED_AT = {
    "before the token": "hsm_enroll.token.provision.create_tpm2_token",
    "between token and PIN": "hsm_enroll.token.provision.set_user_pin",
    "after the token": "hsm_enroll.device.pin.save_owner",
}


@pytest.mark.parametrize("moment", _KILLED_AT.values(), ids=_KILLED_AT)
def test_d10_a_token_whose_making_was_killed_is_taken_up(device: TpmDevice, thing: str, moment: str) -> None:
    """D10: killed at any point, token create and init go on with the PIN that is kept, and burn no try."""
    kill_token_create(moment, "--label", "gateway", "--backend", "tpm2", environment=device.environment)
    device.create_token()
    assert device.json("init", "--thing", thing, "--no-publish")["token"]["label"] == "gateway"
    assert device.tpm.wrong_pins() == 0


def test_a_pin_that_was_made_for_softhsm_is_not_tried_on_a_tpm(device: TpmDevice, thing: str) -> None:
    """A making that died in SoftHSM leaves its PIN; a token of that label in the TPM is not tried with it."""
    device.create_token()
    shutil.rmtree(device.home)
    moment = "hsm_enroll.token.provision.create_softhsm_token"
    kill_token_create(moment, "--label", "gateway", environment=device.environment)
    again = device.refused("token", "create", "--label", "gateway", "--backend", "tpm2")
    assert again == (11, "token-ambiguous")
    assert device.refused("init", "--thing", thing, "--token-label", "gateway") == (12, "pin-missing")
    assert device.tpm.wrong_pins() == 0


def test_d4_the_pin_is_shown_nowhere(device: TpmDevice) -> None:
    """D4: the PIN that is made stands in its file alone: not in the output, not in a verbose failure's traceback."""
    made = device.run("token", "create", "--label", "gateway", "--backend", "tpm2", "--verbose")
    again = device.run("token", "create", "--label", "gateway", "--backend", "tpm2", "--verbose")
    assert (made.returncode, again.returncode) == (0, 11)
    assert device.pin() not in made.stdout + made.stderr + again.stdout + again.stderr
    others = [path for path in device.folder.rglob("*") if path.is_file() and path != device.home / "pin"]
    assert [path for path in others if device.pin().encode() in path.read_bytes()] == []


def test_a_given_pin_is_the_tokens(device: TpmDevice, thing: str) -> None:
    """A PIN from HSM_ENROLL_PIN is the new token's and is not kept."""
    device.extra["HSM_ENROLL_PIN"] = "2468-given"
    assert device.create_token()["pinFile"] is None
    assert not (device.home / "pin").exists()
    assert device.json("init", "--thing", thing, "--no-publish")["enrolled"] is True


@pytest.mark.parametrize(
    ("variable", "value", "refusal", "words"),
    [
        ("TPM2_PKCS11_TCTI", "device:/dev/no-tpm", (10, "module-unusable"), "there is no TPM"),
        ("TPM2_PKCS11_TCTI", "device:/dev/tpm0", (10, "module-unusable"), "bypasses the TPM's resource manager"),
        ("TPM2_PKCS11_TCTI", "swtpm:port=2321", (10, "module-unusable"), "bypasses the TPM's resource manager"),
        ("DBUS_SESSION_BUS_ADDRESS", "unix:path=/none", (10, "module-unusable"), "tpm2-abrmd cannot be reached"),
        ("TPM2_PKCS11_STORE", "relative", (2, "usage"), "not an absolute path"),
        ("TPM2_PKCS11_STORE", "/proc/none", (50, "state-unusable"), "cannot be used"),
        ("TPM2_PKCS11_BACKEND", "fapi", (2, "usage"), "TPM2_PKCS11_BACKEND=fapi"),
        ("HSM_ENROLL_MODULE", "/none.so", (10, "module-missing"), "there is no PKCS#11 module /none.so"),
    ],
)
def test_what_is_wrong_with_the_tpm_is_said(
    device: TpmDevice, variable: str, value: str, refusal: tuple[int, str], words: str
) -> None:
    """Where no token can be made the error names what is missing, has a hint, and no PIN is left behind."""
    device.extra[variable] = value
    error = device.error("token", "create", "--label", "gateway", "--backend", "tpm2")
    assert (error["exitStatus"], error["code"]) == refusal
    assert words in error["message"]
    assert not (device.home / "pin").exists()


def test_a_tpm_that_refuses_to_make_a_token_says_what_may_be_wrong(tmp_path: Path, cloud: Cloud) -> None:
    """A TPM without a storage key, whose owner has a password, makes no token; given the password it does."""
    with tpm2.provided(tmp_path) as own:
        device = TpmDevice(tmp_path / "device", cloud.environment, tpm=own)
        for command in (["tpm2_evictcontrol", "-C", "o", "-c", "0x81000001"], ["tpm2_changeauth", "-c", "o", "owner"]):
            subprocess.run(command, env=device.environment, capture_output=True, timeout=60, check=False)
        error = device.error("token", "create", "--label", "gateway", "--backend", "tpm2")
        assert (error["exitStatus"], error["code"]) == (15, "token-refused")
        assert "TPM2_PKCS11_OWNER_AUTH" in error["hint"]
        device.extra["TPM2_PKCS11_OWNER_AUTH"] = "owner"
        assert device.create_token()["label"] == "gateway"


def test_after_the_tpm_was_cleared_every_command_says_so_and_what_to_do(
    cloud: Cloud, tmp_path: Path, thing: str
) -> None:
    """``publish``, ``csr``, ``token create`` and ``doctor`` say that the keys are lost; what they advise works."""
    with tpm2.provided(tmp_path) as own:
        device = TpmDevice(tmp_path / "device", cloud.environment, tpm=own)
        device.create_token()
        device.json("init", "--thing", thing, "--no-publish")
        subprocess.run(["tpm2_clear"], env=device.environment, capture_output=True, timeout=60, check=True)
        for arguments, refusal in (
            (("publish", f"certtest/{thing}", "x"), (15, "token-refused")),
            (("csr",), (15, "token-refused")),
            (("token", "create", "--label", "new", "--backend", "tpm2"), (10, "module-unusable")),
        ):
            error = device.error(*arguments)
            assert (error["exitStatus"], error["code"]) == refusal
            assert "the TPM was cleared" in error["message"]
            assert f"mv {device.store} {device.store}.old" in error["hint"]
        checks = {check["id"]: check for check in device.json("doctor", status=1)["checks"]}
        assert checks["token.store"]["status"] == "failed"
        assert "the TPM was cleared" in checks["token.store"]["message"]

        device.store.rename(f"{device.store}.old")
        for name in ("pin", "token.json"):
            (device.home / name).rename(device.home / f"{name}.old")
        device.create_token()
        assert device.json("init", "--thing", f"{thing}-new", "--new-key", "--no-publish")["enrolled"] is True
        assert device.json("status")["key"]["matchesCertificate"] is True


def test_d1_a_wrong_pin_at_the_connection_names_its_source(device: TpmDevice, thing: str) -> None:
    """D1: where ``publish`` logs in with a wrong PIN, the error says where it came from, and the count now."""
    device.create_token()
    device.json("init", "--thing", thing, "--no-publish")
    with device.tpm.locking_after(3, seconds_to_forget_one=1000):
        device.extra["HSM_ENROLL_PIN"] = "wrong-1234"
        error = device.error("publish", f"certtest/{thing}", "x")
    assert (error["exitStatus"], error["code"]) == (12, "pin-wrong")
    assert error["message"].endswith(": it was the PIN in HSM_ENROLL_PIN")
    assert error["hint"].endswith("The TPM counts 1 of the 3 failed tries that lock it.")


def test_status_shows_the_identity_without_its_token(device: TpmDevice, thing: str) -> None:
    """Where the token cannot be used, ``status`` shows the identity and says why, with the error's exit status."""
    device.create_token()
    device.json("init", "--thing", thing, "--no-publish")
    device.store.rename(device.folder / "elsewhere")
    run = device.run("status", "--json")
    document = json.loads(run.stdout)
    assert (document["thingName"], document["key"]["matchesCertificate"]) == (thing, None)
    assert document["error"]["exitStatus"] == run.returncode != 0
    assert str(device.store) in document["error"]["message"]
    shown = device.run("status")
    assert shown.returncode == run.returncode
    assert thing in shown.stdout
    assert str(device.store) in shown.stderr
    assert "TPM2_PKCS11_STORE" in shown.stderr


@pytest.mark.parametrize(
    ("disk", "said"),
    [
        ('dd if=/dev/zero of="$1/full" bs=4k 2>/dev/null', "is full (0 bytes are free)"),
        ('mount -o remount,ro "$1"', "is on a file system that is mounted read-only"),
    ],
    ids=["full", "read-only"],
)
def test_the_disk_of_the_store_is_told(device: TpmDevice, disk: str, said: str) -> None:
    """A store on a disk that is full or read-only fails the doctor's check with that reason."""
    place = device.folder / "disk"
    place.mkdir()
    device.create_token()
    device.extra["TPM2_PKCS11_STORE"] = str(place / "store")
    script = f'mount -t tmpfs -o size=128k tmpfs "$1" && cp -a "$2" "$1/store" && {{ {disk}; shift 2; "$@"; }}'
    command = ["sh", "-c", script, "sh", str(place), str(device.store)]
    run = subprocess.run(
        with_own_mounts(*command, sys.executable, "-m", "hsm_enroll", "doctor", "--json"),
        env=device.environment,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    checks = {check["id"]: check for check in documents.read(["doctor"], run.stdout)["checks"]}
    assert (run.returncode, checks["token.store"]["status"]) == (1, "failed")
    assert said in checks["token.store"]["message"]
    assert str(place / "store") in checks["token.store"]["message"]


def test_tokens_fails_where_no_module_can_be_used(device: TpmDevice) -> None:
    """``tokens`` of one module that cannot be used ends with its error, not with 0."""
    module = device.create_token()["module"]
    os.truncate(device.store / "tpm2_pkcs11.sqlite3", 4096)
    assert device.refused("tokens", "--module", module) == (10, "module-unusable")
    listed = {found["module"]: found for found in device.json("tokens")["modules"]}
    assert "is damaged" in listed[module]["error"]
    assert "backup" in listed[module]["hint"]


def test_a_store_that_is_none_is_left_alone(device: TpmDevice) -> None:
    """A folder with other files is not taken from the group: the variable may name /etc."""
    folder = device.folder / "shared"
    folder.mkdir(mode=0o755)
    (folder / "hosts").write_text("")
    before = _modes(folder)
    device.extra["TPM2_PKCS11_STORE"] = str(folder)
    assert device.refused("token", "create", "--label", "gateway", "--backend", "tpm2") == (50, "state-unusable")
    assert _modes(folder) == before


@pytest.fixture(scope="module")
def slow_tpm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which the TPM takes three seconds to make a key, as a chip does and more."""
    folder = tmp_path_factory.mktemp("slow")
    (folder / "slow.c").write_text(_SLOW_TPM)
    preloaded = str(folder / "slow.so")
    options = ["-shared", "-fPIC", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(["gcc", *options, "-o", preloaded, str(folder / "slow.c"), "-ldl"], check=True)
    return {"LD_PRELOAD": preloaded}


def test_a_slow_key_shows_elapsed_time_and_what_is_normal(
    device: TpmDevice, thing: str, slow_tpm: dict[str, str]
) -> None:
    """While the TPM makes a key a terminal shows the seconds running, and how many are normal; then what it took."""
    device.create_token()
    device.extra |= slow_tpm
    shown = _on_a_terminal(device, "init", "--thing", thing, "--key-type", "rsa-2048", "--no-publish")
    making = re.findall(r"generating the key in the token \(RSA in a TPM: up to half a minute\) (\d:\d\d:\d\d)", shown)
    assert set(making) >= {"0:00:00", "0:00:01", "0:00:02"}
    took = re.search(r"✓\S* generating the key in the token +(\d+\.\d\d) s", shown)
    assert took is not None
    assert float(took[1]) >= 3


def test_a_slow_key_streams_nothing_with_json(device: TpmDevice, thing: str, slow_tpm: dict[str, str]) -> None:
    """With --json nothing is said on the way, and the document ends with what each step took."""
    device.create_token()
    device.extra |= slow_tpm
    arguments = ("init", "--thing", thing, "--key-type", "rsa-2048", "--no-publish", "--json")
    # On a terminal, where there would be much to be said; all of it goes to the same one.
    written = documents.read(arguments, _on_a_terminal(device, *arguments))
    assert list(written)[-1] == "steps"
    assert {step["name"]: step["seconds"] for step in written["steps"]}["key"] >= 3


def _on_a_terminal(device: TpmDevice, *arguments: str) -> str:
    """What a command shows on a terminal of its own, to its successful end."""
    ours, its = pty.openpty()
    environment = {**device.environment, "TERM": "xterm", "COLUMNS": "120"}
    command = [sys.executable, "-m", "hsm_enroll", *arguments]
    with subprocess.Popen(command, env=environment, stdin=its, stdout=its, stderr=its) as process:
        os.close(its)
        shown = b""
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and select.select([ours], [], [], deadline - time.monotonic())[0]:
            try:
                shown += os.read(ours, 65536)
            except OSError:  # pty(7): the last of the other side has closed it
                break
        os.close(ours)
        assert process.wait(timeout=10) == 0, shown.decode()
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())


def _modes(folder: Path) -> dict[str, int]:
    """The permission bits of a folder, as ``.``, and of what is in it."""
    found = {entry.name: entry.stat().st_mode & 0o777 for entry in folder.iterdir()}
    return {".": folder.stat().st_mode & 0o777, **found}
