"""Network file systems, on which SQLite's log does not work: its index is memory that all processes share."""

from __future__ import annotations

import os
from pathlib import Path

from hsm_enroll.errors import StateError

MOUNTS = Path("/proc/self/mountinfo")
_NETWORK = {
    "9p", "afs", "ceph", "cifs", "coda", "fuse.glusterfs", "fuse.sshfs", "gfs2", "glusterfs", "lustre", "ncpfs", "nfs",
    "nfs4", "ocfs2", "smb3", "smbfs",
}  # fmt: skip


def refuse(folder: Path) -> None:
    """Refuse a folder on a network file system.

    Raises:
        StateError: it is on one.
    """
    try:
        mounts = MOUNTS.read_text(encoding="utf-8", errors="replace")
        device = folder.stat().st_dev
    except OSError:
        return  # SQLite says itself what does not work, if less clearly
    kind = file_system(mounts, device)
    if kind in _NETWORK:
        raise StateError(
            f"{folder} is on a network file system ({kind}), where an outbox does not work",
            hint="Set HSM_ENROLL_HOME to a folder on a local disk.",
        )


def file_system(mounts: str, device: int) -> str | None:
    """Return the type of a device's file system, ``"ext4"``; None if it is not among the mounts.

    Args:
        mounts: as in /proc/self/mountinfo (proc(5)).
        device: as in ``st_dev``.
    """
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in mounts.splitlines():
        mount, _, source = line.partition(" - ")
        if mount.split()[2:3] == [wanted]:
            return source.split()[0]
    return None
