"""The command line: `dmlf VERB ...`, one file per family of verbs.

Exit codes: 0 done, 1 the work failed, 2 the command line or the configuration is wrong,
128 + n stopped by signal n (130: interrupted). Errors are one line on standard error; a failure
inside user code shows that rank's own traceback first.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

from dmlf.cli import (
    benchmark,
    checkpoint,
    collective,
    compare,
    evidence,
    faults,
    hosts,
    overhead,
    plugins,
    projection,
    protocols,
    run,
    training,
)
from dmlf.errors import ConfigError, DmlfError, RemoteError, RunInterrupted


class HelpWithDefaults(argparse.ArgumentDefaultsHelpFormatter):
    """Ends the help of every flag by its default, where it has one and does not say so itself."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = action.help or "", action.default
        nothing = default in (None, "", [], (), argparse.SUPPRESS) or isinstance(default, bool)
        if nothing or not action.option_strings or "(default" in text:
            return text
        if isinstance(default, list | tuple):
            return f"{text} (default: {' '.join(map(str, default))})"
        return (
            f"{text} (default: {default:g})"
            if isinstance(default, float)
            else f"{text} (default: {default})"
        )


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage of all flags before it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **({"formatter_class": HelpWithDefaults} | options))

    def error(self, message: str) -> NoReturn:
        """Exit with code 2."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def make_parser() -> argparse.ArgumentParser:
    """The parser of all verbs; each sets `run`, a function of the parsed arguments."""
    parser = OneLineParser(
        prog="dmlf",
        description="Train with checked parameter-server or ring protocols, and benchmark them "
        "against PyTorch DDP.",
        epilog="Run `dmlf VERB --help` for the options of one verb.",
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for family in (
        training,
        run,
        hosts,
        checkpoint,
        faults,
        overhead,
        collective,
        evidence,
        projection,
        benchmark,
        compare,
        plugins,
        protocols,  # last: a plug-in's name must not take a verb's
    ):
        family.add_verbs(verbs)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code. Raises KeyboardInterrupt."""
    parsed = make_parser().parse_args(arguments)
    try:
        return int(parsed.run(parsed))
    except DmlfError as error:
        if isinstance(error, RemoteError):
            print(error.traceback, file=sys.stderr, end="")
        if error.__cause__ is not None and not isinstance(error.__cause__, ImportError):
            traceback.print_exception(error.__cause__)
        print(f"dmlf: {error}", file=sys.stderr)
        if isinstance(error, RunInterrupted):
            return 128 + error.number
        return 2 if isinstance(error, ConfigError) else 1
    except OSError as error:
        print(f"dmlf: {error}", file=sys.stderr)
        return 1
