"""The verb overhead: what being ready for faults costs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any


def add_verbs(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "overhead",
        help="measure what --max-restarts and checkpoints cost",
        description="Train the MLP 64-512-512-10 on digits, a ring of two over shm, plain, with "
        "restarts allowed, and with checkpoints, alternating; print how many times as long steps "
        "take with restarts allowed, and with a checkpoint every 50 steps, as the median of the "
        "rounds with its 95 % interval.",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=9,
        metavar="N",
        help="runs of each; a claim needs 5",
    )
    parser.add_argument(
        "--steps",
        type=int,
        default=400,
        metavar="N",
        help="of each run, from 300",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="where to write the samples")
    parser.add_argument(
        "--exclusive",
        action="store_true",
        help="wait until no other run of this host is being measured",
    )
    parser.add_argument(
        "--end-with-parent",
        action="store_true",
        help="end when the process that started this one ends, even if that is killed",
    )
    parser.set_defaults(run=_overhead)


def _overhead(parsed: argparse.Namespace) -> int:
    import signal

    from dmlf.benchmark.faults.load import Faults
    from dmlf.benchmark.faults.overhead import measure_overhead
    from dmlf.benchmark.faults.statements import TARGETS, statements
    from dmlf.benchmark.faults.summary import overhead_ratio
    from dmlf.benchmark.files import write_json
    from dmlf.cli.training import check_writable
    from dmlf.runtime.child import signal_on_parent_death

    check_writable(parsed.output)
    if parsed.end_with_parent:
        signal_on_parent_death(signal.SIGTERM)

    def tell(line: str) -> None:
        print(line, flush=True)

    content = measure_overhead(
        parsed.rounds, parsed.steps, sys.argv, tell, exclusive=parsed.exclusive
    )
    if parsed.output is not None:
        write_json(parsed.output, content)
    for variant in TARGETS:
        print(f"{variant}: {overhead_ratio(content, variant).text()} times as long as without")
    for statement in statements(Faults(overhead=content))[1:]:
        print(f"{statement.outcome}: {statement.text}")
    return 0
