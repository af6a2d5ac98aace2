"""The verb that measures all-reduces: collective."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from dmlf.benchmark.collective.config import DEFAULT_BUCKET_BYTES, DEFAULT_SIZES, PEERS
from dmlf.protocol import registry
from dmlf.transport import TRANSPORTS


def add_verbs(verbs: Any) -> None:
    """Add the verb to the parser."""
    parser = verbs.add_parser(
        "collective",
        help="measure all-reduce beside Gloo, Open MPI and the machine's limit",
        description="Time the sum of a float32 vector over all ranks, by algorithm, transport, "
        "size and world size. All contestants take turns in one run, in a new order every round; "
        "every result is checked: dmlf's bit for bit against the published order of additions, "
        "the peers' against the float64 sum. Exits 1 if any sum is wrong.",
    )
    parser.add_argument(
        "--algorithms", nargs="+", metavar="NAME", help=f"of {', '.join(registry())} (default: all)"
    )
    parser.add_argument(
        "--transports", nargs="+", metavar="NAME", help=f"of {', '.join(TRANSPORTS)} (default: all)"
    )
    parser.add_argument(
        "--strategies",
        nargs="*",
        metavar="NAME",
        help="in place of the two above: algorithm-transport, such as ring-shm, or "
        "parameter_server:2-shm for two servers that own half of the buckets each",
    )
    parser.add_argument(
        "--peers",
        nargs="*",
        metavar="NAME",
        default=list(PEERS),
        help=f"of {', '.join(PEERS)}; one that is not installed is skipped, which is recorded "
        "(default: all; mpirun listens on a port of its own while it runs)",
    )
    parser.add_argument(
        "--world-sizes",
        nargs="+",
        type=int,
        default=[2, 4],
        metavar="N",
        help="numbers of ranks (default: 2 4)",
    )
    parser.add_argument(
        "--sizes",
        nargs="+",
        type=int,
        default=list(DEFAULT_SIZES),
        metavar="BYTES",
        help="of the vector (default: 1 KiB to 64 MiB in powers of 4)",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=7,
        metavar="N",
        help="turns of every contestant at every size; a claim needs 5",
    )
    parser.add_argument(
        "--round-s",
        type=float,
        default=0.05,
        metavar="SECONDS",
        help="how long a turn lasts, after a first call that is not timed; longer calls are made "
        "once more",
    )
    parser.add_argument(
        "--bucket-bytes",
        type=int,
        default=DEFAULT_BUCKET_BYTES,
        metavar="BYTES",
        help="strategies sum the vector in buckets of this size",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of data and order")
    parser.add_argument(
        "--timeout-s",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="how long a rank waits for another",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="where to write the JSON file")
    parser.add_argument(
        "--exclusive",
        action="store_true",
        help="wait until no other run of this host is being measured",
    )
    parser.add_argument(
        "--end-with-parent",
        action="store_true",
        help="end this run when the process that started it ends, even if that is killed",
    )
    parser.set_defaults(run=_collective)


def _collective(parsed: argparse.Namespace) -> int:
    import signal

    from dmlf.benchmark.collective.config import CollectiveConfig, every_strategy
    from dmlf.benchmark.collective.load import parse_record
    from dmlf.benchmark.collective.measure import measure
    from dmlf.benchmark.collective.record import build_record
    from dmlf.benchmark.collective.table import render
    from dmlf.benchmark.files import write_json
    from dmlf.cli.training import check_writable, constraints_path
    from dmlf.errors import ConfigError
    from dmlf.runtime.child import signal_on_parent_death

    if parsed.strategies is not None and (parsed.algorithms or parsed.transports):
        raise ConfigError("strategies", parsed.strategies, "no --algorithms and --transports")
    strategies = parsed.strategies
    if strategies is None:
        strategies = every_strategy(parsed.algorithms, parsed.transports)
    config = CollectiveConfig(
        strategies=strategies,
        peers=parsed.peers,
        world_sizes=parsed.world_sizes,
        sizes=parsed.sizes,
        rounds=parsed.rounds,
        round_s=parsed.round_s,
        bucket_bytes=parsed.bucket_bytes,
        seed=parsed.seed,
        timeout_s=parsed.timeout_s,
    )
    check_writable(parsed.output)
    if parsed.end_with_parent:
        signal_on_parent_death(signal.SIGTERM)
    measured = measure(config, exclusive=parsed.exclusive)
    record = build_record(measured, sys.argv, constraints_path())
    collectives = parse_record(record, "this measurement")
    if parsed.output is not None:
        write_json(parsed.output, record)
    print(render(collectives))
    return 0
