"""The Lambda function's environment, and its import."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from hsm_enroll.errors import LocalCloudError
from hsm_enroll.local.lambda_runtime import environment, loaded_handler


def test_the_functions_environment_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of AWS's variables only those given are there, and afterwards all is as it was."""
    monkeypatch.setenv("AWS_PROFILE", "mine")
    monkeypatch.setenv("NO_PROXY", "example.com")
    before = dict(os.environ)
    with environment({"AWS_REGION": "us-east-1"}):
        aws = {name for name in os.environ if name.startswith("AWS_")}
        assert aws == {"AWS_REGION", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"}
        assert os.environ["NO_PROXY"] == "127.0.0.1,localhost,example.com"
        os.environ["POLICY_NAME"] = "set meanwhile"
    assert dict(os.environ) == before


def test_modules_are_fresh_and_leave_no_trace(tmp_path: Path) -> None:
    """A handler finds the modules beside it; neither path nor modules stay, and those of the same name come back."""
    (tmp_path / "neighbour.py").write_text("calls = []\n")
    (tmp_path / "handler.py").write_text(
        "import neighbour\ndef lambda_handler(event, context):\n    neighbour.calls.append(event)\n"
        "    return len(neighbour.calls)\n"
    )
    path, modules = list(sys.path), dict(sys.modules)
    for _ in range(2):
        with loaded_handler(tmp_path) as handler:
            assert handler({}, None) == 1
    assert sys.path == path
    assert {name: sys.modules.get(name) for name in ("handler", "neighbour")} == {
        name: modules.get(name) for name in ("handler", "neighbour")
    }


@pytest.mark.parametrize("text", ["import no_such_module", "1 / 0", "def (", "x = 1"])
def test_a_handler_that_cannot_be_loaded_is_an_error(tmp_path: Path, text: str) -> None:
    """Whatever is wrong with the file, the error names it."""
    (tmp_path / "handler.py").write_text(text)
    with pytest.raises(LocalCloudError, match=r"handler\.py cannot be loaded"), loaded_handler(tmp_path):
        pass
