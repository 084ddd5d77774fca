"""docs/api.md: what programs may use of the library, from its docstrings and signatures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import griffe

from generated import markdown
from hsm_enroll import errors

PAGE = "docs/api.md"

_ROOT = Path(__file__).resolve().parents[2]
_MODULES = {
    "hsm_enroll": "The functions and classes, which `from hsm_enroll import …` brings.",
    "hsm_enroll.aio": (
        "The same connection for programs that use asyncio: `from hsm_enroll import aio`. All else is `hsm_enroll`'s."
    ),
    "hsm_enroll.testing": "Fixtures for pytest, which finds them by itself, and the types of their values.",
}
# Classes whose objects a program gets, and does not make.
_NOT_MADE = {"Connection", "ConnectionEvent", "ConnectionState", "Identity", "Message", "Subscription", "TokenName"}
# What is public for the rest of the program alone.
_NOT_FOR_PROGRAMS = {
    *("Endpoints.from_json", "Endpoints.to_json"),
    *("Identity.from_members", "Identity.save", "Identity.save_copy", "Identity.to_members", "Identity.unknown"),
}
_TYPES = {"Pin": "library", "OnConnection": "iot.keeper", "QoS": "iot.target"}
_INTRODUCTION = """\
# API reference

What a Python program may use; [integrator.md](integrator.md) shows how. Everything here stays as it is, or is
[announced before it changes](../SECURITY.md#compatibility). All other modules belong to the command and may change in
any release.

The library is typed, and prints nothing. It reads the same configuration and environment as the command. This page is
written by `scripts/pages`, from the docstrings.
"""
_ERRORS = """\
## Errors

All are in `hsm_enroll`, and derive from `HsmEnrollError`, whose attributes they have:

| attribute | what it is |
|---|---|
| `message` | what happened, on which object; one sentence, also the text of the exception |
| `hint` | what to do next, or "" |
| `code` | stable name, also the section of [troubleshooting.md](troubleshooting.md) that explains the error |
| `exit_status` | with which the command exits |
| `retryable` | whether the same request may succeed later without anyone changing anything |
"""


def page(_: str) -> str:
    """Return the whole page."""
    sections = [section for module in _MODULES for section in _module(module)]
    ends = ["## Types", _type_table(), _ERRORS.strip(), _error_table(), "Some have more attributes:", _own_attributes()]
    return "\n\n".join([_INTRODUCTION.strip(), *sections, *ends]) + "\n"


@cache
def _package() -> griffe.Module:
    return cast("griffe.Module", griffe.load("hsm_enroll", search_paths=[_ROOT], docstring_parser="google"))


def _exported(module: str) -> list[str]:
    """Return the names that a module offers, but for the errors and the version."""
    names: list[str] = import_module(module).__all__
    return [name for name in names if name not in errors.__all__ and not name.startswith("__")]


def _module(name: str) -> Iterator[str]:
    yield f"## {name}"
    yield _MODULES[name]
    place = _package()[name.removeprefix("hsm_enroll").lstrip(".")] if "." in name else _package()
    prefix = name.removeprefix("hsm_enroll").removeprefix(".")
    for one in sorted(_exported(name), key=lambda name: (name[0].isupper(), name)):
        member = place[one]
        target = member.final_target if member.is_alias else member
        shown = f"{prefix}.{one}" if prefix else one
        yield f"### {shown}"
        yield from _class(target, shown, is_made=name == "hsm_enroll") if target.is_class else _function(target)


def _class(found: griffe.Class, shown: str, *, is_made: bool) -> Iterator[str]:
    """Yield what a class is, how a program makes an object of it, its attributes and its methods."""
    if is_made and found.name not in _NOT_MADE:
        yield _signature(cast("griffe.Function", found.members["__init__"]), found.name, skip=1)
    yield from _text(found)
    public = [member for name, member in found.members.items() if not name.startswith("_")]
    public = [member for member in public if f"{found.name}.{member.name}" not in _NOT_FOR_PROGRAMS]
    if attributes := [member for member in public if isinstance(member, griffe.Attribute)]:
        yield _attributes(attributes, _described(found))
    yield from _sections(found)
    for method in public:
        if isinstance(method, griffe.Function) and method.has_docstring:
            yield f"#### {shown}.{method.name}"
            yield from _function(method, skip=1)


def _attributes(attributes: Iterable[griffe.Attribute], described: dict[str, str]) -> str:
    rows = []
    for one in attributes:
        typed = "" if one.annotation is None else _type(one.annotation)
        rows.append((f"`{one.name}`", typed, described.get(one.name) or _summary(one)))
    if any(typed for _, typed, _ in rows):
        return markdown.table(("attribute", "type", "what it is"), rows)
    return markdown.table(("member", "what it means"), ((name, text) for name, _, text in rows))


def _function(found: griffe.Function, *, skip: int = 0) -> Iterator[str]:
    """Yield how a function is called, or a fixture's type, and what it does; ``skip`` arguments are Python's own."""
    if any("fixture" in str(decorator.value) for decorator in found.decorators):
        yield f"A fixture: {_type(str(found.returns).removeprefix('Iterator[').removesuffix(']'))}."
    else:
        yield _signature(found, found.name, skip=skip)
    yield from _text(found)
    yield from _sections(found)


def _signature(found: griffe.Function, name: str, *, skip: int) -> str:
    lines = list(_parameters(list(found.parameters)[skip:]))
    returned = "" if found.returns is None or name[0].isupper() else f" -> {found.returns}"
    if any("asynccontextmanager" in str(decorator.value) for decorator in found.decorators):
        name, returned = f"async with {name}", f" as {str(found.returns).removeprefix('AsyncIterator[')[:-1].lower()}"
    elif "async" in found.labels:
        name = f"await {name}"
    whole = f"{name}({', '.join(lines)}){returned}"
    if len(whole) > 100:
        whole = "\n".join([f"{name}(", *(f"    {line}," for line in lines), f"){returned}"])
    return f"```text\n{whole}\n```"


def _parameters(parameters: Iterable[griffe.Parameter]) -> Iterator[str]:
    keyword_only = False
    for one in parameters:
        if one.kind is griffe.ParameterKind.keyword_only and not keyword_only:
            keyword_only = True
            yield "*"
        typed = one.name if one.annotation is None else f"{one.name}: {one.annotation}"
        equals = " = " if one.annotation is not None else "="
        yield typed if one.default is None else f"{typed}{equals}{one.default}"


def _text(found: griffe.Object) -> Iterator[str]:
    """Yield the paragraphs of a docstring before its sections."""
    for section in _parsed(found):
        if section.kind is griffe.DocstringSectionKind.text:
            for paragraph in re.split(r"\n\s*\n", section.value.strip()):
                yield markdown.paragraphs(_linked(paragraph))


def _sections(found: griffe.Object) -> Iterator[str]:
    """Yield the arguments, what is returned, and the errors, as far as the docstring has them."""
    for section in _parsed(found):
        match section.kind:
            case griffe.DocstringSectionKind.parameters:
                rows = ((f"`{one.name}`", _cell(one.description)) for one in section.value)
                yield markdown.table(("argument", "what it is"), rows)
            case griffe.DocstringSectionKind.returns | griffe.DocstringSectionKind.yields:
                verb = "Returns" if section.kind is griffe.DocstringSectionKind.returns else "Yields"
                yield markdown.paragraphs(f"**{verb}:** {_cell(section.value[0].description)}")
            case griffe.DocstringSectionKind.raises:
                rows = ((_type(one.annotation), _cell(one.description)) for one in section.value)
                yield markdown.table(("raises", "when"), rows)


def _parsed(found: griffe.Object) -> list[griffe.DocstringSection]:
    return found.docstring.parsed if found.docstring else []


def _described(found: griffe.Object) -> dict[str, str]:
    """Return the descriptions of the attributes that a docstring lists."""
    sections = (one for one in _parsed(found) if one.kind is griffe.DocstringSectionKind.attributes)
    return {one.name: _cell(one.description) for section in sections for one in section.value}


def _summary(found: griffe.Object) -> str:
    """Return a docstring's first paragraph as a cell."""
    return _cell(next(_text(found), ""))


def _type(annotation: Any) -> str:
    """Return a type, or the classes of errors, as code."""
    names = str(annotation).strip("()").split(", ") if isinstance(annotation, griffe.ExprTuple) else [str(annotation)]
    return ", ".join(_linked(f"`{name}`") for name in names).replace(" | ", r" \| ")


def _type_table() -> str:
    found = ((name, _package()[module][name]) for name, module in _TYPES.items())
    rows = ((f"`{name}`", f"`{one.value}`".replace(" | ", r" \| "), _summary(one)) for name, one in found)
    return markdown.table(("name", "type", "what it is"), rows)


def _cell(text: str) -> str:
    return _linked(" ".join(text.split())).replace("|", r"\|")


def _linked(text: str) -> str:
    """Return a docstring's text, in which each error leads to its section, and each class or function to its own."""
    return re.sub(r"`(\w+)(\(\))?`", lambda found: _link(found[0], found[1]), markdown.prose(text))


def _link(shown: str, name: str) -> str:
    if name in errors.__all__:
        return f"[{shown}](troubleshooting.md#{getattr(errors, name).code})"
    return f"[{shown}](#{name.lower()})" if name in _exported("hsm_enroll") else shown


def _error_table() -> str:
    offered = (getattr(errors, name) for name in errors.__all__)
    rows = (
        (_linked(f"`{error.__name__}`"), f"`{error.code}`", str(error.exit_status), "yes" if error.retryable else "no")
        for error in sorted(offered, key=lambda error: (error.exit_status, error.code))
    )
    return markdown.table(("class", "code", "exit status", "retryable"), rows)


def _own_attributes() -> str:
    """Return the table of what errors say beside what all of them do."""
    found = ((name, cast("griffe.Alias", _package()["errors"][name]).final_target) for name in sorted(errors.__all__))
    rows = (
        (_linked(f"`{name}`"), f"`{attribute}`", text)
        for name, error in found
        if name != errors.HsmEnrollError.__name__
        for attribute, text in _described(cast("griffe.Class", error)).items()
    )
    return markdown.table(("error", "attribute", "what it is"), rows)
