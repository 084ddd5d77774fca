"""``hsm-enroll`` that gives a module less time than half a minute: ``python -m … SECONDS ARGUMENTS``."""

from __future__ import annotations

import sys

from hsm_enroll.__main__ import main
from hsm_enroll.token import tokens, worker

if __name__ == "__main__":
    seconds = float(sys.argv.pop(1))
    worker.TIME_LIMIT_SECONDS = tokens.GENERATION_SECONDS = seconds
    main()
