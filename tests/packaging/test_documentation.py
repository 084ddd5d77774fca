"""What the packages bring into /usr/share/doc/hsm-enroll."""

from __future__ import annotations

from pathlib import Path

from packages import build
from tests.support.pages import ROOT, page


def test_the_guides_links_lead_somewhere(tmp_path: Path) -> None:
    """Whoever reads them on a gateway finds the pages and schemas that they link to beside them."""
    build.copy_documentation(ROOT, tmp_path / "doc")
    guides = sorted((tmp_path / "doc/docs").glob("*.md"))
    assert {guide.name for guide in guides} >= {"technician.md", "troubleshooting.md", "tokens.md", "integrator.md"}
    for guide in guides:
        for link in page(f"docs/{guide.name}").links:
            target = link.partition("#")[0]
            assert "://" in target or (guide.parent / target).exists(), f"{guide.name}: {link}"
