"""The machine goes down during a save: all that may then be on the disk, exhaustively.

The operations of a real save are recorded and replayed in a model (power_loss.py). In every state
that a crash may leave, the previous or the new checkpoint is loaded, to the bit, and there is no
damaged one; once `save` has returned it is the new one. Each fsync is shown to be needed for that.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dmlf.checkpoint import (
    CheckpointStore,
    RunState,
    Snapshot,
    load_checkpoint,
    load_newest,
)
from dmlf.checkpoint.load import candidates
from dmlf.errors import CheckpointError
from tests.checkpoint.power_loss import Image, ModelDisk, crash_images, write_image
from tests.checkpoint.seam import Operation, RecordingFiles
from tests.checkpoint.snapshots import CONFIG, bits, position

Bits = tuple[Any, ...]


def small(step: int) -> Snapshot:
    """Few tensors, so that thousands of states are loaded in seconds."""
    state = RunState(step=step, generation=1, config=CONFIG, sampler=position(step))
    weights = {"w": np.arange(3, dtype=np.float32) + step}
    return Snapshot(state, weights, {"w.momentum": np.arange(3, dtype=np.float32) / (1 + step)})


SCENARIOS = {
    "the first": ((), 3, 1),
    "the second": ((1,), 3, 2),
    "the second, replacing": ((1,), 1, 2),
    "the fourth, of three": ((1, 2, 3), 3, 4),
    "the same step again": ((2,), 1, 2),
}


class Recorded:
    """One save: the disk before it, its operations, and what loads before and after."""

    def __init__(self, tmp_path: Path, scenario: str) -> None:
        before, keep, step = SCENARIOS[scenario]
        self.root = tmp_path / "disk"
        self.root.mkdir()
        self.scratch = tmp_path / "crashed"
        self.folder = self.root / "run" / "checkpoints"
        for earlier in before:
            with CheckpointStore(self.folder, CONFIG, keep=keep) as store:
                store.save(small(earlier))
        self.model = ModelDisk(self.root)
        files = RecordingFiles()
        new = small(step)
        with CheckpointStore(self.folder, CONFIG, keep=keep, files=files) as store:
            store.save(new)
        self.operations = files.operations
        self.previous = bits(small(before[-1])) if before else None
        self.new = bits(new)

    def violation(self, operations: Sequence[Operation]) -> str | None:
        """The first state that breaks a promise, if these operations are what was done."""
        seen: set[Image] = set()
        images = crash_images(copy.deepcopy(self.model), operations)
        for done, states in enumerate(images):
            for image in states - seen:
                if problem := self._problem(image, returned=False):
                    return f"after {done} operations: {problem}"
            seen |= states
        for image in images[-1]:
            if problem := self._problem(image, returned=True):
                return f"after the return: {problem}"
        return None

    def _problem(self, image: Image, returned: bool) -> str | None:
        shutil.rmtree(self.scratch, ignore_errors=True)
        write_image(self.scratch, image)
        folder = self.scratch / "run" / "checkpoints"
        try:
            loaded = load_newest(folder, CONFIG)
            for name in candidates(folder):
                load_checkpoint(folder / name, CONFIG)
        except CheckpointError as error:
            return str(error)
        found = None if loaded is None else bits(loaded.snapshot)
        allowed = [self.new] if returned else [self.previous, self.new]
        return None if found in allowed else f"loads {found and found[0]}"


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_state_after_a_crash_is_the_previous_or_the_new(
    tmp_path: Path, scenario: str
) -> None:
    recorded = Recorded(tmp_path, scenario)
    assert recorded.violation(recorded.operations) is None


@pytest.mark.parametrize("scenario", ["the first", "the second, replacing"])
def test_every_fsync_is_needed(tmp_path: Path, scenario: str) -> None:
    recorded = Recorded(tmp_path, scenario)
    below = [
        index
        for index, operation in enumerate(recorded.operations)
        if operation.name in ("sync", "sync_folder")
        and operation.path.is_relative_to(recorded.root)
    ]
    assert len(below) >= 6
    for index in below:
        without = [*recorded.operations[:index], *recorded.operations[index + 1 :]]
        assert recorded.violation(without) is not None, recorded.operations[index]
