"""What keeps a user from SoftHSM's tokens: the rights on its configuration, its folder of tokens, and the tokens in it.

SoftHSM reports none of it: if it cannot read its configuration or folder, that is a general failure; a token that it
cannot read is not listed.
"""

from __future__ import annotations

import os
from pathlib import Path

from hsm_enroll import softhsm
from hsm_enroll.token.fault import Fault, barrier, group_name, user_name

MODULE_NAME = "libsofthsm2"
"""What the name of SoftHSM's module begins with."""

_ALL = os.R_OK | os.W_OK | os.X_OK
_OWN_CONFIGURATION = (
    "or give this user a configuration of its own: a file with the line directories.tokendir = FOLDER, and "
    f"{softhsm.VARIABLE} set to that file"
)


def fault() -> Fault | None:
    """Find out why SoftHSM cannot use its folder of tokens; None if nothing is found."""
    configuration = softhsm.configuration()
    if configuration is None:
        message = f"{softhsm.VARIABLE} is set, but empty, so SoftHSM finds no configuration"
        return Fault(message, f"Unset {softhsm.VARIABLE}, or set it to SoftHSM's configuration file.")
    try:
        with configuration.open("rb"):
            pass
    except IsADirectoryError:
        pass  # SoftHSM takes it for an empty configuration
    except PermissionError:
        return _closed("read SoftHSM's configuration", configuration, os.R_OK)
    except OSError as error:
        message = f"SoftHSM's configuration {configuration} cannot be read: {error.strerror}"
        return Fault(message, f"Set {softhsm.VARIABLE} to the right file.")
    folder = softhsm.named_folder()
    return None if folder is None else _folder_fault(folder, configuration)


def _folder_fault(folder: Path, configuration: Path) -> Fault | None:
    try:
        folder.stat()
    except PermissionError:
        pass  # the barrier is a folder above it
    except OSError as error:
        message = f"SoftHSM's folder of tokens {folder}, by {configuration}, cannot be used: {error.strerror}"
        return Fault(message, f"Create it (mkdir -m 700 {folder}), or correct the line directories.tokendir.")
    if os.access(folder, _ALL, effective_ids=True):
        return None
    if softhsm.is_read_only(folder):
        message = f"SoftHSM's folder of tokens {folder} is on a file system that is mounted read-only"
        return Fault(message, "Remount it (mount -o remount,rw): SoftHSM generates and destroys keys there.")
    return _closed("use SoftHSM's folder of tokens", folder, _ALL)


def closed_tokens() -> Fault | None:
    """Find tokens that this user has no permission to use; SoftHSM does not list most of them."""
    closed = [token for token in softhsm.token_folders() if not softhsm.is_open(token)]
    if not closed:
        return None
    user, owner = user_name(os.geteuid()), user_name(closed[0].stat().st_uid)
    others = f" (and {len(closed) - 1} more)" if len(closed) > 1 else ""
    return Fault(
        f"{user} has no permission to use the SoftHSM token in {closed[0]}{others}, which belongs to {owner}",
        f"Run the command as {owner}, or give the token to this user: chown -R {user} {closed[0]}",
    )


def _closed(what: str, path: Path, needed: int) -> Fault:
    """Return the fault of a file or folder that its own rights, or those of a folder above it, close to this user.

    Args:
        what: what the user has no permission to do, without the path.
        path: the file or folder.
        needed: the rights that are needed on it, as ``os.access`` takes them.
    """
    closed = barrier(path)
    found = closed.stat()
    of_group = (needed if closed == path else os.X_OK) << 3
    owner, group = user_name(found.st_uid), group_name(found.st_gid)
    # To be in root's group is more than a device's software needs.
    is_for_members = found.st_gid != 0 and found.st_mode & of_group == of_group
    as_member = f"Join the group {group} (usermod --append --groups {group} USER) and log in again"
    hint = as_member if is_for_members else f"Run the command as {owner}"
    return Fault(f"{user_name(os.geteuid())} has no permission to {what} {path}", f"{hint}; {_OWN_CONFIGURATION}.")
