"""The verb compare."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_verbs(verbs: Any) -> None:
    """Add the verb to the parser."""
    parser = verbs.add_parser(
        "compare",
        help="compare two folders of results: what agrees, and what got worse",
        description="Compare the tables of two machines or two revisions: correctness, final bits "
        "where the machine is the same, throughput relative to serial and to DDP, efficiency, the "
        "order of the strategies and the shape of their scaling, epochs and time to the target "
        "accuracy, and all-reduce alone; never absolute times. Exits 1 if B is worse than A beyond "
        "noise, or wrong where A was right.",
    )
    parser.add_argument("results_a", type=Path, metavar="RESULTS_A", help="the baseline")
    parser.add_argument("results_b", type=Path, metavar="RESULTS_B", help="what is held against it")
    parser.add_argument(
        "--all", action="store_true", help="print what agrees and what is undecided line by line"
    )
    parser.set_defaults(run=_compare)


def _compare(parsed: argparse.Namespace) -> int:
    from dmlf.benchmark.compare.findings import compare
    from dmlf.benchmark.compare.side import read_side
    from dmlf.benchmark.compare.text import lines

    comparison = compare(read_side(parsed.results_a), read_side(parsed.results_b))
    for line in lines(comparison, every=parsed.all):
        print(line)
    return 1 if comparison.regressions else 0
