"""Functions that recover: what ranks that are lost, leave and join change, and what they do not."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dmlf
from dmlf.errors import (
    BelowMinimumWorkers,
    ConfigError,
    PeerLost,
    RemoteError,
    RestartBudgetExceeded,
    UnsupportedState,
)
from dmlf.group import default_group
from tests.state import elastic_programs as programs

ROOT = Path(__file__).parents[2]
ELASTIC: dict[str, Any] = {"min_workers": 2, "max_workers": 5, "max_restarts": 3}


def count(once: Path, world_size: int, faults: programs.Faults, **options: Any) -> Any:
    kwargs = {"folder": options.pop("folder", None)}
    arguments = (faults, str(once))
    return dmlf.launch(programs.count, world_size, arguments, kwargs, timeout_s=60, **options)


def train(folder: Path, world_size: int, faults: programs.Faults, **options: Any) -> Any:
    pytest.importorskip("torch")
    kwargs = {key: options.pop(key) for key in ("reduction", "outside") if key in options}
    folder.mkdir()
    arguments = (faults, str(folder))
    return dmlf.launch(programs.train_torch, world_size, arguments, kwargs, timeout_s=60, **options)


@pytest.mark.parametrize(("transport", "outside"), [("shm", True), ("tcp", False)])
def test_lost_left_and_joined_change_no_bit(tmp_path: Path, transport: str, outside: bool) -> None:
    (serial,) = train(tmp_path / "serial", 1, {})
    faults = {"kill 2": 4, "leave 1": 7, "join 0": 10}
    ranks = train(tmp_path / "elastic", 4, faults, transport=transport, outside=outside, **ELASTIC)
    assert [rank.rank for rank in ranks] == list(range(len(ranks)))
    for rank in ranks:
        assert rank.digest == serial.digest
        assert set(rank.used.tolist()) == {programs.EPOCHS}
        assert rank.sizes == ranks[0].sizes
    sizes = ranks[0].sizes
    assert len(sizes) == programs.STEPS
    assert sizes[0] == 4
    assert sizes[-1] <= len(ranks)  # who has come after the last step has done none
    assert len(set(sizes)) > 1


def test_float32_recovers_and_ends(tmp_path: Path) -> None:
    ranks = train(tmp_path / "once", 3, {"kill 0": 4}, reduction="float32", max_restarts=1)
    assert len(ranks) == 3
    assert len({rank.digest for rank in ranks}) == 1
    for rank in ranks:
        assert set(rank.used.tolist()) == {programs.EPOCHS}
        assert rank.generation == 1


@pytest.mark.parametrize("transport", ["queue", "shm", "tcp"])
def test_the_survivors_go_on_from_their_memory(tmp_path: Path, transport: str) -> None:
    found = count(tmp_path, 3, {"kill 1": 3}, transport=transport, max_restarts=1)
    assert [done for done, _, _ in found] == [6, 6, 6]
    owns = sorted(own for _, own, _ in found)
    # What the lost one had not delivered the others do again: at most the step that it did last.
    assert owns[0] in (3, 4)
    assert owns[-1] == 6


def test_who_hangs_is_replaced(tmp_path: Path) -> None:
    arguments = ({"stop 0": 3}, str(tmp_path))
    found = dmlf.launch(programs.count, 2, arguments, timeout_s=2, max_restarts=1)
    assert sorted(own for _, own, _ in found) == [3, 6]


def test_under_torchrun_all_begin_anew_from_the_folder(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    script = ["--max-restarts=1", "-m", programs.__name__, str(tmp_path)]
    shown = subprocess.run(
        [sys.executable, *words, *script], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.splitlines() == ["[6, 2, 2]"] * 2  # commit 4 was saved


def test_a_worker_leaves_and_another_one_joins(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    found = count(tmp_path, 2, {"leave 0": 2, "join 0": 4}, min_workers=1)
    assert signal.getsignal(signal.SIGUSR1) is before
    assert [(done, size) for done, _, size in found] == [(6, 2), (6, 2)]
    assert sorted(own for _, own, _ in found) == [2, 6]


def test_the_last_one_may_be_lost_with_a_folder(tmp_path: Path) -> None:
    found = count(tmp_path, 1, {"kill 0": 5}, max_restarts=1, folder=str(tmp_path / "c"))
    assert found == [[6, 2, 1]]  # commits 2 and 4 were saved, so 4 and 5 are done


def test_the_budget_and_the_minimum_end_a_run(tmp_path: Path) -> None:
    with pytest.raises(RestartBudgetExceeded) as spent:
        count(tmp_path, 2, {"kill 0": 2, "kill 1": 4}, max_restarts=1)
    assert isinstance(spent.value.cause, PeerLost)
    with pytest.raises(BelowMinimumWorkers) as below:
        count(tmp_path, 3, {"leave 2": 2, "leave 1": 4}, min_workers=2)
    assert (below.value.present, below.value.min_workers) == (1, 2)


def test_what_the_function_raises_itself_is_not_tried_again(tmp_path: Path) -> None:
    with pytest.raises(RemoteError, match="own making") as caught:
        count(tmp_path, 2, {"raise 1": 2}, max_restarts=3)
    assert caught.value.rank == 1
    assert "in strike" in caught.value.traceback


@pytest.mark.parametrize("where", ["before", "in a call before"])
def test_who_is_lost_before_the_function_begins_anew(tmp_path: Path, where: str) -> None:
    arguments = (where, str(tmp_path))
    found = dmlf.launch(programs.lost_outside, 2, arguments, timeout_s=60, max_restarts=1)
    assert [done for done, _, _ in found] == [6, 6]


def test_after_the_function_the_first_failure_ends_all(tmp_path: Path) -> None:
    with pytest.raises(PeerLost) as caught:
        dmlf.launch(
            programs.lost_outside, 2, ("after", str(tmp_path)), timeout_s=60, max_restarts=2
        )
    assert caught.value.peer == "rank 1"


def test_ranks_that_committed_different_states_are_named(tmp_path: Path) -> None:
    program = (
        "import dmlf; from tests.state import elastic_programs as programs; "
        f"print(dmlf.launch(programs.only_on_rank_1, 3, ({str(tmp_path)!r},), min_workers=2))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert shown.stdout == "[[0, 4], [0, 4]]\n" or shown.stdout == "[[0, 4], [0, 4], [0, 4]]\n"
    assert "commit 2: rank 1 held another state than rank 0" in shown.stderr


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("num_servers", {"num_servers": 1, "max_restarts": 1}),
        ("transport", {"transport": "process_group", "max_restarts": 1}),
        ("min_workers", {"min_workers": 3}),
        ("min_workers", {"min_workers": True}),
        ("max_workers", {"max_workers": 1}),
        ("max_restarts", {"max_restarts": -1}),
        ("max_restarts", {"max_restarts": "2"}),
    ],
)
def test_options_that_do_not_go_together_are_named(key: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        dmlf.launch(programs.count, 2, **options)
    assert caught.value.key == key


def test_alone_the_function_goes_on_from_its_folder(tmp_path: Path) -> None:
    kept: list[int] = []

    def state() -> dmlf.ElasticState:
        return dmlf.ElasticState(folder=tmp_path, save_every=2, step=0, rows=np.zeros(2))

    @dmlf.elastic
    def run(state: dmlf.ElasticState, until: int) -> int:
        while state.step < until:
            state.rows[0] += 1
            state.step += 1
            kept.append(state.step)
            state.commit()
        return until

    first = state()
    assert run(first, 5) == 5
    second = state()
    assert run(second, 7) == 7
    assert kept == [1, 2, 3, 4, 5, 5, 6, 7]
    assert (second.rows[0], second.commits) == (7, 7)
    dmlf.shutdown()


def test_a_state_knows_its_names_and_refuses_what_it_cannot_keep() -> None:
    state = dmlf.ElasticState(epoch=0)
    with pytest.raises(AttributeError, match="epcoh"):
        state.epcoh = 1
    with pytest.raises(AttributeError, match="epcoh"):
        _ = state.epcoh
    state.epoch = threading.Lock()
    with pytest.raises(UnsupportedState):
        state.commit()
    for wrong in ({"commit": 1}, {"_kept": 1}, {"group": np.random.default_rng(0)}):
        with pytest.raises(ConfigError):
            dmlf.ElasticState(**wrong)
    with pytest.raises(ConfigError):
        dmlf.ElasticState(save_every=0)
    with pytest.raises(ConfigError) as caught:
        dmlf.elastic(lambda state: None)(3)  # type: ignore[arg-type]
    assert caught.value.key == "state"


def test_a_commit_holds_what_was_and_not_what_becomes_of_it() -> None:
    vector = np.arange(4.0)
    state = dmlf.ElasticState(vector=vector, nested={"list": [1]})

    @dmlf.elastic
    def run(state: dmlf.ElasticState) -> None:
        state.commit()
        state.vector += 1
        state.nested["list"].append(2)

    run(state)
    np.testing.assert_array_equal(state.vector, np.arange(4.0) + 1)
    state.synchronize(default_group())  # as after a loss: back to the commit
    np.testing.assert_array_equal(state.vector, np.arange(4.0))
    assert state.nested == {"list": [1]}
    run(state)
    run(state)  # from where the state is
    np.testing.assert_array_equal(state.vector, np.arange(4.0) + 2)
    assert state.nested == {"list": [1, 2, 2]}
    dmlf.shutdown()
