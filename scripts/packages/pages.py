"""The man pages: one for each command, from its help."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import takewhile

import click
from click_man.man import ManPage

from hsm_enroll.cli import app
from hsm_enroll.version import __version__

_NAME = "hsm-enroll"
_FILES = {
    "/etc/hsm-enroll/config.toml, $XDG_CONFIG_HOME/hsm-enroll/config.toml": "The configuration: root's, and a user's.",
    "/var/lib/hsm-enroll/, $XDG_STATE_HOME/hsm-enroll/": "The state folder: root's, and a user's.",
    "$HSM_ENROLL_HOME": "If set, the folder of both.",
}


def all_pages(reference: str, troubleshooting: str, epoch: int) -> dict[str, str]:
    """Return each page's text by its name, which has no section.

    Args:
        reference: docs/reference.md's text, whose table of variables the command's own page has.
        troubleshooting: docs/troubleshooting.md's, whose table of exit statuses it has.
        epoch: the pages' date, in seconds since 1970.
    """
    date = datetime.fromtimestamp(epoch, UTC).date().isoformat()
    root = click.Context(app, info_name=_NAME, **app.context_settings)
    texts = {_page_name(context): _page(context, date) for context in (root, *_commands(root))}
    tables = [
        *_section("EXIT STATUS", _statuses(troubleshooting)),
        *_section("ENVIRONMENT", _environment(reference)),
        *_section("FILES", _FILES),
    ]
    texts[_NAME] += "\n".join(tables) + "\n"
    return texts


def _commands(group: click.Context) -> Iterator[click.Context]:
    command = group.command
    if not isinstance(command, click.Group):
        return
    for name in command.list_commands(group):
        found = command.get_command(group, name)
        if found is not None and not found.hidden:
            context = click.Context(found, info_name=name, parent=group, **found.context_settings)
            yield context
            yield from _commands(context)


def _page_name(context: click.Context) -> str:
    return context.command_path.replace(" ", "-")


def _page(context: click.Context, date: str) -> str:
    command = context.command
    page = ManPage(_page_name(context))
    page.version = f"{_NAME} {__version__}"
    page.date = date
    page.short_help = _roff(_summary(command))
    page.synopsis = " ".join(command.collect_usage_pieces(context)).replace("\\", r"\e")
    page.description = _paragraphs(command.help or "")
    options = [each for each in command.get_params(context) if isinstance(each, click.Option)]
    records = filter(None, (option.get_help_record(context) for option in options))
    page.options = [(names.replace("\\", r"\e"), _roff(text)) for names, text in records]
    written = str(page).rstrip("\n")
    # click-man's title has the name again, with no room for it; its synopsis would have the page's name.
    written = written.replace(f'"{_page_name(context)} Manual"', f'"{_NAME}"', 1)
    written = written.replace(f".B {_page_name(context)}", f".B {_roff(context.command_path)}", 1)
    sections = [written]
    below = [each for each in _commands(context) if each.parent is context]
    if below:
        sections += _section("COMMANDS", {f"{_page_name(each)}(1)": _summary(each.command) for each in below})
    if command.epilog:
        sections += [".SH EXAMPLE", ".nf", *map(_roff, _example(command.epilog)), ".fi"]
    if context.parent is not None:
        sections += [".SH SEE ALSO", rf"\fB{_roff(_page_name(context.parent))}\fP(1)"]
    return "\n".join(sections) + "\n"


def _summary(command: click.Command) -> str:
    """Return the first sentence of a command's help, as a name section has it."""
    text = " ".join((command.help or "").split())
    return text.partition(". ")[0].removesuffix(".")


def _example(epilog: str) -> Sequence[str]:
    return [line.strip() for line in epilog.splitlines() if line.startswith(" ")]


def _section(title: str, entries: dict[str, str]) -> list[str]:
    lines = [f".SH {title}"]
    for name, text in entries.items():
        lines += [".TP", rf"\fB{_roff(name)}\fP", _roff(text)]
    return lines


def _statuses(troubleshooting: str) -> dict[str, str]:
    """Return what each exit status means, and what to do."""
    rows = _table(troubleshooting, "exit")
    return {status: what if to_do in {"-", "nothing"} else f"{what}: {to_do}" for status, _, what, to_do in rows}


def _environment(reference: str) -> dict[str, str]:
    return {variable: meaning for variable, _, _, meaning in _table(reference, "variable")}


def _table(markdown: str, first_column: str) -> list[list[str]]:
    """Return the rows of the table whose first column is called so, as plain text."""
    plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", markdown.replace("`", ""))
    lines = plain.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {first_column} |")) + 2
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in takewhile(lambda line: line.startswith("|"), lines[start:])
    ]


def _paragraphs(text: str) -> str:
    """Return a help text; what click has as it is written, after a line of ``\\b``, stays so here too."""
    paragraphs = [paragraph.strip("\n") for paragraph in re.split(r"\n\s*\n", text)]
    return "\n\n".join(
        "\n".join([".nf", *map(_roff, paragraph.splitlines()[1:]), ".fi"])
        if paragraph.startswith("\b")
        else _roff(" ".join(paragraph.split()))
        for paragraph in paragraphs
    )


def _roff(text: str) -> str:
    """Return text as roff's input shows it (groff_char(7)): hyphens that can be copied, no requests."""
    escaped = text.replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{escaped}" if escaped.startswith((".", "'")) else escaped
