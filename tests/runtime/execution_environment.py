"""One Lambda execution environment: the unpacked zip, AWS's SDK, AWS's runtime interface client, and nothing else.

Lambda's Python brings boto3 and `awslambdaric` from outside of the function's folder. Here they come from a folder of
links to the installed packages: those two and what they require. ``-S`` keeps every other package from the process.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from tests.runtime.runtime_api import Report, RuntimeApi, serving

_BROUGHT_BY_LAMBDA = ("boto3", "awslambdaric")
_PYTHON = (sys.executable, "-S")
_TIME_LIMIT = 30.0
_REQUIREMENT = re.compile(r"[\w.-]+")


@dataclass(frozen=True)
class ExecutionEnvironment:
    """Where a function's process runs, and with what.

    Attributes:
        task: the unpacked zip, Lambda's /var/task.
        runtime: AWS's packages, Lambda's /var/lang.
        variables: of the function.
    """

    task: Path
    runtime: Path
    variables: Mapping[str, str]

    @property
    def environment(self) -> dict[str, str]:
        """Every variable that the process gets; nothing of the test's own."""
        return {
            "AWS_LAMBDA_FUNCTION_NAME": "hsm-enroll",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "256",
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "HOME": str(self.runtime),
            "LAMBDA_TASK_ROOT": str(self.task),
            "LANG": "en_US.UTF-8",
            "PATH": "/usr/bin:/bin",
            "PYTHONDONTWRITEBYTECODE": "1",  # /var/task cannot be written
            "PYTHONPATH": str(self.runtime),
            **self.variables,
        }

    def python(self, program: str) -> Any:
        """Run a program where the function would, and return the JSON that it prints."""
        command = [*_PYTHON, "-c", program]
        output = subprocess.run(
            command, cwd=self.task, env=self.environment, stdout=subprocess.PIPE, timeout=_TIME_LIMIT, check=True
        ).stdout
        return json.loads(output)

    @contextmanager
    def start(self, log: Path, handler: str = "lambda_handler") -> Iterator[Function]:
        """Start the runtime interface client on a function of the handler's module, and end it with the block."""
        with serving() as api, log.open("wb") as output:
            process = subprocess.Popen(
                [*_PYTHON, "-m", "awslambdaric", f"handler.{handler}"],
                cwd=self.task,
                env={**self.environment, "AWS_LAMBDA_RUNTIME_API": api.address},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            try:
                yield Function(process.pid, api, log)
            finally:
                process.kill()
                process.wait(_TIME_LIMIT)


@dataclass(frozen=True)
class Function:
    """A running function."""

    pid: int
    api: RuntimeApi
    log: Path

    def invoke(self, event: Mapping[str, Any]) -> Report:
        """Hand it an event and wait for what it reports."""
        return self.api.invoke(event)

    def log_lines(self) -> list[dict[str, Any]]:
        """Return what the process wrote on both of its streams, each line parsed."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def loaded_libraries(self) -> set[Path]:
        """Return the shared objects that the process has mapped."""
        maps = Path(f"/proc/{self.pid}/maps").read_text().splitlines()
        paths = (line.split(maxsplit=5)[-1] for line in maps)
        return {Path(path) for path in paths if path.startswith("/") and ".so" in Path(path).suffixes}


def link_runtime(folder: Path) -> Path:
    """Make the folder of what Lambda brings along, and return it."""
    folder.mkdir()
    for name in _with_requirements(_BROUGHT_BY_LAMBDA):
        installed = distribution(name)
        files = installed.files
        assert files is not None
        # Scripts lie above the packages; bytecode of single modules goes with them.
        for top in {file.parts[0] for file in files} - {"..", "__pycache__"}:
            (folder / top).symlink_to(str(installed.locate_file(top)))
    return folder


def _with_requirements(names: tuple[str, ...]) -> set[str]:
    """Return distributions and what they require, extras left out."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            requirements = [line for line in distribution(name).requires or () if ";" not in line]
            waiting += [matched[0] for line in requirements if (matched := _REQUIREMENT.match(line))]
    return found
