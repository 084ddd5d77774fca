"""``python -m hsm_enroll.local HOME FD OPTIONS``: the process that `hsm_enroll.local.cloud.detach` starts.

OPTIONS is a JSON document, see `Options.to_json`. Once the cloud runs, or has failed to start, it writes one JSON
document to the file descriptor, ``{"endpoints": …}`` or ``{"error": …}``, and closes it.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path

from hsm_enroll.errors import HsmEnrollError
from hsm_enroll.local.cloud import Endpoints, Options, serve


def main(home: Path, descriptor: int, options: Options) -> int:
    """Run a local cloud until a signal ends it, and return the exit status."""
    announcement = os.fdopen(descriptor, "w")

    def announce(endpoints: Endpoints) -> None:
        with announcement:
            json.dump({"endpoints": endpoints.to_json()}, announcement)

    try:
        serve(home, announce, options)
    except HsmEnrollError as error:
        traceback.print_exc()
        if not announcement.closed:
            with announcement:
                json.dump({"error": {"message": error.message, "hint": error.hint}}, announcement)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), Options.from_json(json.loads(sys.argv[3]))))
