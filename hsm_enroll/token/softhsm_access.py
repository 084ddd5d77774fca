"""What keeps a user from SoftHSM's tokens: the rights on its configuration, its folder of tokens, and the tokens in it.

SoftHSM reports none of it: if it cannot read its configuration or folder, that is a general failure; a token that it
cannot read is not listed.
"""

from __future__ import annotations

import os
from pathlib import Path

from hsm_enroll import softhsm
from hsm_enroll.token.fault import Fault, group_name, user_name

MODULE_NAME = "libsofthsm2"
"""What the name of SoftHSM's module begins with."""

_VARIABLE = "SOFTHSM2_CONF"
_OWN = Path(".config/softhsm2/softhsm2.conf")
_SYSTEM = Path("/etc/softhsm/softhsm2.conf")
_OWN_CONFIGURATION = (
    "or give this user a configuration of its own: a file with the line directories.tokendir = FOLDER, and "
    f"{_VARIABLE} set to that file"
)


def fault() -> Fault | None:
    """Find out why SoftHSM cannot use its folder of tokens; None if nothing is found."""
    configuration = _configuration()
    try:
        with configuration.open("rb"):
            pass
    except PermissionError:
        return _closed("read SoftHSM's configuration", configuration)
    except OSError as error:
        message = f"SoftHSM's configuration {configuration} cannot be read: {error.strerror}"
        return Fault(message, f"Set {_VARIABLE} to the right file.")
    folder = softhsm.named_folder()
    if folder is None:
        message = f"SoftHSM's configuration {configuration} names no folder of tokens"
        return Fault(message, "Add a line to it: directories.tokendir = FOLDER")
    try:
        folder.stat()
    except PermissionError:
        pass  # the barrier is a folder above it
    except OSError as error:
        message = f"SoftHSM's folder of tokens {folder}, which {configuration} names, cannot be used: {error.strerror}"
        return Fault(message, f"Create it (mkdir -m 700 {folder}), or correct the line directories.tokendir.")
    if os.access(folder, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
        return None
    if os.access(folder, os.X_OK, effective_ids=True) and os.statvfs(folder).f_flag & os.ST_RDONLY:
        message = f"SoftHSM's folder of tokens {folder} is on a file system that is mounted read-only"
        return Fault(message, "Remount it (mount -o remount,rw): SoftHSM writes there at every login.")
    return _closed("use SoftHSM's folder of tokens", folder)


def closed_tokens() -> Fault | None:
    """Find tokens that SoftHSM does not list because they are closed to this user."""
    folder = softhsm.tokens_folder()
    try:
        tokens = sorted(folder.iterdir()) if folder is not None else []
    except OSError:
        return None
    closed = [
        token
        for token in tokens
        if token.is_dir() and not os.access(token, os.R_OK | os.W_OK | os.X_OK, effective_ids=True)
    ]
    if not closed:
        return None
    user, owner = user_name(os.geteuid()), user_name(closed[0].stat().st_uid)
    others = f" (and {len(closed) - 1} more)" if len(closed) > 1 else ""
    return Fault(
        f"{user} has no permission to use the SoftHSM token in {closed[0]}{others}, which belongs to {owner}",
        f"Run the command as {owner}, or give the token to this user: chown -R {user} {closed[0]}",
    )


def _configuration() -> Path:
    """Return the file that SoftHSM reads (softhsm2.conf(5))."""
    if named := os.environ.get(_VARIABLE):
        return Path(named)
    own = Path(os.environ.get("HOME") or "/") / _OWN
    return own if os.access(own, os.F_OK, effective_ids=True) else _SYSTEM


def _closed(what: str, path: Path) -> Fault:
    """Return the fault of a file or folder that its own rights, or those of a folder above it, close to this user."""
    barrier = next((each for each in reversed(path.parents) if not os.access(each, os.X_OK, effective_ids=True)), path)
    found = barrier.stat()
    owner, group = user_name(found.st_uid), group_name(found.st_gid)
    as_member = f"Join the group {group} (usermod --append --groups {group} USER) and log in again"
    hint = as_member if found.st_mode & 0o070 else f"Run the command as {owner}"
    return Fault(f"{user_name(os.geteuid())} has no permission to {what} {path}", f"{hint}; {_OWN_CONFIGURATION}.")
