"""The pictures of terminals in docs/pictures, and what commands show today on terminals as wide."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text

from terminals.scenes import SCENES, WIDTHS, Scene, Stage, stage
from terminals.svg import THEMES, drawn, text
from terminals.tmux import Shown
from tests.docs.shown import Varying, masked
from tests.support.pages import PAGES, ROOT

_PICTURES = ROOT / "docs" / "pictures"
_NARROW = min(WIDTHS)
_COLOUR = re.compile(r"fill: (#[0-9a-f]{6})")
_BRIGHT_WHITE, _BLACK = 15, 0  # ECMA-48's colours, as rich numbers them

# What differs from run to run in a picture, and from machine to machine, in lines without blanks.
_IN_PICTURES: tuple[Varying, ...] = (
    (re.compile(r"gateway-\d+"), "<thing>"),
    (re.compile(r"Python\S+?Linux(?:x86_64|aarch64)"), "<machine>"),
    (re.compile(r"[█▀▄]+"), "<drawing>"),
)


@pytest.fixture(scope="module")
def playing() -> Iterator[Stage]:
    """Where the scenes are played."""
    with stage() as made:
        yield made


@pytest.fixture(scope="module", params=SCENES, ids=[scene.name for scene in SCENES])
def played(request: pytest.FixtureRequest, playing: Stage) -> tuple[Scene, Shown]:
    """A scene, and what it shows today on a narrow terminal."""
    scene: Scene = request.param
    return scene, playing.play(scene, _NARROW)


def _said(lines: str) -> str:
    """What lines say, however they are wrapped."""
    return masked("".join(lines.split()), _IN_PICTURES)


def _picture(scene: Scene, kind: str) -> str:
    return (_PICTURES / f"{scene.name}-{kind}.svg").read_text(encoding="utf-8")


def test_a_picture_shows_what_the_command_shows(played: tuple[Scene, Shown]) -> None:
    """The narrow picture of a command has the words that the command shows today."""
    scene, shown = played
    today = text(drawn(shown.ansi, _NARROW, THEMES["dark"], scene.name))
    assert _said(text(_picture(scene, f"{_NARROW}-dark"))) == _said(today)


def test_nothing_but_long_words_is_broken(played: tuple[Scene, Shown]) -> None:
    """On 40 columns the terminal itself breaks no line, but a word that is longer than the line."""
    _, shown = played
    assert [line for line in shown.overflowed if " " in line.strip()] == []


@pytest.mark.parametrize("scene", SCENES, ids=[scene.name for scene in SCENES])
def test_the_pictures_of_a_scene_differ_in_looks_alone(scene: Scene) -> None:
    """A command says the same in dark and light, with and without colours, and, unless it draws, at each width."""
    kinds = [f"{columns}-{theme}" for columns in WIDTHS for theme in THEMES] + [f"{max(WIDTHS)}-plain"]
    if scene.name == "invite-qr":
        kinds = [kind for kind in kinds if not kind.startswith(f"{_NARROW}-")]
    assert len({_said(text(_picture(scene, kind))) for kind in kinds}) == 1


@pytest.mark.parametrize("scene", SCENES, ids=[scene.name for scene in SCENES])
def test_without_colours_there_is_one_colour(scene: Scene) -> None:
    """With NO_COLOR the text has one colour."""
    assert len(set(_COLOUR.findall(_picture(scene, f"{WIDTHS[0]}-plain")))) == 1


def test_a_failure_is_coloured() -> None:
    """On a terminal with colours the word "error" stands out, in dark and light."""
    failing = next(scene for scene in SCENES if scene.name == "init-failing")
    for theme in THEMES:
        assert len(set(_COLOUR.findall(_picture(failing, f"{WIDTHS[0]}-{theme}")))) > 1


@pytest.mark.parametrize("scene", SCENES, ids=[scene.name for scene in SCENES])
def test_a_page_shows_the_picture(scene: Scene) -> None:
    """Each scene is on a page, for readers in the dark and in the light."""
    shown = {(page.folder / target).resolve() for page in PAGES for target in page.links}
    assert {_PICTURES / f"{scene.name}-{max(WIDTHS)}-{theme}.svg" for theme in THEMES} <= shown


def test_a_page_leads_to_each_screenshot() -> None:
    """What scripts/web-pictures draws can be found by a reader."""
    shown = {(page.folder / target).resolve() for page in PAGES for target in page.links}
    assert set((ROOT / "docs" / "screenshots").iterdir()) - shown == set()


def test_pictures_need_nothing_from_elsewhere() -> None:
    """A picture refers to nothing outside of itself, and all there are belong to a scene."""
    names = {path.stem for path in _PICTURES.iterdir()}
    kinds = [f"{columns}-{theme}" for columns in WIDTHS for theme in THEMES] + [f"{WIDTHS[0]}-plain"]
    assert names == {f"{scene.name}-{kind}" for scene in SCENES for kind in kinds}
    for path in _PICTURES.iterdir():
        references = re.findall(r"(?:href|src)=|url\((?!#)|@import|@font-face", path.read_text(encoding="utf-8"))
        assert references == [], path


def test_the_qr_code_can_be_read_from_any_terminal(playing: Stage, tmp_path: Path) -> None:
    """A QR reader gets the invite from the blocks on a terminal, which say their colours: light on dark."""
    scene = next(scene for scene in SCENES if scene.name == "invite-qr")
    shown = Text.from_ansi(playing.play(scene, max(WIDTHS)).ansi)
    rows = [line for line in shown.split() if "█" in line.plain]
    for row in rows:
        style = row.get_style_at_offset(Console(), 0)
        assert style.color is not None
        assert style.bgcolor is not None
        assert (style.color.number, style.bgcolor.number) == (_BRIGHT_WHITE, _BLACK)
    assert _read([row.plain for row in rows], tmp_path / "code.pgm") in shown.plain


def _read(blocks: list[str], file: Path) -> str:
    """What a QR reader sees: each character is two modules, one above the other."""
    modules = [[mark in halves for mark in row] for row in blocks for halves in ("█▀", "█▄")]
    size, width, height = 8, len(modules[0]), len(modules)
    pixels = b"".join(bytes(255 if module else 0 for module in row for _ in range(size)) * size for row in modules)
    file.write_bytes(b"P5 %d %d 255\n" % (width * size, height * size) + pixels)
    done = subprocess.run(["zbarimg", "--quiet", "--raw", file], check=True, capture_output=True, text=True)
    return done.stdout.strip()
