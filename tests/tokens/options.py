"""Options of pytest that run the conformance suite against a token of any make, and nothing else.

    HSM_ENROLL_PIN_FILE=FILE scripts/test tests/tokens --module PATH --token-label LABEL

A plugin, since pytest reads options before it looks into this folder. The PIN comes from the environment alone. Without
``tests/tokens`` it has to be ``--module=PATH``: before this plugin is there pytest takes a lone PATH for a test's.
"""

from __future__ import annotations

from pathlib import Path

import pytest

GIVEN = "given"

# What a test found out about the token: a table, for the end of the run.
ROWS = pytest.StashKey[str]()

_OWN_TOKEN = (
    "own_token: wants a token that the tests have made: it spends tries of its PIN, brings keys in from outside, or "
    "counts on what else its module has; left out with --module"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Name the token."""
    group = parser.getgroup("a token of any make")
    group.addoption("--module", type=Path, metavar="PATH", help="run the conformance suite against this PKCS#11 module")
    group.addoption("--token-label", metavar="LABEL", help="label of the token in it")
    group.addoption("--token-serial", metavar="SERIAL", help="its serial number, where several have the label")


def pytest_configure(config: pytest.Config) -> None:
    """Check that the options make sense together."""
    config.addinivalue_line("markers", _OWN_TOKEN)
    if (config.option.module is None) != (config.option.token_label is None):
        raise pytest.UsageError("--module and --token-label go together")
    if config.option.token_serial is not None and config.option.module is None:
        raise pytest.UsageError("--token-serial goes with --module")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Use one process: a token may have a session for one program only."""
    if config.option.module is not None and "numprocesses" in config.option:
        config.option.numprocesses = 0


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep what runs on the token that was named, where one was."""
    if config.option.module is None:
        return
    kept = [item for item in items if _runs_on_any_token(item)]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print what the named token can do."""
    if config.option.module is not None and ROWS in config.stash:
        terminalreporter.section("what the token can do")
        terminalreporter.write(config.stash[ROWS])


def _runs_on_any_token(item: pytest.Item) -> bool:
    parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    return parameters.get("token") == GIVEN and item.get_closest_marker("own_token") is None
