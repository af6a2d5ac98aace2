"""What a rank measures while it trains."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dmlf.training.result import RankReport

PHASES = (
    "data_s",
    "forward_backward_s",
    "communication_s",
    "wait_s",
    "hidden_s",
    "optimizer_s",
)


class StepRecorder:
    """Per-step samples of one rank; seconds on CLOCK_MONOTONIC.

    Use `with recorder.step(samples) as phases:` around each step and fill `phases`.
    """

    def __init__(self) -> None:
        self.start_s: list[float] = []
        self.step_s: list[float] = []
        self.samples: list[int] = []
        self.loss_sum: list[float] = []
        self.phases: dict[str, list[float]] = {name: [] for name in PHASES}
        self.epochs: list[dict[str, Any]] = []

    @contextmanager
    def step(self) -> Iterator[dict[str, float]]:
        """Time one step; the caller puts `samples`, `loss_sum` and the phases into the dict."""
        values: dict[str, float] = {}
        start = time.monotonic()
        yield values
        self.step_s.append(time.monotonic() - start)
        self.start_s.append(start)
        self.samples.append(int(values.get("samples", 0)))
        self.loss_sum.append(values.get("loss_sum", 0.0))
        for name, samples in self.phases.items():
            samples.append(values.get(name, 0.0))

    def end_epoch(
        self, epoch: int, steps: int, num_samples: int, test_loss: float, accuracy: float | None
    ) -> None:
        """Note the state after an epoch (0: before training) of `steps` steps."""
        train_loss = sum(self.loss_sum[-steps:]) / num_samples if steps else None
        self.epochs.append(
            {
                "epoch": epoch,
                "train_loss": train_loss,
                "test_loss": test_loss,
                "test_accuracy": accuracy,
                "elapsed_s": sum(self.step_s),
            }
        )

    def report(self, **others: Any) -> RankReport:
        """Everything that was recorded, with what only the caller knows."""
        return RankReport(
            start_s=self.start_s,
            step_s=self.step_s,
            samples=self.samples,
            loss_sum=self.loss_sum,
            epochs=self.epochs,
            data_s=self.phases["data_s"],
            forward_backward_s=self.phases["forward_backward_s"],
            communication_s=self.phases["communication_s"],
            wait_s=self.phases["wait_s"],
            hidden_s=self.phases["hidden_s"],
            optimizer_s=self.phases["optimizer_s"],
            **others,
        )
