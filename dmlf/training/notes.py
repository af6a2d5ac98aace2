"""The history of a run as its launcher keeps it: by name, so that an epoch is told once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dmlf.runtime.member import Line
from dmlf.training.recorder import StepRecorder

_SO_FAR = "so far"


class Notebook:
    """Rank 0's records, left with the launcher for whoever is rank 0 in a later generation."""

    def __init__(self, line: Line, recorder: StepRecorder) -> None:
        self._line = line
        self._recorder = recorder
        self._told = 0  # epochs

    def write(self) -> None:
        """Tell what is new since the last time; nothing on a rank that records no epochs."""
        if not self._recorder.epochs:
            return
        history = self._recorder.history()
        epochs = history.pop("epochs")
        notes = {_epoch(place): epochs[place] for place in range(self._told, len(epochs))}
        notes[_SO_FAR] = [self._recorder.done, len(epochs), history]
        self._line.note(notes)
        self._told = len(epochs)


def read_notes(notes: Mapping[str, Any]) -> tuple[dict[str, Any] | None, int]:
    """The history that they hold, and the step that it reaches to; (None, -1) if there is none."""
    if _SO_FAR not in notes:
        return None, -1
    step, count, history = notes[_SO_FAR]
    return {**history, "epochs": [notes[_epoch(place)] for place in range(count)]}, step


def _epoch(place: int) -> str:
    return f"epoch {place}"
