"""Verbs that check protocols without torch: one per registered algorithm (ps, ring, tree, ...)."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

from dmlf.cli.protocol_check import check_protocol
from dmlf.protocol import registry
from dmlf.transport import TRANSPORTS

_SHORT_NAMES = {"parameter_server": "ps"}


def add_verbs(verbs: Any) -> None:
    """Add one verb per algorithm; those of plug-ins are not loaded for that."""
    for name in registry():
        verb = _SHORT_NAMES.get(name, name)
        if verb in verbs.choices:
            continue  # a plug-in's, which `dmlf train --algorithm` reaches all the same
        own = registry().origin(name).is_own
        parser = verbs.add_parser(
            verb,
            help=f"check the {name} protocol in real processes, without torch",
            description=f"Run {name} on a synthetic linear regression in real processes, and "
            "check it against a serial replay, against the exact serial run, and against its own "
            "closed form of messages and bytes. Exits 1 if any check fails.",
        )
        parser.add_argument("--world-size", type=int, default=4, metavar="N", help="workers")
        if not own or registry()[name].has_servers:
            parser.add_argument(
                "--num-servers",
                type=int,
                default=1,
                metavar="N",
                help="servers that share the parameters, each with buckets of its own",
            )
        parser.add_argument("--num-steps", type=int, default=5, metavar="N", help="training steps")
        parser.add_argument(
            "--parameter-dim", type=int, default=40, metavar="N", help="parameters of the model"
        )
        parser.add_argument(
            "--shard-size", type=int, default=16, metavar="N", help="samples per worker and step"
        )
        parser.add_argument(
            "--transport", choices=[*TRANSPORTS], default="queue", help="how messages travel"
        )
        parser.add_argument(
            "--seed", type=int, default=0, metavar="N", help="of parameters and data"
        )
        parser.add_argument(
            "--timeout-s",
            type=float,
            default=60.0,
            metavar="SECONDS",
            help="how long a rank waits for another",
        )
        parser.set_defaults(run=partial(_check, name), num_servers=1)


def _check(algorithm: str, parsed: argparse.Namespace) -> int:
    return check_protocol(
        algorithm,
        parsed.transport,
        world_size=parsed.world_size,
        num_servers=parsed.num_servers,
        num_steps=parsed.num_steps,
        parameter_dim=parsed.parameter_dim,
        shard_size=parsed.shard_size,
        seed=parsed.seed,
        timeout_s=parsed.timeout_s,
    )
