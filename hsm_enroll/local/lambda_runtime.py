"""Loads the real Lambda handler into this process, by its path, as Lambda does."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hsm_enroll.errors import LocalCloudError
from hsm_enroll.local.endpoints import no_proxy

Handler = Callable[[dict[str, Any], object], object]

REGION = "us-east-1"
ACCOUNT_ID = "123456789012"  # moto's default account

_MODULE_NAME = "handler"
_FUNCTION_NAME = "hsm-enroll"
_TIME_LIMIT = 30.0  # seconds that API Gateway waits


@dataclass(frozen=True)
class Context:
    """Lambda's context object, with the members that make sense here."""

    aws_request_id: str
    function_name: str = _FUNCTION_NAME
    function_version: str = "$LATEST"
    memory_limit_in_mb: str = "256"
    log_group_name: str = f"/aws/lambda/{_FUNCTION_NAME}"
    log_stream_name: str = "local"
    invoked_function_arn: str = f"arn:aws:lambda:{REGION}:{ACCOUNT_ID}:function:{_FUNCTION_NAME}"
    _deadline: float = field(default_factory=lambda: time.monotonic() + _TIME_LIMIT)

    def get_remaining_time_in_millis(self) -> int:
        return max(0, int((self._deadline - time.monotonic()) * 1000))


def context() -> Context:
    """Return the context for a new invocation."""
    return Context(str(uuid.uuid4()))


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set the environment variables of a Lambda function in this process, until the block ends.

    AWS's variables and configuration files of the user are hidden, and proxies are bypassed for this machine. At the
    end, the environment is restored, including any changes made in the block.

    Args:
        variables: the variables to set.
    """
    before = dict(os.environ)
    for name in before:
        if name.startswith("AWS_"):
            del os.environ[name]
    os.environ |= {
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        **no_proxy(before),
        **variables,
    }
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ |= before


@contextmanager
def loaded_handler(folder: Path) -> Iterator[Handler]:
    """Import ``handler.py`` from a folder, and yield its ``lambda_handler``.

    All modules from the folder are loaded again, and removed when the block ends.

    Raises:
        LocalCloudError: it cannot be imported.
    """
    displaced = _take_modules(folder)
    sys.path.insert(0, str(folder))
    try:
        yield _import(folder / "handler.py")
    finally:
        sys.path.remove(str(folder))
        _take_modules(folder)
        sys.modules |= displaced


def _import(file: Path) -> Handler:
    specification = importlib.util.spec_from_file_location(_MODULE_NAME, file)
    assert specification is not None  # noqa: S101 - a .py file always has one
    assert specification.loader is not None  # noqa: S101
    module = importlib.util.module_from_spec(specification)
    sys.modules[_MODULE_NAME] = module
    try:
        specification.loader.exec_module(module)
        handler: Handler = module.lambda_handler
    except Exception as error:
        # A module may raise anything on import; Lambda reports all of it as Runtime.ImportModuleError or the like.
        raise LocalCloudError(f"{file} cannot be loaded: {error!r}") from error
    return handler


def _take_modules(folder: Path) -> dict[str, Any]:
    """Remove the modules that were imported from the folder or have the handler's name, and return them by name."""
    taken = {
        name: module
        for name, module in sys.modules.items()
        if name == _MODULE_NAME or Path(getattr(module, "__file__", None) or os.devnull).is_relative_to(folder)
    }
    for name in taken:
        del sys.modules[name]
    return taken
