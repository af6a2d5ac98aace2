"""A user's own script, once per rank: the verb run."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from dmlf.errors import ConfigError, ScriptExited
from dmlf.group.launch_options import ELASTIC_RESTARTS, LaunchOptions
from dmlf.group.launching import launch_script
from dmlf.group.ranks import Script
from dmlf.protocol import registry
from dmlf.transport import TRANSPORTS


def add_verbs(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "run",
        help="run your own script on several ranks",
        usage="dmlf run [options] (SCRIPT | -m MODULE) [arguments of the script ...]",
        description="Run a Python script in several processes of this host, each as `python "
        "SCRIPT` would; in it, dmlf.init() joins them. RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR "
        "and MASTER_PORT are set as torchrun sets them. The first rank that fails ends all, unless "
        "restarts are allowed and a function decorated by dmlf.elastic recovers. "
        "Exit code: that of sys.exit in the script; 1 if it failed.",
    )
    parser.add_argument("--nproc", type=int, required=True, metavar="N", help="number of ranks")
    parser.add_argument(
        "--servers",
        type=int,
        default=0,
        metavar="N",
        help="parameter servers beside the ranks, for scripts with a DistributedOptimizer of "
        'algorithm="parameter_server"',
    )
    parser.add_argument(
        "--max-restarts",
        type=int,
        default=None,
        metavar="N",
        help="how many failures of ranks to recover from, in functions decorated by dmlf.elastic "
        f"(default: 0, or {ELASTIC_RESTARTS} with --min-workers or --max-workers)",
    )
    parser.add_argument(
        "--min-workers",
        type=int,
        default=None,
        metavar="N",
        help="the fewest ranks to go on with when some are lost or leave (SIGTERM) "
        "(default: all of --nproc)",
    )
    parser.add_argument(
        "--max-workers",
        type=int,
        default=None,
        metavar="N",
        help="the most ranks to grow to, one more for each SIGUSR1 (default: --nproc)",
    )
    parser.add_argument(
        "--transport",
        choices=[*TRANSPORTS],
        default="shm",
        help="how ranks talk",
    )
    parser.add_argument(
        "--algorithm",
        choices=list(registry()),
        default="ring",
        help="of all_reduce, unless dmlf.init says otherwise; one without servers",
    )
    parser.add_argument(
        "--timeout-s",
        type=float,
        default=300.0,
        metavar="SECONDS",
        help="how long a rank waits for another",
    )
    parser.add_argument(
        "--threads-per-rank",
        type=int,
        default=1,
        metavar="N",
        help="threads of numeric libraries",
    )
    parser.add_argument(
        "-m",
        dest="module",
        metavar="MODULE",
        nargs=argparse.REMAINDER,
        help="run a module, found as `python -m` does; what follows is its own",
    )
    parser.add_argument("script", metavar="SCRIPT", nargs=argparse.REMAINDER, help="a Python file")
    parser.set_defaults(run=_run, parser=parser)


def _run(parsed: argparse.Namespace) -> int:
    words = parsed.module if parsed.module is not None else parsed.script
    if not words:
        parsed.parser.error("no script: name a Python file, or a module after -m")
    script = Script(words[0], tuple(words[1:]), is_module=parsed.module is not None)
    try:
        launch_script(script, _options(parsed))
    except ScriptExited as exited:
        print(f"dmlf: {exited}", file=sys.stderr)
        return exited.code
    return 0


def _options(parsed: argparse.Namespace) -> LaunchOptions:
    try:
        return LaunchOptions(
            world_size=parsed.nproc,
            transport=parsed.transport,
            algorithm=parsed.algorithm,
            timeout_s=parsed.timeout_s,
            threads_per_rank=parsed.threads_per_rank,
            num_servers=parsed.servers,
            max_restarts=parsed.max_restarts,
            min_workers=parsed.min_workers,
            max_workers=parsed.max_workers,
        )
    except ConfigError as error:
        flag = {"world_size": "--nproc", "num_servers": "--servers"}.get(error.key, error.key)
        raise ConfigError(flag, error.value, error.allowed) from None
