"""The verb faults: a campaign of injected faults."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from dmlf.errors import ConfigError
from dmlf.protocol import registry

TRANSPORTS = ("queue", "shm", "tcp")
"""Those over which a local run recovers."""


def add_verbs(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "faults",
        help="break runs at random, and check that they end as if nothing had happened",
        description="Train small runs, each with a fault at a random place (killed, stopped, lost "
        "and garbled messages, flipped bits, full disks), and compare the final states with those "
        "of undisturbed runs. The same seed gives the same plans. Exits 1 if a run fails: a fault "
        "that did not fire is a failure too.",
    )
    parser.add_argument(
        "--runs",
        type=int,
        default=20,
        metavar="N",
        help="broken runs in all",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="of kinds and places",
    )
    parser.add_argument(
        "--only", type=int, metavar="NUMBER", help="repeat the run of this number alone"
    )
    parser.add_argument(
        "--algorithms",
        nargs="+",
        default=["ring", "parameter_server"],
        metavar="NAME",
        help=f"of {', '.join(registry())} (default: ring parameter_server)",
    )
    parser.add_argument(
        "--transports",
        nargs="+",
        default=["shm", "tcp"],
        metavar="NAME",
        help=f"of {', '.join(TRANSPORTS)} (default: shm tcp)",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="where to write the results")
    parser.add_argument(
        "--exclusive",
        action="store_true",
        help="wait until no run of this host is being measured",
    )
    parser.add_argument(
        "--end-with-parent",
        action="store_true",
        help="end when the process that started this one ends, even if that is killed",
    )
    parser.set_defaults(run=_faults)


def _faults(parsed: argparse.Namespace) -> int:
    import signal

    from dmlf.benchmark.faults.campaign import run_campaign
    from dmlf.benchmark.faults.plans import Request, plan_runs
    from dmlf.benchmark.files import write_json
    from dmlf.cli.training import check_writable
    from dmlf.runtime.child import signal_on_parent_death

    for key, known in (("algorithms", tuple(registry())), ("transports", TRANSPORTS)):
        for name in getattr(parsed, key):
            if name not in known:
                raise ConfigError(key, name, f"one of {', '.join(known)}")
    if not 1 <= parsed.runs <= 100_000:
        raise ConfigError("runs", parsed.runs, "a number from 1 to 100000")
    if parsed.seed < 0:
        raise ConfigError("seed", parsed.seed, "a number from 0")
    request = Request(parsed.runs, parsed.seed, tuple(parsed.algorithms), tuple(parsed.transports))
    planned = plan_runs(request)
    if parsed.only is not None:
        if not 0 <= parsed.only < parsed.runs:
            raise ConfigError("only", parsed.only, f"a number from 0 to {parsed.runs - 1}")
        planned = [planned[parsed.only]]
    check_writable(parsed.output)
    if parsed.end_with_parent:
        signal_on_parent_death(signal.SIGTERM)

    def tell(line: str) -> None:
        print(line, flush=True)

    content = run_campaign(planned, request, sys.argv, tell, exclusive=parsed.exclusive)
    if parsed.output is not None:
        write_json(parsed.output, content)
    summary = content["summary"]
    print(f"{summary['passed']} of {summary['runs']} runs passed, {_times(summary)}")
    return 0 if summary["passed"] == summary["runs"] else 1


def _times(summary: dict[str, Any]) -> str:
    if summary["detection_median_s"] is None:
        return "nothing to recover from"
    return (
        f"{summary['recoveries']} recoveries; seen after {summary['detection_median_s']:.2f} s "
        f"(median; maximum {summary['detection_max_s']:.2f} s), recovered in "
        f"{summary['recovery_median_s']:.2f} s (maximum {summary['recovery_max_s']:.2f} s)"
    )
