"""``hsm-enroll`` without the pauses between attempts to connect: a day with a hundred outages has hours of them."""

from __future__ import annotations

from hsm_enroll.__main__ import main
from hsm_enroll.iot import keeper

if __name__ == "__main__":
    keeper.full_jitter = lambda failures: 0.05  # noqa: ARG005 - its name is part of the function's type
    main()
