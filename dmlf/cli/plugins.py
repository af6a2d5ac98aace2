"""Verbs for authors of plug-ins: plugins, conformance."""

from __future__ import annotations

import argparse
from typing import Any

from dmlf.errors import ConfigError, PluginError
from dmlf.plugins import Origin, Registry
from dmlf.protocol import registry
from dmlf.tasks import TASKS
from dmlf.transport import TRANSPORTS


def add_verbs(verbs: Any) -> None:
    """Add the verbs to the parser."""
    parser = verbs.add_parser(
        "plugins",
        help="list installed algorithms, tasks and transports, and what is wrong with them",
        description="Load every algorithm, task and transport that other distributions install "
        "(docs/plugins.md). Exits 1 if any cannot be used.",
    )
    parser.set_defaults(run=_plugins)

    parser = verbs.add_parser(
        "conformance",
        help="run the conformance tests of algorithms and transports",
        description="Run, on those that are named, the tests that every algorithm and every "
        "transport must pass. Needs pytest.",
    )
    parser.add_argument(
        "--algorithm", nargs="+", default=[], metavar="NAME", help="algorithms to test"
    )
    parser.add_argument(
        "--transport", nargs="+", default=[], metavar="NAME", help="transports to test"
    )
    parser.set_defaults(run=_conformance)


def _plugins(_parsed: argparse.Namespace) -> int:
    kinds: tuple[Registry[Any], ...] = (registry(), TASKS, TRANSPORTS)
    total = broken = 0
    for known in kinds:
        for name, origin in known.claims():
            total += 1
            try:
                known[name]
            except PluginError as error:
                broken += 1
                print(f"BROKEN  {error}")
            else:
                print(f"ok      {known.kind} {name!r} of {_described(origin)}")
    print(f"{total} plug-ins: {broken} broken")
    return 1 if broken else 0


def _described(origin: Origin) -> str:
    return f"{origin.distribution} {origin.version} ({origin.module})"


def _conformance(parsed: argparse.Namespace) -> int:
    from dmlf.conformance import run

    if not parsed.algorithm and not parsed.transport:
        raise ConfigError("algorithm", [], "a name, or --transport with one")
    kinds: tuple[tuple[Registry[Any], list[str]], ...] = (
        (registry(), parsed.algorithm),
        (TRANSPORTS, parsed.transport),
    )
    for known, names in kinds:
        for name in names:
            if name not in known:
                raise ConfigError(known.kind, name, f"one of {', '.join(known)}")
            known[name]  # what is broken is told before any test runs
    return run(parsed.algorithm, parsed.transport)
