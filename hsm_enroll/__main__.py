"""The entry point of ``hsm-enroll``, and of ``python -m hsm_enroll``."""

from __future__ import annotations

# Part of the interpreter; importing ``signal``, which is built on it, takes longer than all else that comes before
# the handlers below.
import _signal  # type: ignore[import-not-found]
import os
from types import FrameType

TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import NoReturn

    from hsm_enroll.errors import HsmEnrollError


def _exit_at_once(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - signal's signature
    os._exit(128 + number)


# Before anything else is imported, so that Ctrl-C never shows an import's traceback. A signal that the caller has set
# to be ignored, as a shell does for a background job, stays so.
for _number in (_signal.SIGINT, _signal.SIGTERM):
    if _signal.getsignal(_number) != _signal.SIG_IGN:
        _signal.signal(_number, _exit_at_once)

import gc  # noqa: E402
import sys  # noqa: E402

# Where files run out, these could not be loaded later.
from hsm_enroll import machine  # noqa: E402
from hsm_enroll.troubleshooting import reference  # noqa: E402

_TOKEN_COMMANDS = {
    *("init", "status", "doctor", "tokens", "token", "csr", "publish", "subscribe", "forward"),
    *("renew", "recover", "retire"),
}
# Mostly there is nothing to do, or nothing to do with a token.
_WITHOUT_TOKEN = {"--if-due", "--check", "--queue"}


def main() -> None:
    """Run the command line and exit with the command's documented status.

    Garbage collection is off while modules are loaded: their objects live as long as the process, and searching them
    would take longer than many commands do.
    """
    gc.disable()
    try:
        from hsm_enroll.secret import keep_out_of_core_dumps

        keep_out_of_core_dumps()
        if len(sys.argv) > 1 and sys.argv[1] in _TOKEN_COMMANDS and _WITHOUT_TOKEN.isdisjoint(sys.argv):
            # Before this process loads anything that a fork would copy; then both processes import at the same time.
            from hsm_enroll.token import worker

            worker.prepare()
        from hsm_enroll import cli

        cli.main()
    except Exception as error:
        if (known := machine.explained(error)) is None:
            raise
        _leave(known)
    finally:
        gc.freeze()


def _leave(error: HsmEnrollError) -> NoReturn:
    """Show an error of a machine where not even what shows errors can be loaded, and exit with its status."""
    descriptor, text = 2, f"error: {error.message}\n  {error.hint}\n  {reference(error.code)}\n"
    try:
        if "--json" in sys.argv:
            import json

            descriptor, text = 1, json.dumps({"error": error.document}, indent=2) + "\n"
    finally:
        os.write(descriptor, text.encode("utf-8", "backslashreplace"))
        os._exit(error.exit_status)


if __name__ == "__main__":
    main()
