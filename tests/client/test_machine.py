"""Which resource ran out, told by what was raised, by its causes, or by asking the system."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from hsm_enroll import machine
from hsm_enroll.errors import (
    BusyError,
    HsmEnrollError,
    MachineLimitError,
    ModuleUnusableError,
    PinWrongError,
    StateError,
    TokenNotFoundError,
)


def _os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number), "/some/file")


def _behind(cause: BaseException, error: HsmEnrollError) -> HsmEnrollError:
    """Return an error as it is raised from its cause."""
    error.__cause__ = cause
    return error


@contextmanager
def _no_file_left() -> Iterator[None]:
    """Let this process open no more files."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize(
    ("error", "said", "hint"),
    [
        (_os_error(errno.EMFILE), "too many open files (this process may have", "ulimit -n"),
        (_os_error(errno.ENFILE), "too many open files on this machine", "fs.file-max"),
        (_os_error(errno.ENOMEM), "out of memory", "ulimit -v"),
        (MemoryError(), "out of memory", "ulimit -v"),
    ],
)
def test_a_limit_is_known_by_what_was_raised(error: Exception, said: str, hint: str) -> None:
    """Each resource has its name and its advice, also where an error of ours was raised from it, which is repeated."""
    plain = machine.explained(error)
    words = f": {error.strerror}" if isinstance(error, OSError) else ""
    ours = machine.explained(_behind(error, StateError(f"/some/file cannot be read{words}")))
    for limit in (plain, ours):
        assert isinstance(limit, MachineLimitError)
        assert said in limit.message
        assert hint in limit.hint
        assert limit.retryable
    assert ours is not None
    assert ours.message == f"/some/file cannot be read: {plain.message if plain else ''}"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO], ids=errno.errorcode.get)
def test_a_disk_that_fails_is_the_states_error(number: int) -> None:
    """What a disk refuses, and nobody has caught, is exit 50 with the file's name."""
    error = machine.explained(_os_error(number))
    assert isinstance(error, StateError)
    assert error.exit_status == 50
    assert error.message == f"/some/file cannot be used: {os.strerror(number)}"


@pytest.mark.parametrize(
    "error",
    [
        _behind(BlockingIOError(errno.EAGAIN, "busy"), BusyError("another run is in progress")),
        _behind(_os_error(errno.EACCES), StateError("/some/file cannot be read")),
        MachineLimitError("too many open files"),
        ModuleUnusableError("m.so cannot be used as a PKCS#11 module"),
        TokenNotFoundError("no token matches"),
        ImportError("no module named x", name="x"),
        RuntimeError("something else"),
        SystemError("something else"),
        _os_error(errno.ENOENT),
        ValueError("x"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_another_error_is_left_alone(error: Exception) -> None:
    """On a machine that has files, memory and threads left, no other error is taken for a limit."""
    assert machine.explained(error) is None


@pytest.mark.parametrize(
    "error",
    [
        ModuleUnusableError("m.so fails"),
        TokenNotFoundError("no token matches"),
        ImportError("x", name="m"),
        SystemError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_the_system_is_asked_where_the_error_does_not_say(error: Exception) -> None:
    """A module, or an import, that fails while no file can be opened fails for that; a wrong PIN does not."""
    with _no_file_left():
        limit = machine.explained(error)
        assert machine.explained(PinWrongError("token refused the PIN")) is None
    assert isinstance(limit, MachineLimitError)
    assert "too many open files" in limit.message
    assert machine.exhausted("nothing") is None


def test_a_process_that_cannot_start_says_why() -> None:
    """EAGAIN is the limit of processes; any other reason is the system's own."""
    too_many = machine.no_process(BlockingIOError(errno.EAGAIN, "again"), "a process")
    assert too_many.message.startswith("cannot start a process: too many processes or threads (this user")
    assert "ulimit -u" in too_many.hint
    assert machine.no_process(_os_error(errno.ENOMEM), "a process").message == "cannot start a process: out of memory"
    assert machine.no_process(_os_error(errno.EPERM), "a process").message.endswith(os.strerror(errno.EPERM))
