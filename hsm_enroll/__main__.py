"""Where the ``hsm-enroll`` command begins; also ``python -m hsm_enroll``, where its script is not on PATH."""

from __future__ import annotations

import gc
import sys

_WITH_A_TOKEN = {"init", "status", "doctor", "tokens", "token", "csr", "publish", "subscribe"}


def main() -> None:
    """Run the command line and end the process with the contract's exit status.

    What is made while modules are loaded stays until the process ends, and the collector is kept from looking for
    garbage in it: that would take longer than many a command does.
    """
    gc.disable()
    if len(sys.argv) > 1 and sys.argv[1] in _WITH_A_TOKEN:
        # Before this process has loaded anything that a fork would copy: both import at the same time.
        from hsm_enroll.token import worker

        worker.prepare()
    from hsm_enroll import cli

    try:
        cli.main()
    finally:
        gc.freeze()


if __name__ == "__main__":
    main()
