"""The real Lambda handler, loaded by path as Lambda does, in this process."""

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

Handler = Callable[[dict[str, Any], object], object]

REGION = "us-east-1"
ACCOUNT_ID = "123456789012"  # moto's default account

_MODULE_NAME = "handler"
_FUNCTION_NAME = "hsm-enroll"
_TIME_LIMIT = 30.0  # seconds; API Gateway waits no longer


@dataclass(frozen=True)
class Context:
    """Lambda's context object, as far as it means something here."""

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
    """Return the context of a new invocation."""
    return Context(str(uuid.uuid4()))


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Give this process a function's environment until the block ends: of AWS, what is given here and nothing else.

    Proxies are bypassed for this machine's own names. Holds for the whole process; what is set meanwhile is undone too.
    """
    before = dict(os.environ)
    no_proxy = ",".join(filter(None, ("127.0.0.1", "localhost", before.get("NO_PROXY") or before.get("no_proxy"))))
    for name in before:
        if name.startswith("AWS_"):
            del os.environ[name]
    os.environ |= {
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "NO_PROXY": no_proxy,
        "no_proxy": no_proxy,
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
    """Import ``handler.py`` of the folder and yield its ``lambda_handler``; its modules are fresh, and gone afterwards.

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
        # A function's module may fail in any way; Lambda reports all of them as Runtime.ImportModuleError or the like.
        raise LocalCloudError(f"{file} cannot be loaded: {error!r}") from error
    return handler


def _take_modules(folder: Path) -> dict[str, Any]:
    """Remove the modules that were imported from the folder or bear the handler's name, and return them by name."""
    taken = {
        name: module
        for name, module in sys.modules.items()
        if name == _MODULE_NAME or Path(getattr(module, "__file__", None) or os.devnull).is_relative_to(folder)
    }
    for name in taken:
        del sys.modules[name]
    return taken
