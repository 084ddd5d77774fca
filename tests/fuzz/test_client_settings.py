"""Properties of the settings: no file and no environment makes them fail in another way than by UsageError."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as run
from hypothesis import strategies as st

from hsm_enroll import settings
from hsm_enroll.errors import UsageError
from hsm_enroll.settings import Settings

_RUN = run(database=None, deadline=None, max_examples=120)
_KEYS = [
    "module",
    "token",
    "thing",
    "api_url",
    "ca_file",
    "credentials_endpoint",
    "credentials_port",
    "mqtt_endpoint",
    "mqtt_port",
    "operation_timeout",
    "role_alias",
    "outbox_bytes",
    "outbox_when_full",
    "pin_file",
    "key_type",
    "subject",
]
_VALUES = [
    '"pkcs11:token=a"',
    '"ec-p384"',
    '"8883"',
    '"https://[::1"',
    '"https://broker.example:8883/x"',
    "8883",
    "0",
    "true",
    "[]",
    "{}",
    "1979-05-27",
    '"\\u0000"',
    "''",
    "nan",
]
_LINES = st.builds(
    "{} {} {}".format,
    st.sampled_from([*_KEYS, "[thing]", "x"]),
    st.sampled_from(["=", "", "."]),
    st.sampled_from(_VALUES),
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all the examples; each of them replaces its file."""
    return tmp_path_factory.mktemp("home")


def _load(environment: dict[str, str]) -> Settings | UsageError:
    try:
        return settings.load(environment, {})
    except UsageError as error:
        return error


@_RUN
@given(content=st.binary() | st.text().map(str.encode) | st.lists(_LINES).map("\n".join).map(str.encode))
def test_any_file_is_settings_or_wrong_usage(home: Path, content: bytes) -> None:
    """Whatever config.toml holds, it is read or refused by name."""
    (home / "config.toml").write_bytes(content)
    loaded = _load({"HSM_ENROLL_HOME": str(home)})
    assert isinstance(loaded, Settings) or str(home / "config.toml") in loaded.message


@_RUN
@given(key=st.sampled_from(_KEYS), value=st.text(st.characters(exclude_characters="\0")))
def test_any_environment_is_settings_or_wrong_usage(home: Path, key: str, value: str) -> None:
    """Whatever a variable holds, as text or as bytes that were not text, it is read or refused by name."""
    (home / "config.toml").unlink(missing_ok=True)
    loaded = _load({"HSM_ENROLL_HOME": str(home), f"HSM_ENROLL_{key.upper()}": value})
    if isinstance(loaded, UsageError):
        assert f"HSM_ENROLL_{key.upper()}" in loaded.message
    else:
        # Several texts are the same number.
        said_nothing = value == "" or getattr(loaded, key) == getattr(Settings(state=home), key)
        assert (loaded == Settings(state=home)) == said_nothing
