"""Where the configuration comes from, and what is said when it is wrong."""

from __future__ import annotations

import os
import pwd
import tempfile
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, NoReturn

import pytest

from hsm_enroll import settings
from hsm_enroll.errors import UsageError
from hsm_enroll.key import KeyType
from hsm_enroll.settings import Settings, Tls, WhenFull
from hsm_enroll.uri import Pkcs11Uri
from tests.support.nobody import as_nobody


class _Key(NamedTuple):
    """A configuration key: what to write in each of the three places, what that means, and the default."""

    texts: tuple[str, str, str]
    values: tuple[object, object, object]
    default: object


_PATHS = _Key(("/a/1", "/b/2", "/c/3"), (Path("/a/1"), Path("/b/2"), Path("/c/3")), None)
_TEXTS = _Key(("one", "two", "three"), ("one", "two", "three"), None)
_KEYS = {
    "module": _PATHS,
    "token": _Key(
        ("pkcs11:token=one", "pkcs11:token=two", "pkcs11:token=three"),
        (Pkcs11Uri(token="one"), Pkcs11Uri(token="two"), Pkcs11Uri(token="three")),
        None,
    ),
    "thing": _TEXTS,
    "api_url": _TEXTS,
    "ca_file": _PATHS,
    "mqtt_endpoint": _TEXTS,
    "mqtt_port": _Key(("443", "8883", "65535"), (443, 8883, 65535), None),
    "role_alias": _Key(("gateways", "a=b,c@d-e_f", "x" * 128), ("gateways", "a=b,c@d-e_f", "x" * 128), None),
    "credentials_endpoint": _TEXTS,
    "credentials_port": _Key(("443", "8443", "65535"), (443, 8443, 65535), None),
    "mqtt_keep_alive": _Key(("30", "90", "1200"), (30, 90, 1200), 60),
    "connect_timeout": _Key(("1", "2.5", "600"), (1.0, 2.5, 600.0), 20.0),
    "operation_timeout": _Key(("600", "5", "1"), (600.0, 5.0, 1.0), 20.0),
    "tls": _Key(("auto", "1.2", "auto"), (Tls.AUTO, Tls.V1_2, Tls.AUTO), Tls.V1_2),
    "outbox_bytes": _Key(("1048576", "2000000", "1099511627776"), (1024**2, 2_000_000, 1024**4), 64 * 1024**2),
    "outbox_max_age": _Key(("0", "3600", "0.5"), (0.0, 3600.0, 0.5), 0.0),
    "outbox_when_full": _Key(
        ("drop-oldest", "refuse", "drop-oldest"),
        (WhenFull.DROP_OLDEST, WhenFull.REFUSE, WhenFull.DROP_OLDEST),
        WhenFull.REFUSE,
    ),
    "draining_rate": _Key(("0", "2", "0.5"), (0.0, 2.0, 0.5), 100.0),
    "pin_file": _PATHS,
    "key_type": _Key(
        ("rsa-2048", "rsa-4096", "ec-p384"), (KeyType.RSA_2048, KeyType.RSA_4096, KeyType.EC_P384), KeyType.EC_P256
    ),
    "tpm_ak": _Key(("0x81010001", "81000000", "0x81FFFFFF"), (0x81010001, 0x81000000, 0x81FFFFFF), None),
    "subject": _TEXTS,
    "renew_after_days": _Key(("0", "30", "36500"), (0, 30, 36500), 365),
    "renew_at_lifetime_share": _Key(("0.5", "1", "0.01"), (0.5, 1.0, 0.01), 0.66),
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder to name in HSM_ENROLL_HOME."""
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins for the system's two folders, ``configuration`` and ``state`` below this one; neither exists yet."""
    monkeypatch.setattr(settings, "SYSTEM_CONFIGURATION", tmp_path / "system" / "configuration")
    monkeypatch.setattr(settings, "SYSTEM_STATE", tmp_path / "system" / "state")
    return tmp_path / "system"


@pytest.fixture
def some_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests, the code under test is run by a user who is not root."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)


def _configure(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "config.toml"
    file.write_text(text, encoding="utf-8")
    return file


def _load(
    home: Path, environment: dict[str, str] | None = None, options: dict[str, str | None] | None = None
) -> Settings:
    return settings.load({"HSM_ENROLL_HOME": str(home), **(environment or {})}, options or {})


def test_every_setting_is_under_test() -> None:
    """The table of this module holds every configuration key there is."""
    assert set(_KEYS) == set(Settings._fields) - {"state"}


@pytest.mark.parametrize("key", _KEYS)
def test_an_option_comes_before_the_environment_before_the_file_before_the_default(home: Path, key: str) -> None:
    """Each key is taken from the option, else HSM_ENROLL_<KEY>, else config.toml, else it has its default."""
    (option, variable, written), values, default = _KEYS[key]
    environment = {f"HSM_ENROLL_{key.upper()}": variable}

    assert getattr(_load(home), key) == default
    _configure(home, f'{key} = "{written}"')
    assert getattr(_load(home), key) == values[2]
    assert getattr(_load(home, environment), key) == values[1]
    assert getattr(_load(home, environment, {key: option}), key) == values[0]


@pytest.mark.parametrize("key", _KEYS)
def test_an_empty_value_says_nothing(home: Path, key: str) -> None:
    """An option not given and an empty variable leave the word to the file, an empty value there to the default."""
    _, _, written = _KEYS[key].texts
    unsaid = ({f"HSM_ENROLL_{key.upper()}": ""}, dict[str, str | None]({key: None}))

    _configure(home, f'{key} = "{written}"')
    assert getattr(_load(home, *unsaid), key) == _KEYS[key].values[2]
    _configure(home, f'{key} = ""')
    assert getattr(_load(home, *unsaid), key) == _KEYS[key].default


def test_keys_do_not_disturb_each_other(home: Path) -> None:
    """A file with every key gives every value."""
    _configure(home, "\n".join(f'{key} = "{case.texts[2]}"' for key, case in _KEYS.items()))
    assert _load(home) == Settings(state=home, **{key: case.values[2] for key, case in _KEYS.items()})  # type: ignore[arg-type]


def test_a_number_may_be_one_in_the_file(home: Path) -> None:
    """TOML has integers and floats, and a port is an integer."""
    numbers = {
        "mqtt_port": 8883,
        "credentials_port": 8443,
        "mqtt_keep_alive": 45,
        "connect_timeout": 10,
        "operation_timeout": 2.5,
        "outbox_bytes": 2_000_000,
        "outbox_max_age": 86400,
        "draining_rate": 0.5,
        "renew_after_days": 90,
        "renew_at_lifetime_share": 0.5,
    }
    _configure(home, "\n".join(f"{key} = {number}" for key, number in numbers.items()))
    assert {key: getattr(_load(home), key) for key in numbers} == numbers


def test_a_byte_order_mark_may_come_first(home: Path) -> None:
    """The file of an editor that writes a byte order mark is read as without one."""
    _configure(home, "\ufeffmqtt_port = 8883")
    assert _load(home).mqtt_port == 8883


_WRONG = [
    ("mqtt_port", "0"),
    ("mqtt_port", "65536"),
    ("credentials_port", "0"),
    ("role_alias", "a/b"),
    ("role_alias", "x" * 129),
    ("role_alias", "ä"),
    ("mqtt_port", "-1"),
    ("mqtt_port", "mqtt"),
    ("mqtt_port", "8883.0"),
    ("renew_after_days", "-1"),
    ("renew_after_days", "36501"),
    ("renew_after_days", "1.5"),
    ("renew_after_days", "never"),
    ("renew_at_lifetime_share", "0"),
    ("renew_at_lifetime_share", "1.01"),
    ("renew_at_lifetime_share", "nan"),
    ("renew_at_lifetime_share", "66%"),
    ("mqtt_keep_alive", "29"),
    ("mqtt_keep_alive", "1201"),
    ("mqtt_keep_alive", "often"),
    ("connect_timeout", "0"),
    ("connect_timeout", "601"),
    ("operation_timeout", "0.9"),
    ("operation_timeout", "inf"),
    ("operation_timeout", "5s"),
    ("outbox_bytes", "1048575"),
    ("outbox_bytes", "1099511627777"),
    ("outbox_bytes", "64M"),
    ("outbox_bytes", "-1"),
    ("outbox_max_age", "-1"),
    ("outbox_max_age", "nan"),
    ("outbox_max_age", "315360001"),
    ("outbox_when_full", "drop-newest"),
    ("draining_rate", "-1"),
    ("draining_rate", "100001"),
    ("draining_rate", "fast"),
    ("tls", "1.3"),
    ("tls", "AUTO"),
    ("key_type", "dsa"),
    ("key_type", "EC-P256"),
    ("token", "gateway"),
    ("token", "pkcs11:slot-id=0"),
]


@pytest.mark.parametrize(("key", "text"), _WRONG)
def test_a_wrong_value_names_where_it_came_from(home: Path, key: str, text: str) -> None:
    """The message for a wrong value names the option, the variable, or the file and its key."""
    option, variable = f"--{key.replace('_', '-')}", f"HSM_ENROLL_{key.upper()}"

    with pytest.raises(UsageError) as from_option:
        _load(home, options={key: text})
    with pytest.raises(UsageError) as from_environment:
        _load(home, {variable: text})
    file = _configure(home, f'{key} = "{text}"')
    with pytest.raises(UsageError) as from_file:
        _load(home)

    assert from_option.value.message.startswith(f"{option}: ")
    assert from_environment.value.message.startswith(f"{variable}: ")
    assert from_file.value.message.startswith(f"{file}: {key}: ")


def test_a_wrong_value_is_not_seen_behind_a_right_one(home: Path) -> None:
    """A source that is not asked is not read: an option heals what the environment has wrong."""
    assert _load(home, {"HSM_ENROLL_MQTT_PORT": "no"}, {"mqtt_port": "443"}).mqtt_port == 443


@pytest.mark.parametrize(
    ("key", "text", "kind"),
    [
        ("key_type", "p256", KeyType),
        ("tls", "1.3", Tls),
        ("outbox_when_full", "drop", WhenFull),
    ],
)
def test_a_wrong_word_lists_the_right_ones(home: Path, key: str, text: str, kind: type[StrEnum]) -> None:
    """Whoever mistypes a value of which there are few is told which there are."""
    with pytest.raises(UsageError) as caught:
        _load(home, options={key: text})
    assert all(word.value in caught.value.message for word in kind)


@pytest.mark.parametrize("key", ["mqtt_endpoint", "credentials_endpoint"])
@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("https://broker.example", "Leave 'https://' out."),
        ("Broker.example:8883", "Leave ':8883' out. The port is set by {port}."),
        ("mqtts://broker.example:8883/x", "Leave 'mqtts://' and ':8883/x' out. The port is set by {port}."),
        ("broker.example/x", "Leave '/x' out."),
        ("mqtts://mqtt", "Leave 'mqtts://' out."),
        ("broker.example.", "Leave '.' out."),
        ("[2001:db8::1]", "Leave '[' and ']' out."),
        ("https://[2001:db8::1", "Write the host name alone, such as broker.example, or an IP address."),
        ("fe80::1%eth0", "Write the host name alone, such as broker.example, or an IP address."),
        ("my broker", "Write the host name alone, such as broker.example, or an IP address."),
        ("https://", "Write the host name alone, such as broker.example, or an IP address."),
    ],
)
def test_what_is_around_a_host_name_is_to_be_left_out(home: Path, key: str, text: str, hint: str) -> None:
    """A URL or a port would be looked up as a name, and the network blamed; the hint names what is too much."""
    with pytest.raises(UsageError) as caught:
        _load(home, {f"HSM_ENROLL_{key.upper()}": text})
    message = f"HSM_ENROLL_{key.upper()}: invalid value {text!r}; must be a host name alone"
    port = key.replace("endpoint", "port")
    assert (caught.value.message, caught.value.hint) == (message, hint.replace("{port}", port))


@pytest.mark.parametrize(
    "text", ["a1b2-ats.iot.eu-central-1.amazonaws.com", "localhost", "stack_mqtt", "192.0.2.1", "2001:db8::1"]
)
def test_a_host_name_or_an_address_is_an_endpoint(home: Path, text: str) -> None:
    """Of either kind, without anything around it; a container's name too, which may have an underscore."""
    assert _load(home, {"HSM_ENROLL_MQTT_ENDPOINT": text}).mqtt_endpoint == text


def test_a_pin_in_a_token_uri_is_not_repeated(home: Path) -> None:
    """D4: HSM_ENROLL_TOKEN with a PIN in it is refused without saying the PIN, and with where PINs belong."""
    with pytest.raises(UsageError) as caught:
        _load(home, {"HSM_ENROLL_TOKEN": "pkcs11:token=a?pin-value=493817"})

    assert "HSM_ENROLL_TOKEN" in caught.value.message
    assert "HSM_ENROLL_PIN_FILE" in caught.value.hint
    assert "493817" not in caught.value.message + caught.value.hint


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("thing = 7", "thing"),
        ("thing = true", "thing"),
        ("thing = 1.5", "thing"),
        ("thing = 2026-01-31", "thing"),
        ('thing = ["gateway"]', "thing"),
        ('thing = {name = "gateway"}', "thing"),
        ("[thing]", "thing"),
        ("[[module]]", "module"),
        ("mqtt_port = true", "mqtt_port"),
        ("mqtt_port = 8883.0", "mqtt_port"),
        ("mqtt_port = [8883]", "mqtt_port"),
        ("key_type = 256", "key_type"),
    ],
)
def test_a_value_in_the_file_is_a_string(home: Path, text: str, key: str) -> None:
    """A table, list, date, boolean or number where a string belongs is refused, naming file and key."""
    file = _configure(home, text)
    with pytest.raises(UsageError, match=f"{file}: {key} must be a string"):
        _load(home)


@pytest.mark.parametrize("key", [key for key, case in _KEYS.items() if case is _PATHS])
def test_a_path_holds_no_nul(home: Path, key: str) -> None:
    """A path that no file can have is refused here rather than by whoever opens it."""
    file = _configure(home, f'{key} = "/usr/lib/a\\u0000.so"')
    with pytest.raises(UsageError, match=f"{file}: {key}: "):
        _load(home)


def test_an_unknown_key_is_named_with_those_there_are(home: Path) -> None:
    """A mistyped key is refused, not ignored; its value, perhaps a PIN, is not repeated."""
    file = _configure(home, 'pin = "493817"')
    with pytest.raises(UsageError, match=f"{file}: unknown setting 'pin'") as caught:
        _load(home)

    assert all(key in caught.value.hint for key in _KEYS)
    assert "493817" not in caught.value.message + caught.value.hint


@pytest.mark.parametrize("text", ["thing = gateway", "thing", "= 1", '"', "thing = 'a'\nthing = 'b'"])
def test_a_file_that_is_not_toml_is_named(home: Path, text: str) -> None:
    """A file that cannot be parsed is wrong usage and is named."""
    file = _configure(home, text)
    with pytest.raises(UsageError, match=f"{file} is not valid TOML"):
        _load(home)


def test_a_file_that_is_not_utf_8_is_named(home: Path) -> None:
    """TOML is UTF-8."""
    file = home / "config.toml"
    file.write_bytes('thing = "Tür"'.encode("latin-1"))
    with pytest.raises(UsageError, match=f"{file} is not valid TOML"):
        _load(home)


def test_a_file_that_cannot_be_read_is_named(home: Path) -> None:
    """A folder where the file should be is told apart from no file."""
    file = home / "config.toml"
    file.mkdir()
    with pytest.raises(UsageError, match=f"{file} cannot be read"):
        _load(home)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(os.mkfifo, "it is not a regular file", id="FIFO"),
        pytest.param(lambda file: file.symlink_to("/dev/zero"), "it is not a regular file", id="device"),
        pytest.param(lambda file: os.truncate(_configure(file.parent, ""), 2**30), "larger than 64 KiB", id="sparse"),
        pytest.param(lambda file: file.symlink_to("nowhere"), "a link to a file that does not exist", id="dangling"),
    ],
)
def test_what_is_no_configuration_is_an_error_at_once(home: Path, make: Callable[[Path], object], reason: str) -> None:
    """D29: a FIFO, device, huge file or dangling link is wrong usage with the reason, not a hang or the defaults."""
    file = home / "config.toml"
    make(file)
    with pytest.raises(UsageError, match=f"{file} cannot be read: .*{reason}"):
        _load(home)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_folder_of_another_user_is_named() -> None:
    """Where the folder is closed to this user it is the folder that is named, and not a file that it need not have."""
    closed = "cannot be read by this user"
    with tempfile.TemporaryDirectory() as folder, as_nobody(), pytest.raises(UsageError, match=closed) as caught:
        settings.load({"HSM_ENROLL_HOME": folder}, {})
    assert caught.value.message.startswith(f"{folder} cannot")
    assert "as the folder's owner" in caught.value.hint


def test_one_folder_can_hold_both(home: Path) -> None:
    """HSM_ENROLL_HOME holds the configuration and is the state folder."""
    _configure(home, 'thing = "here"')
    assert (_load(home).state, _load(home).thing) == (home, "here")


def test_root_uses_the_systems_folders(system: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Root reads the system's configuration and keeps state in the system's folder, whatever XDG says."""
    monkeypatch.setattr("os.geteuid", lambda: 0)
    _configure(system / "configuration", 'thing = "system"')
    elsewhere = {"XDG_CONFIG_HOME": str(tmp_path / "c"), "XDG_STATE_HOME": str(tmp_path / "s"), "HOME": str(tmp_path)}
    loaded = settings.load(elsewhere, {})

    assert (loaded.state, loaded.thing) == (system / "state", "system")


@pytest.mark.usefixtures("some_user", "system")
def test_a_user_has_folders_of_their_own_where_xdg_says(tmp_path: Path) -> None:
    """Without access to the system's folders, XDG_CONFIG_HOME and XDG_STATE_HOME say where."""
    _configure(tmp_path / "c" / "hsm-enroll", 'thing = "own"')
    loaded = settings.load({"XDG_CONFIG_HOME": str(tmp_path / "c"), "XDG_STATE_HOME": str(tmp_path / "s")}, {})

    assert (loaded.state, loaded.thing) == (tmp_path / "s" / "hsm-enroll", "own")


@pytest.mark.usefixtures("some_user", "system")
@pytest.mark.parametrize(
    "xdg", [{}, {"XDG_CONFIG_HOME": "", "XDG_STATE_HOME": ""}, {"XDG_CONFIG_HOME": "c", "XDG_STATE_HOME": "s"}]
)
def test_without_an_absolute_xdg_path_it_is_below_home(tmp_path: Path, xdg: dict[str, str]) -> None:
    """XDG variables that are unset, empty or relative give way to ~/.config and ~/.local/state, as XDG asks."""
    _configure(tmp_path / ".config" / "hsm-enroll", 'thing = "own"')
    loaded = settings.load({"HOME": str(tmp_path), **xdg}, {})

    assert (loaded.state, loaded.thing) == (tmp_path / ".local" / "state" / "hsm-enroll", "own")


@pytest.mark.usefixtures("some_user", "system")
def test_a_service_without_home_gets_that_of_its_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where HOME is not set, the account's home folder is used."""
    monkeypatch.setenv("HOME", str(tmp_path))  # where the account's home is looked up first
    assert settings.load({}, {}).state == tmp_path / ".local" / "state" / "hsm-enroll"


@pytest.mark.usefixtures("some_user", "system")
def test_a_user_without_an_account_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user id that no account has, as in a container, is an error that names HSM_ENROLL_HOME."""

    def no_account(_: int) -> NoReturn:
        raise KeyError

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", no_account)
    with pytest.raises(UsageError) as caught:
        settings.load({}, {})
    assert "HSM_ENROLL_HOME" in caught.value.hint


@pytest.mark.usefixtures("some_user")
def test_a_user_who_was_given_the_systems_folders_uses_them(system: Path, tmp_path: Path) -> None:
    """A service account that may read the system's folders works with them, as root does."""
    (system / "state").mkdir(parents=True)
    _configure(system / "configuration", 'thing = "system"')
    loaded = settings.load({"HOME": str(tmp_path)}, {})

    assert (loaded.state, loaded.thing) == (system / "state", "system")


@pytest.mark.usefixtures("system")
@pytest.mark.parametrize("user", [0, 1000])
def test_home_comes_before_every_other_folder(home: Path, monkeypatch: pytest.MonkeyPatch, user: int) -> None:
    """HSM_ENROLL_HOME is obeyed for every user."""
    monkeypatch.setattr("os.geteuid", lambda: user)
    assert _load(home, {"XDG_STATE_HOME": "/nowhere"}).state == home


def test_settings_cannot_be_changed(home: Path) -> None:
    """Settings are a value."""
    with pytest.raises(AttributeError):
        _load(home).thing = "another"  # type: ignore[misc]
