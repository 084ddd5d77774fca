"""A machine at its limits: which resource ran out, and what to do about it.

What fails then is often something else: a file that cannot be opened, a library that cannot be loaded. So every error
is traced back to its cause, and where the cause does not say, the system is asked. Imports little, since an import
needs a file and memory.
"""

from __future__ import annotations

import errno
import os
from _thread import start_new_thread
from collections.abc import Iterator

from hsm_enroll.errors import (
    ApiTlsError,
    BackendUnreachableError,
    HsmEnrollError,
    KeyMissingError,
    MachineLimitError,
    ModuleUnusableError,
    MqttError,
    StateError,
    TokenNotFoundError,
    TokenRefusedError,
)

_FILES_HINT = (
    "Raise the limit (ulimit -n, or LimitNOFILE= of a systemd unit), or close files in the program that starts "
    "hsm-enroll."
)
_ALL_FILES_HINT = "Stop other programs, or raise fs.file-max, then run the same command again."
_PROCESSES_HINT = (
    "Stop other programs of this user, or raise the limit (ulimit -u, or TasksMax= of a systemd unit), then run the "
    "same command again."
)
_MEMORY_HINT = (
    "Stop other programs, or raise the limit (ulimit -v, or MemoryMax= of a systemd unit), then run the same command "
    "again."
)
_MEMORY = "out of memory"
# What a module or a library reports if it can open no file, or has no memory: it does not say why.
_AMBIGUOUS = (
    ApiTlsError,
    BackendUnreachableError,
    KeyMissingError,
    ModuleUnusableError,
    MqttError,
    TokenNotFoundError,
    TokenRefusedError,
)
_DISK = {errno.EDQUOT, errno.EIO, errno.ENOSPC, errno.EROFS}
# More than loading a library takes, less than any program can do without.
_SPARE_FILES = 8
_SPARE_OCTETS = 2**25
# Address space given back when an error is explained, since showing one takes memory too. It is never touched.
_RESERVE = [bytes(2**23)]


def explained(error: Exception) -> HsmEnrollError | None:
    """Return the error for an exception behind which a resource of this machine ran out or failed.

    None is for any other exception, and for one that says so already. The first call gives back the memory that is
    kept for showing an error, so call this only where the process or its task ends.

    Args:
        error: any exception, ours or not; its causes are searched too.
    """
    _RESERVE.clear()
    if isinstance(error, MachineLimitError):
        return None
    for cause in _causes(error):
        if (limit := _limit(cause, _doing(error, cause))) is not None:
            limit.__cause__ = error
            return limit
    if isinstance(error, _AMBIGUOUS):
        return exhausted(error.message)
    if type(error) is RuntimeError:  # as Thread.start raises it
        return _without_threads()
    if isinstance(error, OSError) and error.errno in _DISK:
        return StateError(f"{error.filename or 'a file'} cannot be used: {error.strerror}")
    return None


def exhausted(doing: str) -> MachineLimitError | None:
    """Ask the system whether this process has files and memory left; return the error for what it lacks.

    Args:
        doing: what could not be done, ``"SoftHSM cannot be loaded"``.
    """
    opened: list[int] = []
    try:
        opened.extend(os.open(os.devnull, os.O_RDONLY) for _ in range(_SPARE_FILES))
        bytes(_SPARE_OCTETS)  # reserved, but not touched: a machine that is short of memory stays as it is
    except (OSError, MemoryError) as error:
        return _limit(error, f"{doing}: ")
    finally:
        for descriptor in opened:
            os.close(descriptor)
    return None


def no_process(error: OSError | RuntimeError, what: str) -> MachineLimitError:
    """Return the error for a process or a thread that the system does not start.

    Args:
        error: what ``fork``, ``posix_spawn`` or ``Thread.start`` raised.
        what: ``"a process for the PKCS#11 module"``.
    """
    doing = f"cannot start {what}: "
    if isinstance(error, OSError) and error.errno != errno.EAGAIN:
        return _limit(error, doing) or MachineLimitError(f"{doing}{error.strerror}")
    limit = os.sysconf("SC_CHILD_MAX")
    user = f"this user may have {limit}" if limit > 0 else "this user or this machine may have no more"
    return MachineLimitError(f"{doing}too many processes or threads ({user})", hint=_PROCESSES_HINT)


def _without_threads() -> MachineLimitError | None:
    """Ask the system for a thread; return the error if there is none."""
    try:
        start_new_thread(lambda: None, ())
    except RuntimeError as error:
        return no_process(error, "a thread")
    return None


def _doing(error: Exception, cause: BaseException) -> str:
    """Return what the error says, without its cause's own words."""
    if not isinstance(error, HsmEnrollError):
        return ""
    words = cause.strerror if isinstance(cause, OSError) else None
    return f"{error.message.removesuffix(f': {words}')}: "


def _limit(error: BaseException, doing: str) -> MachineLimitError | None:
    if isinstance(error, MemoryError):
        return MachineLimitError(f"{doing}{_MEMORY}", hint=_MEMORY_HINT)
    # Python raises a SystemError where it had no memory for the right one.
    if isinstance(error, ImportError | SystemError):
        name = error.name if isinstance(error, ImportError) else None
        return exhausted(doing.removesuffix(": ") or f"{name or 'a part of the program'} cannot be loaded")
    if not isinstance(error, OSError):
        return None
    if error.errno == errno.EMFILE:
        many = f"too many open files (this process may have {os.sysconf('SC_OPEN_MAX')})"
        return MachineLimitError(doing + many, hint=_FILES_HINT)
    if error.errno == errno.ENFILE:
        return MachineLimitError(f"{doing}too many open files on this machine", hint=_ALL_FILES_HINT)
    return MachineLimitError(f"{doing}{_MEMORY}", hint=_MEMORY_HINT) if error.errno == errno.ENOMEM else None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and those that it was raised from, or while handling."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
