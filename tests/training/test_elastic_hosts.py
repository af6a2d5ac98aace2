"""Workers of any hosts come and go while a run goes on: `dmlf worker` processes on loopback."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from dmlf.benchmark.files import read_json
from dmlf.benchmark.samples import samples_problem
from dmlf.benchmark.transcript_file import read_transcript
from dmlf.config import RunConfig
from dmlf.training.run import train
from tests.training.test_hosts import TIMEOUT_S, Site, await_place, ended, opened, ranks_of

STEPS = 200
NUM_SAMPLES = 48


class SlowSite(Site):
    """Its run takes a minute at least, unless it is told to hurry."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.slow = folder / "slow"
        self.slow.touch()

    def coordinate(self, *flags: str, world_size: int = 2) -> subprocess.Popen[str]:
        run = ["--task", "tests.training.own_task:slow_means", "--global-batch-size", "16"]
        run += ["--task-option", f"slow={self.slow}", "--max-steps", str(STEPS), "--epochs", "999"]
        return super().coordinate(*run, *flags, world_size=world_size)

    def hurry(self) -> None:
        self.slow.unlink()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[SlowSite]:
    with opened(SlowSite(tmp_path)) as site:
        yield site


@cache
def serial() -> str:
    """The final state of a site's run."""
    run = RunConfig(
        task="tests.training.own_task:two_means",
        task_options={"num_samples": 1024},
        reduction="exact",
        num_shards=4,
        global_batch_size=16,
        max_steps=STEPS,
        epochs=999,
        learning_rate=0.05,
        warmup_steps=0,
    )
    return train(run).final_state().sha256()


@pytest.mark.parametrize(("algorithm", "num_servers"), [("ring", 0), ("parameter_server", 2)])
def test_one_is_killed_one_leaves_two_join_and_nothing_changes(
    site: SlowSite, algorithm: str, num_servers: int
) -> None:
    flags = ["--num-servers", str(num_servers)] if num_servers else []
    coordinator = site.coordinate(
        "--algorithm", algorithm, *flags, "--transcript",
        "--min-workers", "1", "--max-workers", "4", world_size=3,
    )  # fmt: skip
    first = [site.worker() for _ in range(3)]
    for worker in first:
        await_place(worker)
    serving = [site.worker() for _ in range(num_servers)]
    for worker in [*first, *serving]:
        ranks_of(worker)
    first[1].kill()
    late = [site.worker(), site.worker()]
    for worker in late:
        ranks_of(worker)
    first[2].send_signal(signal.SIGTERM)
    code, output = ended(first[2])
    site.hurry()
    assert (code, output.split()[0], output.split()[2]) == (0, "rank", "left"), output
    code, output = ended(coordinator)
    assert code == 0, output
    assert [ended(worker)[0] for worker in [first[0], *late, *serving]] == [0] * (3 + num_servers)
    metrics = read_json(site.output)
    assert metrics["final_state_sha256"] == serial()
    history = metrics["membership"]["generations"]
    assert [history[0]["world_size"], history[-1]["world_size"]] == [3, 3]
    for change, expected in (("lost", 1), ("left", 1), ("joined", 2)):
        assert sum(len(entry[change]) for entry in history[1:]) == expected, (change, history)
    assert metrics["recovery"]["restarts"] == 1
    transcript = read_transcript(site.output.with_name("transcript.jsonl"))
    assert len(transcript.records) == STEPS
    assert samples_problem(transcript.config, NUM_SAMPLES, transcript.records) is None


def test_the_place_of_a_lost_worker_is_taken_by_another(site: SlowSite) -> None:
    coordinator = site.coordinate("--algorithm", "ring", "--max-restarts", "2")
    workers = [site.worker(), site.worker()]
    victims = [ranks_of(worker)[0] for worker in workers]
    victims[0].kill()  # its worker ends with it
    code, output = ended(workers[0])
    assert code == 1
    assert "killed by SIGKILL" in output
    workers[0] = site.worker()
    ranks_of(workers[0])
    site.hurry()
    code, output = ended(coordinator)
    assert code == 0, output
    assert [ended(worker)[0] for worker in workers] == [0, 0]
    metrics = read_json(site.output)
    assert metrics["final_state_sha256"] == serial()
    (event,) = metrics["recovery"]["events"]
    assert (event["cause"], event["replaced"]) == ("PeerLost", [event["rank"]])
    assert event["source"].startswith("the memory of rank")


def test_a_server_on_another_host_that_lacks_the_checkpoints_ends_the_run(site: SlowSite) -> None:
    """Each host has a folder of its own, as no path leads to the same one."""
    coordinator = site.coordinate(
        "--algorithm", "parameter_server", "--max-restarts", "2",
        "--checkpoint-dir", "saved", "--checkpoint-every", "1", world_size=1,
    )  # fmt: skip
    hosts = [site.folder / name for name in ("first", "second", "third")]
    for host in hosts:
        host.mkdir()
    worker = site.worker(cwd=hosts[0])
    await_place(worker)
    server = site.worker(cwd=hosts[1])
    deadline = time.monotonic() + TIMEOUT_S
    # Once there are two, the first was told of: one write at a time.
    while len(list(hosts[1].glob("saved/step-*"))) < 2 and time.monotonic() < deadline:
        os.sched_yield()
    server.kill()
    site.worker(cwd=hosts[2])
    code, output = ended(coordinator)
    assert code == 1
    assert "no checkpoint is here, and the run has saved one after" in output
    assert site.failure()["type"] == "NoValidCheckpoint"
    assert list(hosts[2].glob("saved/step-*")) == []


def test_a_stopped_worker_is_given_up(site: SlowSite) -> None:
    """Its connection stands and its process lives, but it makes no progress."""
    coordinator = site.coordinate(
        "--algorithm", "ring", "--max-restarts", "1", "--timeout-s", "3",
        "--min-workers", "1", "--max-workers", "2",
    )  # fmt: skip
    workers = [site.worker(), site.worker()]
    ranks = [ranks_of(worker)[0] for worker in workers]
    for process in (ranks[0], workers[0]):
        process.send_signal(signal.SIGSTOP)
    site.hurry()
    code, output = ended(coordinator)
    assert code == 0, output
    assert ended(workers[1])[0] == 0
    metrics = read_json(site.output)
    assert metrics["final_state_sha256"] == serial()
    assert [entry["world_size"] for entry in metrics["membership"]["generations"]] == [2, 1]
    # It wakes up, and finds that it has been given up.
    for process in (ranks[0], workers[0]):  # the rank first: its worker's end is its own
        process.send_signal(signal.SIGCONT)
    assert ended(workers[0])[0] == 1


def test_if_nobody_comes_the_run_ends_below_its_minimum(site: SlowSite) -> None:
    coordinator = site.coordinate(
        "--algorithm", "ring", "--min-workers", "2", "--join-timeout-s", "8"
    )
    workers = [site.worker(), site.worker()]
    for worker in workers:
        ranks_of(worker)
    workers[0].send_signal(signal.SIGTERM)
    assert ended(workers[0])[0] == 0
    assert ended(coordinator)[0] == 1
    assert site.failure()["type"] == "BelowMinimumWorkers"
    code, output = ended(workers[1])
    assert code == 1
    assert "1 worker left, fewer than --min-workers 2" in output
