"""The packages installed: that the command uses nothing but its own, and what an .rpm does and leaves."""

from __future__ import annotations

from pathlib import Path

from built import throwaway
from built.unpacked import DEBS, RPMS
from hsm_enroll.version import __version__

_AMONG_OTHERS = """
dpkg-deb --extract "$1" /
python=$(/usr/bin/python3 -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
for folder in "/usr/local/lib/$python/dist-packages" "$HOME/.local/lib/$python/site-packages"; do
  mkdir -p "$folder"
  cp click.py "$folder"
done
hsm-enroll --version
"""
_RPMS_LIFE = """
find /usr -name '*hsm*enroll*' | sort >/run/before
install() { rpm --nodeps --nosignature --noverify "$@" 2>/run/said; }
install --install "$1"
hsm-enroll --version
getent passwd hsm-enroll | cut -d: -f1
test -e /usr/lib/hsm-enroll/hsm_enroll/__pycache__
install --upgrade --replacepkgs "$1"
hsm-enroll --version
test -e /usr/lib/hsm-enroll/hsm_enroll/__pycache__
install --erase hsm-enroll
find /usr -name '*hsm*enroll*' | sort | diff /run/before -
"""


def test_the_command_uses_its_own_python_packages(dist: Path, tmp_path: Path) -> None:
    """Packages of /usr/local, of the user, of the current folder and of PYTHONPATH are not used."""
    (tmp_path / "click.py").write_text("raise SystemExit('another click')\n")
    variables = {"HOME": str(tmp_path), "PYTHONPATH": str(tmp_path)}
    said = throwaway.run(_AMONG_OTHERS, dist / DEBS[0], folder=tmp_path, variables=variables)
    assert said == f"hsm-enroll, version {__version__}\n"


def test_an_rpm_is_installed_upgraded_and_removed(dist: Path, tmp_path: Path) -> None:
    """Its command runs and is compiled, its user is there; removed, it has left no file of its own."""
    version = f"hsm-enroll, version {__version__}\n"
    assert throwaway.run(_RPMS_LIFE, dist / RPMS[0], folder=tmp_path) == f"{version}hsm-enroll\n{version}"
