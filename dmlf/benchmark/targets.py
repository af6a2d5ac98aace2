"""How soon each run reached the accuracy that serial training ends with, or nearly.

The target comes from the data: TARGET_SHARE of the final test accuracy of the checked serial run
of the same workload, reduction and seed. Accuracy is known after every epoch, and so is the time
of training up to there, without evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dmlf.benchmark.checks import PASSED
from dmlf.benchmark.table import STRONG, EpochRow, RunRow

TARGET_SHARE = 0.99


def with_targets(runs: Sequence[RunRow], epochs: Sequence[EpochRow]) -> list[RunRow]:
    """Return the rows with target, epochs and time to it, where there is a target.

    Only of strong scaling: with another global batch, another training is to be expected.
    A run that never reached its target has a target and no epoch.
    """
    targets = {
        _key(run): TARGET_SHARE * run.test_accuracy
        for run in runs
        if run.algorithm == "serial" and run.check == PASSED and run.test_accuracy is not None
    }
    of_run: dict[str, list[EpochRow]] = {}
    for epoch in epochs:
        of_run.setdefault(epoch.path, []).append(epoch)
    return [
        _with_target(run, targets[_key(run)], of_run.get(run.path, []))
        if run.check == PASSED and run.experiment == STRONG and _key(run) in targets
        else run
        for run in runs
    ]


def _key(run: RunRow) -> tuple[str | None, str, int]:
    return run.cohort, run.reduction, run.seed


def _with_target(run: RunRow, target: float, epochs: Sequence[EpochRow]) -> RunRow:
    reached = (e for e in epochs if e.test_accuracy is not None and e.test_accuracy >= target)
    first = min(reached, key=lambda epoch: epoch.epoch, default=None)
    return replace(
        run,
        target_accuracy=target,
        epochs_to_target=None if first is None else first.epoch,
        time_to_target_s=None if first is None else first.elapsed_s,
    )
