"""The entry point of ``hsm-enroll``, and of ``python -m hsm_enroll``."""

from __future__ import annotations

import gc
import sys

_TOKEN_COMMANDS = {"init", "status", "doctor", "tokens", "token", "csr", "publish", "subscribe"}


def main() -> None:
    """Run the command line and exit with the command's documented status.

    Garbage collection is off while modules are loaded: their objects live as long as the process, and searching them
    would take longer than many commands do.
    """
    gc.disable()
    if len(sys.argv) > 1 and sys.argv[1] in _TOKEN_COMMANDS:
        # Before this process loads anything that a fork would copy; then both processes import at the same time.
        from hsm_enroll.token import worker

        worker.prepare()
    from hsm_enroll import cli

    try:
        cli.main()
    finally:
        gc.freeze()


if __name__ == "__main__":
    main()
