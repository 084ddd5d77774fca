"""``hsm-enroll token create``, killed at a chosen call, whichever of its processes makes it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Mapping

_PROGRAM = """
import os, signal, sys
from importlib import import_module
module, name = sys.argv[1].rsplit(".", 1)
command, calls = os.getpid(), []
def replace():
    holder = import_module(module)
    original = getattr(holder, name)
    def killed(*arguments, **options):
        calls.append(name)
        if name != "remember" or len(calls) == 2:
            for process in (command, os.getpid()): os.kill(process, signal.SIGKILL)
        return original(*arguments, **options)
    setattr(holder, name, killed)
if module == "hsm_enroll.device.pin":
    replace()
else:
    # The worker makes the token: a process that loads what it does could not be forked any more.
    os.register_at_fork(after_in_child=replace)
sys.argv = ["hsm-enroll", "token", "create", *sys.argv[2:]]
from hsm_enroll.cli import main
main()
"""


def kill_token_create(moment: str, *arguments: str, environment: Mapping[str, str]) -> None:
    """Run the command until it calls a function, and kill it there.

    Args:
        moment: a function and its module, such as ``hsm_enroll.token.provision.create_tpm2_token``; of
            ``hsm_enroll.device.pin.save_owner`` it is the second call, the one that follows the token.
        arguments: the command's.
        environment: the device's.
    """
    command = [sys.executable, "-c", _PROGRAM, moment, *arguments]
    assert subprocess.run(command, env=environment, timeout=60, check=False).returncode == -signal.SIGKILL
