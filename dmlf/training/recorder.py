"""What a rank measures while it trains."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator, Mapping
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
        self.first_step = 0
        self._closed = 0  # how many of `epochs` are of whole epochs, which none goes on
        self._epoch_loss = 0.0
        self._epoch_samples = 0
        self._epoch_known = True
        self._elapsed_s = 0.0

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
        self._elapsed_s += self.step_s[-1]
        self._epoch_samples += self.samples[-1]
        self._epoch_loss += self.loss_sum[-1]
        for name, samples in self.phases.items():
            samples.append(values.get(name, 0.0))

    def end_epoch(
        self, epoch: int, test_loss: float, accuracy: float | None, *, whole: bool = True
    ) -> None:
        """Note the state after an epoch (0: before training).

        whole: not cut short by the end of the run. The training loss is the mean over this rank's
        own samples; None where some of the epoch's losses went down with another process.
        """
        known = self._epoch_known and self._epoch_samples > 0
        train_loss = self._epoch_loss / self._epoch_samples if known else None
        self.epochs.append(
            {
                "epoch": epoch,
                "train_loss": train_loss,
                "test_loss": test_loss,
                "test_accuracy": accuracy,
                "elapsed_s": self._elapsed_s,
            }
        )
        if whole:
            self._closed = len(self.epochs)
            self._epoch_loss, self._epoch_samples, self._epoch_known = 0.0, 0, True

    def history(self) -> dict[str, Any]:
        """What a later process needs to go on with these records, as plain values."""
        return {
            "epochs": self.epochs[: self._closed],
            "epoch_loss": self._epoch_loss,
            "epoch_samples": self._epoch_samples,
            "epoch_known": self._epoch_known,
            "elapsed_s": self._elapsed_s,
        }

    @property
    def last_epoch(self) -> int:
        """The last epoch that is whole and noted; -1: none, not even the state before training."""
        return int(self.epochs[self._closed - 1]["epoch"]) if self._closed else -1

    @property
    def done(self) -> int:
        """The steps of the run up to the last that was recorded here."""
        return self.first_step + len(self.step_s)

    def lose_losses(self) -> None:
        """Some losses of the epoch in hand went down with another process."""
        self._epoch_known = False

    def go_on(self, history: Mapping[str, Any]) -> None:
        """Take over the `history` of the steps before `first_step`."""
        self.epochs = [dict(entry) for entry in history["epochs"]]
        self._closed = len(self.epochs)
        self._epoch_loss = float(history["epoch_loss"])
        self._epoch_samples = int(history["epoch_samples"])
        self._epoch_known = bool(history["epoch_known"])
        self._elapsed_s = float(history["elapsed_s"])

    def report(self, **others: Any) -> RankReport:
        """Everything that was recorded, with what only the caller knows."""
        return RankReport(
            first_step=self.first_step,
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
            peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            **others,
        )
