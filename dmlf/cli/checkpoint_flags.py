"""Command-line flags of `dmlf train` that say where to save the run, and to go on from there."""

from __future__ import annotations

import argparse
from pathlib import Path

from dmlf.errors import ConfigError
from dmlf.training.checkpoints import CheckpointPlan

_NEEDS_FOLDER = (("checkpoint_every", None), ("checkpoint_keep", None), ("resume", False))


def add_checkpoint_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    group = parser.add_argument_group("checkpoints")
    group.add_argument(
        "--checkpoint-dir",
        type=Path,
        metavar="FOLDER",
        help="save the run's state here, at its end and when SIGTERM or SIGINT stops it; on the "
        "host of rank 0, or of the first server",
    )
    group.add_argument(
        "--checkpoint-every", type=int, metavar="N", help="save after every N steps as well"
    )
    group.add_argument(
        "--checkpoint-keep",
        type=int,
        metavar="K",
        help=f"how many of the newest stay (default: {CheckpointPlan('').keep})",
    )
    group.add_argument(
        "--resume",
        action="store_true",
        help="go on from the newest valid checkpoint; there must be one. The "
        "transport may be another than before; with --reduction exact also the algorithm, the "
        "world size and the size of buckets",
    )


def checkpoint_plan(parsed: argparse.Namespace) -> CheckpointPlan | None:
    """What the flags say; None where nothing is saved. Raises ConfigError."""
    if parsed.checkpoint_dir is None:
        for name, unset in _NEEDS_FOLDER:
            if getattr(parsed, name) != unset:
                raise ConfigError(name, getattr(parsed, name), "--checkpoint-dir as well")
        return None
    if parsed.checkpoint_every is not None and parsed.checkpoint_every < 1:
        raise ConfigError("checkpoint_every", parsed.checkpoint_every, "a number of steps from 1")
    folder = str(parsed.checkpoint_dir)
    if parsed.coordinator is None:  # else it is a path of another host
        folder = str(parsed.checkpoint_dir.absolute())
    keep = CheckpointPlan("").keep if parsed.checkpoint_keep is None else parsed.checkpoint_keep
    return CheckpointPlan(folder, parsed.checkpoint_every or 0, keep, parsed.resume)
