"""Verbs that check: verify, diff, simulate."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dmlf.cli.training import constraints_path
from dmlf.config import REDUCTIONS
from dmlf.errors import ConfigError
from dmlf.protocol import registry


def add_verbs(verbs: Any) -> None:
    """Add the verbs to the parser."""
    parser = verbs.add_parser(
        "verify",
        help="recompute the hashes and correctness checks of folders of results",
        description="Check every metrics.json below the folders RESULTS: schema, configuration, "
        "sources and pinned dependencies against this tree, final state against the serial "
        "reference. Exits 1 if anything does not hold.",
    )
    parser.add_argument(
        "results",
        type=Path,
        nargs="+",
        metavar="RESULTS",
        help="folders with metrics.json in or below them",
    )
    parser.set_defaults(run=_verify)

    parser = verbs.add_parser(
        "diff",
        help="name the first step, shard and tensor in which two runs differ",
        description="Compare the transcripts of two runs of one task (folders of runs that were "
        "trained with --transcript). Exits 0 if they are identical, 1 if they differ.",
    )
    parser.add_argument("run_a", type=Path, metavar="RUN_A", help="folder of a run")
    parser.add_argument("run_b", type=Path, metavar="RUN_B", help="folder of the other")
    parser.set_defaults(run=_diff)

    parser = verbs.add_parser(
        "simulate",
        help="run a protocol under seeded faults, or explore all its interleavings",
        description="Drive the protocol in the deterministic simulator. Without --explore: seeded "
        "schedules with faults, whose invariants are checked after every event. With --explore: "
        "every interleaving of a small group, and every single fault.",
    )
    parser.add_argument("algorithm", choices=list(registry()), help="the protocol")
    parser.add_argument("--world-size", type=int, default=3, metavar="N", help="workers")
    parser.add_argument(
        "--num-servers", type=int, default=1, metavar="N", help="for an algorithm with servers"
    )
    parser.add_argument("--steps", type=int, default=2, metavar="N", help="training steps")
    parser.add_argument(
        "--reduction", choices=REDUCTIONS, default="float32", help="how gradients are added"
    )
    parser.add_argument(
        "--seeds",
        type=int,
        default=1000,
        metavar="N",
        help="schedules to run",
    )
    parser.add_argument("--first-seed", type=int, default=0, metavar="N", help="of these")
    parser.add_argument(
        "--explore",
        action="store_true",
        help="every interleaving, and every single fault; for 2 or 3 workers and 1 or 2 steps, as "
        "each more multiplies them",
    )
    parser.add_argument(
        "--bucket-numels",
        type=int,
        nargs="+",
        metavar="N",
        help="sizes of the buckets to explore with, in elements (default: 3)",
    )
    parser.set_defaults(run=_simulate)


def _verify(parsed: argparse.Namespace) -> int:
    from dmlf.benchmark.verify import verify

    findings = verify(parsed.results, constraints_path())
    words = {True: "ok      ", False: "FAIL    ", None: "unproved"}
    for finding in findings:
        print(f"{words[finding.holds]}  {finding.path}: {finding.detail}")
    failed = sum(finding.holds is False for finding in findings)
    unproved = sum(finding.holds is None for finding in findings)
    print(f"{len(findings)} runs: {failed} failed, {unproved} unproved")
    return 1 if failed else 0


def _diff(parsed: argparse.Namespace) -> int:
    from dmlf.benchmark.diff import compare
    from dmlf.benchmark.transcript_file import read_transcript

    first, second = read_transcript(parsed.run_a), read_transcript(parsed.run_b)
    comparison = compare(first, second)
    if comparison.not_comparable:
        print(
            f"{comparison.not_comparable} gradients are of shards that one run computed together "
            "and the other did not: not compared"
        )
    if comparison.difference is not None:
        print(f"first difference: {comparison.difference}")
        return 1
    lengths = len(first.records), len(second.records)
    if lengths[0] != lengths[1]:
        print(f"equal for {comparison.steps} steps; then one run ends (steps: {lengths})")
        return 1
    print(f"identical: {comparison.steps} steps, final state {first.final_state_sha256[:16]}")
    return 0


def _simulate(parsed: argparse.Namespace) -> int:
    from dmlf.simulation.command import explore, simulate

    if parsed.bucket_numels is not None and not parsed.explore:
        raise ConfigError("--bucket-numels", parsed.bucket_numels, "--explore beside it")
    hidden = not sys.stderr.isatty()
    total = None if parsed.explore else parsed.seeds
    with tqdm(total=total, disable=hidden, leave=False) as bar:

        def progress(done: int) -> None:
            bar.update(done - bar.n)

        if parsed.explore:
            summary: object = explore(
                parsed.algorithm,
                parsed.world_size,
                parsed.steps,
                tuple(parsed.bucket_numels or [3]),
                parsed.reduction,
                progress,
                num_servers=parsed.num_servers,
            )
        else:
            summary = simulate(
                parsed.algorithm,
                parsed.world_size,
                parsed.steps,
                parsed.seeds,
                parsed.first_seed,
                parsed.reduction,
                progress,
                num_servers=parsed.num_servers,
            )
    print(summary)
    return 0
