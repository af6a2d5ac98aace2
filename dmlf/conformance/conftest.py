"""Which algorithms and transports the tests of this folder run on: those named, or all."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from dmlf.conformance.driving import groups
from dmlf.conformance.groups import FAILED, links, transports
from dmlf.conformance.leftovers import nothing_left_behind as nothing_left_behind
from dmlf.conformance.leftovers import warm_fork_server as warm_fork_server
from dmlf.protocol import registry
from dmlf.transport import TRANSPORTS


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    options = parser.getgroup("dmlf")
    for kind in ("algorithm", "transport"):
        options.addoption(
            f"--{kind}",
            action="append",
            default=[],
            metavar="NAME",
            help=f"run the conformance tests on this {kind}; may be given several times",
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Tell the fixtures of a test whether it failed."""
    report = yield
    item.stash[FAILED] = item.stash.get(FAILED, False) or report.failed
    return report


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test each of its subjects in turn."""
    algorithms = metafunc.config.getoption("algorithm") or list(registry())
    names = metafunc.config.getoption("transport") or list(TRANSPORTS)
    if "group" in metafunc.fixturenames:
        subjects = groups(algorithms)
        metafunc.parametrize("group", subjects.values(), ids=subjects)
    if "transport" in metafunc.fixturenames:
        metafunc.parametrize("transport", transports(names))
    if "link" in metafunc.fixturenames:
        metafunc.parametrize("link", links(names))
