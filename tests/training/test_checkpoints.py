"""A run that was stopped at any step and goes on ends as the run that was not stopped."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from dmlf.checkpoint import CheckpointStore, Loaded, load_checkpoint, load_newest
from dmlf.checkpoint.names import parse_checkpoint_name
from dmlf.config import RunConfig
from dmlf.errors import (
    CheckpointMismatch,
    CheckpointWriteError,
    CollectiveAborted,
    ConfigError,
    NoValidCheckpoint,
    PeerLost,
)
from dmlf.protocol import Member
from dmlf.runtime import NoTransport
from dmlf.runtime.member import Line, StartOrder
from dmlf.training import checkpoints
from dmlf.training.again import RecoverableRank
from dmlf.training.faulty_disk import FaultyDisk
from dmlf.training.replica import Replica, make_backend
from dmlf.training.result import RankReport
from dmlf.training.run import train
from dmlf.training.worker import Again, RankJob, Trainer
from tests.training.trainers import final_state, plan, train_in_threads

ROOT = Path(__file__).parents[2]
DEADLINE_S = 60.0
STEPS = 5
NUMPY = RunConfig(
    task="synthetic",
    task_options={"num_samples": 80, "parameter_dim": 7},  # an epoch is 2.5 steps
    global_batch_size=32,
    num_shards=4,
    bucket_cap_bytes=4,
    learning_rate=0.05,
    weight_decay=0.01,
    max_steps=STEPS,
    timeout_s=30.0,
)
TORCH = replace(
    NUMPY, task="digits", task_options={}, hidden_sizes=(6,), bucket_cap_bytes=600, epochs=1
)
NEEDS_TORCH = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="a torch model")
TASKS = [pytest.param(NUMPY, id="numpy"), pytest.param(TORCH, id="torch", marks=NEEDS_TORCH)]
STRATEGIES: dict[str, dict[str, Any]] = {
    "serial": {},
    "ring": {"algorithm": "ring", "transport": "queue", "world_size": 2},
    "one server": {"algorithm": "parameter_server", "transport": "queue", "world_size": 2},
    "two servers": {
        "algorithm": "parameter_server",
        "transport": "queue",
        "world_size": 2,
        "num_servers": 2,
    },
}


def curve(reports: list[RankReport]) -> list[dict[str, Any]]:
    """The epochs without their times."""
    return [{k: v for k, v in e.items() if k != "elapsed_s"} for e in reports[0].epochs]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("reduction", ["float32", "exact"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_stopped_at_any_step(
    strategy: str, reduction: str, optimizer: str, task: RunConfig, tmp_path: Path
) -> None:
    config = replace(task, reduction=reduction, optimizer=optimizer, **STRATEGIES[strategy])
    whole = train_in_threads(config)
    for stop in range(1, STEPS + 1):
        folder = tmp_path / str(stop)
        train_in_threads(replace(config, max_steps=stop), plan(folder))
        resumed = train_in_threads(config, plan(folder, resume=True))
        assert final_state(resumed) == final_state(whole)
        assert [report.first_step for report in resumed] == [stop] * len(resumed)
        assert [len(report.step_s) for report in resumed] == [STEPS - stop] * len(resumed)
        assert resumed[0].loss_sum == whole[0].loss_sum[stop:]
        assert curve(resumed) == curve(whole)
        assert all(not report.epochs for report in resumed[1:])


@pytest.mark.parametrize("before", STRATEGIES)
@pytest.mark.parametrize("after", STRATEGIES)
def test_an_exact_run_goes_on_in_any_shape(before: str, after: str, tmp_path: Path) -> None:
    exact = replace(NUMPY, reduction="exact", optimizer="adamw", num_shards=4)
    expected = final_state(train_in_threads(exact))
    train_in_threads(replace(exact, max_steps=2, **STRATEGIES[before]), plan(tmp_path))
    goes_on = replace(exact, bucket_cap_bytes=1 << 20, timeout_s=31.0, **STRATEGIES[after])
    if goes_on.world_size == 2 and goes_on.num_servers == 1:
        goes_on = replace(goes_on, world_size=3)
    assert final_state(train_in_threads(goes_on, plan(tmp_path, resume=True))) == expected


def test_float32_goes_on_only_with_the_same_order_of_additions(tmp_path: Path) -> None:
    ring = replace(NUMPY, **STRATEGIES["ring"])
    train_in_threads(replace(ring, max_steps=2), plan(tmp_path))
    with pytest.raises(NoValidCheckpoint, match="world_size 2 instead of 3") as caught:
        train(replace(ring, world_size=3), checkpoint=plan(tmp_path, resume=True))
    assert [type(error) for error in caught.value.rejected] == [CheckpointMismatch]


def test_saves_after_every_n_steps_and_at_the_end(tmp_path: Path) -> None:
    config = replace(NUMPY, **STRATEGIES["two servers"])
    train_in_threads(config, plan(tmp_path, every_steps=2, keep=2))
    assert sorted(path.name for path in tmp_path.glob("step-*")) == [
        "step-0000000004",
        "step-0000000005",
    ]
    whole = load_checkpoint(tmp_path / "step-0000000004", config)
    assert set(whole.snapshot.parameters) == {"weight", "bias"}
    assert set(whole.snapshot.optimizer) == {"weight.momentum", "bias.momentum", "steps"}
    shutil.rmtree(tmp_path / "step-0000000005")
    resumed = train_in_threads(config, plan(tmp_path, resume=True))
    assert final_state(resumed) == final_state(train_in_threads(config))


def test_a_damaged_checkpoint_is_passed_over_loudly(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = replace(NUMPY, **STRATEGIES["ring"])
    train_in_threads(config, plan(tmp_path, every_steps=2))
    damaged = tmp_path / "step-0000000005" / "parameters.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    resumed = train_in_threads(config, plan(tmp_path, resume=True))
    assert resumed[0].first_step == 4
    assert final_state(resumed) == final_state(train_in_threads(config))
    said = capfd.readouterr().err
    assert "checkpoint not used" in said
    assert "step-0000000005" in said
    newest = load_newest(tmp_path, config)
    assert newest is not None
    assert newest.path.name == "step-0000000005.1"
    shutil.rmtree(tmp_path / "step-0000000005.1")
    shutil.rmtree(tmp_path / "step-0000000004")
    shutil.rmtree(tmp_path / "step-0000000002", ignore_errors=True)
    with pytest.raises(NoValidCheckpoint):
        train(config, checkpoint=plan(tmp_path, resume=True))


def test_runs_are_never_mixed_nor_begun_afresh(tmp_path: Path) -> None:
    with pytest.raises(NoValidCheckpoint, match="no checkpoint to go on from"):
        train(NUMPY, checkpoint=plan(tmp_path / "none", resume=True))
    train(NUMPY, checkpoint=plan(tmp_path))
    with pytest.raises(ConfigError, match=r"--resume") as refused:
        train(NUMPY, checkpoint=plan(tmp_path))
    assert refused.value.key == "checkpoint_dir"
    with pytest.raises(ConfigError, match="the 5 steps that") as beyond:
        train(replace(NUMPY, max_steps=3), checkpoint=plan(tmp_path, resume=True))
    assert beyond.value.key == "max_steps"
    with pytest.raises(ConfigError, match="without --resume"):
        train(NUMPY, transcript=True, checkpoint=plan(tmp_path, resume=True))
    with pytest.raises(ConfigError, match="none with algorithm 'ddp'"):
        train(replace(TORCH, algorithm="ddp", transport="gloo"), checkpoint=plan(tmp_path / "ddp"))


@pytest.mark.parametrize(
    ("changes", "key"), [({"every_steps": -1}, "every"), ({"keep": 0}, "keep")]
)
def test_a_plan_that_cannot_be_is_refused(changes: dict[str, int], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        plan(Path("x"), **changes)


def test_a_save_that_fails_ends_the_run_and_keeps_the_old_ones(tmp_path: Path) -> None:
    """The folder of checkpoints is full: file sizes in the ranks' processes are limited."""
    code = (
        "import resource, signal, sys\n"
        "from dmlf.cli import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)\n"
        "sys.exit(main(sys.argv[2:]))\n"
    )
    arguments = [*ARGUMENTS, "--max-steps", "4", "--checkpoint-every", "2"]
    arguments += ["--transport", "queue"]  # shm's own file is larger than the limit
    folder = str(tmp_path)

    def run(limit: int, *more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, str(limit), *arguments, "--checkpoint-dir", folder]
        return subprocess.run(
            [*command, *more], cwd=ROOT, timeout=DEADLINE_S, capture_output=True, text=True
        )

    assert run(1 << 20).returncode == 0
    before = sorted(path.name for path in tmp_path.iterdir())
    failed = run(300, "--max-steps", "9", "--resume")
    assert failed.returncode == 1, failed.stderr
    assert "cannot be written: File too large" in failed.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert run(1 << 20, "--max-steps", "9", "--resume").returncode == 0


ARGUMENTS = [
    *("train", "--task", "synthetic", "--task-option", "num_samples=256", "--num-shards", "4"),
    *("--global-batch-size", "32", "--warmup-steps", "0", "--timeout-s", "30"),
    *("--algorithm", "ring", "--transport", "shm", "--world-size", "2", "--epochs", "100000"),
]


def as_config(max_steps: int, algorithm: str, transport: str) -> RunConfig:
    return RunConfig(
        task="synthetic", task_options={"num_samples": 256}, num_shards=4, global_batch_size=32,
        algorithm=algorithm, transport=transport, world_size=2, epochs=100_000, max_steps=max_steps,
    )  # fmt: skip


def newest_step(folder: Path) -> int:
    orders = [parse_checkpoint_name(path.name) for path in folder.glob("step-*")]
    return max((order[0] for order in orders if order is not None), default=0)


@pytest.mark.parametrize(
    ("algorithm", "transport", "max_restarts"),
    [  # every pair of values
        ("ring", "shm", "0"),
        ("ring", "tcp", "2"),
        ("parameter_server", "shm", "2"),
        ("parameter_server", "tcp", "0"),
    ],
)
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_a_signal_to_the_launcher_costs_nothing(
    number: signal.Signals,
    code: int,
    algorithm: str,
    transport: str,
    max_restarts: str,
    tmp_path: Path,
) -> None:
    """SIGKILL loses the steps since the last checkpoint, the others none; both go on exactly."""
    command = [sys.executable, "-m", "dmlf", *ARGUMENTS, "--checkpoint-dir", str(tmp_path)]
    command += ["--checkpoint-every", "20", "--max-restarts", max_restarts]
    command += ["--algorithm", algorithm, "--transport", transport]
    launcher = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + DEADLINE_S
    while newest_step(tmp_path) < 40:
        assert launcher.poll() is None
        assert time.monotonic() < deadline
    os.kill(launcher.pid, number)
    _, said = launcher.communicate(timeout=DEADLINE_S)
    assert launcher.returncode == code, said
    done = newest_step(tmp_path)
    if number != signal.SIGKILL:
        assert f"stopped by signal {int(number)} after {done} steps" in said
    goes_on = as_config(done + 7, algorithm, transport)
    result = train(goes_on, checkpoint=plan(tmp_path, resume=True))
    assert result.ranks[0].first_step == done
    whole = train_in_threads(replace(goes_on, transport="queue"))
    assert result.final_state().sha256() == final_state(whole)


def test_a_writer_that_is_refused_ends_the_run(tmp_path: Path) -> None:
    """A second run on the same folder, while the first one holds it."""
    train(NUMPY, checkpoint=plan(tmp_path))
    with CheckpointStore(tmp_path, NUMPY), pytest.raises(CheckpointWriteError, match="another"):
        train(replace(NUMPY, max_steps=7), checkpoint=plan(tmp_path, resume=True))


class SlowDisk(FaultyDisk):
    """Makes no file durable before it may."""

    may: threading.Event

    def sync(self, descriptor: int) -> None:
        assert self.may.wait(DEADLINE_S)
        super().sync(descriptor)


class DiskOfPriorities(FaultyDisk):
    """Remembers which priority who writes has for a core."""

    seen: set[int]

    def sync(self, descriptor: int) -> None:
        self.seen.add(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        super().sync(descriptor)


def test_writing_comes_after_the_steps_for_a_core(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "FaultyDisk", DiskOfPriorities)
    monkeypatch.setattr(DiskOfPriorities, "seen", set(), raising=False)
    before = os.getpriority(os.PRIO_PROCESS, 0)
    replica = Replica(NUMPY, make_backend(NUMPY), 0, range(NUMPY.num_shards))
    job = RankJob(NUMPY, None, checkpoint=plan(tmp_path, every_steps=2))
    Trainer(replica, NoTransport(), Member(0, 1), None, job).train()
    assert DiskOfPriorities.seen == {19}
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


class LineOfALosingRank:
    """A peer is lost before step `last`."""

    def __init__(self, last: int | None = None) -> None:
        self._last = last

    def begin(self, step: int) -> None:
        if step == self._last:
            raise PeerLost("rank 1", "killed")

    def beat(self) -> None:
        pass

    def check(self) -> None:
        pass

    def resumed(self, step: int, source: str) -> None:
        pass

    def note(self, value: Any) -> None:
        pass

    def saved(self, step: int) -> None:
        pass


class LineOfAnAbortedRank(LineOfALosingRank):
    """The same before step 2, and the order to stop waits in the pipe."""

    def __init__(self, folder: Path) -> None:
        super().__init__(2)
        self._folder = folder
        self.beats = 0

    def beat(self) -> None:
        """Nobody else may write while the save goes on."""
        with pytest.raises(CheckpointWriteError, match="another process"):
            CheckpointStore(self._folder, NUMPY)
        self.beats += 1
        SlowDisk.may.set()

    def check(self) -> None:
        raise CollectiveAborted(0)


@pytest.mark.parametrize(("max_steps", "error"), [(STEPS, PeerLost), (2, CollectiveAborted)])
def test_a_rank_that_stops_lets_go_of_the_folder_when_its_save_has_ended(
    max_steps: int, error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stops because of its neighbour, or as it waits for its last save."""
    monkeypatch.setattr(checkpoints, "FaultyDisk", SlowDisk)
    monkeypatch.setattr(SlowDisk, "may", threading.Event(), raising=False)
    line: Any = LineOfAnAbortedRank(tmp_path)
    run = replace(NUMPY, max_steps=max_steps)
    replica = Replica(run, make_backend(run), 0, range(run.num_shards))
    job = RankJob(run, None, checkpoint=plan(tmp_path, every_steps=2))
    again = Again(0, line, None, None, -1)
    with pytest.raises(error):
        Trainer(replica, NoTransport(), Member(0, 1), None, job, again).train()
    assert line.beats
    CheckpointStore(tmp_path, NUMPY).close()
    newest = load_newest(tmp_path, NUMPY)
    assert newest is not None
    assert newest.manifest.state.step == 2


def test_a_run_that_has_saved_elsewhere_is_not_begun_afresh(tmp_path: Path) -> None:
    """The writer's new host has an empty folder, and nobody has the state in memory."""
    rank = RecoverableRank(None, RankJob(NUMPY, None, checkpoint=plan(tmp_path)))
    order, line = StartOrder(1, 0, 1, None, True), cast(Line, LineOfALosingRank())
    with pytest.raises(NoValidCheckpoint, match="saved one after 3 steps") as caught:
        rank.run(replace(order, saved=3), line)
    assert (caught.value.path, caught.value.saved) == (str(tmp_path), 3)
    rank.run(order, line)  # where none was saved


def test_a_generation_reads_no_checkpoint_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its process has written is known to be valid; what another one has written is read."""
    read: list[str] = []

    def recording(path: Path, config: RunConfig) -> Loaded:
        read.append(path.name)
        return load_checkpoint(path, config)

    monkeypatch.setattr("dmlf.checkpoint.store.load_checkpoint", recording)
    job = RankJob(NUMPY, None, checkpoint=plan(tmp_path, every_steps=1))
    rank, line = RecoverableRank(None, job), LineOfALosingRank
    with pytest.raises(PeerLost):
        rank.run(StartOrder(0, 0, 1, None, True), cast(Line, line(3)))
    with pytest.raises(PeerLost):
        rank.run(StartOrder(1, 0, 1, None, True), cast(Line, line(4)))
    assert read == []
    RecoverableRank(None, job).run(StartOrder(2, 0, 1, None, True), cast(Line, line()))
    assert read == [f"step-{step:010d}" for step in (4, 3, 2)]
