"""``hsm-enroll`` that gives a module less time than half a minute: ``python -m … SECONDS ARGUMENTS``."""

from __future__ import annotations

import sys
from functools import partial

from hsm_enroll.cli import main
from hsm_enroll.token import inventory

if __name__ == "__main__":
    inventory.inspect = partial(inventory.inspect, time_limit=float(sys.argv.pop(1)))
    main()
