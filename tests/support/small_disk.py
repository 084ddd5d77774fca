"""A disk of a few megabytes, which others can fill, for the processes that are started on it and for no other."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.mounts import entering, with_own_mounts

_MOUNT = 'mount -t tmpfs -o "size=$1,mode=0700" tmpfs "$2" && cp -a "$3" "$2" && shift 3 && exec "$@"'
# Keeps the mount, and fills the disk and frees it as it is told.
_KEEPER = """
import os, sys
from pathlib import Path
ballast = Path(sys.argv[1], "ballast")
print("ready", flush=True)
for order in sys.stdin:
    if order == "free\\n":
        ballast.unlink()
    else:
        with ballast.open("ab", buffering=0) as stream:
            try:
                while True:
                    stream.write(bytes(4096))
            except OSError:
                pass
    print("done", flush=True)
"""


class SmallDisk:
    """A disk in memory.

    Attributes:
        home: the state folder on it.
        prefix: a command that runs another one where the disk can be seen.
    """

    def __init__(self, folder: Path, keeper: subprocess.Popen[str], name: str) -> None:
        self.home = folder / name
        self.prefix = entering(keeper.pid)
        self._keeper = keeper

    def fill(self) -> None:
        """Have another program take all that is free."""
        self._order("fill")

    def free(self) -> None:
        """Have it give that back."""
        self._order("free")

    def _order(self, order: str) -> None:
        assert self._keeper.stdin is not None
        self._keeper.stdin.write(f"{order}\n")
        self._keeper.stdin.flush()
        assert _line(self._keeper) == "done\n"


@contextmanager
def small_disk(folder: Path, state: Path, size: str) -> Iterator[SmallDisk]:
    """Mount a disk, with a copy of a state folder on it.

    Args:
        folder: where it is mounted; made.
        state: the state folder.
        size: as mount(8) has it for tmpfs, such as ``8m``.
    """
    folder.mkdir()
    keeper = [sys.executable, "-c", _KEEPER, str(folder)]
    command = with_own_mounts("sh", "-c", _MOUNT, "sh", size, str(folder), str(state), *keeper)
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert _line(process) == "ready\n"
        yield SmallDisk(folder, process, state.name)


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()
