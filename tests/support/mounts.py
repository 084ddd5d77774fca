"""Commands that mount a file system of their own, which no other process sees."""

from __future__ import annotations

from pathlib import Path


def with_own_mounts(*command: str) -> list[str]:
    """Return the command that runs another one where it may mount, as any user; in a chroot, as root."""
    # The kernel makes no user namespace for a process in a chroot, and the chroot's root may be no mount point.
    how = ["--propagation", "unchanged"] if _is_in_chroot() else ["--map-root-user"]
    return ["unshare", "--mount", *how, *command]


def entering(process: int, *command: str) -> list[str]:
    """Return the command that runs another one with the mounts of a process, which :func:`with_own_mounts` started."""
    how = ["--root"] if _is_in_chroot() else ["--user", "--preserve-credentials"]
    return ["nsenter", "--target", str(process), "--mount", *how, *command]


def _is_in_chroot() -> bool:
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return all(line.split()[4] != "/" for line in mounts)
