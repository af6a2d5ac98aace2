"""The target accuracy, and when it was reached."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from dmlf.benchmark.table import EpochRow, RunRow
from dmlf.benchmark.targets import with_targets
from tests.benchmark.rows import rows


def curve(run: RunRow, accuracy: Sequence[float | None]) -> list[EpochRow]:
    return [
        EpochRow(
            path=run.path, task=run.task, cohort=run.cohort or "", strategy=run.strategy,
            reduction=run.reduction, world_size=run.world_size, seed=run.seed, rep=run.rep,
            check=run.check, epoch=epoch, train_loss=None, test_loss=1.0, test_accuracy=value,
            elapsed_s=1.5 * epoch,
        )
        for epoch, value in enumerate(accuracy)
    ]  # fmt: skip


def reached(
    accuracy: Sequence[float | None], **changes: Any
) -> tuple[float | None, int | None, float | None]:
    (serial,) = rows("serial", 1, [100.0], test_accuracy=0.90)
    (ring,) = rows("ring-queue", 2, [100.0], **changes)
    epochs = [*curve(serial, [0.1, 0.8, 0.89, 0.90]), *curve(ring, accuracy)]
    base, mine = with_targets([serial, ring], epochs)
    assert base.target_accuracy == pytest.approx(0.891)
    assert (base.epochs_to_target, base.time_to_target_s) == (3, 4.5)
    return mine.target_accuracy, mine.epochs_to_target, mine.time_to_target_s


def test_the_first_epoch_at_the_target_counts() -> None:
    assert reached([0.1, 0.892, 0.85, 0.9]) == (pytest.approx(0.891), 1, 1.5)


def test_a_run_that_never_gets_there_has_a_target_alone() -> None:
    assert reached([0.1, 0.2, None]) == (pytest.approx(0.891), None, None)


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"reduction": "exact"},
        {"cohort": "ba9876543210"},
        {"check": "failed"},
        {"experiment": "weak"},
    ],
)
def test_without_serial_of_its_own_kind_there_is_no_target(changes: dict[str, Any]) -> None:
    assert reached([0.1, 0.99], **changes) == (None, None, None)
