"""dmlf.save and dmlf.load: checkpoints of the product, and what they refuse."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dmlf
from dmlf.checkpoint import CheckpointStore
from dmlf.cli import main
from dmlf.config import RunConfig
from dmlf.errors import (
    CheckpointMismatch,
    CheckpointWriteError,
    ConfigError,
    NoCheckpoint,
    NoValidCheckpoint,
    UnsupportedState,
)
from tests.checkpoint.snapshots import CONFIG, snapshot


class Counter:
    """Something with a state, without torch."""

    def __init__(self, value: int = 0) -> None:
        self.values = np.full(3, value, np.float32)

    def state_dict(self) -> dict[str, Any]:
        return {"values": self.values}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["values"][0] < 0:
            raise ValueError("below zero")
        self.values = state["values"]


class Rank:
    """One rank of a group, that counts its barriers."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.barriers = 0

    def barrier(self) -> None:
        self.barriers += 1


def test_items_come_back_in_place_with_the_state_beside_them(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "checkpoints"
    path = dmlf.save(folder, step=9, model=Counter(4), other=Counter(5), absent=None, state=[1, ()])
    assert path == folder / "step-0000000009"
    model, other = Counter(), Counter()
    loaded = dmlf.load(folder, model=model, absent=None)
    assert (loaded.step, loaded.state, loaded.path) == (9, [1, ()], path)
    assert (model.values[0], other.values[0]) == (4, 0)
    dmlf.load(folder, other=other)
    assert other.values[0] == 5


def test_random_generators_go_on_where_they_were(tmp_path: Path) -> None:
    def draw() -> list[float]:
        return [random.random(), float(np.random.random()), own.random(), mine.random()]

    own, mine = random.Random(3), np.random.default_rng(4)
    draw()
    dmlf.save(tmp_path, step=1, own=own, mine=mine)
    expected = draw()
    assert draw() != expected
    dmlf.load(tmp_path, own=own, mine=mine)
    assert draw() == expected
    dmlf.load(tmp_path, own=own, mine=mine, random_state=False)
    assert draw()[2:] == expected[2:]
    dmlf.load(tmp_path, own=own, mine=mine)
    dmlf.load(tmp_path, own=own, mine=mine, random_state=False)
    assert draw() == expected
    dmlf.save(tmp_path, step=2, random_state=False)
    before = random.getstate()
    dmlf.load(tmp_path)
    assert random.getstate() == before


def test_the_newest_stay_and_are_not_read_again_to_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    genuine = dmlf.checkpoint.store.load_checkpoint

    def counting(path: Path, config: Any) -> Any:
        read.append(path.name)
        return genuine(path, config)

    monkeypatch.setattr("dmlf.checkpoint.store.load_checkpoint", counting)
    for step in range(5):
        dmlf.save(tmp_path, step=step, keep=2, model=Counter(step))
    names = sorted(path.name for path in tmp_path.iterdir() if path.name != ".lock")
    assert names == ["step-0000000003", "step-0000000004"]
    assert read == []
    # What another process has put there is.
    os.utime(tmp_path / "step-0000000003")
    dmlf.save(tmp_path, step=5, keep=3, model=Counter(5))
    assert read == ["step-0000000003"]


def test_a_damaged_one_is_passed_over_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (1, 2):
        newest = dmlf.save(tmp_path, step=step, model=Counter(step))
    assert newest is not None
    with open(newest / "parameters.safetensors", "r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"\xff")
    model = Counter()
    loaded = dmlf.load(tmp_path, model=model)
    assert (loaded.step, model.values[0]) == (1, 1)
    assert [error.path for error in loaded.rejected] == [str(newest)]
    said = capsys.readouterr().err
    assert said.startswith(f"dmlf: passed over {newest}: ")
    assert said.count("\n") == 1
    (tmp_path / "step-0000000001" / "COMPLETE").unlink()
    with pytest.raises(NoValidCheckpoint) as caught:
        dmlf.load(tmp_path, model=model)
    assert not isinstance(caught.value, NoCheckpoint)
    assert len(caught.value.rejected) == 2


def test_none_at_all_is_an_error_of_its_own(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(NoCheckpoint):
            dmlf.load(folder, model=Counter())


def test_an_item_that_was_not_saved_is_refused_before_any_is_touched(tmp_path: Path) -> None:
    dmlf.save(tmp_path, step=1, model=Counter(3), optimizer=Counter(4))
    model = Counter()
    with pytest.raises(CheckpointMismatch) as caught:
        dmlf.load(tmp_path, model=model, scheduler=Counter())
    assert "'scheduler'; it holds model, optimizer" in caught.value.problem
    assert model.values[0] == 0


def test_an_item_that_refuses_is_named(tmp_path: Path) -> None:
    dmlf.save(tmp_path, step=1, model=Counter(-1))
    with pytest.raises(CheckpointMismatch, match=r"model refuses .*ValueError: below zero"):
        dmlf.load(tmp_path, model=Counter())


@pytest.mark.parametrize("step", [-1, 1.0, True, None])
def test_a_step_that_is_none_is_refused(tmp_path: Path, step: Any) -> None:
    with pytest.raises(ConfigError):
        dmlf.save(tmp_path, step=step)


def test_what_has_no_state_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedState) as caught:
        dmlf.save(tmp_path, step=1, model=object())
    assert caught.value.item == "model"
    assert "state_dict" in str(caught.value)


def test_a_step_back_is_refused(tmp_path: Path) -> None:
    dmlf.save(tmp_path, step=5)
    with pytest.raises(CheckpointWriteError, match="step 4 comes before"):
        dmlf.save(tmp_path, step=4)


def test_runs_of_dmlf_and_own_loops_keep_to_their_folders(tmp_path: Path) -> None:
    with CheckpointStore(tmp_path / "run", CONFIG) as store:
        store.save(snapshot(3))
    with pytest.raises(CheckpointMismatch):
        dmlf.save(tmp_path / "run", step=9)
    with pytest.raises(NoValidCheckpoint, match="dmlf train"):
        dmlf.load(tmp_path / "run")
    dmlf.save(tmp_path / "own", step=1)
    with pytest.raises(CheckpointMismatch, match=r"dmlf\.save"):
        CheckpointStore(tmp_path / "own", RunConfig())


def test_of_a_group_rank_0_writes_and_all_wait(tmp_path: Path) -> None:
    ranks = [Rank(0), Rank(1)]
    paths = [dmlf.save(tmp_path / str(r.rank), step=1, model=Counter(1), group=r) for r in ranks]
    assert paths == [tmp_path / "0" / "step-0000000001", None]
    assert [rank.barriers for rank in ranks] == [1, 1]
    assert not (tmp_path / "1").exists()
    before = random.getstate()
    random.random()
    model = Counter()
    dmlf.load(tmp_path / "0", model=model, group=Rank(1))
    assert model.values[0] == 1
    assert random.getstate() != before
    dmlf.load(tmp_path / "0", model=model, group=Rank(0))
    assert random.getstate() == before


@pytest.mark.parametrize("verb", ["show", "verify"])
def test_the_command_line_reads_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    dmlf.save(tmp_path, step=8, model=Counter(1), optimizer=Counter(2))
    assert main(["checkpoint", verb, str(tmp_path)]) == 0
    line = capsys.readouterr().out.splitlines()[0]
    assert line.startswith("valid    step-0000000008: step 8, ")
    assert "own loop with model, optimizer" in line
