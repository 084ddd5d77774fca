"""Tests go through the public names of a module: what they need of it is a part of it that may be relied on.

Attributes are ruff's matter (SLF001). This is about the ways around it: imports, names given as strings, and programs
that a test runs.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRIVATE = re.compile(r"_[a-zA-Z]\w*")
DOTTED = re.compile(rf"[a-zA-Z]\w*(\.\w+)*\.{PRIVATE.pattern}")
REPLACING = {"setattr", "getattr", "delattr", "object"}  # of builtins, of pytest's monkeypatch, and mock.patch.object
PUBLIC = {"_asdict", "_exit", "_fields", "_make", "_replace"}  # by the documentation of named tuples and of os
# What botocore does again and again in the tests of the backend has no public name; elsewhere nothing of it is used.
OF_BOTOCORE = {
    "tests/support/quick_aws.py: _alias_event_name",
    "tests/support/quick_aws.py: _create_client_class",
}


def private_names(tree: ast.AST) -> Iterator[str]:
    """Yield the private names that a module imports or gives as strings, or that a program in a string uses."""
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom():
                yield from (alias.name for alias in node.names if PRIVATE.fullmatch(alias.name))
            case ast.Call(func=ast.Attribute(attr=called) | ast.Name(id=called), args=[_, ast.Constant(str(name)), *_]):
                if called in REPLACING and PRIVATE.fullmatch(name):
                    yield name
            case ast.Constant(str(text)) if DOTTED.fullmatch(text):
                yield text
            case ast.Constant(str(text)) if "import " in text:
                with suppress(SyntaxError):
                    yield from used_by_a_program(ast.parse(text))


def used_by_a_program(tree: ast.AST) -> Iterator[str]:
    """Yield the private names that a program uses, attributes too."""
    yield from private_names(tree)
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    yield from (name for name in attributes - PUBLIC if PRIVATE.fullmatch(name))


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from a import _b", ["_b"]),
        ("from a import b, __version__", []),
        ("patch.setattr(a, '_b', None)", ["_b"]),
        ("mock.patch.object(a, '_b')", ["_b"]),
        ("setattr(a, '__call__', None)", []),
        ("patch.setattr('a.b._c', None)", ["a.b._c"]),
        ("run('import a; a._b()')", ["_b"]),
        ("run('import os; os._exit(0)')", []),
    ],
)
def test_each_way_to_a_private_name_is_seen(source: str, found: list[str]) -> None:
    """Imports, replacements by name, and programs are looked through."""
    assert list(private_names(ast.parse(source))) == found


@pytest.mark.parametrize("folder", ["tests", "scripts", "docs/examples"])
def test_nobody_uses_another_modules_private_names(folder: str) -> None:
    """What a test, a script or an example needs has a public name; botocore's exceptions are listed."""
    found = {
        f"{file.relative_to(ROOT)}: {name}"
        for file in (ROOT / folder).rglob("*.py")
        if file != Path(__file__)
        for name in private_names(ast.parse(file.read_text("utf-8")))
    }
    assert found == {name for name in OF_BOTOCORE if name.startswith(folder)}


@pytest.mark.parametrize(
    "package",
    sorted(path.parent for top in ("hsm_enroll", "lambda") for path in (ROOT / top).rglob("__init__.py")),
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_no_module_hides_a_name_of_its_package(package: Path) -> None:
    """A package defines no function or class that is called as one of its modules: loaded, that replaces it."""
    tree = ast.parse((package / "__init__.py").read_text(encoding="utf-8"))
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    modules = {path.stem for path in package.iterdir()}
    assert defined & modules == set()
