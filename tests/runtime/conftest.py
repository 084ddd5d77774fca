"""The zip, built once for this machine, and an execution environment that holds nothing else."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from tests.runtime.execution_environment import ExecutionEnvironment, link_runtime
from tests.support.devices import Cloud

if TYPE_CHECKING:
    from mypy_boto3_iot import IoTClient

ROOT = Path(__file__).parents[2]
ARCHITECTURE = {"x86_64": "x86_64", "aarch64": "arm64"}[platform.machine()]
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
_TIME_LIMIT = 300.0  # seconds; wheels that pip has not kept come from afar


class Tree:
    """A copy of what the zip is built from, so that nobody's edit comes between two builds.

    Args:
        folder: where to make it.
        source: what to copy: the checkout, or another copy.
    """

    def __init__(self, folder: Path, source: Path) -> None:
        self.folder = folder
        for name in ("lambda", "scripts"):
            shutil.copytree(source / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(source / "constraints.txt", folder)

    def copy(self, folder: Path) -> Tree:
        """Copy it once more."""
        return Tree(folder, self.folder)

    def build(self, *arguments: str | Path, umask: int = 0o022) -> subprocess.CompletedProcess[str]:
        """Run ``scripts/build-lambda`` for this interpreter's Python version."""
        return subprocess.run(
            [sys.executable, self.folder / "scripts/build-lambda", "--python", PYTHON, *arguments],
            cwd="/", umask=umask, capture_output=True, text=True, timeout=_TIME_LIMIT, check=False,
        )  # fmt: skip


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """The tree as it is when the tests begin."""
    return Tree(tmp_path_factory.mktemp("tree") / "checkout", ROOT)


@pytest.fixture(scope="session")
def built(tree: Tree, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zip for this machine."""
    output = tmp_path_factory.mktemp("zip") / "function.zip"
    run = tree.build("--platform", ARCHITECTURE, output)
    assert run.returncode == 0, run.stderr
    return output


@pytest.fixture(scope="session")
def iot(cloud: Cloud) -> IoTClient:
    """AWS IoT of the local cloud, to look at."""
    return _session(cloud).client("iot", endpoint_url=cloud.environment["AWS_ENDPOINT_URL"])


@pytest.fixture(scope="session")
def execution_environment(built: Path, cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> ExecutionEnvironment:
    """The unpacked zip beside what Lambda brings along, its AWS calls going to the local cloud."""
    folder = tmp_path_factory.mktemp("execution-environment")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(folder / "task")
    variables = {
        **{name: value for name, value in cloud.environment.items() if name.startswith("AWS_")},
        "AWS_CONFIG_FILE": os.devnull,
        **_deployed_variables(cloud),
        "MQTT_PORT": str(cloud.document["mqttPort"]),
    }
    return ExecutionEnvironment(folder / "task", link_runtime(folder / "runtime"), variables)


def _session(cloud: Cloud) -> boto3.session.Session:
    variables = cloud.environment
    return boto3.session.Session(
        region_name=variables["AWS_REGION"],
        aws_access_key_id=variables["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=variables["AWS_SECRET_ACCESS_KEY"],
    )


def _deployed_variables(cloud: Cloud) -> dict[str, str]:
    """Return the environment that the template gives the function for requests."""
    client: Any = _session(cloud).client("lambda", endpoint_url=cloud.environment["AWS_ENDPOINT_URL"])
    functions = client.list_functions()["Functions"]
    (function,) = (one for one in functions if one["Handler"] == "handler.lambda_handler")
    variables: dict[str, str] = function["Environment"]["Variables"]
    return variables
