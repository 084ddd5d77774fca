"""This machine as a throw-away: what is changed in its folders is gone afterwards. Needs root."""

from __future__ import annotations

import subprocess
from pathlib import Path

# systemd, if it runs here, is hidden with /run, so that nobody tells it anything.
_PREPARED = """
set -e
mount -t tmpfs tmpfs /run
mount --make-private /run
for folder in usr etc var; do
  mkdir -p "/run/of-$folder/upper" "/run/of-$folder/work"
  mount -t overlay overlay -o "lowerdir=/$folder,upperdir=/run/of-$folder/upper,workdir=/run/of-$folder/work" "/$folder"
done
eval "$0"
"""


def run(script: str, *arguments: str | Path, folder: Path, variables: dict[str, str] | None = None) -> str:
    """Run a shell script in a mount namespace with copies of /usr, /etc and /var, and return what it prints.

    Args:
        script: the script, whose ``$1`` … are the arguments; it ends at the first command that fails.
        arguments: its arguments.
        folder: its working directory.
        variables: its environment, in addition to the system's PATH.
    """
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", _PREPARED, script, *arguments],
        cwd=folder, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **(variables or {})},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return done.stdout
