"""The pages a user reads, taken apart: fenced blocks, commands with what they show, tables, links, headings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]

_FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)|\bsrc(?:set)?=\"(?P<picture>[^\"]+)\"")
_HEADING = re.compile(r"^#+ +(?P<title>.+)$", re.MULTILINE)
_MARK = re.compile(r'^<a id="(?P<name>[^"]+)"></a>$', re.MULTILINE)
_CODE = re.compile(r"`([^`]+)`")
_PROMPT = "$ "


@dataclass(frozen=True)
class Block:
    """A fenced block: where it stands, what it is, what it holds."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Command:
    """A line that begins with ``$ ``, with the lines that continue it, and what the page shows below it."""

    text: str
    shown: str


@dataclass(frozen=True)
class Page:
    """One Markdown file, named by its path from the top."""

    name: str
    text: str

    @property
    def folder(self) -> Path:
        """Where its relative links begin."""
        return (ROOT / self.name).parent

    @cached_property
    def blocks(self) -> list[Block]:
        """Its fenced blocks, in order."""
        return [
            Block(self.name, self.text.count("\n", 0, found.start()) + 2, found["language"], found["text"])
            for found in _FENCE.finditer(self.text)
        ]

    def blocks_of(self, language: str) -> list[Block]:
        """Its fenced blocks of one language."""
        return [block for block in self.blocks if block.language == language]

    @cached_property
    def prose(self) -> str:
        """Everything but the fenced blocks."""
        return _FENCE.sub("", self.text)

    @cached_property
    def links(self) -> list[str]:
        """The targets of its links and pictures."""
        return [found["target"] or found["picture"] for found in _LINK.finditer(self.prose)]

    @cached_property
    def anchors(self) -> set[str]:
        """What a link may name after ``#``: marks; headings in lower case, without punctuation, blanks as dashes."""
        titles = (found["title"].lower() for found in _HEADING.finditer(self.prose))
        headings = {re.sub(r"[^\w\- ]", "", title).strip().replace(" ", "-") for title in titles}
        return headings | {found["name"] for found in _MARK.finditer(self.prose)}

    def table(self, first_column: str) -> list[list[str]]:
        """The rows of the one table whose first column is called so, a cell each, without blanks around it."""
        tables = list(self._tables())
        (rows,) = [rows for rows in tables if rows[0][0] == first_column]
        return rows[2:]

    def _tables(self) -> Iterator[list[list[str]]]:
        rows: list[list[str]] = []
        for line in [*self.prose.splitlines(), ""]:
            if line.startswith("|"):
                rows.append([cell.strip() for cell in line.strip("|").split("|")])
            elif rows:
                yield rows
                rows = []


def page(name: str) -> Page:
    """Read one page."""
    return Page(name, (ROOT / name).read_text(encoding="utf-8"))


README = page("README.md")
REFERENCE = page("docs/reference.md")
TRANSLATIONS = {"README.ja.md": "README.md", "docs/technician.ja.md": "docs/technician.md"}
"""The Japanese pages, each with the page that it translates, whose blocks it has."""
PAGES = [README, *(page(str(path.relative_to(ROOT))) for path in sorted(ROOT.glob("docs/*.md")))]
PAGES += [page(path.name) for path in sorted(ROOT.glob("*.md")) if path.name != README.name]


def commands(block: Block) -> list[Command]:
    """Take a ``console`` block apart.

    Raises:
        ValueError: it does not begin with a command.
    """
    found: list[Command] = []
    continued = False
    for line in block.text.splitlines():
        if continued:
            found[-1] = Command(f"{found[-1].text}\n{line}", "")
        elif line.startswith(_PROMPT):
            found.append(Command(line.removeprefix(_PROMPT), ""))
        elif not found:
            raise ValueError(f"{block} does not begin with a command")
        else:
            found[-1] = Command(found[-1].text, f"{found[-1].shown}{line}\n")
            continue
        continued = line.endswith("\\")
    return found


def code(cell: str) -> list[str]:
    """The pieces of a table's cell that are set as code."""
    return _CODE.findall(cell)
