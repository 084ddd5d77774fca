"""Commands that mount a file system of their own, which no other process sees."""

from __future__ import annotations

import os


def with_own_mounts(*command: str) -> list[str]:
    """Return the command that runs another one where it may mount; in a chroot that takes root, else anybody may."""
    become_root = [] if os.geteuid() == 0 else ["--map-root-user"]
    return ["unshare", *become_root, "--mount", *command]
