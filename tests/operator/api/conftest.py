"""What the tests of the operator's routes share: a stand-in for the API, and credentials that it knows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hsm_enroll import cli
from tests.client.conftest import shown_with_locals  # noqa: F401 - a fixture, found by its name
from tests.operator.api.running import Result, Run
from tests.operator.api.stand_in import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY, Backend, operator_backend
from tests.support.authority import Authority

_SURROUNDINGS = (
    *("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "AWS_CA_BUNDLE", "AWS_PROFILE", "AWS_SESSION_TOKEN"),
    *("AWS_ENDPOINT_URL", "HSM_ENROLL_API_URL", "HSM_ENROLL_CA_FILE"),
)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """A CA that the client is told to trust."""
    return Authority(tmp_path / "authority")


@pytest.fixture
def operator_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One operator's credentials, and nothing else from the surroundings."""
    for name in _SURROUNDINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY)
    monkeypatch.setenv("AWS_REGION", REGION)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HSM_ENROLL_HOME", str(tmp_path / "home"))


@pytest.fixture
def backend(authority: Authority) -> Iterator[Backend]:
    """The contract, behind a door that checks signatures."""
    with operator_backend(authority) as running:
        yield running


@pytest.fixture
def run(
    backend: Backend,
    authority: Authority,
    operator_credentials: None,  # noqa: ARG001 - the environment comes first
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """The command line, pointed at the stand-in; also checks that no code is on stderr."""
    monkeypatch.setenv("HSM_ENROLL_API_URL", backend.url)
    monkeypatch.setenv("HSM_ENROLL_CA_FILE", str(authority.certificate))
    # What is waited for between tries is tested with the client.
    monkeypatch.setattr("hsm_enroll.backend_api.patience.BACKOFF_SECONDS", 0.0)

    def start(*arguments: object) -> Result:
        status = cli.run([*map(str, arguments)])
        shown = capsys.readouterr()
        assert not [code for code in backend.codes if code in shown.err]
        return Result([*map(str, arguments)], status, shown.out, shown.err)

    return start
