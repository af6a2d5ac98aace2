"""What rank 0 leaves with its launcher: every epoch once, and together the whole history."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from dmlf.runtime.member import Line
from dmlf.training.notes import Notebook, read_notes
from dmlf.training.recorder import StepRecorder


class Launcher:
    """Keeps what it is told, as the supervisor does, and counts it."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}
        self.told: list[int] = []

    def note(self, notes: Mapping[str, Any]) -> None:
        self.told.append(len(notes))
        self.kept.update(notes)


def train(recorder: StepRecorder, notebook: Notebook, epochs: range) -> None:
    for epoch in epochs:
        with recorder.step() as phases:
            phases.update(samples=4, loss_sum=2.0 + epoch)
        recorder.end_epoch(epoch, 0.5 / epoch, 0.9)
        notebook.write()


def begin(launcher: Launcher) -> tuple[StepRecorder, Notebook]:
    recorder = StepRecorder()
    return recorder, Notebook(cast(Line, launcher), recorder)


def test_nothing_is_known_at_first_and_told_of_no_epoch() -> None:
    launcher = Launcher()
    _, notebook = begin(launcher)
    notebook.write()
    assert not launcher.told
    assert read_notes(launcher.kept) == (None, -1)


def test_every_epoch_is_told_once_and_together_they_are_the_history() -> None:
    launcher = Launcher()
    recorder, notebook = begin(launcher)
    train(recorder, notebook, range(1, 21))
    assert launcher.told == [2] * 20  # an epoch, and what changes with every step
    assert read_notes(launcher.kept) == (recorder.history(), 20)
    assert len(recorder.history()["epochs"]) == 20


def test_who_has_the_rank_next_tells_all_of_it_again_and_goes_on() -> None:
    launcher = Launcher()
    train(*begin(launcher), range(1, 4))
    history, step = read_notes(launcher.kept)
    assert history is not None
    recorder, notebook = begin(launcher)
    recorder.first_step = step
    recorder.go_on(history)
    train(recorder, notebook, range(4, 6))
    assert launcher.told[3:] == [5, 2]
    assert read_notes(launcher.kept) == (recorder.history(), 5)


def test_epochs_that_went_back_to_a_checkpoint_are_those_of_the_second_time() -> None:
    launcher = Launcher()
    first, notebook = begin(launcher)
    train(first, notebook, range(1, 3))
    early = first.history()
    train(first, notebook, range(3, 6))
    again, notebook = begin(launcher)
    again.first_step = 2
    again.go_on(early)
    again.end_epoch(3, 7.0, 0.1)
    notebook.write()
    history, step = read_notes(launcher.kept)
    assert (history, step) == (again.history(), 2)
    assert history is not None
    assert [entry["test_loss"] for entry in history["epochs"]] == [0.5, 0.25, 7.0]
