"""``hsm-enroll token create``, killed at a chosen call."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping

_PROGRAM = """
import os, sys
from hsm_enroll import device_token, pin
from hsm_enroll.token import provision
module, name = sys.argv[1].split(".")
holder = globals()[module]
original, calls = getattr(holder, name), []
def killed(*arguments, **options):
    calls.append(name)
    if name != "remember" or len(calls) == 2: os._exit(9)
    return original(*arguments, **options)
setattr(holder, name, killed)
sys.argv = ["hsm-enroll", "token", "create", *sys.argv[2:]]
from hsm_enroll.cli import main
main()
"""


def kill_token_create(moment: str, *arguments: str, environment: Mapping[str, str]) -> None:
    """Run the command until it calls a function, and kill it there.

    Args:
        moment: module and function, such as ``provision._set_user_pin``; ``pin.remember`` is its second call, the one
            that follows the token.
        arguments: the command's.
        environment: the device's.
    """
    command = [sys.executable, "-c", _PROGRAM, moment, *arguments]
    assert subprocess.run(command, env=environment, timeout=60, check=False).returncode == 9
