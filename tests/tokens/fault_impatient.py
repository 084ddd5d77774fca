"""``hsm-enroll`` that gives a module less time than half a minute: ``python -m … SECONDS ARGUMENTS``."""

from __future__ import annotations

import sys

from hsm_enroll.cli import main
from hsm_enroll.token import shield

if __name__ == "__main__":
    shield.TIME_LIMIT_SECONDS = float(sys.argv.pop(1))
    main()
